"""What extractors make of the recordings of one side: of single frames, and of clips."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from echodream.datamodules.normalization import from_uint8
from echodream.datamodules.views import Clips
from echodream.errors import UserError
from echodream.metrics.bootstrap import SamplingUnits
from echodream.metrics.fidelity import Features
from echodream.networks.extractors.base import Extractor
from echodream.networks.extractors.encoder import ClassifierExtractor
from echodream.store import Store


@dataclass(frozen=True)
class RecordingSet:
    """The recordings of one side: all of a synthetic store, one split of a real one."""

    store: Store
    rows: pd.DataFrame
    key: str
    """How it was given: ``videos=...``."""

    def units(self, rows: np.ndarray) -> SamplingUnits:
        """Whose these ``rows`` are: patients of a real store, each recording for itself of a synthetic one."""
        column = "FileName" if self.store.dataset.synthetic else "PatientID"
        classes = self.rows["class_id"].astype(str).to_numpy()[rows] if "class_id" in self.rows else None
        return SamplingUnits(self.rows[column].astype(str).to_numpy()[rows], classes)


@dataclass(frozen=True)
class ExtractedFeatures:
    """What an extractor makes of samples, in random order."""

    features: np.ndarray
    """(N, D)."""
    scores: Tensor | None
    """Logits, (N, K), where it has any."""
    rows: np.ndarray
    """The row of each sample, (N,)."""
    units: SamplingUnits
    """Whose each is."""
    short: int
    """How many clips repeat their last frame."""

    def first(self, count: int) -> Features:
        """The first ``count`` samples, to compare."""
        return Features(self.features[:count], self.units.select(slice(count)))


def load_recordings(path: str, key: str, split: str | None = None) -> RecordingSet:
    """The store at ``path``, given as ``key``=: its rows of ``split``, all rows of a synthetic one. ``UserError``."""
    store = Store(path, kind="video")
    split = split or (None if store.dataset.synthetic else "TEST")
    rows = store.table if split is None else store.table[store.table["Split"] == split]
    if not len(rows):
        raise UserError(f"{key}={path} has no recording{f' in split {split}' if split else ''}: nothing to judge")
    return RecordingSet(store, rows.reset_index(drop=True), f"{key}={path}")


def check_frame_size(side: RecordingSet, encoder: ClassifierExtractor) -> None:
    """Raise ``UserError`` where ``encoder`` was trained on frames of another size."""
    for height, width in zip(side.rows["FrameHeight"], side.rows["FrameWidth"], strict=True):
        if (found := (int(height), int(width), side.store.dataset.channels)) != encoder.size:
            raise UserError(
                f"{side.key} has recordings of {_size(found)}, the classifier was trained on {_size(encoder.size)}: "
                "bring both to one data.size, data.grey"
            )


class FeatureExtraction:
    """Shows extractors at most ``most`` samples of each side, in random order, ``batch`` at a time."""

    def __init__(self, most: int, batch: int, seed: int) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.most, self.batch, self.seed = most, batch, seed

    def frames(self, side: RecordingSet, extractor: Extractor) -> ExtractedFeatures:
        """Single frames, drawn at random from all of ``side``."""
        ends = np.cumsum(side.rows["NumberOfFrames"].to_numpy(np.int64))
        drawn = np.sort(self.order(int(ends[-1])))
        of = np.searchsorted(ends, drawn, side="right")

        def read() -> Iterator[Tensor]:
            for row in np.unique(of):
                places = drawn[of == row] - (ends[row - 1] if row else 0)
                yield from self._pixels(side, int(row), places.tolist()).transpose(0, 1)[:, :, None]

        return self._seen(read(), side, of, extractor, 0)

    def clips(self, side: RecordingSet, extractor: Extractor, frames: int, stride: int) -> ExtractedFeatures:
        """A clip of each recording, from where ``extractor`` takes it; one that is too short repeats its last frame."""
        drawn, rng = self.order(len(side.rows)), np.random.default_rng(0)
        view = Clips(frames=frames, stride=stride, start=extractor.start)
        places = [view.place(int(side.rows["NumberOfFrames"][row]), rng) for row in drawn.tolist()]

        def read() -> Iterator[Tensor]:
            for row, place in zip(drawn.tolist(), places, strict=True):
                yield self._pixels(side, row, [*place, *[place[-1]] * (frames - len(place))])

        return self._seen(read(), side, drawn, extractor, sum(len(place) < frames for place in places))

    def order(self, count: int) -> np.ndarray:
        """Which of ``count`` are looked at, in random order."""
        return np.random.default_rng([self.seed, count]).permutation(count)[: self.most]

    def _pixels(self, side: RecordingSet, row: int, indices: list[int]) -> Tensor:
        """(C, F, H, W) in [-1, 1]."""
        unique, back = np.unique(indices, return_inverse=True)
        pixels = side.store.frames(side.rows["FileName"][row], unique.tolist())[back]
        return from_uint8(torch.from_numpy(pixels)).permute(3, 0, 1, 2)

    @torch.inference_mode()
    def _seen(
        self, samples: Iterator[Tensor], side: RecordingSet, rows: np.ndarray, extractor: Extractor, short: int
    ) -> ExtractedFeatures:
        extractor.network.to(self.device)
        found, scored = [], []
        told = f"{extractor.name}, {side.key}"
        for _ in tqdm(range(0, len(rows), self.batch), told, unit="batch", disable=None, leave=False):
            features = extractor.features(torch.stack([*itertools.islice(samples, self.batch)]).to(self.device))
            scores = extractor.scores(features)
            found.append(features.double().cpu())
            scored += [] if scores is None else [scores.double().cpu()]
        mixed = np.random.default_rng(self.seed).permutation(len(rows))
        scores, rows = torch.cat(scored)[mixed] if scored else None, rows[mixed]
        features = torch.cat(found)[mixed]
        if not torch.isfinite(features).all():
            raise UserError(f"{extractor.name} makes NaN or infinite features of {side.key}: its weights are broken")
        return ExtractedFeatures(features.numpy(), scores, rows, side.units(rows), short)


def _size(found: tuple[int, int, int]) -> str:
    return f"{found[1]}x{found[0]} with {found[2]} channel{'s' * (found[2] > 1)}"
