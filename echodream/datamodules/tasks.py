"""Tasks of a classifier: target columns of FileList.csv and the recordings with targets."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from echodream.errors import UserError
from echodream.ingest.labels import CHEXPERT_LABELS
from echodream.store.schema import REQUIRED_COLUMNS

if TYPE_CHECKING:
    import pandas as pd


class Task(ABC):
    """Base class of tasks, which select target columns and recordings with targets."""

    name: str
    column: str
    """Target column, for tasks with one target."""

    @abstractmethod
    def output_names(self, table: "pd.DataFrame", root: Path) -> dict[int, str]:
        """Names of the classifier outputs by class_id or index. Raises ``UserError`` if targets are missing."""

    def target_columns(self, output_names: dict[int, str]) -> tuple[str, ...]:
        """Columns of FileList.csv with the targets."""
        return (self.column,)

    def select_rows(self, table: "pd.DataFrame", output_names: dict[int, str]) -> "pd.DataFrame":
        """Rows of ``table`` with at least one target."""
        return table[table[[*self.target_columns(output_names)]].notna().any(axis=1)]

    def strata(self, table: "pd.DataFrame") -> np.ndarray:
        """Stratum of each row for stratified folds: int64, (N,). By default, all rows are in one stratum."""
        return np.zeros(len(table), np.int64)


@dataclass(frozen=True)
class Classification(Task):
    """Single-label classification of ``classes``, values of class_name in output order; by default all classes."""

    classes: Sequence[str] | None = None
    name: str = "classification"
    column: str = field(default="class_id", init=False)

    def __post_init__(self) -> None:
        classes = self.classes
        if classes is not None and (isinstance(classes, str) or len(classes) < 2 or len(set(classes)) < len(classes)):
            raise UserError(f"task.classes is {classes!r}: use two or more different values of class_name")

    def output_names(self, table: "pd.DataFrame", root: Path) -> dict[int, str]:
        if self.column not in table or (self.classes is None and table[self.column].isna().any()):
            raise UserError(f"{root} has recordings without class_id: set task.classes=, or ingest with labels")
        present = table[table[self.column].notna()]
        names = present["class_name"] if "class_name" in present else present[self.column].astype(int).astype(str)
        ids = dict(zip(present[self.column].astype(int), names.astype(str), strict=True))
        if self.classes is None:
            return dict(sorted(ids.items()))
        numbers = {name: number for number, name in ids.items()}
        if absent := [name for name in self.classes if name not in numbers]:
            raise UserError(f"task.classes has {absent[0]}, but {root} has the classes {', '.join(sorted(numbers))}")
        return {numbers[name]: name for name in self.classes}

    def select_rows(self, table: "pd.DataFrame", output_names: dict[int, str]) -> "pd.DataFrame":
        selected = table if self.classes is None else table[table[self.column].isin(list(output_names))]
        return selected.assign(class_id=selected[self.column].astype(np.int64))

    def strata(self, table: "pd.DataFrame") -> np.ndarray:
        return table[self.column].to_numpy(np.int64)


@dataclass(frozen=True)
class Regression(Task):
    """Regression of the values of ``column``, such as the ejection fraction, with quintiles as strata."""

    column: str = "EF"
    name: str = "regression"

    def output_names(self, table: "pd.DataFrame", root: Path) -> dict[int, str]:
        if self.column not in table:
            raise UserError(
                f"task.column={self.column} is not a column of {root}: give one of {', '.join(map(str, table))}"
            )
        if table[self.column].dtype.kind not in "iuf" or not table[self.column].notna().any():
            raise UserError(f"task.column={self.column} of {root} holds no numbers: choose another column")
        return {}

    def strata(self, table: "pd.DataFrame") -> np.ndarray:
        values = table[self.column].to_numpy(np.float64)
        return np.searchsorted(np.quantile(values, [0.2, 0.4, 0.6, 0.8]), values, side="right")


@dataclass(frozen=True)
class Labels(Task):
    """Multi-label classification of the columns ``labels``, by default of ``study`` or else of the CheXpert labels.

    Cells are 1 (yes), 0 (no), a soft label between 0 and 1, or empty (unknown). ``study``: labels in the yaml file of
    the study. A recording needs at least one known label. Folds are not stratified.
    """

    labels: Sequence[str] | None = None
    study: Sequence[str] | Mapping[str, str] | None = None
    name: str = "labels"

    def __post_init__(self) -> None:
        labels = self.labels
        names = [] if isinstance(labels, str) or not isinstance(labels, Sequence) else [*map(str, labels)]
        if labels is not None and (not names or len(set(names)) < len(names)):
            raise UserError(f"task.labels is {labels!r}: give different columns, such as [PA,Male], or null")

    def output_names(self, table: "pd.DataFrame", root: Path) -> dict[int, str]:
        key, labels = "task.labels", self.labels
        if labels is None and self.study:
            key, labels = "data.source.labels", [*self.study]
        if labels is None:
            labels = [name for name in CHEXPERT_LABELS if name in table]
        names = [str(name).replace(" ", "_") for name in labels]
        valid = [name for name in map(str, table) if name not in REQUIRED_COLUMNS and not _label_problem(table, name)]
        possible = [name for name in valid if table[name].nunique() > 1]
        choices = f"columns that could be labels: {', '.join(possible) or 'none'}"
        if not names:
            raise UserError(f"{root} has none of the labels of CheXpert: set task.labels=; {choices}")
        for name in names:
            if name not in table:
                raise UserError(f"{key} has {name}, which is not a column of {root}; {choices}")
            if problem := _label_problem(table, name):
                raise UserError(f"{key} has {name}, but in {root} {problem}: labels are 0 (no) to 1 (yes), or empty")
        return dict(enumerate(names))

    def target_columns(self, output_names: dict[int, str]) -> tuple[str, ...]:
        return tuple(output_names.values())


def _label_problem(table: "pd.DataFrame", name: str) -> str | None:
    """Problem that makes the column ``name`` invalid as a label, for an error message; None if the column is valid."""
    values = table[name]
    if values.dtype.kind not in "iuf":
        return f"it holds text, such as {str(values.iloc[0])[:40]!r}"
    invalid = table[values.notna() & ~values.between(0, 1)]
    if len(invalid):
        return f"it is {invalid[name].iloc[0]:g} for {invalid['FileName'].iloc[0]}"
    return None if values.notna().any() else "it is empty"
