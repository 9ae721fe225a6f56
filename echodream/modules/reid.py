"""``model=reid``: embeddings of frames that tell patients apart, for the privacy filter."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from echodream import validation
from echodream.artifact import read_artifact
from echodream.datamodules.normalization import whiten
from echodream.datamodules.recordings import Recordings
from echodream.datamodules.views import Pairs, View
from echodream.errors import UserError
from echodream.losses.identity import Head
from echodream.modules.metric_learning import MetricLearning
from echodream.modules.reid_augmentation import CopyAugmentation, FrameBank, GaussianRedraw
from echodream.networks.siamese import IdentityEncoder, Network, load_encoder
from echodream.store import Store
from echodream.types import Batch
from echodream.weights import fingerprint


class Reid(MetricLearning):
    """A ``Verifier`` of pairs of frames, (B, C, H, W) each.

    Each batch also has pairs of ``copies``, ``redraw`` draws some latents anew, and each frame has noise of a standard
    deviation drawn between 0 and ``noise``, in normalised units. All else is as for every ``Verifier``.
    """

    def __init__(
        self,
        embedder: Callable[..., Network],
        head: Head,
        optimizer: Callable[..., torch.optim.Optimizer],
        schedule: Callable[..., torch.optim.lr_scheduler.LRScheduler] | None = None,
        on: str = "latents",
        copies: CopyAugmentation | None = None,
        redraw: GaussianRedraw | None = None,
        noise: float = 0.0,
        range: Sequence[float] | None = None,
    ) -> None:
        super().__init__(embedder, head, optimizer, schedule, on, range)
        validation.number("model.noise", noise, 0, note=", a standard deviation")
        self.noise, self.copies = noise, copies
        self.redraw = redraw if redraw is not None and redraw.share and self.on == "latents" else None
        self.bank: FrameBank | None = None
        """Copies that the batches of this epoch draw from."""

    def identities(self, rows: Recordings, view: View) -> np.ndarray:
        """The patient, or the recording, as the view of pairs has it."""
        if not isinstance(view, Pairs):
            raise UserError("model=reid is trained with pairs of frames: leave view=pairs")
        return rows.patient_numbers if view.identity == "patient" else np.arange(len(rows))

    def prepare(self, store: Store, rows: Recordings) -> None:
        """What copies are made with."""
        if self.copies is not None:
            self.copies.adapt(store.dataset.encoder if self.on == "latents" else None)
        if self.redraw is not None:
            self.redraw.adapt(rows)

    def vae(self, store: Store) -> str | None:
        """That of the store, or the one that makes the copies."""
        return super().vae(store) or (self.copies.encoder if self.copies is not None else None)

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
        network: Any = self.encoder.network
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

    def _noised(self, x: Tensor) -> Tensor:
        if not self.noise:
            return x
        level = self.noise * torch.rand(len(x), 1, 1, 1, device=x.device)
        return x + level * self.encoder.std * torch.randn_like(x)


def load_reid(folder: str | Path) -> IdentityEncoder:
    """The encoder that train.py model=reid or model=identity left at ``folder``: frozen, in ``eval`` mode.

    Raises ``UserError``.
    """
    artifact, encoder = read_artifact(folder, "reid", "identity"), load_encoder(folder)
    if fingerprint(encoder.network) != artifact.fingerprint:
        raise UserError(f"{folder}: the weights have changed since training: train the {artifact.model} again")
    return encoder
