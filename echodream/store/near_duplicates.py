"""Search for recordings of two patients that share frames, also after recoding, scaling, trimming or contrast change.

A perceptual hash of downsampled frames selects candidate pairs, in time linear in the number of recordings. All frames
of the candidate pairs are then compared.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from echodream.store.reader import Store

MAX_HASHED_FRAMES = 64
"""Maximum number of hashed frames of a recording. They are evenly spaced, so that trimmed copies are also found."""
_COMPARED_SIDE, _HASH_SIDE = 48, 16
"""Side in pixels of the downsampled frames for the comparison, and of the frames for the hash."""
_COMPONENTS, _VARIANCE = 24, 0.98
"""Maximum number of principal components, and fraction of the variance that fewer components have to explain."""
_TABLES, _BITS = 6, 14
"""Number of hash tables, and number of bits of a hash."""
_COMPARED_NEIGHBORS = 8
"""Number of recordings in a hash bucket with which a recording is compared: the next ones along a random projection."""
_MAX_DISTANCE = 0.2
"""Maximum mean squared difference of the whitened components, which have unit variance, of a candidate pair."""
_SAME_FRAME, _SAME_IMAGE = 0.89, 0.93
"""Minimum correlation of equal frames, for videos and for images. Measured correlations of recoded copies are at least
0.9. Between patients, they are at most 0.76 in phantom and lung ultrasound videos, and at most 0.42 in X-rays."""
_MAX_BLACK_LEVEL = 12
"""Largest gray level, of 0 to 255, of black pixels."""
_PCA_FRAMES = 4096
"""Approximate number of frames from which the principal components are computed."""
_COMPARED_FRAMES = 512
"""Largest number of frames of the shorter recording that are compared with all frames of the longer one."""
_MIN_DEVIATION = 4
"""Smallest standard deviation of the gray levels of a hashed frame with content."""


@dataclass(frozen=True)
class SharedFrames:
    """Two recordings of two patients that share frames."""

    first_name: str
    second_name: str
    shared_frames: int
    """Estimated number of frames of the shorter recording that are also in the longer one."""
    shorter_length: int
    """Number of frames of the shorter recording."""
    splits: tuple[str, str]

    def __str__(self) -> str:
        splits = " and ".join(dict.fromkeys(self.splits))
        count = f"{self.shared_frames} of {self.shorter_length} frames"
        return f"{self.first_name} and {self.second_name} share {count} ({splits})"


def small_frames(frames: np.ndarray, side: int = _COMPARED_SIDE) -> np.ndarray:
    """Downsample ``frames``, uint8 (F, H, W, C), to gray means of areas: float32 (F, ``side``, ``side``)."""
    chunks = [frames[start : start + 256].astype(np.float32).mean(axis=-1) for start in range(0, len(frames), 256)]
    for axis in (1, 2):
        repeats = -(-side // frames.shape[axis])
        size = frames.shape[axis] * repeats
        starts = np.arange(side) * size // side
        counts = np.diff(np.append(starts, size)).reshape((-1, 1) if axis == 1 else (1, -1))
        chunks = [np.add.reduceat(np.repeat(chunk, repeats, axis), starts, axis) / counts for chunk in chunks]
    return np.concatenate(chunks).astype(np.float32)


def hashed_frames(frames: np.ndarray) -> np.ndarray:
    """Small frames of a recording for ``find_shared_frames``, at most ``MAX_HASHED_FRAMES``: uint8 (F, 16, 16)."""
    return np.rint(small_frames(frames[:: -(-len(frames) // MAX_HASHED_FRAMES)], _HASH_SIDE)).astype(np.uint8)


def find_shared_frames(store: Store, frames_by_name: Mapping[str, np.ndarray] | None = None) -> list[SharedFrames]:
    """All pairs of recordings of two patients in a video store that share frames, in the order of the table.

    ``frames_by_name`` maps FileName to ``hashed_frames``. The frames of all other recordings are read from the store.
    """
    table: Any = store.table.set_index("FileName")
    frames_by_name = frames_by_name or {}
    patients, splits, counts = (table[column].to_dict() for column in ("PatientID", "Split", "NumberOfFrames"))
    small = {}
    for name, count in counts.items():
        indices = range(0, count, -(-count // MAX_HASHED_FRAMES))
        known = frames_by_name.get(name)
        small[name] = hashed_frames(store.frames(name, indices)) if known is None else known
    threshold = _SAME_IMAGE if max(counts.values(), default=0) == 1 else _SAME_FRAME
    read = lru_cache(32)(lambda name: small_frames(store.frames(name)))
    pairs = []
    for first, second in _candidate_pairs(small, patients):
        shorter, longer = sorted((first, second), key=lambda name: (counts[name], name))
        correlations = _highest_correlations(read(shorter)[:: -(-counts[shorter] // _COMPARED_FRAMES)], read(longer))
        equal = correlations >= threshold
        if equal.sum() >= min(len(equal), max(3, 0.1 * len(equal))):
            shared = round(float(equal.mean()) * counts[shorter])
            pairs.append(SharedFrames(first, second, shared, counts[shorter], (splits[first], splits[second])))
    return pairs


def _candidate_pairs(small: Mapping[str, np.ndarray], patients: Mapping[str, str]) -> list[tuple[str, str]]:
    """Pairs of recordings of two patients with similar small frames, in the order of ``small``.

    Small frames are normalized and transformed to whitened principal components. Frames with an equal hash are
    compared. A hash consists of the signs of ``_BITS`` random projections (locality-sensitive hashing).
    """
    import pandas as pd

    names, vectors = list(small), [_normalized_frames(frames) for frames in small.values()]
    recordings = [index for index, frames in enumerate(vectors) for _ in frames]
    if len(recordings) < 2:
        return []
    count = -(-_PCA_FRAMES // len(vectors))
    sample = np.concatenate([frames[:: -(-len(frames) // count) or 1] for frames in vectors])
    mean = sample.mean(axis=0)
    variances, axes = np.linalg.eigh(np.cov((sample - mean).astype(np.float64), rowvar=False, bias=True))
    variances, axes = variances[::-1].clip(min=0), axes[:, ::-1]
    cumulative = np.cumsum(variances)
    if not cumulative[-1]:  # all frames are equal
        variances, axes = np.ones(1), axes[:, :1]
    components = min(_COMPONENTS, 1 + int((cumulative < _VARIANCE * cumulative[-1]).sum()))
    basis = (axes[:, :components] / np.sqrt(variances[:components])).astype(np.float32)
    whitened = np.concatenate([(frames - mean) @ basis for frames in vectors])
    rng = np.random.default_rng(0)
    pairs: set[tuple[int, int]] = set()
    for _ in range(_TABLES):
        hashes = (whitened @ rng.normal(size=(components, _BITS)) > 0) @ (1 << np.arange(_BITS))
        position = whitened @ rng.normal(size=components)
        table = pd.DataFrame({"hash": hashes, "recording": recordings, "position": position})
        table = table.sort_values("position", kind="stable").drop_duplicates(["hash", "recording"])
        for bucket in table[table.duplicated("hash", keep=False)].groupby("hash").groups.values():
            for start, first in enumerate(bucket, 1):
                for second in bucket[start : start + _COMPARED_NEIGHBORS]:
                    one, other = sorted((recordings[first], recordings[second]))
                    is_near = np.square(whitened[first] - whitened[second]).mean() <= _MAX_DISTANCE
                    if is_near and patients[names[one]] != patients[names[other]]:
                        pairs.add((one, other))
    return [(names[one], names[other]) for one, other in sorted(pairs)]


def _normalized_frames(frames: np.ndarray) -> np.ndarray:
    """Normalize ``frames``, uint8 (F, 16, 16), to zero mean and unit norm, and drop flat frames: float32 (F', 256)."""
    flat = frames.reshape(len(frames), -1).astype(np.float32)
    flat = flat[flat.std(axis=1) >= _MIN_DEVIATION]
    flat = flat - flat.mean(axis=1, keepdims=True)
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)


