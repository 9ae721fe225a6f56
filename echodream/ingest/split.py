"""Drawing TRAIN, VAL and TEST by patient, stratified by class, from a seed."""

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
    """Shares of the patients in each split."""

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
    """Notices a patient to whom the csv called ``table`` gives two splits; names its lines, and no patient."""

    def __init__(self, table: str) -> None:
        self.table = table
        self._seen: dict[str, tuple[str, int]] = {}

    def add(self, recording: Recording, line: int) -> None:
        """The recording of a ``line``, counted from 1, the header. Raises ``UserError``."""
        if recording.split is None or recording.problem is not None:
            return
        split, first = self._seen.setdefault(recording.patient, (recording.split, line))
        if split != recording.split:
            raise UserError(
                f"{self.table}, lines {first} and {line}: one patient is in two splits, {split} and "
                f"{recording.split}: give the patient's rows one split"
            )


def assign_splits(recordings: Sequence[Recording], ratios: SplitRatios, by: str = "class_name") -> dict[str, str]:
    """Give every patient a split: the study's own where it states one, else one drawn within the patient's class.

    Largest remainders, so that the sizes are within one patient of the ratios in every class, and within one per class
    overall; the remainders of small classes are dealt so that the whole comes out near the ratios too.

    Raises ``UserError`` when a study puts one patient in two splits.
    """
    given: dict[str, str] = {}
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    for recording in recordings:
        kinds[recording.patient][str(recording.columns.get(by, ""))] += 1
        if recording.split is not None and given.setdefault(recording.patient, recording.split) != recording.split:
            raise UserError(
                f"patient {recording.patient!r} is in two splits, {given[recording.patient]} and {recording.split}: "
                "give the patient's recordings one split in the raw study's csv"
            )
    strata: dict[str, list[str]] = defaultdict(list)
    for patient in sorted(kinds.keys() - given.keys()):
        strata[min(kinds[patient].items(), key=lambda item: (-item[1], item[0]))[0]].append(patient)
    rng = np.random.default_rng(ratios.seed)
    shares = np.array([ratios.train, ratios.val, ratios.test])
    owed = np.zeros(3)  # what rounding has kept from each split so far
    for kind in sorted(strata):
        patients = [strata[kind][index] for index in rng.permutation(len(strata[kind]))]
        exact = shares * len(patients)
        sizes = np.floor(exact).astype(int)
        for split in np.argsort(-(exact - sizes + owed), kind="stable")[: len(patients) - sizes.sum()]:
            sizes[split] += 1
        owed += exact - sizes
        given.update(zip(patients, np.repeat(SPLITS, sizes).tolist(), strict=True))
    return given
