"""Distances by an extractor, and whether a classifier sees what was asked for."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from echodream.errors import UserError
from echodream.evaluation.feature_extraction import ExtractedFeatures, RecordingSet
from echodream.evaluation.table import MetricRecord, metric_record, small_sample_warnings
from echodream.metrics.bootstrap import UNDEFINED, Interval, SamplingUnits, influence_interval, mean_estimate
from echodream.metrics.fidelity import HIGHER, METRICS, compare_features
from echodream.networks.extractors.base import Extractor
from echodream.networks.extractors.encoder import ClassifierExtractor
from echodream.networks.extractors.inception import Inception

LABELLER = "LabelSource"
"""The column of a store that was relabelled: the fingerprint of the classifier that did it."""


@dataclass(frozen=True)
class FeatureSets:
    """Synthetic, TEST and TRAIN samples as one extractor sees them, clips of ``frames`` (1: single frames)."""

    extractor: Extractor
    frames: int
    synthetic: ExtractedFeatures
    test: ExtractedFeatures
    train: ExtractedFeatures

    @classmethod
    def extract(
        cls,
        extractor: Extractor,
        frames: int,
        look: Callable[[RecordingSet], ExtractedFeatures],
        sides: tuple[RecordingSet, RecordingSet, RecordingSet],
    ) -> "FeatureSets":
        """``look`` at synthetic, TEST and TRAIN recordings."""
        return cls(extractor, frames, *(look(side) for side in sides))

    def count(self) -> int:
        """Samples that all sides have."""
        return min(len(side.features) for side in (self.synthetic, self.test, self.train))


def fidelity_metrics(
    sight: FeatureSets, count: int, neighbours: int, seed: int, more: Sequence[str] = ()
) -> Iterator[tuple[str, MetricRecord]]:
    """Every distance of ``count`` samples of each side, by its name on these features; ``more`` warnings."""
    synthetic, test, train = (side.first(count) for side in (sight.synthetic, sight.test, sight.train))
    if isinstance(sight.extractor, Inception):
        logits = [np.asarray(side.scores)[:count] for side in (sight.synthetic, sight.test)]
        synthetic, test = (replace(side, logits=each) for side, each in zip((synthetic, test), logits, strict=True))
    found = compare_features(synthetic, test, train, neighbours, seed)
    dimensions = test.rows.shape[1]
    names = ("synthetic_recordings", "TEST_patients", "TRAIN_patients")
    common = small_sample_warnings(
        **{name: side.units.count() for name, side in zip(names, (synthetic, test, train), strict=True)}
    )
    common += [*_published(sight, count), *_short(sight), *more]
    for name, each in found.items():
        warnings = ["N is not above D: the distance is too large, as the floor is"] if name == "frechet" else []
        warnings = warnings * (count <= dimensions) + common
        title = sight.extractor.title(name, sight.frames)
        yield title, metric_record(each.value, each.floor, count, count, METRICS[name].better, dimensions, warnings)


def _published(sight: FeatureSets, count: int) -> list[str]:
    wanted = sight.extractor.published()
    return [f"published figures use {wanted:,} samples"] if wanted is not None and count < wanted else []


def _short(sight: FeatureSets) -> list[str]:
    sides = {"synthetic": sight.synthetic, "TEST": sight.test, "TRAIN": sight.train}
    return [
        f"{side.short} of {len(side.rows)} {name} clips are shorter than {sight.frames} frames: the last is repeated"
        for name, side in sides.items()
        if side.short
    ]


def frame_rate_warning(made: RecordingSet, real: RecordingSet) -> list[str]:
    """A warning where clips of as many frames last longer on one side."""
    fast, slow = (float(side.rows["FPS"].median()) for side in (made, real))
    told = f"synthetic videos have {fast:g} frames per second, real ones {slow:g}: their clips do not last as long"
    return [told] if abs(fast / slow - 1) > 0.02 else []


def check_classes(side: RecordingSet, encoder: ClassifierExtractor) -> None:
    """Raise ``UserError`` unless each recording of ``side`` has a class that ``encoder`` knows."""
    ids = encoder.trained["class_ids"]
    if "class_id" not in side.rows or side.rows["class_id"].isna().any():
        raise UserError(f"{side.key} lacks class_id for some recordings: evaluate compares it with the classifier")
    if unknown := sorted(set(side.rows["class_id"].astype(int)) - set(ids)):
        raise UserError(
            f"{side.key} has class_id {unknown[0]}, and the classifier knows {ids}: give another artifact=, "
            "or artifact=null and extractors=[encoder:...]"
        )


def class_agreement(
    encoder: ClassifierExtractor,
    made: tuple[RecordingSet, ExtractedFeatures],
    real: tuple[RecordingSet, ExtractedFeatures],
    seed: int,
) -> Iterator[tuple[str, MetricRecord]]:
    """How often the classifier says the class that a sample should be of: overall, and of each class."""
    sides = [(side, seen, _hits(encoder, side, seen)) for side, seen in (made, real)]
    names = encoder.trained["class_names"]
    warnings = relabeled_warning(made[0]) + training_data_warnings(encoder, real[0])
    for place, title in ((None, "class agreement"), *((k, f"class agreement, {name}") for k, name in enumerate(names))):
        found = []
        for _, seen, (right, target) in sides:
            kept = np.ones(len(target), bool) if place is None else target == place
            found.append(
                (_share(right[kept], seen.units.select(kept), seed), int(kept.sum()), seen.units.select(kept).count())
            )
        (value, count, _), (floor, floor_count, patients) = found
        if count:
            told = small_sample_warnings(TEST_patients=patients) + warnings
            yield title, metric_record(value, floor, count, floor_count, HIGHER, warnings=told)


def training_data_warnings(encoder: ClassifierExtractor, test: RecordingSet) -> list[str]:
    """Warnings of what ``encoder`` was trained on: it should have seen real patients, and none of ``test``."""
    facts = encoder.trained
    on = facts.get("train_on", "real")
    told = [f"{encoder.name} was trained on {on}: it may know these synthetic samples"] if on != "real" else []
    other = (facts.get("stores") or {}).get("real") not in (None, test.store.checksum)
    if facts.get("fold") is not None or other:
        what = "one fold" if facts.get("fold") is not None else "another version"
        told.append(f"{encoder.name} was trained on {what} of this study: it may have seen the TEST patients")
    return told


def relabeled_warning(side: RecordingSet) -> list[str]:
    """A warning where classes were not asked for but put in by a classifier."""
    if LABELLER not in side.rows:
        return []
    by = sorted({str(name) for name in side.rows[LABELLER].dropna()} - {"asked", ""})
    return [f"labels were put in by a classifier ({', '.join(by)}), not asked for"] if by else []


def _hits(encoder: ClassifierExtractor, side: RecordingSet, seen: ExtractedFeatures) -> tuple[np.ndarray, np.ndarray]:
    """Whether the classifier is right, and the place of the true class, of each sample: (N,) twice."""
    ids = encoder.trained["class_ids"]
    target = np.array([ids.index(int(side.rows["class_id"][row])) for row in seen.rows])
    scores: Tensor = seen.scores if seen.scores is not None else torch.zeros(len(target), len(ids))
    return (scores.argmax(dim=1).numpy() == target).astype(float), target


def _share(right: np.ndarray, units: SamplingUnits, seed: int) -> Interval:
    if not len(right):
        return UNDEFINED
    return influence_interval(mean_estimate(right, proportion=True), units, seed=seed)
