"""Reading of a Store: table, frames and latents."""

import os
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from echodream.errors import UserError
from echodream.store.checksums import file_sha256
from echodream.store.latents import read_latents
from echodream.store.schema import CHECKSUMS, Dataset, StoreError, media_path, read_dataset
from echodream.store.table import read_file_list
from echodream.store.video import read_video

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

MAX_LATENT_CACHE_BYTES = 8 * 2**30
"""Largest size of latents that ``datamodule.cache=auto`` caches on a machine with a GPU."""
MAX_SMALL_CACHE_BYTES = 256 * 2**20
"""Largest size of pixels or latents that ``datamodule.cache=auto`` caches on any machine."""
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
"""File with the memory limit of the container (cgroup 2), in bytes."""


class Store:
    """A folder of recordings, opened for reading.

    ``dataset`` is the content of dataset.json, ``table`` the checked FileList.csv with one row per recording.
    Raises ``StoreError`` if the folder is not a store, or does not have the required ``kind`` or ``encoder``.
    """

    def __init__(self, root: str | Path, *, kind: str | None = None, encoder: str | None = None) -> None:
        self.root = Path(root)
        self._cached_frames: dict[str, np.ndarray] = {}
        self._cached_latents: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # tensors cannot be sent to many workers
        self.dataset: Dataset = read_dataset(self.root)
        self.table: pd.DataFrame = read_file_list(self.root)
        if kind is not None and self.dataset.kind != kind:
            raise StoreError(f"{self.root} is a {self.dataset.kind} store, but a {kind} store is needed: check src=")
        if encoder is not None and self.dataset.encoder != encoder:
            fingerprints = f"{str(self.dataset.encoder)[:12]}, this model needs {encoder[:12]}"
            raise StoreError(f"{self.root} was encoded by {fingerprints}: encode the videos again with the model's VAE")

    def __len__(self) -> int:
        return len(self.table)

    def __repr__(self) -> str:
        return f"Store({str(self.root)!r}): {self._description()}"

    def _description(self) -> str:
        sizes = sorted(set(zip(self.table["FrameWidth"], self.table["FrameHeight"], strict=True)))
        size = f"{sizes[0][0]}x{sizes[0][1]}" if len(sizes) == 1 else f"{len(sizes)} sizes"
        patients = f"{self.table['PatientID'].nunique()} {'synthetic ' * self.dataset.synthetic}patients"
        frames = f"{self.table['NumberOfFrames'].sum()} {'latent ' * (self.dataset.kind == 'latent')}frames"
        return f"{len(self)} recordings of {patients}, {frames} of {size}, {self.dataset.channels} channels"

    def _repr_html_(self) -> str:
        """HTML for notebooks: the content of the store, and videos of a few recordings, of different classes first."""
        from echodream.store.browser_video import NOTEBOOK_CLIPS, notebook_html

        facts: dict[str, object] = {"content": self._description()}
        table = self.table
        if "class_name" in table:
            counts = table["class_name"].value_counts(sort=False)
            facts["classes"] = ", ".join(f"{name} {count}" for name, count in counts.items())
            table = table.loc[table["class_name"].duplicated().sort_values(kind="stable").index]
        if self.dataset.kind != "video":
            return notebook_html(str(self.root), [], facts)
        if not self.dataset.synthetic:
            facts["private"] = "recordings of patients; clear this output before you share the notebook"
        shown = table.head(NOTEBOOK_CLIPS)[["FileName", "FPS"]].itertuples(index=False)
        clips = ((str(name), self.frames(str(name)), float(fps)) for name, fps in shown)
        return notebook_html(str(self.root), clips, facts)

    @property
    def checksum(self) -> str:
        """SHA-256 of SHA256SUMS, which identifies the content of the store. Raises ``StoreError`` if it is missing."""
        path = self.root / CHECKSUMS
        if not path.is_file():
            raise StoreError(f"{path} is missing: {self.root} is not a complete store")
        return file_sha256(path)

    def rows(self) -> dict[str, dict[str, Any]]:
        """FileList.csv as a dict from FileName to row, without empty cells."""
        return {
            row["FileName"]: {str(column): value for column, value in row.items() if value not in ("", None)}
            for row in self.table.to_dict("records")
        }

    @cached_property
    def _frame_counts(self) -> dict[str, int]:
        return dict(zip(self.table["FileName"], map(int, self.table["NumberOfFrames"]), strict=True))

    def path(self, name: str) -> Path:
        """Path of the media file of the recording ``name``. Raises ``StoreError`` for an unknown name."""
        if name not in self._frame_counts:
            raise StoreError(f"{self.root} has no recording {name!r}")
        return media_path(self.root, self.dataset.kind, name)

    def frames(self, name: str, indices: Sequence[int] | None = None) -> np.ndarray:
        """Pixels of the frames ``indices`` of a recording, by default all: uint8, (F, H, W, C)."""
        if name in self._cached_frames:
            frames = self._cached_frames[name]
            return frames.copy() if indices is None else frames[np.asarray(indices, np.int64)]
        return read_video(self.path(name), self.dataset.channels, indices, self._frame_counts.get(name))

    def latents(self, name: str, start: int = 0, stop: int | None = None) -> "tuple[Tensor, Tensor]":
        """Unscaled posterior mean and std of the frames ``start`` to ``stop``: float16, (F, C, H, W) each.

        Only requested frames are read, unless the recording is cached. Raises ``StoreError`` if the file is damaged.
        """
        path = self.path(name)
        if name in self._cached_latents:
            from torch import from_numpy

            mean, std = (from_numpy(moment[start:stop]) for moment in self._cached_latents[name])
        else:
            mean, std = read_latents(path, start, stop)
        expected = len(range(*slice(start, stop).indices(self._frame_counts[name])))
        if len(mean) != expected or mean.shape != std.shape:
            raise StoreError(f"{path} does not contain the frames that FileList.csv states: create the store again")
        return mean, std

    def fits_in_memory(self, max_bytes: int) -> bool:
        """Whether all pixels or latents take at most ``max_bytes`` and at most a quarter of ``machine_memory()``."""
        numbers = self.table["NumberOfFrames"] * self.table["FrameHeight"] * self.table["FrameWidth"]
        each = 1 if self.dataset.kind == "video" else 2 * np.dtype(np.float16).itemsize  # mean and std
        return int(numbers.sum()) * self.dataset.channels * each <= min(max_bytes, machine_memory() / 4)

    def cache(self, names: Iterable[str]) -> None:
        """Read the recordings ``names`` into memory, which processes that are forked later share."""
        if self.dataset.kind == "video":
            self._cached_frames |= {name: self.frames(name) for name in names if name not in self._cached_frames}
        else:
            for name in set(names) - self._cached_latents.keys():
                mean, std = self.latents(name)
                self._cached_latents[name] = mean.numpy(), std.numpy()


def open_complete(path: str, key: str, kind: str | None = None) -> Store:
    """Open the store at ``path``, the value of the setting ``key``. Raises ``UserError`` if the store is incomplete."""
    store = Store(path, kind=kind)
    if not (store.root / CHECKSUMS).is_file():
        raise UserError(f"{key}={store.root} is not a complete store, {CHECKSUMS} is missing: write the store again")
    return store


def machine_memory() -> int:
    """Memory of this machine, or the limit of its container, in bytes; 0 if the system does not report it."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    try:
        return min(memory, int(CGROUP_LIMIT.read_text(encoding="ascii")))
    except (OSError, ValueError):  # no limit: no cgroup, or "max" in the file
        return memory
