"""Patient-grouped, stratified folds for cross-validation."""

from typing import TYPE_CHECKING

import numpy as np

from echodream import validation
from echodream.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


def assign_folds(patients: np.ndarray, strata: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """The fold of each row, 0 to ``folds`` - 1, (N,): grouped by patient, stratified by ``strata``.

    Raises ``UserError`` when a class has fewer patients than ``folds``.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    least = min(len(np.unique(patients[strata == value])) for value in np.unique(strata))
    if least < folds:
        raise UserError(f"folds={folds} needs {folds} patients of each class, and one class has {least}: lower folds")
    fold_of_row = np.full(len(patients), -1)
    split = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    for number, (_, test_rows) in enumerate(split.split(strata, strata, patients)):
        fold_of_row[test_rows] = number
    return fold_of_row


def split_by_fold(
    table: "pd.DataFrame", strata: np.ndarray, folds: int, fold: int, seed: int, unseen: bool
) -> "pd.DataFrame":
    """``table`` with new splits: TEST is ``fold``, VAL is the next fold, TRAIN is the rest.

    With ``unseen``, TRAIN patients stay in TRAIN and only VAL and TEST patients are divided into folds, because a
    generator trained on TRAIN patients must not be tested with them. Raises ``UserError``.
    """
    validation.whole_number("folds", folds, 3, note=", or null for the study's own splits")
    divided = table["Split"].to_numpy() != "TRAIN" if unseen else np.ones(len(table), bool)
    if not divided.any():
        raise UserError("folds= needs VAL or TEST patients, which the generator was not trained on, but there are none")
    number = np.full(len(table), -1)
    patients = table["PatientID"].astype(str).to_numpy()
    number[divided] = assign_folds(patients[divided], strata[divided], folds, seed)
    split = np.select([number == fold, number == (fold + 1) % folds], ["TEST", "VAL"], "TRAIN")
    return table.assign(Split=split)
