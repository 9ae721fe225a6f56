"""Verdicts of the sections of the page, and tables of numbers with intervals."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from echodream import validation
from echodream.metrics.bootstrap import Interval

PROPORTION_AXIS = (0.0, 1.0)
"""Axis of proportions, from 0 to 1."""


@dataclass(frozen=True)
class Row:
    """A row of a table: a number with its interval, its reference value, and its meaning."""

    name: str
    value: Interval
    reference: Interval | None = None
    """The value of real data, or the value expected of a harmless generator."""
    meaning: str = ""
    """One sentence that explains the number."""
    warning: str = ""
    scale: tuple[float, float] = PROPORTION_AXIS
    """Ends of the row's axis."""
    color: str = "synthetic"
    """Color of the chart: "synthetic", "real", "both" or "copy"."""
    stands_out: bool = False
    raw_value: Interval | None = None
    """The measured value, if ``value`` is in another unit for the chart."""
    raw_reference: Interval | None = None
    value_text: str = ""
    """Text that the page shows instead of the number."""
    reference_text: str = ""

    def as_json(self) -> dict[str, Any]:
        """The entry of the row in metrics.json."""
        value, reference = self.raw_value or self.value, self.raw_reference or self.reference
        numbers = {"name": self.name, "value": asdict(value), "beside": asdict(reference) if reference else None}
        texts = {"means": self.meaning, "warning": self.warning, "said": self.value_text}
        return {**numbers, **texts, "stands_out": self.stands_out}


@dataclass(frozen=True)
class Table:
    """Rows under one title, on one axis if their axes are equal."""

    title: str
    columns: tuple[str, str, str]
    """Headings of name, value and reference; the third is empty if there is no reference."""
    rows: Sequence[Row]
    note: str = ""
    unit: str = ""
    """Unit of the axis: " ×", or "%" for shares in percent."""
    collapsible: bool = False
    """Whether the table may be collapsed if it is not in the first group of tables."""

    @property
    def scale(self) -> tuple[float, float] | None:
        """The most frequent axis of the rows, for the table head; None if all rows have different axes."""
        scale, rows = Counter(row.scale for row in self.rows).most_common(1)[0]
        return scale if rows > 1 or len(self.rows) == 1 else None


@dataclass(frozen=True)
class MissingRecord:
    """A message about a missing record, and the command that writes the record."""

    message: str
    command: str


@dataclass(frozen=True)
class StillImage:
    """An image on the page; ``uri`` is a data URI, ``width`` and ``height`` are in pixels."""

    label: str
    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class Verdict:
    """The result of one section, shown at the top of the page."""

    topic: str
    state: str
    """Color of the verdict: "good", "note", "bad" or "missing"."""
    label: str
    main_number: str = ""
    """The main number, in ``unit``."""
    unit: str = ""
    sentence: str = ""
    notes: Sequence[str] = ()
    rows: Sequence[Row] = ()
    statement: str = ""
    """The unchanged statement of the filter."""
    missing_records: Sequence[MissingRecord] = ()
    numbers: Mapping[str, Any] = field(default_factory=dict)
    """Further entries of the verdict in metrics.json."""
    still_images: Sequence[StillImage] = ()

    def as_json(self) -> dict[str, Any]:
        """The entry of the verdict in metrics.json."""
        return {"state": self.state, "word": self.label, "sentence": self.sentence, **self.numbers}


def parse_interval(entry: Any) -> Interval | None:
    """The interval of an ``entry`` of a record: a number, or {value, low, high}; None if the value is not finite.

    Raises ``ValueError`` if ``entry`` is not a number.
    """
    record = entry if isinstance(entry, Mapping) else {"value": entry}
    numbers = (record["value"], record.get("low"), record.get("high"))
    value, low, high = (_parse_number(number) for number in numbers)
    if value is None:
        return None
    return Interval(value, value if low is None else low, value if high is None else high)


def _parse_number(number: Any) -> float | None:
    if number is None:
        return None
    if not isinstance(number, float) and not validation.is_finite(number):
        raise ValueError(f"{str(number)[:40]!r} is not a number")
    return float(number) if math.isfinite(number) else None
