"""Agreement of the class that synthetic recordings were conditioned on with the class that a classifier predicts."""

from collections.abc import Iterator

import numpy as np

from echodream.errors import UserError
from echodream.evaluation.feature_extraction import ExtractedFeatures, RecordingSet
from echodream.evaluation.table import MetricRecord, metric_record, small_sample_warnings
from echodream.metrics.bootstrap import UNDEFINED, Interval, SamplingUnits, influence_interval, mean_estimate
from echodream.metrics.fidelity import HIGHER
from echodream.networks.extractors.encoder import ClassifierExtractor

LABEL_SOURCE = "LabelSource"
"""Column of a relabeled store: fingerprints of the classifiers that predicted the label; "asked": label not changed."""


def check_classes(recordings: RecordingSet, classifier: ClassifierExtractor) -> None:
    """Raise ``UserError`` unless each recording has a class that ``classifier`` can predict."""
    ids = classifier.metadata["class_ids"]
    if "class_id" not in recordings.rows or recordings.rows["class_id"].isna().any():
        raise UserError(f"{recordings.cli_arg} has recordings without class_id: label them, or give artifact=null")
    if unknown := sorted(set(recordings.rows["class_id"].astype(int)) - set(ids)):
        raise UserError(
            f"{recordings.cli_arg} has class_id {unknown[0]}, but the classes of the classifier are {ids}: "
            "give another artifact=, or artifact=null and extractors=[encoder:...]"
        )


def class_agreement(
    classifier: ClassifierExtractor,
    synthetic: tuple[RecordingSet, ExtractedFeatures],
    real: tuple[RecordingSet, ExtractedFeatures],
    seed: int,
) -> Iterator[tuple[str, MetricRecord]]:
    """Share of samples whose predicted class equals their class_id: over all classes, and for each class."""
    sets = [
        (features.units, *_correct_predictions(classifier, recordings, features))
        for recordings, features in (synthetic, real)
    ]
    warnings = relabeled_warning(synthetic[0]) + training_data_warnings(classifier, real[0])
    titles = [f"class agreement, {name}" for name in classifier.metadata["class_names"]]
    for index, title in enumerate(["class agreement", *titles], start=-1):
        masks = [np.ones(len(target), bool) if index < 0 else target == index for _, _, target in sets]
        value, floor = (
            _correct_share(correct[mask], units.select(mask), seed)
            for mask, (units, correct, _) in zip(masks, sets, strict=True)
        )
        count, real_count = (int(mask.sum()) for mask in masks)
        if count:
            few = small_sample_warnings(TEST_patients=sets[1][0].select(masks[1]).count())
            yield title, metric_record(value, floor, count, real_count, HIGHER, warnings=few + warnings)


def training_data_warnings(classifier: ClassifierExtractor, test: RecordingSet) -> list[str]:
    """Warnings if ``classifier`` was trained on synthetic recordings, or possibly on patients of ``test``."""
    metadata = classifier.metadata
    source = metadata.get("train_on", "real")
    warnings = []
    if source != "real":
        warnings.append(f"{classifier.name} was trained on {source}: its training data may include these samples")
    other_version = (metadata.get("stores") or {}).get("real") not in (None, (test.study_store or test.store).checksum)
    if metadata.get("fold") is not None or other_version:
        part = "one fold" if metadata.get("fold") is not None else "another version"
        warnings.append(f"{classifier.name} was trained on {part} of this study, which may include TEST patients")
    return warnings


def relabeled_warning(recordings: RecordingSet) -> list[str]:
    """A warning if the classes are predictions of a classifier (``stage=label``), not conditions of the generator."""
    if LABEL_SOURCE not in recordings.rows:
        return []
    sources = sorted({str(name) for name in recordings.rows[LABEL_SOURCE].dropna()} - {"asked", ""})
    return [f"labels are predictions of a classifier ({', '.join(sources)}), not conditions"] if sources else []


def _correct_predictions(
    classifier: ClassifierExtractor, recordings: RecordingSet, features: ExtractedFeatures
) -> tuple[np.ndarray, np.ndarray]:
    """For each sample: 1 for a correct prediction, else 0, as float (N,); and the index of its true class, (N,)."""
    ids = classifier.metadata["class_ids"]
    target = np.array([ids.index(int(recordings.rows["class_id"][row])) for row in features.rows])
    assert features.scores is not None  # a classifier has scores
    return (features.scores.argmax(dim=1).numpy() == target).astype(float), target


def _correct_share(matches: np.ndarray, units: SamplingUnits, seed: int) -> Interval:
    return influence_interval(mean_estimate(matches, proportion=True), units, seed=seed) if len(matches) else UNDEFINED
