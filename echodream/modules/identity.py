"""Training of image embeddings that identify patients, for tests of anonymized images (``model=identity``)."""

import logging

import numpy as np
import torch
from torch import Tensor

from echodream.datamodules.datamodule import StoreData
from echodream.datamodules.recordings import Recordings
from echodream.datamodules.views import Frames, View
from echodream.errors import UserError, shortened_list
from echodream.modules.metric_learning import MetricLearning
from echodream.networks.batch_norm import convert_to_synchronized_batch_norm
from echodream.types import Batch

log = logging.getLogger(__name__)

_FRAME_KEY_STRIDE = 1 << 20
"""Upper bound of the number of frames of a recording. The key of a frame is store row * bound + frame number."""


class Identity(MetricLearning):
    """Metric learning from single frames, (B, C, H, W). The verification metrics use all pairs of held-out frames."""

    def configure_from_data(self, data: StoreData) -> None:
        """Build the network, and log the number of held-out patients with only one image."""
        super().configure_from_data(data)
        convert_to_synchronized_batch_norm(self.encoder.network)
        assert isinstance(data.view, Frames)
        for split in ("VAL", "TEST"):
            self._check_patients_have_pairs(Recordings(data.store, split), data.view.held_out)

    def identity_labels(self, rows: Recordings, view: View) -> np.ndarray:
        """Number of the patient of each recording, as identity label, int64 (N,)."""
        if not isinstance(view, Frames):
            raise UserError("model=identity is trained with single images: give view=frames")
        if len(np.unique(rows.patient_numbers)) < 2:
            raise UserError(f"{rows.store.root} has only one patient in {rows.split}: ingest at least two")
        return rows.patient_numbers

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        identity = self.recording_labels(batch["name"])
        features = self.encoder(self._unwhiten(batch["x"]))
        loss = self.head(features, identity, identity.new_empty(0, 2), self.encoder.network.pair_logits)
        return self.log_training_loss(loss, batch["name"], len(features), sync_dist=True)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect embeddings and keys of all frames of clips (B, C, F, H, W). Padded frames have the key -1."""
        x, frames = batch["x"], batch["x"].shape[2]
        embeddings = self.encoder.embed(self._unwhiten(x.transpose(1, 2).flatten(0, 1)))
        rows = torch.tensor([self._store_row[name] for name in batch["name"]], device=self.device)
        keys = rows.unsqueeze(1) * _FRAME_KEY_STRIDE + torch.arange(frames, device=self.device)
        self._embeddings.append((embeddings, keys.where(batch["mask"].to(self.device), -1).flatten()))

    def remove_duplicates(self, embeddings: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings and store rows of unique recorded frames. ``rows`` are frame keys, which may occur twice."""
        keys, first = np.unique(rows, return_index=True)
        recorded = first[keys >= 0]
        return embeddings[recorded], rows[recorded] // _FRAME_KEY_STRIDE

    def _check_patients_have_pairs(self, rows: Recordings, held_out: int) -> None:
        """Raise ``UserError`` if no patient has two images; log the number of patients with one image."""
        names, number = np.unique(rows.table["PatientID"].astype(str), return_inverse=True)
        images = np.bincount(number, np.minimum(rows.frames, held_out))
        split = f"{rows.store.root}: split {rows.split}"
        if len(names) < 2:
            raise UserError(f"{split} has only one patient: ingest with another split")
        single = names[images < 2].tolist()
        if len(single) == len(names):
            problem = f"{split} has no patient with two images, which verification needs ({shortened_list(single)})"
            raise UserError(f"{problem}: ingest with another split")
        if single:
            counts = f"{len(single)} of {len(names)} patients have only one image ({shortened_list(single)})"
            log.info("identity: %s: %s, so they have no genuine pair", split, counts)
