"""Cache of the latents of training recordings on the training device, which also assembles the batches."""

import math
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from echodream.datamodules.dataset import ViewDataset
from echodream.datamodules.recordings import Recordings
from echodream.datamodules.views import Sample
from echodream.errors import UserError

LATENT_ENTRIES = ("x", "reference", "other")
"""Entries of a batch that are latents."""
MAX_MEMORY_SHARE = 0.25
"""Largest share of the free memory of a GPU that the latents may take."""


class NumberedRecordings(Recordings):
    """Recordings that are read as frame numbers, counted over all recordings, in place of latents."""

    @classmethod
    def from_recordings(cls, rows: Recordings) -> Self:
        """Copy of the recordings ``rows`` that is read as frame numbers."""
        numbered = cls.__new__(cls)
        vars(numbered).update(vars(rows))
        return numbered

    def read(self, row: int, indices: Any, rng: np.random.Generator, posterior: str = "sample") -> Tensor:
        """Numbers of the frames ``indices`` of a recording, and a random seed: int64, (F + 1,)."""
        first = int(self.cumulative_frames[row] - self.frames[row])
        return torch.from_numpy(np.append(first + np.asarray(indices), rng.integers(2**62)))


class NumberedDataset(ViewDataset):
    """The samples of ``ViewDataset``, without augmentation, as frame numbers in place of latents."""

    def _augmented_tensors(self, sample: Sample, rng: np.random.Generator) -> dict[str, Tensor]:
        return {name: value for name in LATENT_ENTRIES if (value := getattr(sample, name)) is not None}


class DeviceCache:
    """Latents of ``samples``, the training samples of a store, on ``device``.

    ``dataset`` has the samples as frame numbers, and ``batch_latents`` returns their latents. Noise of the posterior is
    sampled on the device: it is a function of the samples of a batch, and differs from the noise that is sampled on the
    CPU without this cache. Raises ``UserError`` if the latents exceed ``MAX_MEMORY_SHARE`` of the free GPU memory.
    """

    def __init__(self, samples: ViewDataset, device: torch.device) -> None:
        rows = samples.rows
        self.device, self.view = device, samples.view
        self.dataset = NumberedDataset(
            NumberedRecordings.from_recordings(rows), samples.view, samples.seed, tuple(samples.columns)
        )
        height, width = (int(rows.table[column].iloc[0]) for column in ("FrameHeight", "FrameWidth"))
        shape = (2, int(rows.frames.sum()), rows.store.dataset.channels, height, width)
        _check_memory(math.prod(shape) * torch.float16.itemsize, device)
        self.mean, self.std = torch.empty(shape, dtype=torch.float16, device=device)
        for name, end, count in zip(rows.names, rows.cumulative_frames.tolist(), rows.frames.tolist(), strict=True):
            for stored, moment in zip((self.mean, self.std), rows.store.latents(name), strict=True):
                stored[end - count : end] = moment
        statistics = rows.store.dataset.statistics
        assert statistics is not None
        self.statistics = torch.tensor([statistics.mean, statistics.std], device=device)[..., None, None]
        """Mean and standard deviation of each channel, (2, C, 1, 1)."""

    def batch_latents(self, numbers: Tensor) -> Tensor:
        """Normalized latents, on the device, of the frames of a batch: (B, C, F, H, W), or (B, F * C, H, W) if stacked.

        ``numbers``, (B, F + 1), on the CPU: F frame numbers and a random seed for each sample of the batch.
        """
        frames = numbers[:, :-1].to(self.device, non_blocking=True)
        x = self.mean[frames].float()
        if self.view.posterior == "sample":
            generator = torch.Generator(self.device).manual_seed(int(numbers[:, -1].sum()) % 2**62)
            noise = torch.randn(x.shape, generator=generator, device=self.device)
            x = torch.addcmul(x, self.std[frames].float(), noise)
        x = (x - self.statistics[0]) / self.statistics[1]
        return x.flatten(1, 2) if self.view.stacks_frames else x.transpose(1, 2)


def _check_memory(size: int, device: torch.device) -> None:
    """Raise ``UserError`` if ``size`` bytes exceed ``MAX_MEMORY_SHARE`` of the free memory of the GPU ``device``."""
    if device.type != "cuda":
        return
    free = torch.cuda.mem_get_info(device)[0]
    if size > MAX_MEMORY_SHARE * free:
        problem = f"latents take {size / 2**30:.1f} GiB, more than a quarter of {free / 2**30:.1f} GiB free on {device}"
        raise UserError(f"datamodule.cache=device: {problem}: give datamodule.cache=true")
