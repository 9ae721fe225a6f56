"""Training of the re-identification embedding model for the privacy filter (``model=reid``)."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from echodream.artifact import read_artifact
from echodream.datamodules.normalization import whiten
from echodream.datamodules.recordings import Recordings
from echodream.datamodules.views import Pairs, View
from echodream.errors import UserError
from echodream.losses.identity import IdentityLoss
from echodream.modules.metric_learning import MetricLearning
from echodream.modules.reid_augmentation import ReidAugmentation
from echodream.networks.siamese import IdentityEncoder, IdentityNetwork, load_identity_encoder
from echodream.store import Store
from echodream.types import Batch
from echodream.weights import fingerprint


class Reid(MetricLearning):
    """Metric learning from pairs of frames, each (B, C, H, W), and from augmented copies of frames."""

    def __init__(
        self,
        embedder: Callable[..., IdentityNetwork],
        head: IdentityLoss,
        optimizer: Callable[..., torch.optim.Optimizer],
        schedule: Callable[..., torch.optim.lr_scheduler.LRScheduler] | None = None,
        on: str = "latents",
        augmentation: ReidAugmentation | None = None,
        range: Sequence[float] | None = None,
    ) -> None:
        super().__init__(embedder, head, optimizer, schedule, on, range)
        self.augmentation = augmentation or ReidAugmentation()

    def identity_labels(self, rows: Recordings, view: View) -> np.ndarray:
        """Identity label of each recording: its patient, or, with ``view.identity=recording``, the recording."""
        if not isinstance(view, Pairs):
            raise UserError("model=reid is trained with pairs of frames: give view=pairs")
        return view.identity_labels(rows)

    def prepare_augmentation(self, rows: Recordings) -> None:
        if self.head.needs_copy_pairs and not self.augmentation.makes_copies:
            remedy = "set model.copies.frames and model.copies.share above 0"
            raise UserError(f"head=copies is trained with copies: {remedy}")
        self.augmentation.prepare(rows, latents=self.on == "latents")

    def vae_fingerprint(self, store: Store) -> str | None:
        """Fingerprint of the autoencoder of the store; if it is unknown, of the autoencoder that makes copies."""
        return super().vae_fingerprint(store) or self.augmentation.vae_fingerprint

    def on_train_epoch_start(self) -> None:
        with self.trainer.precision_plugin.forward_context():
            self.augmentation.start_epoch(self._rows, self.device)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        x, originals, identity, pairs = self._add_copies(batch)
        x = self._unwhiten(self.augmentation.augment_whitened(x))
        network: Any = self.encoder.network
        features = self.encoder(self.augmentation.augment_inputs(x, self.encoder.std))
        with torch.autocast(x.device.type, enabled=False):  # losses, and their weights, are float32
            targets = None
            if self.head.needs_linear_code:
                targets = network.linear_code(self.encoder.normalize(self._unwhiten(originals)))
            loss = self.head(features.float(), identity, pairs, network.pair_logits, targets)
        return self.log_training_loss(loss, [*batch["name"], *batch["other_name"]], len(batch["x"]))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect the embeddings and store rows of a batch, for the metrics at the end of the epoch."""
        names = [*batch["name"], *batch["other_name"]]
        rows = torch.tensor([self._store_row[name] for name in names], device=self.device)
        x = torch.cat([batch["x"], batch["other"]])
        self._embeddings.append((self.encoder.embed(self._unwhiten(x)), rows))

    def _add_copies(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Frames with copies (N, C, H, W), their original frames (N, C, H, W), labels (N,) and pairs of rows (P, 2).

        Each copy forms a pair with a second copy of its frame, and a pair with a copy of the next frame. Heads with
        ``needs_copy_pairs`` get only the pairs of copies of one frame.
        """
        x = originals = torch.cat([batch["x"], batch["other"]])
        identity = self.recording_labels([*batch["name"], *batch["other_name"]])
        first = torch.arange(len(batch["x"]), device=self.device)
        pairs = torch.stack([first, first + len(first)], dim=1)
        copies = self.augmentation.sample_copies(
            len(first), with_originals=self.head.needs_linear_code, distinct=self.head.needs_copy_pairs
        )
        if copies is None:
            return x, originals, identity, pairs
        labels = torch.from_numpy(self._identity_of_row[copies.rows.numpy()]).to(self.device)
        if copies.originals is not None:
            originals = torch.cat([originals, self._whiten(copies.originals)])
        else:
            first_copy = torch.arange(len(copies.rows), device=self.device) + len(x)
            second_copy = first_copy + len(first_copy)
            same_frame = torch.stack([first_copy, second_copy], 1)
            pairs = torch.cat([pairs, same_frame, torch.stack([first_copy, second_copy.roll(1)], 1)])
            pairs = same_frame if self.head.needs_copy_pairs else pairs
            labels = torch.cat([labels, labels])
        return torch.cat([x, self._whiten(copies.frames)]), originals, torch.cat([identity, labels]), pairs

    def _whiten(self, frames: Tensor) -> Tensor:
        """Whiten unscaled latents (B, C, H, W) of the store; pixels are unchanged."""
        return (frames if self._statistics is None else whiten(frames, self._statistics, dim=1)).to(self.device)


def load_reid(folder: str | Path) -> IdentityEncoder:
    """Load an artifact of model=reid or model=identity, frozen and in ``eval`` mode. Raises ``UserError``."""
    artifact, encoder = read_artifact(folder, "reid", "identity"), load_identity_encoder(folder)
    if fingerprint(encoder.network) != artifact.fingerprint:
        raise UserError(f"{folder}: the weights have changed since training: train the {artifact.model} again")
    return encoder
