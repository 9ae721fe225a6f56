"""Finds recordings of two patients that share frames, also after recoding, scaling, trimming or another contrast.

Candidates are found by a perceptual hash of small frames, in time linear in the number of recordings; all frames of the
candidates are then compared.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from echodream.store.reader import Store

MOST_FRAMES = 64
"""Frames of a recording that are hashed, evenly spaced; they find copies that begin or end elsewhere, too."""
_SIDE = 48
_HASH_SIDE = 16
_COMPONENTS, _VARIANCE = 24, 0.98
"""Number of principal components, and the share of the variance that they hold at most: the others are noise."""
_TABLES, _BITS = 6, 14
_BUCKET = 8
"""With how many recordings of its bucket a recording is compared: the next ones in the order of a projection."""
_NEAR = 0.2
"""Largest mean squared difference of whitened components (unit variance) of candidates."""
_SAME_FRAME, _SAME_IMAGE = 0.89, 0.93
"""Correlation of two small frames from which they are the same, in videos and in stores of images. Recoded copies have
0.9 and more, frames of different patients at most 0.76 (phantom, lung ultrasound), X-rays 0.42."""
_BLACK = 12
_SAMPLE = 4096
_MOST_COMPARED = 512
_LEAST_DEVIATION = 4
"""Frames with a smaller standard deviation of gray levels are not compared: they show nothing."""


@dataclass(frozen=True)
class SharedFrames:
    """Two recordings of two patients that share frames."""

    first: str
    second: str
    shared: int
    """Number of frames of the shorter recording that the other one has, too."""
    frames: int
    """Number of frames of the shorter recording."""
    splits: tuple[str, str]

    def __str__(self) -> str:
        splits = " and ".join(dict.fromkeys(self.splits))
        return f"{self.first} and {self.second} share {self.shared} of {self.frames} frames ({splits})"


def small_frames(frames: np.ndarray, side: int = _SIDE) -> np.ndarray:
    """Means of ``side`` x ``side`` areas of ``frames``, uint8 (F, H, W, C): float32 (F, side, side)."""
    pieces = [frames[start : start + 256].astype(np.float32).mean(axis=-1) for start in range(0, len(frames), 256)]
    for axis in (1, 2):
        repeats = -(-side // frames.shape[axis])
        size = frames.shape[axis] * repeats
        starts = np.arange(side) * size // side
        counts = np.diff(np.append(starts, size)).reshape((-1, 1) if axis == 1 else (1, -1))
        pieces = [np.add.reduceat(np.repeat(piece, repeats, axis), starts, axis) / counts for piece in pieces]
    return np.concatenate(pieces).astype(np.float32)


def hashed_frames(frames: np.ndarray) -> np.ndarray:
    """At most ``MOST_FRAMES`` small frames of a recording, as uint8 (F, 16, 16), for ``find_shared_frames``."""
    return np.rint(small_frames(frames[:: -(-len(frames) // MOST_FRAMES)], _HASH_SIDE)).astype(np.uint8)


def find_shared_frames(store: Store, hashed: Mapping[str, np.ndarray] | None = None) -> list[SharedFrames]:
    """All pairs of recordings of two patients of a video store that share frames, in the order of the table.

    ``hashed``: FileName -> ``hashed_frames``, as far as known; the others are read.
    """
    known = dict(hashed or {})
    rows = store.table[["FileName", "PatientID", "Split", "NumberOfFrames"]].itertuples(index=False, name=None)
    patients, splits, counts = {}, {}, {}
    for name, patient, split, count in rows:
        patients[name], splits[name], counts[name] = str(patient), str(split), int(count)
    small = {}
    for name, count in counts.items():
        step = -(-count // MOST_FRAMES)
        small[name] = known[name] if name in known else hashed_frames(store.frames(name, range(0, count, step)))
    same = _SAME_IMAGE if max(counts.values(), default=0) == 1 else _SAME_FRAME
    read = lru_cache(32)(lambda name: small_frames(store.frames(name)))
    found = []
    place = {name: index for index, name in enumerate(counts)}
    for first, second in sorted(_candidates(small, patients), key=lambda pair: (place[pair[0]], place[pair[1]])):
        shorter, longer = sorted((first, second), key=lambda name: (counts[name], name))
        best = _best_correlations(read(shorter)[:: -(-counts[shorter] // _MOST_COMPARED)], read(longer))
        if (best >= same).sum() >= min(len(best), max(3, 0.1 * len(best))):
            shared = round(float((best >= same).mean()) * counts[shorter])
            found.append(SharedFrames(first, second, shared, counts[shorter], (splits[first], splits[second])))
    return found


def _candidates(small: Mapping[str, np.ndarray], patients: Mapping[str, str]) -> set[tuple[str, str]]:
    """Pairs of recordings of two patients with frames of the same hash and nearly the same components.

    Small frames are normalized, centered on the mean of the store, projected on their principal components and
    whitened. A hash holds the signs of ``_BITS`` random directions (locality-sensitive hashing); there are ``_TABLES``.
    """
    vectors = {name: _normalized_frames(frames) for name, frames in small.items()}
    owners = [name for name, own in vectors.items() for _ in own]
    if len(owners) < 2:
        return set()
    share = -(-_SAMPLE // len(vectors))
    sample = np.concatenate([own[:: -(-len(own) // share) or 1] for own in vectors.values()])
    center = sample.mean(axis=0)
    variances, axes = np.linalg.eigh(np.cov((sample - center).astype(np.float64), rowvar=False, bias=True))
    variances, axes = variances[::-1].clip(min=0), axes[:, ::-1]
    cumulative = np.cumsum(variances)
    if not cumulative[-1]:  # all frames are equal
        variances, axes = np.ones(1), axes[:, :1]
    kept = min(_COMPONENTS, 1 + int((cumulative < _VARIANCE * cumulative[-1]).sum()))
    basis = (axes[:, :kept] / np.sqrt(variances[:kept])).astype(np.float32)
    whitened = np.concatenate([(own - center) @ basis for own in vectors.values()])
    order = {name: index for index, name in enumerate(small)}
    rng = np.random.default_rng(0)
    pairs: set[tuple[str, str]] = set()
    for _ in range(_TABLES):
        codes = (whitened @ rng.normal(size=(kept, _BITS)) > 0) @ (1 << np.arange(_BITS))
        position = whitened @ rng.normal(size=kept)
        for bucket in _buckets(codes, position, owners):
            for place, first in enumerate(bucket):
                for second in bucket[place + 1 : place + 1 + _BUCKET]:
                    one, two = sorted((owners[first], owners[second]), key=order.__getitem__)
                    near = np.square(whitened[first] - whitened[second]).mean() <= _NEAR
                    if near and patients[one] != patients[two]:
                        pairs.add((one, two))
    return pairs


def _normalized_frames(frames: np.ndarray) -> np.ndarray:
    """The frames, uint8 (F, 16, 16), that show something, with zero mean and unit norm: float32 (F', 256)."""
    flat = frames.reshape(len(frames), -1).astype(np.float32)
    flat = flat[flat.std(axis=1) >= _LEAST_DEVIATION]
    flat = flat - flat.mean(axis=1, keepdims=True)
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)


