"""``model=identity``: embeddings of images that tell patients apart, to measure what anonymised images still say."""

import logging

import numpy as np
import torch
from torch import Tensor

from echodream.datamodules.anonymized import shortened_list
from echodream.datamodules.datamodule import StoreData
from echodream.datamodules.recordings import Recordings
from echodream.datamodules.views import Frames, View
from echodream.errors import UserError
from echodream.modules.metric_learning import MetricLearning
from echodream.networks.batch_norm import share
from echodream.types import Batch

log = logging.getLogger(__name__)


class Identity(MetricLearning):
    """A ``Verifier`` of images: frames of recordings, (B, C, H, W), each with its patient; the patients are classes.

    Held-out images are compared with each other, each once, whatever the number of processes.
    """

    def adapt(self, data: StoreData) -> None:
        """Build the network; say which held-out patients have one image only."""
        super().adapt(data)
        share(self.encoder.network)
        assert isinstance(data.view, Frames)
        for split in ("VAL", "TEST"):
            self._say_who_is_alone(Recordings(data.store, split), data.view.held_out)

    def identities(self, rows: Recordings, view: View) -> np.ndarray:
        """The patient."""
        if not isinstance(view, Frames):
            raise UserError("model=identity is trained with single images: leave view=frames")
        if len(np.unique(rows.patient_numbers)) < 2:
            raise UserError(f"{rows.store.root} has one patient only in {rows.split}: nobody to be told apart from")
        return rows.patient_numbers

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Embed, compare with the patients' centres, log."""
        identity = torch.from_numpy(self._identity[[self._place[name] for name in batch["name"]]]).to(self.device)
        features = self.encoder(self._unscaled(batch["x"]))
        pairs = identity.new_empty(0, 2)
        loss = self.head(features, identity, pairs, self.encoder.network.compare)
        if not torch.isfinite(loss):
            self.refuse("loss", batch["name"])
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(features), sync_dist=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Keep embeddings of all frames of clips, (B, C, F, H, W), and which they are, or -1."""
        x, frames = batch["x"], batch["x"].shape[2]
        found = self.encoder.embed(self._unscaled(x.transpose(1, 2).flatten(0, 1)))
        rows = torch.tensor([self._row[name] for name in batch["name"]], device=self.device)
        which = frames_of(rows, frames)
        self._found.append((found, which.where(batch["mask"].to(self.device), -1).flatten()))

    def once(self, embeddings: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Each frame once, in the order of the store: several processes are given some recordings twice."""
        which, first = np.unique(rows, return_index=True)
        kept = first[which >= 0]
        return embeddings[kept], rows[kept] // _FRAMES

    def _say_who_is_alone(self, rows: Recordings, held_out: int) -> None:
        """Raise ``UserError`` where no patient has two images; else log how many have one, and some of them."""
        names, number = np.unique(rows.table["PatientID"].astype(str), return_inverse=True)
        images = np.bincount(number, np.minimum(rows.frames, held_out))
        where = f"{rows.store.root}: split {rows.split}"
        if len(names) < 2:
            raise UserError(f"{where} has one patient only, so there are no pairs of two: ingest with another split")
        alone = names[images < 2].tolist()
        if len(alone) == len(names):
            raise UserError(
                f"{where} has no patient with a second image ({shortened_list(alone)}), so verification cannot be "
                "measured: ingest with another split"
            )
        if alone:
            log.info(
                "identity: %s: %d of %d patients have one image (%s), and no pair of their own",
                where, len(alone), len(names), shortened_list(alone),
            )  # fmt: skip


_FRAMES = 1 << 20
"""More than a recording has frames that are compared."""


def frames_of(rows: Tensor, frames: int) -> Tensor:
    """A number for each frame of the clips of ``rows``: int64 (B, F)."""
    return rows.unsqueeze(1) * _FRAMES + torch.arange(frames, device=rows.device)
