"""Recordings of one split of a Store, read as network inputs."""

import hashlib
from collections.abc import Sequence
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor

from echodream.datamodules.normalization import from_uint8, whiten
from echodream.errors import UserError
from echodream.store import Store

if TYPE_CHECKING:
    import pandas as pd

SEEK_FRAMES = 8
"""Number of frames that are decoded in the time of one seek. Closer frames are read as one contiguous range."""


class Recordings:
    """Recordings of ``store`` in ``split``, addressed by row number.

    ``names`` are FileNames, and ``frames`` is the number of frames of each recording (int64). Raises ``UserError`` if
    the split is empty, or if a store of latents has no statistics for normalization.
    """

    def __init__(self, store: Store, split: str) -> None:
        self.store = store
        self.split = split
        self.table = store.table[store.table["Split"] == split].reset_index(drop=True)
        if not len(self.table):
            counts = ", ".join(f"{name} {count}" for name, count in store.table["Split"].value_counts().items())
            raise UserError(f"{store.root} has no recording in split {split}; it has {counts or 'none'}")
        if store.dataset.kind == "latent" and store.dataset.statistics is None:
            raise UserError(f"{store.root} has no statistics to normalize its latents: run stage=encode again")
        self.names: list[str] = self.table["FileName"].tolist()
        self.frames: np.ndarray = self.table["NumberOfFrames"].to_numpy(np.int64)

    def select(self, rows: Sequence[int]) -> Self:
        """Subset of the recordings with the numbers ``rows``, in this order."""
        subset = copy(self)
        for name, value in vars(Recordings).items():
            if isinstance(value, cached_property):
                subset.__dict__.pop(name, None)
        subset.table = self.table.iloc[list(rows)].reset_index(drop=True)
        subset.names, subset.frames = [self.names[row] for row in rows], self.frames[list(rows)]
        return subset

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def cumulative_frames(self) -> np.ndarray:
        """Cumulative number of frames up to each row: int64, (N,)."""
        return np.cumsum(self.frames)

    @cached_property
    def patient_numbers(self) -> np.ndarray:
        """Number of the patient of each row, from 0: int64, (N,)."""
        return np.unique(self.table["PatientID"].astype(str).to_numpy(), return_inverse=True)[1]

    @cached_property
    def rows_by_patient(self) -> list[np.ndarray]:
        """Rows of each patient number in ascending order: int64."""
        return [*indices_by_value(self.patient_numbers).values()]

    @cached_property
    def rows_by_name(self) -> np.ndarray:
        """Rows in the order of FileNames: int64, (N,)."""
        return np.argsort(np.array(self.names), kind="stable")

    @cached_property
    def ranks_by_name(self) -> np.ndarray:
        """Position of each row in ``rows_by_name``: int64, (N,)."""
        return np.argsort(self.rows_by_name)

    @cached_property
    def rows_with_two_frames(self) -> dict[str, np.ndarray]:
        """Identity "patient" or "recording" -> rows whose patient or recording has at least two frames: int64."""
        frames = {"patient": np.bincount(self.patient_numbers, self.frames)[self.patient_numbers]}
        return {name: np.flatnonzero(count >= 2) for name, count in (frames | {"recording": self.frames}).items()}

    def column(self, name: str) -> np.ndarray:
        """Column ``name`` of FileList.csv, (N,). Raises ``UserError`` for a missing column."""
        require_column(self.store.root, self.table, name)
        return self.table[name].to_numpy()

    def read(self, row: int, indices: Sequence[int], rng: np.random.Generator, posterior: str = "sample") -> Tensor:
        """Read the frames ``indices`` of a recording, in this order: float32, (C, F, H, W).

        Pixels are in [-1, 1]. Latents are a "sample" or the "mean" of the ``posterior``, normalized by the statistics
        of the store. Raises ``StoreError`` for a damaged file.
        """
        name, frames = self.names[row], np.asarray(indices)
        if self.store.dataset.kind == "video":
            low, high, dense = _frame_span(frames)
            pixels = self.store.frames(name, range(low, high) if dense else frames.tolist())
            pixels = pixels[frames - low] if dense else pixels
            return from_uint8(torch.from_numpy(pixels).permute(3, 0, 1, 2)).contiguous()
        mean, std = self.posterior(row, frames)
        if posterior == "sample":
            mean = gaussian_sample(mean, std, rng)
        assert self.store.dataset.statistics is not None
        return whiten(mean.transpose(0, 1), self.store.dataset.statistics).contiguous()

    def posterior(self, row: int, frames: np.ndarray) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the unscaled latents of ``frames``: float32, (F, C, H, W) each."""
        low, high, dense = _frame_span(frames)
        if dense:
            mean, std = self.store.latents(self.names[row], low, high)
            return mean[frames - low].float(), std[frames - low].float()
        moments = [self.store.latents(self.names[row], index, index + 1) for index in frames.tolist()]
        mean, std = (torch.cat(tensors).float() for tensors in zip(*moments, strict=True))
        return mean, std

    def posterior_sample(self, row: int, frames: np.ndarray, rng: np.random.Generator) -> Tensor:
        """Sample of the posterior of the unscaled latents of ``frames``: float32, (F, C, H, W)."""
        return gaussian_sample(*self.posterior(row, frames), rng)


def _frame_span(frames: np.ndarray) -> tuple[int, int, bool]:
    """Smallest frame number, largest frame number + 1, and whether to read this range in one pass."""
    low, high = int(frames.min()), int(frames.max()) + 1
    return low, high, high - low <= SEEK_FRAMES * len(frames)


def gaussian_sample(mean: Tensor, std: Tensor, rng: np.random.Generator) -> Tensor:
    """Sample of independent normal distributions with ``mean`` and ``std``, tensors of one shape; float32."""
    return mean + std * torch.from_numpy(rng.standard_normal(tuple(mean.shape), dtype=np.float32))


def indices_by_value(values: np.ndarray) -> dict[Any, np.ndarray]:
    """Value -> its indices in ``values``, (N,), int64; values and indices are in ascending order."""
    unique, number = np.unique(values, return_inverse=True)
    ends = np.cumsum(np.bincount(number))
    return dict(zip(unique.tolist(), np.split(np.argsort(number, kind="stable"), ends[:-1]), strict=True))


def remaining_number(position: int, excluded: np.ndarray) -> int:
    """Element ``position`` of 0, 1, 2, ... without the numbers ``excluded``, which are sorted in ascending order."""
    return position + int(np.searchsorted(excluded - np.arange(len(excluded)), position, side="right"))


def named_rng(seed: int, name: str) -> np.random.Generator:
    """Random generator for ``seed`` and ``name``, such as the name of a recording."""
    words = np.frombuffer(hashlib.sha256(name.encode()).digest(), np.uint32)
    return np.random.default_rng([seed, *words.tolist()])


def training_patients(store: Store) -> list[str]:
    """Patients of the split TRAIN of ``store``, in alphabetical order."""
    return sorted(set(Recordings(store, "TRAIN").table["PatientID"].astype(str)))


def require_column(root: Path, table: "pd.DataFrame", name: str) -> None:
    """Raise ``UserError`` if ``table``, FileList.csv of the store at ``root``, has no column ``name``."""
    if name not in table:
        raise UserError(f"{root} has no column {name!r}; it has {', '.join(map(str, table.columns))}")


def select_recordings(store: Store, splits: Sequence[str], key: str) -> Recordings:
    """Recordings of ``store`` in ``splits``, sorted by FileName. Raises ``UserError`` about ``key`` if none exist."""
    table = store.table[store.table["Split"].isin(list(splits))].sort_values("FileName").reset_index(drop=True)
    if not len(table):
        raise UserError(f"{key}: {store.root} has no recording in the splits {', '.join(splits)}")
    rows = Recordings(store, str(table["Split"].iloc[0]))
    rows.table, rows.split = table, " and ".join(splits)
    rows.names, rows.frames = table["FileName"].tolist(), table["NumberOfFrames"].to_numpy(np.int64)
    return rows
