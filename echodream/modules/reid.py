"""``model=reid``: embeddings of frames that tell patients apart, for the privacy filter."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor

from echodream.artifact import Artifact, read_artifact, write_artifact
from echodream.datamodules.datamodule import StoreData
from echodream.datamodules.recordings import Recordings
from echodream.datamodules.transforms import unwhiten, whiten
from echodream.datamodules.views import Pairs
from echodream.errors import UserError
from echodream.losses.identity import Code, Head
from echodream.metrics import verification
from echodream.modules.copies import Bank, Copies, Redraw, some, spectrum
from echodream.modules.trainable import Trainable
from echodream.networks.siamese import KINDS, IdentityEncoder, Sees, Siamese, load_encoder
from echodream.types import Batch
from echodream.weights import fingerprint

MOST = 512
"""Held-out frames that are compared with each other."""


class Reid(Trainable):
    """Embed frames so that those of one patient lie together: pairs of latents or of pixels, (B, C, H, W) each.

    ``embedder`` is a partial that builds the network from ``channels`` and ``paired``; ``head`` is what it is trained
    with. Each batch also has pairs of ``copies``, ``redraw`` draws some latents anew, and each frame has noise of a
    standard deviation drawn between 0 and ``noise``, in normalised units. ``on`` is what the network looks at,
    "latents" or "pixels". Latents are whitened, or those in ``range`` become [-1, 1], as for published weights.
    ``optimizer`` and ``schedule`` are partials, as for the autoencoder.
    """

    def __init__(
        self,
        embedder: Callable[..., Siamese],
        head: Head,
        optimizer: Callable[..., torch.optim.Optimizer],
        schedule: Callable[..., torch.optim.lr_scheduler.LRScheduler] | None = None,
        on: str = "latents",
        copies: Copies | None = None,
        redraw: Redraw | None = None,
        noise: float = 0.0,
        range: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if on not in KINDS:
            raise UserError(f"on is {on!r}: give latents or pixels")
        if not 0 <= noise < math.inf:
            raise UserError(f"model.noise is {noise}: give a standard deviation, or 0 for none")
        if range is not None and (len(range) != 2 or not range[0] < range[1]):
            raise UserError(f"model.range is {list(range)}: give the lowest and the highest value, or null")
        self.make_network, self.head, self.on, self.noise, self.range = embedder, head, on, noise, range
        self.make_optimizer, self.make_schedule, self.copies = optimizer, schedule, copies
        self.redraw = redraw if redraw is not None and redraw.share and on == "latents" else None
        self.encoder: IdentityEncoder
        self.measured: verification.Pairs | None = None
        """Of the last validation or test; for pictures."""
        self.bank: Bank | None = None
        """Copies that the batches of this epoch draw from."""
        self._found: list[tuple[Tensor, Tensor]] = []

    def adapt(self, data: StoreData) -> None:
        """Build the network for the frames and the identities of ``data``."""
        store, view = data.store, data.view
        if store.dataset.kind != KINDS[self.on]:
            raise UserError(
                f"{store.root} holds {store.dataset.kind}s, and on={self.on} looks at {KINDS[self.on]}s: give src= a "
                "store of those (stage=encode and stage=decode make them), or change on="
            )
        if not isinstance(view, Pairs):
            raise UserError("model=reid is trained with pairs of frames: leave view=pairs")
        rows = self._rows = Recordings(store, "TRAIN")
        self._identity = rows.patients if view.identity == "patient" else np.arange(len(rows))
        self._place = {name: number for number, name in enumerate(rows.names)}
        self._row = {name: number for number, name in enumerate(store.table["FileName"])}
        self._patient = store.table["PatientID"].astype(str).to_numpy()
        self._statistics = store.dataset.statistics if self.on == "latents" else None
        if self.copies is not None:
            self.copies.adapt(store.dataset.encoder if self.on == "latents" else None)
        if self.redraw is not None:
            self.redraw.adapt(rows)
        self.encoder = self._encoder(rows)
        self.head.adapt(self.encoder.network.settings["features"], int(self._identity.max()) + 1)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """One optimiser for network and head, with its schedule counted in steps."""
        return self.optimize(self.make_optimizer, self.make_schedule)

    def on_train_epoch_start(self) -> None:
        """Make this epoch's copies."""
        self.bank = self.copies.bank(self._rows, self.device) if self.copies is not None else None

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Add copies, redraw, embed, compare, log."""
        names = [*batch["name"], *batch["other_name"]]
        identity = torch.from_numpy(self._identity[[self._place[name] for name in names]]).to(self.device)
        x = source = torch.cat([batch["x"], batch["other"]])
        first = torch.arange(len(batch["x"]), device=self.device)
        pairs = torch.stack([first, first + len(first)], dim=1)
        made, of, rows = self._copied(len(first))
        if made is not None and of is not None:
            x, source, identity = torch.cat([x, made]), torch.cat([source, of]), torch.cat([identity, rows])
        elif made is not None:
            new = torch.arange(len(made) // 2, device=self.device) + len(x)
            other = new + len(new)
            pairs = torch.cat([pairs, torch.stack([new, other], 1), torch.stack([new, other.roll(1)], 1)])
            x, identity = torch.cat([x, made]), torch.cat([identity, rows, rows])
        x = self._unscaled(x if self.redraw is None else self.redraw(x))
        network = self.encoder.network
        targets = network.coded(self.encoder.normalised(self._unscaled(source))) if self.head.coded else None
        loss = self.head(self.encoder(self._noised(x)), identity, pairs, network.compare, targets)
        if not torch.isfinite(loss):
            self.refuse("loss", names)
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(batch["x"]))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Keep embeddings and whose they are: what is measured is of the whole split."""
        names = [*batch["name"], *batch["other_name"]]
        rows = torch.tensor([self._row[name] for name in names], device=self.device)
        self._found.append((self.encoder.embed(self._unscaled(torch.cat([batch["x"], batch["other"]]))), rows))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
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
        network = self.make_network(channels=sees.channels, paired=self.head.paired, **settings)
        if isinstance(self.head, Code):
            network.set_code(*self.head.code(*spectrum(some(rows))))
        return IdentityEncoder(network, sees)

    def _sees(self, rows: Recordings) -> Sees:
        dataset, first = rows.store.dataset, rows.table.iloc[0]  # all are of one size
        mean, std = (0.0,) * dataset.channels, (1.0,) * dataset.channels
        if self.range is not None:
            low, high = self.range
            mean, std = ((low + high) / 2,) * dataset.channels, ((high - low) / 2,) * dataset.channels
        elif self._statistics is not None:
            mean, std = tuple(self._statistics.mean), tuple(self._statistics.std)
        return Sees(
            on=self.on,
            channels=dataset.channels,
            height=int(first["FrameHeight"]),
            width=int(first["FrameWidth"]),
            mean=mean,
            std=std,
            encoder=dataset.encoder or (self.copies.encoder if self.copies is not None else None),
            similarity=self.head.similarity,
        )

    def _copied(self, count: int) -> tuple[Tensor | None, Tensor | None, Tensor]:
        """Copies for a batch of ``count`` pairs, as such come, (K, C, H, W), what they are of, and whose, (P,).

        What they are of has the same shape, for a head that asks; else they are P pairs, the first of all before the
        second.
        """
        share = self.copies.share if self.copies is not None else 0.0
        if self.bank is None or not (wanted := round(share * count)):
            return None, None, torch.zeros(0)
        of: Tensor | None = None
        if self.head.coded:
            made, of, rows = self.bank.sourced(wanted)
        else:
            made, rows = self.bank.draw(wanted)
            made = made.flatten(0, 1)
        if self._statistics is not None:
            made = whiten(made, self._statistics, dim=1)
            of = None if of is None else whiten(of, self._statistics, dim=1)
        of = None if of is None else of.to(self.device)
        return made.to(self.device), of, torch.from_numpy(self._identity[rows.numpy()]).to(self.device)

    def _unscaled(self, x: Tensor) -> Tensor:
        """What a batch holds as it is stored: (B, C, H, W). The encoder has the one normalisation."""
        return x if self._statistics is None else unwhiten(x, self._statistics, dim=1)

    def _noised(self, x: Tensor) -> Tensor:
        if not self.noise:
            return x
        level = self.noise * torch.rand(len(x), 1, 1, 1, device=x.device)
        return x + level * self.encoder.std * torch.randn_like(x)

    @torch.no_grad()
    def _measure(self, stage: str) -> None:
        parts = [torch.cat(part) for part in zip(*self._found, strict=True)]
        self._found = []
        if self.trainer.world_size > 1:
            parts = [torch.cat([*self.all_gather(part)]) for part in parts]
        embeddings, rows = (part.cpu().numpy() for part in parts)
        kept = verification.spread(self._patient[rows], MOST)
        embeddings, rows = embeddings[kept], rows[kept]
        patient = self._patient[rows]
        table = verification.similarities(embeddings, self.head.similarity)
        pairs = self.measured = verification.all_pairs(table, patient)
        low, high = verification.bootstrap(pairs, verification.auc)
        values = {
            "auc": verification.auc(pairs),
            "auc_low": low,
            "auc_high": high,
            "auc_other": verification.auc(verification.all_pairs(table, patient, rows)),
            "tar_far_1e-2": verification.tar_at(pairs, 1e-2),
            "tar_far_1e-3": verification.tar_at(pairs, 1e-3),
            "rank1": verification.rank1(table, patient, rows),
        }
        for name, value in values.items():
            if not math.isnan(value):  # too few patients for it
                self.log(f"{stage}/{name}", value, prog_bar=name == "auc")


def load_reid(folder: str | Path) -> IdentityEncoder:
    """The encoder that train.py model=reid left at ``folder``: frozen, in ``eval`` mode. Raises ``UserError``."""
    artifact, encoder = read_artifact(folder, "reid"), load_encoder(folder)
    if fingerprint(encoder.network) != artifact.fingerprint:
        raise UserError(f"{folder}: the weights have changed since training: train the reid again")
    return encoder