def _highest_correlations(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Highest correlation of each frame of ``first``, (F, 48, 48), with any frame of ``second``: (F,).

    Correlations are computed from details: differences of pixels from the mean of 5 x 5 pixels. Pixels next to black
    pixels are ignored, because the outline of the sector is equal in all recordings. In videos, pixels that are
    constant in both recordings are ignored, because they may be text or scales of the ultrasound machine.
    """
    region = _nonblack_region(first) & _nonblack_region(second)
    if len(first) > 1 and len(second) > 1:
        changing = region & ((first.std(axis=0) > 1) | (second.std(axis=0) > 1))
        region = changing if changing.sum() >= 64 else region
    if region.sum() < 32:
        return np.zeros(len(first))
    details = [_normalized_details(frames, region) for frames in (first, second)]
    return (details[0] @ details[1].T).max(axis=1)


def _nonblack_region(frames: np.ndarray) -> np.ndarray:
    """Pixels that are not black and have no black neighbor, in the maximum over ``frames``: bool (48, 48)."""
    padded = np.pad(frames.max(axis=0) > _MAX_BLACK_LEVEL, 1)
    return np.asarray(np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).all(axis=(2, 3)))


def _normalized_details(frames: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Details of ``frames`` in ``region`` with zero mean and unit norm: (F, number of pixels); flat frames are zero."""
    from scipy.ndimage import uniform_filter

    detail = (frames - uniform_filter(frames, (1, 5, 5), mode="nearest"))[:, region]
    detail = detail - detail.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(detail, axis=1, keepdims=True)
    return np.where(norm > 0.5 * np.sqrt(region.sum()), detail / np.maximum(norm, 1e-6), 0)


def pairs_across_splits(pairs: Iterable[SharedFrames]) -> list[SharedFrames]:
    """Pairs of recordings that are in two different splits."""
    return [pair for pair in pairs if len(set(pair.splits)) > 1]


def summarize_shared_frames(pairs: Sequence[SharedFrames]) -> str:
    """Text for the summary of a stage: number of ``pairs`` and 8 of them, starting with pairs across splits."""
    if not pairs:
        return "none between patients"
    listed = sorted(pairs, key=lambda pair: len(set(pair.splits)), reverse=True)
    more = ["..."] * (len(listed) > 8)
    return "\n    ".join([f"{len(pairs)} pairs of recordings of two patients", *map(str, listed[:8]), *more])
