"""Splits the patients of a study into TRAIN, VAL and TEST, at random and stratified by class."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from echodream import validation
from echodream.errors import UserError
from echodream.ingest.source import Recording
from echodream.store.schema import SPLITS


@dataclass(frozen=True)
class SplitRatios:
    """Fractions of the patients in each split, and the random seed. Raises ``UserError``."""

    train: float = 0.7
    val: float = 0.15
    test: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("train", "val", "test"):
            validation.number(f"data.split.{name}", getattr(self, name))
        validation.whole_number("data.split.seed", self.seed, 0)
        shares = (self.train, self.val, self.test)
        if not (min(shares) >= 0 and abs(sum(shares) - 1) <= 1e-6):
            raise UserError(f"data.split: the shares are {shares}; give three numbers of at least 0 that add up to 1")


class PatientSplitCheck:
    """Checks that no patient of the csv ``table`` has two splits. The error message names lines, but no patient."""

    def __init__(self, table: str) -> None:
        self.table = table
        self._first_rows: dict[str, tuple[str, int]] = {}

    def add(self, recording: Recording, line: int) -> None:
        """Check the recording in ``line`` of the csv; the header is line 1. Raises ``UserError``."""
        if recording.split is None or recording.problem is not None:
            return
        split, first = self._first_rows.setdefault(recording.patient, (recording.split, line))
        if split != recording.split:
            lines, remedy = f"{self.table}, lines {first} and {line}", "use one split for all rows of a patient"
            raise UserError(f"{lines}: one patient is in two splits, {split} and {recording.split}: {remedy}")


def assign_splits(recordings: Sequence[Recording], ratios: SplitRatios) -> dict[str, str]:
    """Map each patient to the split of the study, or else to a random split stratified by ``class_name``.

    Split sizes are rounded by largest remainders, with an error below one patient in each class. Rounding errors
    are carried over between classes, so that total sizes are also near the ratios. Raises ``UserError`` if the study
    has one patient in two splits.
    """
    splits: dict[str, str] = {}
    classes: dict[str, Counter[str]] = defaultdict(Counter)
    for recording in recordings:
        classes[recording.patient][str(recording.columns.get("class_name", ""))] += 1
        if recording.split is not None and splits.setdefault(recording.patient, recording.split) != recording.split:
            names = f"{splits[recording.patient]} and {recording.split}"
            remedy = "use one split per patient in the csv of the study"
            raise UserError(f"patient {recording.patient!r} is in two splits, {names}: {remedy}")
    strata: dict[str, list[str]] = defaultdict(list)
    for patient in sorted(classes.keys() - splits.keys()):
        strata[min(classes[patient].items(), key=lambda item: (-item[1], item[0]))[0]].append(patient)
    rng = np.random.default_rng(ratios.seed)
    shares = np.array([ratios.train, ratios.val, ratios.test])
    deficit = np.zeros(3)  # rounding error of each split, summed over the previous classes
    for class_name in sorted(strata):
        patients = [strata[class_name][index] for index in rng.permutation(len(strata[class_name]))]
        exact = shares * len(patients)
        sizes = np.floor(exact).astype(int)
        for split in np.argsort(-(exact - sizes + deficit), kind="stable")[: len(patients) - sizes.sum()]:
            sizes[split] += 1
        deficit += exact - sizes
        splits.update(zip(patients, np.repeat(SPLITS, sizes).tolist(), strict=True))
    return splits