def _buckets(codes: np.ndarray, position: np.ndarray, owners: list[str]) -> Iterator[list[int]]:
    """For each hash of two or more recordings, a frame of each of them (that with the lowest ``position``), sorted."""
    by_code: dict[int, dict[str, int]] = defaultdict(dict)
    for index in np.argsort(position, kind="stable").tolist():
        by_code[int(codes[index])].setdefault(owners[index], index)
    for of_code in by_code.values():
        if len(of_code) > 1:
            yield [*of_code.values()]


def _best_correlations(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """For each frame of ``first``, (F, 48, 48), its largest correlation with a frame of ``second``: (F,).

    Compared is the detail, the difference to the mean of 5 x 5 areas. Left out are areas at the border of black ones
    (the outline of the sector is the same in all recordings) and, in videos, those that do not change in either of
    both (text and scales of the machine).
    """
    region = _lit_region(first) & _lit_region(second)
    if len(first) > 1 and len(second) > 1:
        changing = region & ((first.std(axis=0) > 1) | (second.std(axis=0) > 1))
        region = changing if changing.sum() >= 64 else region
    if region.sum() < 32:
        return np.zeros(len(first))
    details = [_unit_vectors(frames, region) for frames in (first, second)]
    return (details[0] @ details[1].T).max(axis=1)


def _lit_region(frames: np.ndarray) -> np.ndarray:
    """Where a frame is not black and has no black neighbor: bool (48, 48)."""
    padded = np.pad(frames.max(axis=0) > _BLACK, 1)
    return np.asarray(np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).all(axis=(2, 3)))


def _unit_vectors(frames: np.ndarray, region: np.ndarray) -> np.ndarray:
    """The detail of frames in a region, with zero mean and unit norm: (F, number of areas). Flat frames are zero."""
    from scipy.ndimage import uniform_filter

    detail = (frames - uniform_filter(frames, (1, 5, 5), mode="nearest"))[:, region]
    detail = detail - detail.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(detail, axis=1, keepdims=True)
    return np.where(norm > 0.5 * np.sqrt(region.sum()), detail / np.maximum(norm, 1e-6), 0)


def across_splits(pairs: Iterable[SharedFrames]) -> list[SharedFrames]:
    """The pairs whose recordings are in two splits."""
    return [pair for pair in pairs if len(set(pair.splits)) > 1]


def shared_frames_line(pairs: Sequence[SharedFrames], most: int = 8) -> str:
    """Entry of a summary: the number of pairs, and the first ones, those in two splits before the others."""
    if not pairs:
        return "none between patients"
    listed = sorted(pairs, key=lambda pair: len(set(pair.splits)), reverse=True)
    more = ["..."] * (len(listed) > most)
    return "\n    ".join([f"{len(pairs)} pairs of recordings of two patients", *map(str, listed[:most]), *more])
