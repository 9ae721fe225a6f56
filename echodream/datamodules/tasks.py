"""What a classifier learns: classes by name, or a number such as the ejection fraction."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from echodream.errors import UserError

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

    def strata(self, table: "pd.DataFrame") -> np.ndarray:
        """Which fifth of the values each row is in: int64, (N,)."""
        values = table[self.column].to_numpy(np.float64)
        return np.searchsorted(np.quantile(values, [0.2, 0.4, 0.6, 0.8]), values, side="right")


Task = Classification | Regression
