"""Reading a Store."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from echodream.store.checksums import file_sha256
from echodream.store.latents import read_latents
from echodream.store.schema import CHECKSUMS, Dataset, StoreError, media_path, read_dataset
from echodream.store.table import read_file_list
from echodream.store.video import read_video

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor


class Store:
    """A folder of recordings, opened for reading.

    ``dataset`` is what dataset.json says and ``table`` is FileList.csv, one row per recording, checked.
    Raises ``StoreError`` at once when the folder is not a store, or not of the ``kind`` or ``encoder`` asked for.
    """

    def __init__(self, root: str | Path, *, kind: str | None = None, encoder: str | None = None) -> None:
        self.root = Path(root)
        self.dataset: Dataset = read_dataset(self.root)
        self.table: pd.DataFrame = read_file_list(self.root)
        if kind is not None and self.dataset.kind != kind:
            raise StoreError(f"{self.root} is a {self.dataset.kind} store, a {kind} store is needed here: check src=")
        if encoder is not None and self.dataset.encoder != encoder:
            raise StoreError(
                f"{self.root} was encoded by {str(self.dataset.encoder)[:12]}, this model needs {encoder[:12]}: "
                "encode the videos again with this model's VAE"
            )

    def __len__(self) -> int:
        return len(self.table)

    @property
    def checksum(self) -> str:
        """SHA-256 of SHA256SUMS, which identifies the content of the store. Raises ``StoreError`` without that file."""
        path = self.root / CHECKSUMS
        if not path.is_file():
            raise StoreError(f"{path} is missing: {self.root} is not a complete store")
        return file_sha256(path)

    def rows(self) -> dict[str, dict[str, Any]]:
        """FileList.csv as a dict from FileName to row, without the empty cells."""
        return {
            row["FileName"]: {str(column): value for column, value in row.items() if value not in ("", None)}
            for row in self.table.to_dict("records")
        }

    @cached_property
    def _frames(self) -> dict[str, int]:
        return dict(zip(self.table["FileName"], map(int, self.table["NumberOfFrames"]), strict=True))

    def path(self, name: str) -> Path:
        """The media file of the recording ``name``. Raises ``StoreError`` for a name that is not in the store."""
        if name not in self._frames:
            raise StoreError(f"{self.root} has no recording {name!r}")
        return media_path(self.root, self.dataset.kind, name)

    def frames(self, name: str, indices: Sequence[int] | None = None) -> np.ndarray:
        """Pixels of a recording, all frames or those at ``indices``: uint8, (F, H, W, C)."""
        return read_video(self.path(name), self.dataset.channels, indices, self._frames.get(name))

    def latents(self, name: str, start: int = 0, stop: int | None = None) -> "tuple[Tensor, Tensor]":
        """Posterior mean and std of the frames ``start`` to ``stop``, unscaled: float16, (F, C, H, W) each.

        Reads only the slice. Raises ``StoreError`` when the file is damaged.
        """
        path = self.path(name)
        mean, std = read_latents(path, start, stop)
        expected = len(range(*slice(start, stop).indices(self._frames[name])))
        if len(mean) != expected or mean.shape != std.shape:
            raise StoreError(f"{path} holds other frames than FileList.csv says: make the store again")
        return mean, std
