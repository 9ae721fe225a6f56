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
"""A column with more different numbers is a quantity, other columns are classes."""

Attributes = dict[str, tuple[np.ndarray, np.ndarray]]
"""Values of n samples, and of the training and then the held-out patients, by column: float64 or text."""


def read_attributes(
    samples: Recordings, train: Recordings, held_out: Recordings, copied: Sequence[str], columns: Sequence[str] | None
) -> Attributes:
    """Values of the ``columns`` of the samples, followed by those of the ``copied`` patients, and of all patients.

    The value of a patient is the mean of a quantity, or the most frequent class, over recordings. ``columns=None``
    selects all columns of both stores that differ between training patients. Raises ``UserError`` for other columns.
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
        of_patients = [_patient_values(part.table, name, quantity) for part in (train, held_out)]
        if real.nunique() > 1:
            of_samples = _cells(samples.table[name], quantity)
            of_copies = of_patients[0].loc[[*copied]]
            attributes[name] = (np.concatenate([of_samples, of_copies]), np.concatenate(of_patients))
    return attributes


def _patient_values(table: pd.DataFrame, name: str, quantity: bool) -> "pd.Series[Any]":
    """The value of each patient, in the order of their names."""
    cells: pd.Series[Any] = pd.Series(_cells(table[name], quantity), table["PatientID"].astype(str).to_numpy())
    grouped = cells.groupby(level=0)
    if quantity:
        return grouped.mean()
    names, values = zip(
        *((patient, values.value_counts().sort_index().idxmax()) for patient, values in grouped), strict=True
    )
    return pd.Series(values, names)


def _cells(column: "pd.Series[float]", quantity: bool) -> np.ndarray:
    """Cells as float64, or as text: unknown cells are NaN or ""."""
    if quantity:
        return column.to_numpy(np.float64)
    known = column.notna()
    text = column.map(lambda value: f"{value:g}" if isinstance(value, int | float) else str(value))
    return text.where(known, "").to_numpy(str)
