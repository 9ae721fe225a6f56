"""Stratified folds for cross-validation, grouped by patient."""

from typing import TYPE_CHECKING

import numpy as np

from echodream import validation
from echodream.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


def assign_folds(patients: np.ndarray, strata: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Fold of each row, (N,), grouped by patient and stratified. Raises ``UserError`` for too few patients."""
    from sklearn.model_selection import StratifiedGroupKFold

    fewest = min(len(np.unique(patients[strata == value])) for value in np.unique(strata))
    if fewest < folds:
        raise UserError(f"folds={folds} needs {folds} patients of each class, and one class has {fewest}: lower folds")
    fold_of_row = np.full(len(patients), -1)
    split = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    for number, (_, test_rows) in enumerate(split.split(strata, strata, patients)):
        fold_of_row[test_rows] = number
    return fold_of_row


def split_by_fold(
    table: "pd.DataFrame", strata: np.ndarray, folds: int, fold: int, seed: int, held_out_only: bool
) -> "pd.DataFrame":
    """``table`` with new splits: TEST is ``fold``, VAL the next fold, and TRAIN all other folds.

    With ``held_out_only``, only VAL and TEST patients are divided into folds, because a generator must not be tested
    with its training patients. Raises ``UserError`` if the patients are too few.
    """
    validation.whole_number("folds", folds, 3, note=", or null for the study's own splits")
    in_folds = table["Split"].to_numpy() != "TRAIN" if held_out_only else np.ones(len(table), bool)
    if not in_folds.any():
        raise UserError("folds= needs VAL or TEST patients, and the store has none: ingest with another split")
    number = np.full(len(table), -1)
    patients = table["PatientID"].astype(str).to_numpy()
    number[in_folds] = assign_folds(patients[in_folds], strata[in_folds], folds, seed)
    split = np.select([number == fold, number == (fold + 1) % folds], ["TEST", "VAL"], "TRAIN")
    return table.assign(Split=split)
