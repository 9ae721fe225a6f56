"""What ``model=reid`` and ``model=identity`` have in common: embeddings that tell patients apart, and how well."""

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor

from echodream.artifact import Artifact, write_artifact
from echodream.datamodules.datamodule import StoreData
from echodream.datamodules.normalization import unwhiten
from echodream.datamodules.recordings import Recordings
from echodream.datamodules.views import View
from echodream.errors import UserError
from echodream.losses.identity import Code, Head
from echodream.metrics import verification
from echodream.modules.reid_augmentation import some, spectrum
from echodream.modules.trainable import Trainable
from echodream.networks.siamese import KINDS, IdentityEncoder, InputSpec, Network
from echodream.store import Store
from echodream.weights import fingerprint

MOST = 512
"""Held-out frames that are compared with each other."""


class MetricLearning(Trainable):
    """Embed frames, (B, C, H, W), so that those of one patient lie together.

    ``embedder`` is a partial that builds the network from ``channels``, ``size`` and ``paired``; ``head`` is what it is
    trained with. ``on`` is what the network looks at, "latents" or "pixels". Latents are whitened, or those in
    ``range`` become [-1, 1], as for published weights. ``optimizer`` and ``schedule`` are partials.
    """

    def __init__(
        self,
        embedder: Callable[..., Network],
        head: Head,
        optimizer: Callable[..., torch.optim.Optimizer],
        schedule: Callable[..., torch.optim.lr_scheduler.LRScheduler] | None = None,
        on: str = "latents",
        range: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if on not in KINDS:
            raise UserError(f"on is {on!r}: give latents or pixels")
        if range is not None and (len(range) != 2 or not range[0] < range[1]):
            raise UserError(f"model.range is {list(range)}: give the lowest and the highest value, or null")
        self.make_network, self.head, self.on, self.range = embedder, head, on, range
        self.make_optimizer, self.make_schedule = optimizer, schedule
        self.encoder: IdentityEncoder
        self.measured: verification.Pairs | None = None
        """Of the last validation or test; for pictures."""
        self._found: list[tuple[Tensor, Tensor]] = []

    def adapt(self, data: StoreData) -> None:
        """Build the network for the frames and the identities of ``data``."""
        store = data.store
        if store.dataset.kind != KINDS[self.on]:
            raise UserError(
                f"{store.root} holds {store.dataset.kind}s, and on={self.on} looks at {KINDS[self.on]}s: give src= a "
                "store of those (stage=encode and stage=decode make them), or change on="
            )
        rows = self._rows = Recordings(store, "TRAIN")
        self._identity = self.identities(rows, data.view)
        self._place = {name: number for number, name in enumerate(rows.names)}
        self._row = {name: number for number, name in enumerate(store.table["FileName"])}
        self._patient = store.table["PatientID"].astype(str).to_numpy()
        self._statistics = store.dataset.statistics if self.on == "latents" else None
        self.prepare(store, rows)
        self.encoder = self._encoder(rows)
        self.head.adapt(self.encoder.network.settings["features"], int(self._identity.max()) + 1)

    @abstractmethod
    def identities(self, rows: Recordings, view: View) -> np.ndarray:
        """A number from 0 for whose each of the training ``rows`` is, int64. Raises ``UserError`` for another view."""

    def prepare(self, store: Store, rows: Recordings) -> None:
        """What must be there before the network is built."""

    def vae(self, store: Store) -> str | None:
        """Fingerprint of the autoencoder whose latents, or decoded pixels, are looked at, if known."""
        return store.dataset.encoder

    def once(self, embeddings: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What held-out steps kept, as it is to be measured: embeddings (N, D) and rows of the store (N,)."""
        return embeddings, rows

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """One optimiser for network and head, with its schedule counted in steps."""
        return self.optimize(self.make_optimizer, self.make_schedule)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """As in validation, on the test patients."""
        self.validation_step(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        """AUC with its interval by patient, TAR at a FAR of 1e-2 and 1e-3, and rank-1 retrieval."""
        self._measure("val")

    def on_test_epoch_end(self) -> None:
        """The same."""
        self._measure("test")

    @torch.no_grad()
    def export(self, root: Path, data: StoreData, artifact: Artifact, config: str) -> None:
        """Write the network with its normalisation and what it looks at."""
        made = replace(artifact, fingerprint=fingerprint(self.encoder.network))
        write_artifact(root, made, config, self.encoder.save)

    def _encoder(self, rows: Recordings) -> IdentityEncoder:
        """The untrained network."""
        sees, settings = self._sees(rows), {}
        if isinstance(self.head, Code):
            if self._statistics is None or self.range is not None:
                raise UserError("head=code is a code of whitened latents: leave on=latents and model.range=null")
            settings = {"code": [self.head.features, sees.height, sees.width]}
        size = (sees.height, sees.width)
        network: Any = self.make_network(channels=sees.channels, size=size, paired=self.head.paired, **settings)
        if isinstance(self.head, Code):
            network.set_code(*self.head.code(*spectrum(some(rows))))
        return IdentityEncoder(network, sees)

    def _sees(self, rows: Recordings) -> InputSpec:
        dataset, first = rows.store.dataset, rows.table.iloc[0]  # all are of one size
        mean, std = (0.0,) * dataset.channels, (1.0,) * dataset.channels
        if self.range is not None:
            low, high = self.range
            mean, std = ((low + high) / 2,) * dataset.channels, ((high - low) / 2,) * dataset.channels
        elif self._statistics is not None:
            mean, std = tuple(self._statistics.mean), tuple(self._statistics.std)
        return InputSpec(
            on=self.on,
            channels=dataset.channels,
            height=int(first["FrameHeight"]),
            width=int(first["FrameWidth"]),
            mean=mean,
            std=std,
            encoder=self.vae(rows.store),
            similarity=self.head.similarity,
        )

    def _unscaled(self, x: Tensor) -> Tensor:
        """What a batch holds as it is stored: (B, C, H, W). The encoder has the one normalisation."""
        return x if self._statistics is None else unwhiten(x, self._statistics, dim=1)

    @torch.no_grad()
    def _measure(self, stage: str) -> None:
        parts = [torch.cat(part) for part in zip(*self._found, strict=True)]
        self._found = []
        if self.trainer.world_size > 1:
            parts = [torch.cat([*self.all_gather(part)]) for part in parts]
        embeddings, rows = self.once(*(part.cpu().numpy() for part in parts))
        kept = verification.spread(self._patient[rows], MOST)
        embeddings, rows = embeddings[kept], rows[kept]
        patient = self._patient[rows]
        table = verification.similarities(embeddings, self.head.similarity)
        pairs = self.measured = verification.all_pairs(table, patient)
        auc = verification.bootstrap_pairs(pairs, verification.auc)
        values = {
            "auc": auc.value,
            "auc_low": auc.low,
            "auc_high": auc.high,
            "auc_other": verification.auc(verification.all_pairs(table, patient, rows)),
            "tar_far_1e-2": verification.tar_at(pairs, 1e-2),
            "tar_far_1e-3": verification.tar_at(pairs, 1e-3),
            "rank1": verification.rank1(table, patient, rows),
        }
        for name, value in values.items():
            if not math.isnan(value):  # too few patients for it
                self.log(f"{stage}/{name}", value, prog_bar=name == "auc")
