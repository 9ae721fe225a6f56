"""Attributes of samples and patients for ``stage=audit``: the columns that both stores have."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from echodream.datamodules.recordings import Recordings
from echodream.errors import UserError
from echodream.store.schema import REQUIRED_COLUMNS

NO_ATTRIBUTES = (*REQUIRED_COLUMNS, "ED", "ES", "Seed", "Source", "RawFrames", "RawSeconds", "Label")
"""Columns that describe the recording, not the patient."""
MAX_CLASSES = 10
"""Maximum number of distinct numbers in a column of classes; a column with more numbers is a quantity."""

Attributes = dict[str, tuple[np.ndarray, np.ndarray]]
"""Values of n samples, and of all patients (training, then held out), by column: float64 or text."""


def read_attributes(
    samples: Recordings, train: Recordings, held_out: Recordings, copies: Sequence[str], columns: Sequence[str] | None
) -> Attributes:
    """Values of each of ``columns``: of the samples, then of the patients of ``copies``; and of all real patients.

    The value of a patient is the mean of a quantity, or the most frequent class, over recordings. ``columns=None``
    selects all columns of both stores that vary between training patients. Raises ``UserError`` for unknown columns.
    """
    shared = [name for name in samples.table if name in train.table and name not in NO_ATTRIBUTES]
    for name in columns or ():
        if name not in shared:
            raise UserError(
                f"attributes=[{name}] is not a column of patients in both {samples.store.root} and {train.store.root}: "
                f"choose from {', '.join(map(str, shared)) or 'none'}"
            )
    if columns is None:
        columns = [str(name) for name in shared if name != "class_id" or "class_name" not in shared]
    attributes: Attributes = {}
    for name in columns:
        real = train.table[name]
        numeric = pd.api.types.is_numeric_dtype(real) and pd.api.types.is_numeric_dtype(samples.table[name])
        quantity = numeric and not name.endswith("_id") and real.nunique() > MAX_CLASSES
        patient_values = [_patient_values(part.table, name, quantity) for part in (train, held_out)]
        if real.nunique() > 1:
            sample_values = _cell_values(samples.table[name], quantity)
            copy_values = patient_values[0].loc[[*copies]]
            attributes[name] = (np.concatenate([sample_values, copy_values]), np.concatenate(patient_values))
    return attributes


def _patient_values(table: pd.DataFrame, name: str, quantity: bool) -> "pd.Series[Any]":
    """The value of each patient, in the order of patient names."""
    cells: pd.Series[Any] = pd.Series(_cell_values(table[name], quantity), table["PatientID"].astype(str).to_numpy())
    grouped = cells.groupby(level=0)
    if quantity:
        return grouped.mean()
    names, values = zip(
        *((patient, values.value_counts().sort_index().idxmax()) for patient, values in grouped), strict=True
    )
    return pd.Series(values, names)


def _cell_values(column: "pd.Series[float]", quantity: bool) -> np.ndarray:
    """Cells of a column as float64, or as text; an unknown cell is NaN or an empty text."""
    if quantity:
        return column.to_numpy(np.float64)
    known = column.notna()
    text = column.map(lambda value: f"{value:g}" if isinstance(value, int | float) else str(value))
    return text.where(known, "").to_numpy(str)
