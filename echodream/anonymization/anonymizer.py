"""LightningModule that anonymizes recordings, and a dataset of batches of recordings."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Self

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import Dataset

from echodream.anonymization.methods import AnonymizationMethod
from echodream.datamodules.frame_budget_batches import plan_batches
from echodream.datamodules.key_frames import evenly_spaced_frames
from echodream.datamodules.recordings import Recordings
from echodream.filtering.copy_generation import CopyGenerator, FrameSelection


@dataclass(frozen=True)
class RecordingBatch:
    """Names of recordings that are anonymized together, and the indices of these recordings in ``Recordings``."""

    names: tuple[str, ...]
    rows: tuple[int, ...]

    def to(self, device: torch.device) -> Self:
        """Return this batch, which has no tensors to move."""
        return self


class RecordingBatches(Dataset[RecordingBatch]):
    """Dataset of batches of about ``batch_size`` frames, without batches whose names are all in ``skip_names``."""

    def __init__(self, recordings: Recordings, frames: int, batch_size: int, skip_names: Collection[str] = ()) -> None:
        sizes = list(zip(recordings.table["FrameHeight"], recordings.table["FrameWidth"], strict=True))
        planned = plan_batches([frames] * len(recordings), sizes, batch_size)
        batches = [RecordingBatch(tuple(recordings.names[row] for row in rows), tuple(rows)) for rows in planned]
        self.batches = [batch for batch in batches if any(name not in skip_names for name in batch.names)]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> RecordingBatch:
        return self.batches[number]


class Anonymizer(pl.LightningModule):
    """Anonymizes ``frames`` evenly spaced frames of each recording by ``method``, which uses ``copy_generator``."""

    def __init__(self, copy_generator: CopyGenerator, method: AnonymizationMethod, frames: int) -> None:
        super().__init__()
        self.copy_generator, self.method, self.frames = copy_generator, method, frames
        networks = [network for network in (copy_generator.vae, copy_generator.generator) if network is not None]
        self.networks = torch.nn.ModuleList(networks)

    def predict_step(self, batch: RecordingBatch, batch_idx: int) -> Sequence[Tensor]:
        """The anonymized frames of each recording: unscaled latents, float32 (f, C, H, W), on the CPU."""
        self.copy_generator.device = self.device
        lengths = [(row, int(self.copy_generator.recordings.frames[row])) for row in batch.rows]
        selections = [FrameSelection(row, evenly_spaced_frames(length, self.frames)) for row, length in lengths]
        return [frames.float() for frames in self.method.anonymize(self.copy_generator, selections)]
