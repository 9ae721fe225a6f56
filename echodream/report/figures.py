"""What a page is made of: numbers with intervals, rows of them, and the tables that hold the rows."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from echodream import validation
from echodream.metrics.bootstrap import Interval

SHARE = (0.0, 1.0)
"""The scale of shares."""


@dataclass(frozen=True)
class Row:
    """One line of a table: a number, what it is to be held against, and what it means."""

    name: str
    value: Interval
    beside: Interval | None = None
    """Of real data, or what is expected of a harmless generator."""
    means: str = ""
    """One sentence."""
    warning: str = ""
    scale: tuple[float, float] = SHARE
    """Ends of the row's axis."""
    side: str = "synthetic"
    """Whose number it is: synthetic, real or both. It chooses the colour, and nothing else."""
    stands_out: bool = False
    measured: Interval | None = None
    """As it was measured, where ``value`` is drawn in another unit."""
    measured_beside: Interval | None = None
    text: str = ""
    """Said in place of the number."""
    beside_text: str = ""


@dataclass(frozen=True)
class Table:
    """Rows under one heading, drawn on one axis where all have the same."""

    title: str
    columns: tuple[str, str, str]
    """Heads of the name, of the value and of what stands beside it; empty where nothing does."""
    rows: Sequence[Row]
    note: str = ""
    unit: str = ""
    """Of the axis: " ×", or "%" for shares in per cent."""

    @property
    def scale(self) -> tuple[float, float] | None:
        """The axis of most rows, drawn once; the others have their own. None where no two rows have the same."""
        scale, rows = Counter(row.scale for row in self.rows).most_common(1)[0]
        return scale if rows > 1 or len(self.rows) == 1 else None


@dataclass(frozen=True)
class Missing:
    """What is not there, and the command that makes it."""

    what: str
    command: str


@dataclass(frozen=True)
class Verdict:
    """One of the statements that the page begins with."""

    topic: str
    state: str
    """"good", "note", "bad" or "missing"; said in words by ``word``."""
    word: str
    figure: str = ""
    unit: str = ""
    sentence: str = ""
    more: Sequence[str] = ()
    rows: Sequence[Row] = ()
    quote: str = ""
    missing: Sequence[Missing] = ()
    numbers: Mapping[str, Any] = field(default_factory=dict)
    """For metrics.json."""


def interval(found: Any) -> Interval | None:
    """A number of a record, alone or with ``value``, ``low`` and ``high``; None where it has none.

    Raises ``ValueError`` for anything else.
    """
    if isinstance(found, Mapping):
        value = _number(found["value"])
        low, high = _number(found.get("low")), _number(found.get("high"))
        if value is None:
            return None
        return Interval(value, value if low is None else low, value if high is None else high)
    value = _number(found)
    return None if value is None else Interval(value, value, value)


def _number(found: Any) -> float | None:
    if found is None:
        return None
    if not isinstance(found, float) and not validation.is_finite(found):
        raise ValueError(f"{str(found)[:40]!r} is not a number")
    return float(found) if math.isfinite(found) else None


def number(value: float) -> str:
    """With as many digits as a reader takes in; U+2212 for minus."""
    size = abs(value)
    if size >= 100 or (size >= 10 and value == round(value)):
        text = f"{value:,.0f}".replace(",", "\u202f")
    elif size >= 10:
        text = f"{value:.1f}"
    elif size >= 0.0095 or value == 0:
        text = f"{value:.2f}"
    else:
        text = f"{value:.2g}" if size >= 1e-4 else f"{value:.0e}"
    text = "0.00" if text == "-0.00" else text
    return text.replace("-", "\u2212")


def times(ratio: float) -> str:
    """How many times: ``2.7``, ``31``."""
    return f"{ratio:.1f}" if ratio < 10 else f"{ratio:,.0f}".replace(",", "\u202f")


def decimals(found: Interval) -> int | None:
    """As many as the interval deserves: one or two digits of its width; None where it has no width."""
    width, size = found.high - found.low, max(abs(found.low), abs(found.high))
    if width <= 0:
        return None
    least = 0 if size >= 100 else 1 if size >= 10 else 2
    return min(max(math.ceil(0.7 - math.log10(width)), least), 3 if size >= 0.02 else 5)


def within(found: Interval) -> str:
    """The value, with as many decimals as its interval."""
    places = decimals(found)
    return number(found.value) if places is None else _fixed(found.value, places)


def between(found: Interval) -> str:
    """The ends of an interval: ``0.84 to 0.98``; empty where there is none."""
    places = decimals(found)
    return "" if places is None else f"{_fixed(found.low, places)} to {_fixed(found.high, places)}"


def _fixed(value: float, places: int) -> str:
    text = f"{value:,.{places}f}".replace(",", "\u202f")
    return (text[1:] if text.startswith("-") and float(f"{value:.{places}f}") == 0 else text).replace("-", "\u2212")


def percent(share: float) -> str:
    """``9.6 %``, ``100 %``; the space does not break."""
    value = 100 * share
    text = f"{value:.0f}" if value >= 9.95 or abs(value - round(value)) < 0.005 else f"{value:.2g}"
    return f"{text}\u00a0%".replace("-", "\u2212")


def count(number: int, one: str, many: str = "") -> str:
    """``1 video``, ``52 videos``."""
    return f"{number:,}".replace(",", "\u202f") + f" {one if number == 1 else many or one + 's'}"


def round_up(value: float) -> float:
    """A round number at or above ``value``, for the end of an axis."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if step * power >= value * 0.999)


def ticks(scale: tuple[float, float]) -> list[float]:
    """Three to five round places on an axis."""
    low, high = scale
    span = high - low
    for parts in (4, 5, 3, 2):
        step = span / parts
        power = 10.0 ** math.floor(math.log10(step))
        found = [low + step * place for place in range(parts + 1)]
        nice = any(abs(step / power - one) < 1e-6 for one in (1, 2, 2.5, 5, 10))
        if nice and (low >= 0 or any(abs(tick) < 1e-9 * span for tick in found)):
            return [0.0 if abs(tick) < 1e-9 * span else tick for tick in found]
    middle = 0.0 if low < 0 < high else (low + high) / 2
    near = 0.15 * span
    return [*[low] * (middle - low > near), middle, *[high] * (high - middle > near)]
