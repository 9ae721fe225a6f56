"""Features of real and synthetic recordings: read recordings, select frames or clips, compute features."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from echodream.datamodules.key_frames import evenly_spaced_frames
from echodream.datamodules.normalization import from_uint8
from echodream.datamodules.views import Clips
from echodream.errors import UserError
from echodream.metrics.bootstrap import SamplingUnits
from echodream.metrics.fidelity import Features
from echodream.networks.autoencoder import reconstruct
from echodream.networks.decoder_noise import noise_seeds
from echodream.networks.extractors.base import CLIPS, FRAMES, Extractor
from echodream.progress import progress_bar
from echodream.store import Store
from echodream.store.reader import MAX_SMALL_CACHE_BYTES
from echodream.store.table import parse_key_frames

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


@dataclass(frozen=True)
class RecordingSet:
    """Recordings that are compared: all recordings of a synthetic store, or one split of a real store."""

    store: Store
    rows: pd.DataFrame
    cli_arg: str
    """Command-line argument of the store, such as "videos=<path>", for error messages."""
    study_store: Store | None = None
    """Store of the study, if ``store`` has further patients who are not in the study; else None."""
    only_key_frames: bool = False
    """Whether only key frames (columns ED and ES) are compared, because the synthetic images are key frames."""
    autoencoder: "AutoencoderKL | None" = None
    """Autoencoder that encodes and decodes all frames, to measure its error; None for unchanged frames."""

    def comparable_frames(self, row: int) -> np.ndarray:
        """Indices of the compared frames of recording ``row``: marked key frames if ``only_key_frames``, else all."""
        count = int(self.rows["NumberOfFrames"][row])
        if self.only_key_frames and {"ED", "ES"} <= set(self.rows):
            name = f"{self.cli_arg}: {self.rows['FileName'][row]}"
            cells = {kind: "" if pd.isna(cell := self.rows[kind][row]) else str(cell) for kind in ("ED", "ES")}
            marks = {
                mark for kind, cell in cells.items() for mark in parse_key_frames(cell, count, f"{name} has {kind}")
            }
            if marks:
                return np.array(sorted(marks))
        return np.arange(count)

    @cached_property
    def _fits_in_memory(self) -> bool:
        return self.store.fits_in_memory(MAX_SMALL_CACHE_BYTES)

    @torch.inference_mode()
    def read(self, row: int, indices: Sequence[int]) -> Tensor:
        """Frames ``indices``, which may repeat, of recording ``row``: (C, F, H, W) in [-1, 1]."""
        unique, back = np.unique(indices, return_inverse=True)
        name = self.rows["FileName"][row]
        if self._fits_in_memory:  # metrics and extractors read a recording several times
            self.store.cache([name])
        pixels = self.store.frames(name, unique.tolist())
        x = from_uint8(torch.from_numpy(pixels)).permute(0, 3, 1, 2)
        if self.autoencoder is not None:
            parts = []
            for chunk, numbers in zip(x.split(16), torch.from_numpy(unique).split(16), strict=True):
                with noise_seeds(self.autoencoder, [row] * len(chunk), numbers.tolist()):
                    parts.append(reconstruct(self.autoencoder, chunk))
            x = torch.cat(parts)
        return x[back].transpose(0, 1)

    def units(self, rows: np.ndarray) -> SamplingUnits:
        """Sampling units of ``rows``: patients of a real store, recordings of a synthetic store."""
        column = "FileName" if self.store.dataset.synthetic else "PatientID"
        classes = self.rows["class_id"].astype(str).to_numpy()[rows] if "class_id" in self.rows else None
        return SamplingUnits(self.rows[column].astype(str).to_numpy()[rows], classes)

    def as_json(self) -> dict[str, Any]:
        """Checksum, numbers of recordings and frames, class counts and frame rates, for evaluation.json."""
        classes = {}
        if "class_id" in self.rows:
            classes = {str(key): int(n) for key, n in self.rows["class_id"].value_counts().sort_index().items()}
        return {
            "sha256": self.store.checksum,
            "recordings": len(self.rows),
            "frames": int(self.rows["NumberOfFrames"].sum()),
            "class_id": classes,
            "fps": sorted(set(map(float, self.rows["FPS"])))[:8],
        }


def load_recordings(path: str, key: str) -> RecordingSet:
    """All recordings of the synthetic video store ``path``, or the TEST recordings of a real store.

    ``key``: name of the command-line argument that gave ``path``, for error messages.
    """
    store = Store(path, kind="video")
    return select_recordings(store, f"{key}={path}", None if store.dataset.synthetic else "TEST")


def select_recordings(store: Store, argument: str, split: str | None) -> RecordingSet:
    """Recordings of ``store`` in ``split`` (None: all splits). Raises ``UserError`` if there are no recordings."""
    rows = store.table if split is None else store.table[store.table["Split"] == split]
    if not len(rows):
        raise UserError(f"{argument} has no recording{f' in split {split}' if split else ''}: give another store")
    return RecordingSet(store, rows.reset_index(drop=True), argument)


def check_frame_size(
    store: Store, rows: pd.DataFrame, expected_size: tuple[int, int, int], source: str, classifier: str
) -> None:
    """Raise ``UserError`` unless frames of ``rows`` have the size (H, W, C) that ``classifier`` was trained on."""
    for height, width in set(zip(rows["FrameHeight"], rows["FrameWidth"], strict=True)):
        if (size := (int(height), int(width), store.dataset.channels)) != expected_size:
            found, trained = (f"{w}x{h} with {c} channel{'s' * (c > 1)}" for h, w, c in (size, expected_size))
            raise UserError(
                f"{source} has recordings of {found}, and {classifier} was trained on {trained}: "
                "use the same data.size and data.grey for both"
            )


def check_frame_sizes(sets: Sequence[RecordingSet], extractors: Sequence[Extractor]) -> None:
    """Raise ``UserError`` for several frame sizes in a set, and for different sizes of sets if spectra are compared."""
    sizes = {
        each.cli_arg: sorted(set(zip(each.rows["FrameHeight"], each.rows["FrameWidth"], strict=True))) for each in sets
    }
    texts = {name: ", ".join(f"{w}x{h}" for h, w in found) for name, found in sizes.items()}
    for name, found in sizes.items():
        if len(found) > 1:
            raise UserError(f"{name} has frames of several sizes ({texts[name]}): ingest it with one data.size")
    if any(extractor.feature_kind == "spectrum" for extractor in extractors) and len(set(texts.values())) > 1:
        found_sizes = "; ".join(f"{name}: {text}" for name, text in texts.items())
        raise UserError(
            f"spectra of frames of different sizes cannot be compared ({found_sizes}): use one data.size, or leave "
            "spectrum and temporal_spectrum out of extractors="
        )


@dataclass(frozen=True)
class ExtractedFeatures:
    """Features of samples (frames or clips) in random order."""

    features: np.ndarray
    """Features, (N, D)."""
    scores: Tensor | None
    """Logits, (N, K); None if the extractor has no classes."""
    rows: np.ndarray
    """Row of each sample in the recording set, (N,)."""
    units: SamplingUnits
    """Sampling units of the samples, (N,)."""
    padded_clips: int
    """Number of clips that are padded with their last frame, because their recordings are too short."""

    def subset(self, count: int, number: int, spectra: bool = False, logits: bool = False) -> Features:
        """Random subset of ``count`` samples, with class scores if ``logits``.

        Subset 0 has the first samples; another ``number`` is a random seed. ``spectra``: whether features are spectra.
        """
        rows = np.random.default_rng(number).permutation(len(self.features)) if number else np.arange(count)
        rows = rows[:count]
        scores = np.asarray(self.scores)[rows] if logits else None
        return Features(self.features[rows], self.units.select(rows), scores, spectra)


@dataclass(frozen=True)
class FeatureSets:
    """Features of synthetic, TEST and TRAIN samples from one extractor."""

    extractor: Extractor
    frame_count: int
    """Number of frames of a clip; 1 for single frames."""
    synthetic: ExtractedFeatures
    test: ExtractedFeatures
    train: ExtractedFeatures
    reconstructed: ExtractedFeatures | None = None
    """The first TEST samples after encoding and decoding; their number is the size of the smallest set."""

    def smallest_set_size(self) -> int:
        return min(len(each.features) for each in (self.synthetic, self.test, self.train))


@dataclass(frozen=True)
class SampleKind:
    """Kind of samples, frames or clips, from which an extractor computes features."""

    name: str
    """Key of the sample count in the protocol: "images", "videos" or "frames of videos"."""
    frame_count: int
    """Number of frames of a clip; 1 for single frames."""
    extract: Callable[..., ExtractedFeatures]
    """Function that extracts features of a ``RecordingSet``; ``max_count`` limits the number of samples."""


class FeatureExtraction:
    """Extracts features of at most ``max_samples`` random samples of a set, in batches of ``batch``."""

    def __init__(self, max_samples: int, batch: int, seed: int) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.max_samples, self.batch, self.seed = max_samples, batch, seed

    def sample_kinds(self, section: str, extractor: Extractor) -> Iterator[SampleKind]:
        """Kinds of samples for ``extractor`` in ``section`` ("images" or "videos"): clips of videos, else frames."""
        if section == "videos" and CLIPS in extractor.inputs:
            for frames, stride in extractor.clip_types:
                extract = partial(self.clips, extractor=extractor, frames=frames, stride=stride)
                yield SampleKind(section, frames, extract)
        elif FRAMES in extractor.inputs:
            name = "images" if section == "images" else "frames of videos"
            yield SampleKind(name, 1, partial(self.frames, extractor=extractor))

    def frames(self, recordings: RecordingSet, extractor: Extractor, max_count: int | None = None) -> ExtractedFeatures:
        """Features of single frames: about the same number per recording, evenly spaced over its compared frames.

        With ``max_count``, features are computed only for the first ``max_count`` samples in random order.
        """
        order = np.sort(self.sample_order(len(recordings.rows)))
        frames = [recordings.comparable_frames(int(row)) for row in order]
        counts = self._frame_counts(np.array([len(each) for each in frames]))
        sampled = [
            each[evenly_spaced_frames(len(each), count)] for each, count in zip(frames, counts.tolist(), strict=True)
        ]
        lengths = [len(each) for each in sampled]
        rows = np.repeat(order, lengths)
        sample_indices = self._random_order(len(rows), max_count)
        is_selected = np.split(np.isin(np.arange(len(rows)), sample_indices), np.cumsum(lengths)[:-1])

        def read() -> Iterator[Tensor]:
            for row, indices, mask in zip(order, sampled, is_selected, strict=True):
                if mask.any():
                    yield from recordings.read(int(row), indices[mask].tolist()).transpose(0, 1)[:, :, None]

        return self._extract_features(read(), recordings, rows, sample_indices, extractor, 0)

    def _frame_counts(self, available: np.ndarray) -> np.ndarray:
        """Numbers of frames to use, (N,), equal unless fewer are ``available``; at most ``max_samples`` in total."""
        total = min(self.max_samples, int(available.sum()))
        level = next(n for n in range(int(available.max()), -1, -1) if np.minimum(available, n).sum() <= total)
        counts = np.minimum(available, level)
        longer = np.flatnonzero(available > level)
        counts[np.random.default_rng(self.seed).permutation(longer)[: total - counts.sum()]] += 1
        return counts

    def clips(
        self, recordings: RecordingSet, extractor: Extractor, frames: int, stride: int, max_count: int | None = None
    ) -> ExtractedFeatures:
        """Features of one clip per recording at position ``extractor.start``, padded with the last frame if too short.

        With ``max_count``, features are computed only for the first ``max_count`` samples in random order.
        """
        rows, rng = self.sample_order(len(recordings.rows)), np.random.default_rng(0)
        view = Clips(frames=frames, stride=stride, start=extractor.start)
        clips = [view.frame_range(int(recordings.rows["NumberOfFrames"][row]), rng) for row in rows.tolist()]
        sample_indices = self._random_order(len(rows), max_count)

        def read() -> Iterator[Tensor]:
            for index in np.sort(sample_indices).tolist():
                clip = clips[index]
                yield recordings.read(int(rows[index]), [*clip, *[clip[-1]] * (frames - len(clip))])

        return self._extract_features(
            read(), recordings, rows, sample_indices, extractor, sum(len(clip) < frames for clip in clips)
        )

    def sample_order(self, count: int) -> np.ndarray:
        """Indices below ``count`` in random order, at most ``max_samples`` of them."""
        return np.random.default_rng([self.seed, count]).permutation(count)[: self.max_samples]

    def _random_order(self, count: int, max_count: int | None) -> np.ndarray:
        """Indices of the first ``max_count`` (None: all) of ``count`` samples in random order."""
        return np.random.default_rng(self.seed).permutation(count)[:max_count]

    @torch.inference_mode()
    def _extract_features(
        self,
        samples: Iterator[Tensor],
        recordings: RecordingSet,
        rows: np.ndarray,
        sample_indices: np.ndarray,
        extractor: Extractor,
        padded_clips: int,
    ) -> ExtractedFeatures:
        """Features of the samples at ``sample_indices``, in the order of these indices.

        ``samples`` yields the selected samples, (C, F, H, W) each, in ascending order of their indices. ``rows`` has
        the row of the recording of every sample.
        """
        extractor.network.to(self.device)
        feature_batches, score_batches = [], []
        title = f"{extractor.name}, {recordings.cli_arg}"
        for _ in progress_bar(range(0, len(sample_indices), self.batch), title, unit="batch", leave=False):
            features = extractor.features(torch.stack([*itertools.islice(samples, self.batch)]).to(self.device))
            scores = extractor.class_logits(features)
            feature_batches.append(features.double().cpu())
            score_batches += [] if scores is None else [scores.double().cpu()]
        order = np.argsort(np.argsort(sample_indices))
        scores, rows = torch.cat(score_batches)[order] if score_batches else None, rows[sample_indices]
        features = torch.cat(feature_batches)[order]
        if not torch.isfinite(features).all():
            raise UserError(
                f"{extractor.name} computes NaN or infinite features of {recordings.cli_arg}: give other weights"
            )
        return ExtractedFeatures(features.numpy(), scores, rows, recordings.units(rows), padded_clips)
