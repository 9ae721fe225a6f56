"""Sets of images, which are selected frames of recordings, and the matching of anonymized images with originals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from echodream import validation
from echodream.datamodules.anonymized import version_rows
from echodream.datamodules.key_frames import evenly_spaced_frames
from echodream.datamodules.recordings import Recordings, select_recordings
from echodream.errors import UserError
from echodream.store import Store, open_complete
from echodream.store.schema import SPLITS

ORIGINAL_FRAMES = "OriginalFrames"
"""Column with the numbers of the anonymized frames in the original recording; absent if all are anonymized."""


@dataclass(frozen=True)
class ImageSet:
    """Set of n images: image i is frame ``frame[i]`` of recording ``row[i]``. Both arrays are (n,), int64."""

    recordings: Recordings
    row: np.ndarray
    frame: np.ndarray

    @property
    def patients(self) -> np.ndarray:
        """PatientID of each image: (n,)."""
        return self.recordings.table["PatientID"].astype(str).to_numpy()[self.row]

    @property
    def names(self) -> np.ndarray:
        """FileName of the recording of each image: (n,)."""
        return np.array(self.recordings.names, dtype=object)[self.row]

    def sizes(self) -> dict[str, int]:
        """Numbers of images, recordings and patients."""
        return {"images": len(self), "recordings": len(self.recordings), "patients": len(set(self.patients.tolist()))}

    def __len__(self) -> int:
        return len(self.row)


def open_original_and_anonymized(real: str, src: str) -> tuple[Store, Store]:
    """Open the original store ``real`` and the anonymized store ``src``. Raises ``UserError`` for unsuitable stores."""
    original, anonymized = open_complete(real, "real"), open_complete(src, "src")
    a, b = original.dataset, anonymized.dataset
    if (a.kind, a.channels) != (b.kind, b.channels):
        raise UserError(
            f"real={original.root} holds {a.kind}s with {a.channels} channels and src={anonymized.root} holds "
            f"{b.kind}s with {b.channels} channels: give two stores of the same kind"
        )
    if a.encoder != b.encoder:
        stores = f"{original.root} and {anonymized.root}"
        raise UserError(f"{stores} were encoded by different autoencoders: encode both with the same autoencoder")
    if original.root.resolve() == anonymized.root.resolve():
        stores = f"src={anonymized.root} and real={original.root}"
        raise UserError(f"{stores} are the same store: give the store of anonymized images as src=")
    return original, anonymized


def select_images(store: Store, splits: Sequence[str] | None, frames: int, key: str) -> ImageSet:
    """Select ``frames`` evenly spaced frames of each recording in ``splits``; None selects all splits.

    If ``frames`` is 1, the middle frame is selected. Recordings are sorted by FileName. ``key``: name of the setting
    that gives ``store``, for error messages. Raises ``UserError`` if no recording is left.
    """
    unknown = [split for split in splits or () if split not in SPLITS]
    if unknown or splits == []:
        raise UserError(f"splits={list(splits or ())} is not possible: give some of {', '.join(SPLITS)}, or null")
    recordings = select_recordings(store, splits or SPLITS, key)
    validation.whole_number("frames", frames)
    if (limit := int(recordings.frames.min())) < frames:
        shortest = recordings.names[int(recordings.frames.argmin())]
        raise UserError(f"frames={frames} is too many: {shortest} of {store.root} has {limit}, so give at most {limit}")
    indices = [evenly_spaced_frames(int(count), frames) for count in recordings.frames]
    rows = np.repeat(np.arange(len(recordings)), frames)
    return ImageSet(recordings, rows, np.concatenate(indices).astype(np.int64))


def match_images(originals: ImageSet, store: Store, original_column: str) -> ImageSet:
    """The anonymized version of each image of ``originals``, in the order of ``originals``.

    ``original_column``: column of ``store`` with the FileName of the original. The optional column ``OriginalFrames``
    has the numbers of the anonymized frames in the original. Raises ``UserError`` if an anonymized version is missing,
    has no original, or has another size.
    """
    recordings = _match_recordings(originals.recordings, store, original_column)
    if ORIGINAL_FRAMES not in recordings.table:
        return ImageSet(recordings, originals.row, originals.frame)
    anonymized = [[int(frame) for frame in str(cell).split()] for cell in recordings.column(ORIGINAL_FRAMES)]
    frames = []
    for row, frame in zip(originals.row.tolist(), originals.frame.tolist(), strict=True):
        if frame not in anonymized[row]:
            raise UserError(
                f"{store.root} has no version of frame {frame} of {originals.recordings.names[row]}, only of "
                f"{', '.join(map(str, anonymized[row]))}: give frames={len(anonymized[row])}, as in stage=anonymise"
            )
        frames.append(anonymized[row].index(frame))
    return ImageSet(recordings, originals.row, np.array(frames, np.int64))


def _match_recordings(originals: Recordings, store: Store, original_column: str) -> Recordings:
    """Recordings of ``store``, in the order of the ``originals`` that ``original_column`` names."""
    recordings = select_recordings(store, SPLITS, "src")
    names = pd.Series(recordings.column(original_column), name=original_column)
    all_originals = originals.store.table["FileName"].tolist()  # anonymized images of other splits are allowed
    remedy = "give anonymized versions of the same images, or splits= with the splits that were anonymized"
    remedy += "; for a set without pairs give paired=false"
    roots = store.root, originals.store.root
    matched = recordings.select(version_rows(names, originals.names, all_originals, roots, remedy))
    columns = ["FrameWidth", "FrameHeight", *([] if ORIGINAL_FRAMES in store.table else ["NumberOfFrames"])]
    sizes = [side.table[columns].to_numpy(int) for side in (originals, matched)]
    if len(wrong := np.flatnonzero((sizes[0] != sizes[1]).any(axis=1))):
        original_size, size = (", ".join(map("{} {}".format, columns, part[wrong[0]])) for part in sizes)
        raise UserError(
            f"{originals.names[wrong[0]]} has {original_size} in {originals.store.root} and {size} in {store.root}, so "
            "they are not a pair: anonymize the original again without changing its size"
        )
    return matched
