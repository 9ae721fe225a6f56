"""Auxiliary loss of diffusion models of clips: cross-entropy of a classifier on the estimate of x_0."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from echodream import validation
from echodream.errors import UserError
from echodream.networks.autoencoder import load_autoencoder
from echodream.networks.classifiers import clip_start, load_classifier


def build_auxiliary_loss(weight: float, classifier: str, vae: str) -> "AuxiliaryClassifier | None":
    """Build ``AuxiliaryClassifier`` from the artifacts ``classifier`` and ``vae``; None if ``weight`` is 0."""
    if not validation.number("loss.auxiliary.weight", weight, 0, note=" (off)"):
        return None
    return AuxiliaryClassifier(float(weight), classifier, vae)


class AuxiliaryClassifier(nn.Module):
    """Cross-entropy of a frozen classifier for the class of a clip, on the decoded estimate of x_0.

    Only the input frames of the classifier are decoded. Each sample is weighted by its signal share (alpha-bar of
    DDPM), because estimates are blurred at high noise. Raises ``UserError`` if ``classifier`` does not predict classes.
    """

    def __init__(self, weight: float, classifier: str, vae: str) -> None:
        super().__init__()
        self.weight = weight
        network, self.metadata = load_classifier(Path(classifier))
        if self.metadata["task"] != "classification":
            raise UserError(f"loss.auxiliary.classifier={classifier} predicts no classes: use task=classification")
        networks: Sequence[nn.Module] = (network, load_autoencoder(vae))
        self._frozen: list[Any] = [module.requires_grad_(False).eval() for module in networks]  # not submodules
        self.class_ids: list[int] = [int(number) for number in self.metadata["class_ids"]]

    def frame_indices(self, frames: int) -> list[int]:
        """Indices, in a clip of ``frames`` frames, of the frames that the classifier gets, at its training stride."""
        stride = int(self.metadata["stride"])
        count = min(int(self.metadata["frames"]), (frames - 1) // stride + 1)
        span = (count - 1) * stride + 1
        first = 0 if clip_start(self.metadata) == "first" else (frames - span) // 2
        return list(range(first, first + span, stride))

    def forward(self, latents: Tensor, class_id: Tensor, signal_share: Tensor) -> Tensor:
        """Batch mean, scalar, of ``signal_share`` (B,) times the cross-entropy for the classes ``class_id``, int (B,).

        ``latents`` are unscaled estimates (B, C, F, h, w). Clips of classes without a classifier output have loss 0.
        """
        classifier, vae = (module.to(latents.device) for module in self._frozen)
        ids = torch.tensor(self.class_ids, device=latents.device)
        matches = class_id.to(latents.device)[:, None] == ids
        known = matches.any(dim=1)
        frames = latents[:, :, self.frame_indices(latents.shape[2])].transpose(1, 2)
        pixels = checkpoint(lambda z: vae.decode(z).sample, frames.flatten(0, 1), use_reentrant=False)
        logits = classifier(pixels.unflatten(0, frames.shape[:2]).transpose(1, 2))
        errors = cross_entropy(logits.float(), matches.long().argmax(dim=1), reduction="none")
        return (errors * signal_share.to(errors) * known).mean()
