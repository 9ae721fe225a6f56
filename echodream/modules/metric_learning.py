"""Base class of ``model=reid`` and ``model=identity``: training of embeddings, and verification metrics."""

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from echodream.artifact import Artifact, write_artifact
from echodream.datamodules.datamodule import StoreData
from echodream.datamodules.normalization import unwhiten
from echodream.datamodules.recordings import Recordings
from echodream.datamodules.views import View
from echodream.errors import UserError
from echodream.losses.identity import CopyCodeLoss, IdentityLoss
from echodream.metrics import verification
from echodream.modules.reid_augmentation import principal_components, sample_frames
from echodream.modules.trainable import Trainable
from echodream.networks.siamese import STORE_KINDS, IdentityEncoder, IdentityNetwork, InputSpec
from echodream.store import Store
from echodream.weights import fingerprint

MAX_COMPARED_FRAMES = 512
"""Maximum number of held-out frames for verification metrics, because these compare all pairs of frames."""


class MetricLearning(Trainable):
    """Train an embedding of frames, (B, C, H, W), in which frames of one patient are close to each other.

    ``embedder`` is a ``functools.partial`` that builds the network from ``channels``, ``size`` and ``paired``. ``head``
    is the loss. ``on`` is the input, "latents" or "pixels". Latents are whitened, or, if ``range`` is set
    (published weights), mapped linearly from ``range`` to [-1, 1]. ``optimizer`` and ``schedule``: see ``Trainable``.
    """

    def __init__(
        self,
        embedder: Callable[..., IdentityNetwork],
        head: IdentityLoss,
        optimizer: Callable[..., torch.optim.Optimizer],
        schedule: Callable[..., torch.optim.lr_scheduler.LRScheduler] | None = None,
        on: str = "latents",
        range: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if on not in STORE_KINDS:
            raise UserError(f"on is {on!r}: give latents or pixels")
        if range is not None and (len(range) != 2 or not range[0] < range[1]):
            raise UserError(f"model.range is {list(range)}: give the lowest and the highest value of latents, or null")
        self.make_network, self.head, self.on, self.range = embedder, head, on, range
        self.make_optimizer, self.make_schedule = optimizer, schedule
        self.encoder: IdentityEncoder
        self.verification_pairs: verification.Pairs | None = None
        """Similarities and labels of all pairs of frames of the last validation or test run, for plots."""
        self._embeddings: list[tuple[Tensor, Tensor]] = []
        """Embeddings and store rows of the batches of the current validation or test run."""

    def configure_from_data(self, data: StoreData) -> None:
        """Build the network for the frame size and the number of identities of ``data``."""
        store = data.store
        if store.dataset.kind != STORE_KINDS[self.on]:
            problem = f"{store.root} holds {store.dataset.kind}s, but on={self.on} needs {STORE_KINDS[self.on]}s"
            raise UserError(f"{problem}: give another src= (written by stage=encode or stage=decode), or change on=")
        rows = self._rows = Recordings(store, "TRAIN")
        self._identity_of_row = self.identity_labels(rows, data.view)
        self._train_row = {name: number for number, name in enumerate(rows.names)}
        self._store_row = {name: number for number, name in enumerate(store.table["FileName"])}
        self._patient = store.table["PatientID"].astype(str).to_numpy()
        self._statistics = store.dataset.statistics if self.on == "latents" else None
        self.prepare_augmentation(rows)
        self.encoder = self._build_encoder(rows)
        self.head.configure(self.encoder.network.settings["features"], int(self._identity_of_row.max()) + 1)

    @abstractmethod
    def identity_labels(self, rows: Recordings, view: View) -> np.ndarray:
        """Identity label of each recording, int64 from 0. Raises ``UserError`` for an unsuitable view."""

    def prepare_augmentation(self, rows: Recordings) -> None:
        """Prepare augmentation for the training recordings ``rows``. By default, there is no augmentation."""

    def vae_fingerprint(self, store: Store) -> str | None:
        """Fingerprint of the autoencoder of the latents or decoded pixels in ``store``; None if it is unknown."""
        return store.dataset.encoder

    def remove_duplicates(self, embeddings: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Remove duplicate frames from the embeddings (N, D) and store rows (N,) that all processes collected."""
        return embeddings, rows

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        """Log AUC with an interval (bootstrap over patients), TAR at FAR 1e-2 and 1e-3, and rank-1 accuracy."""
        self._log_verification_metrics("val")

    def on_test_epoch_end(self) -> None:
        self._log_verification_metrics("test")

    @torch.no_grad()
    def export(self, root: Path, data: StoreData, artifact: Artifact, config: str) -> None:
        artifact = replace(artifact, fingerprint=fingerprint(self.encoder.network))
        write_artifact(root, artifact, config, self.encoder.save)

    def recording_labels(self, names: Sequence[str]) -> Tensor:
        """Identity labels, int64 (B,), of the B training recordings with the FileNames ``names``."""
        return torch.from_numpy(self._identity_of_row[[self._train_row[name] for name in names]]).to(self.device)

    def _build_encoder(self, rows: Recordings) -> IdentityEncoder:
        spec, code = self._input_spec(rows), {}
        if isinstance(self.head, CopyCodeLoss):
            if self._statistics is None or self.range is not None:
                raise UserError("head=code needs whitened latents: leave on=latents and model.range=null")
            code = {"code": [self.head.features, spec.height, spec.width]}
        size = (spec.height, spec.width)
        network: Any = self.make_network(channels=spec.channels, size=size, paired=self.head.needs_pair_layer, **code)
        if isinstance(self.head, CopyCodeLoss):
            network.set_linear_code(*self.head.linear_code(*principal_components(sample_frames(rows))))
        return IdentityEncoder(network, spec)

    def _input_spec(self, rows: Recordings) -> InputSpec:
        channels = rows.store.dataset.channels
        mean, std = (0.0,) * channels, (1.0,) * channels
        if self.range is not None:
            low, high = self.range
            mean, std = ((low + high) / 2,) * channels, ((high - low) / 2,) * channels
        elif self._statistics is not None:
            mean, std = tuple(self._statistics.mean), tuple(self._statistics.std)
        height, width = map(int, rows.table.iloc[0][["FrameHeight", "FrameWidth"]])  # all recordings have equal size
        encoder = self.vae_fingerprint(rows.store)
        return InputSpec(self.on, channels, height, width, mean, std, encoder, self.head.similarity)

    def _unwhiten(self, x: Tensor) -> Tensor:
        """Convert whitened latents (B, C, H, W) to the scale of the store; pixels are unchanged."""
        return x if self._statistics is None else unwhiten(x, self._statistics, dim=1)

    @torch.no_grad()
    def _log_verification_metrics(self, stage: str) -> None:
        tensors = [torch.cat(batches) for batches in zip(*self._embeddings, strict=True)]
        self._embeddings = []
        if self.trainer.world_size > 1:
            tensors = [torch.cat([*self.all_gather(tensor)]) for tensor in tensors]
        embeddings, rows = self.remove_duplicates(*(tensor.cpu().numpy() for tensor in tensors))
        selected = verification.subsample_patients(self._patient[rows], MAX_COMPARED_FRAMES)
        embeddings, rows = embeddings[selected], rows[selected]
        patient = self._patient[rows]
        similarity = verification.similarity_matrix(embeddings, self.head.similarity)
        pairs = self.verification_pairs = verification.all_pairs(similarity, patient)
        auc = verification.bootstrap_pairs(pairs, verification.auc)
        values = {
            "auc": auc.value,
            "auc_low": auc.low,
            "auc_high": auc.high,
            "auc_other": verification.auc(verification.all_pairs(similarity, patient, rows)),
            "tar_far_1e-2": verification.tar_at_far(pairs, 1e-2),
            "tar_far_1e-3": verification.tar_at_far(pairs, 1e-3),
            "rank1": verification.rank1_accuracy(similarity, patient, rows),
        }
        for name, value in values.items():
            if not math.isnan(value):  # a metric is NaN if there are too few patients
                self.log(f"{stage}/{name}", value, prog_bar=name == "auc")
