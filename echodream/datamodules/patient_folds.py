"""Which patients are tested in which fold."""

from typing import TYPE_CHECKING

import numpy as np

from echodream import validation
from echodream.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


def assign_folds(patients: np.ndarray, strata: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """The fold, 0 to ``folds`` - 1, of each row, (N,): all rows of a patient in one, ``strata`` in like shares.

    Raises ``UserError`` when a class has fewer patients than there are folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    least = min(len(np.unique(patients[strata == value])) for value in np.unique(strata))
    if least < folds:
        raise UserError(f"folds={folds} needs {folds} patients of each class, and one class has {least}: lower it")
    found = np.full(len(patients), -1)
    split = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    for number, (_, tested) in enumerate(split.split(strata, strata, patients)):
        found[tested] = number
    return found


def split_by_fold(
    table: "pd.DataFrame", strata: np.ndarray, folds: int, fold: int, seed: int, unseen: bool
) -> "pd.DataFrame":
    """``table`` with TEST the patients of ``fold``, VAL those of the next one, TRAIN all others.

    If ``unseen``, patients of TRAIN stay there, and folds are made of VAL and TEST patients: of those whom a generator
    that was trained on TRAIN never saw.
    """
    validation.whole_number("folds", folds, 3, note=", or null for the study's own splits")
    divided = table["Split"].to_numpy() != "TRAIN" if unseen else np.ones(len(table), bool)
    if not divided.any():
        raise UserError("folds= needs patients of VAL and TEST, whom no generator saw, and there are none")
    number = np.full(len(table), -1)
    patients = table["PatientID"].astype(str).to_numpy()
    number[divided] = assign_folds(patients[divided], strata[divided], folds, seed)
    split = np.select([number == fold, number == (fold + 1) % folds], ["TEST", "VAL"], "TRAIN")
    return table.assign(Split=split)
