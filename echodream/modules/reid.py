"""``model=reid``: re-identification embedding of frames, used by the privacy filter."""

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
    """Metric learning from pairs of frames, (B, C, H, W) each, and from the copies that ``augmentation`` makes."""

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
        """Number of the patient, or of the recording with ``view.identity=recording``."""
        if not isinstance(view, Pairs):
            raise UserError("model=reid is trained with pairs of frames: leave view=pairs")
        return rows.patient_numbers if view.identity == "patient" else np.arange(len(rows))

    def prepare_augmentation(self, rows: Recordings) -> None:
        self.augmentation.prepare(rows, latents=self.on == "latents")

    def vae_fingerprint(self, store: Store) -> str | None:
        """Fingerprint of the store's autoencoder, or of the autoencoder of the copies."""
        return super().vae_fingerprint(store) or self.augmentation.vae_fingerprint

    def on_train_epoch_start(self) -> None:
        self.augmentation.start_epoch(self._rows, self.device)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        x, originals, identity, pairs = self._add_copies(batch)
        x = self._unwhiten(self.augmentation.augment_whitened(x))
        network: Any = self.encoder.network
        targets = None
        if self.head.needs_linear_code:
            targets = network.linear_code(self.encoder.normalize(self._unwhiten(originals)))
        features = self.encoder(self.augmentation.augment_inputs(x, self.encoder.std))
        loss = self.head(features, identity, pairs, network.pair_logits, targets)
        if not torch.isfinite(loss):
            self.raise_not_finite("loss", [*batch["name"], *batch["other_name"]])
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(batch["x"]))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect embeddings and store rows. Metrics are computed at the end of the epoch, over the whole split."""
        names = [*batch["name"], *batch["other_name"]]
        rows = torch.tensor([self._store_row[name] for name in names], device=self.device)
        x = torch.cat([batch["x"], batch["other"]])
        self._embeddings.append((self.encoder.embed(self._unwhiten(x)), rows))

    def _add_copies(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Frames with copies (N, C, H, W), their originals (N, C, H, W), identities (N,) and pairs of rows (P, 2).

        Each copy forms a positive pair with another copy of the same frame, and a pair with a copy of the next frame.
        Originals are complete only if the head needs them.
        """
        x = originals = torch.cat([batch["x"], batch["other"]])
        identity = self.recording_labels([*batch["name"], *batch["other_name"]])
        first = torch.arange(len(batch["x"]), device=self.device)
        pairs = torch.stack([first, first + len(first)], dim=1)
        copies = self.augmentation.sample_copies(len(first), with_originals=self.head.needs_linear_code)
        if copies is None:
            return x, originals, identity, pairs
        labels = torch.from_numpy(self._identity_of_row[copies.rows.numpy()]).to(self.device)
        if copies.originals is not None:
            originals = torch.cat([originals, self._whiten(copies.originals)])
        else:
            left = torch.arange(len(copies.rows), device=self.device) + len(x)
            right = left + len(left)
            pairs = torch.cat([pairs, torch.stack([left, right], 1), torch.stack([left, right.roll(1)], 1)])
            labels = torch.cat([labels, labels])
        return torch.cat([x, self._whiten(copies.frames)]), originals, torch.cat([identity, labels]), pairs

    def _whiten(self, stored: Tensor) -> Tensor:
        """Stored frames, (B, C, H, W), whitened like the frames of a batch."""
        return (stored if self._statistics is None else whiten(stored, self._statistics, dim=1)).to(self.device)


def load_reid(folder: str | Path) -> IdentityEncoder:
    """Load the artifact of model=reid or model=identity: frozen, in ``eval`` mode. Raises ``UserError``."""
    artifact, encoder = read_artifact(folder, "reid", "identity"), load_identity_encoder(folder)
    if fingerprint(encoder.network) != artifact.fingerprint:
        raise UserError(f"{folder}: the weights have changed since training: train the {artifact.model} again")
    return encoder
