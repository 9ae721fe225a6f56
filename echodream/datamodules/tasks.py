"""What a classifier learns: classes by name, a number such as the ejection fraction, or any number of labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from echodream.errors import UserError
from echodream.ingest.labels import CHEXPERT
from echodream.store.schema import REQUIRED_COLUMNS

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Classification:
    """Tell ``classes`` apart, names of class_name in the order of the answers; None: all there are, by class_id."""

    classes: Sequence[str] | None = None
    name: str = "classification"
    column: ClassVar[str] = "class_id"

    def __post_init__(self) -> None:
        wanted = self.classes
        if wanted is None:
            return
        if isinstance(wanted, str) or len(wanted) < 2 or len(set(wanted)) < len(wanted):
            raise UserError(f"task.classes is {wanted!r}: give two names or more of class_name, each once")

    def known(self, table: "pd.DataFrame", root: Path) -> dict[int, str]:
        """class_id to class_name, in the order of the answers. Raises ``UserError`` for a class that is not there."""
        if self.column not in table or (self.classes is None and table[self.column].isna().any()):
            raise UserError(f"{root} lacks class_id for some recordings, and a classifier needs it for all")
        present = table[table[self.column].notna()]
        names = present["class_name"] if "class_name" in present else present[self.column].astype(int).astype(str)
        ids = dict(zip(present[self.column].astype(int), names.astype(str), strict=True))
        if self.classes is None:
            return dict(sorted(ids.items()))
        numbers = {name: number for number, name in ids.items()}
        if absent := [name for name in self.classes if name not in numbers]:
            raise UserError(
                f"task.classes has {absent[0]}, which is no class_name of {root}; it has {', '.join(sorted(numbers))}"
            )
        return {numbers[name]: name for name in self.classes}

    def usable(self, table: "pd.DataFrame", known: dict[int, str]) -> "pd.DataFrame":
        """The rows of the ``known`` classes; with ``classes`` None every row is one of them."""
        kept = table if self.classes is None else table[table[self.column].isin(list(known))]
        return kept.assign(class_id=kept[self.column].astype(np.int64))

    def columns(self, known: dict[int, str]) -> tuple[str, ...]:
        """The columns that say what is true."""
        return (self.column,)

    def strata(self, table: "pd.DataFrame") -> np.ndarray:
        """What folds are balanced by: int64, (N,)."""
        return table[self.column].to_numpy(np.int64)


@dataclass(frozen=True)
class Regression:
    """Say the number in ``column``; recordings without one are left out."""

    column: str = "EF"
    name: str = "regression"

    def known(self, table: "pd.DataFrame", root: Path) -> dict[int, str]:
        """No classes. Raises ``UserError`` when ``column`` is absent or no number."""
        if self.column not in table:
            raise UserError(f"task.column={self.column} is no column of {root}; it has {', '.join(map(str, table))}")
        if table[self.column].dtype.kind not in "iuf" or not table[self.column].notna().any():
            raise UserError(f"task.column={self.column} of {root} holds no numbers: choose another column")
        return {}

    def usable(self, table: "pd.DataFrame", known: dict[int, str]) -> "pd.DataFrame":
        """The rows with a number."""
        return table[table[self.column].notna()]

    def columns(self, known: dict[int, str]) -> tuple[str, ...]:
        """The column that says what is true."""
        return (self.column,)

    def strata(self, table: "pd.DataFrame") -> np.ndarray:
        """Which fifth of the values each row is in: int64, (N,)."""
        values = table[self.column].to_numpy(np.float64)
        return np.searchsorted(np.quantile(values, [0.2, 0.4, 0.6, 0.8]), values, side="right")


@dataclass(frozen=True)
class Labels:
    """Say each of ``labels``, columns with 1 for yes, 0 for no and shares between; an empty cell is not known.

    None: those that the study's yaml names, ``study``, or else those of CheXpert that there are. Recordings of which no
    label is known are left out.
    """

    labels: Sequence[str] | None = None
    study: Sequence[str] | Mapping[str, str] | None = None
    name: str = "labels"

    def __post_init__(self) -> None:
        asked = self.labels
        names = [] if isinstance(asked, str) or not isinstance(asked, Sequence) else [*map(str, asked)]
        if asked is not None and (not names or len(set(names)) < len(names)):
            raise UserError(
                f"task.labels is {asked!r}: give names of columns, each once, as [PA,Male]; or null for all"
            )

    def known(self, table: "pd.DataFrame", root: Path) -> dict[int, str]:
        """The labels in the order of the answers. Raises ``UserError`` for one that is no column of labels."""
        key, asked = "task.labels", self.labels
        if asked is None and self.study:
            key, asked = "data.source.labels", [*self.study]
        if asked is None:
            asked = [name for name in CHEXPERT if name in table]
        names = [str(name).replace(" ", "_") for name in asked]
        study = [name for name in map(str, table) if name not in REQUIRED_COLUMNS and _faulty(table, name) is None]
        there = [name for name in study if table[name].nunique() > 1]
        could = f"columns that could be labels: {', '.join(there) or 'none'}"
        if not names:
            raise UserError(f"{root} has none of the labels of CheXpert: give task.labels=; {could}")
        for name in names:
            if name not in table:
                raise UserError(f"{key} has {name}, which is no column of {root}; {could}")
            if fault := _faulty(table, name):
                raise UserError(f"{key} has {name}, but in {root} {fault}: labels are from 0 (no) to 1 (yes), or empty")
        return dict(enumerate(names))

    def usable(self, table: "pd.DataFrame", known: dict[int, str]) -> "pd.DataFrame":
        """The rows of which a label is known."""
        return table[table[list(known.values())].notna().any(axis=1)]

    def strata(self, table: "pd.DataFrame") -> np.ndarray:
        """Nothing: folds are by patient alone. int64, (N,)."""
        return np.zeros(len(table), np.int64)

    def columns(self, known: dict[int, str]) -> tuple[str, ...]:
        """The columns that say what is true."""
        return tuple(known.values())


def _faulty(table: "pd.DataFrame", name: str) -> str | None:
    """Why the column ``name`` holds no labels, as half a sentence; None where it does."""
    values = table[name]
    if values.dtype.kind not in "iuf":
        return f"it holds text, as {str(values.iloc[0])[:40]!r}"
    wrong = table[values.notna() & ~values.between(0, 1)]
    if len(wrong):
        return f"it is {wrong[name].iloc[0]:g} for {wrong['FileName'].iloc[0]}"
    return None if values.notna().any() else "it is empty"


Task = Classification | Regression | Labels
