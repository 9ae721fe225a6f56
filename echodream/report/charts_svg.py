"""Charts as inline SVG: places across in percent, so that they fit any width and letters keep their size."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from echodream.metrics.bootstrap import Interval
from echodream.report.figures import Row, number, ticks

BINS = 36
"""Of a hill."""


def _at(value: float, scale: tuple[float, float]) -> str:
    """Percent of the width, what lies outside at the end."""
    share = (value - scale[0]) / (scale[1] - scale[0] or 1.0)
    return f"{100 * min(max(share, 0.0), 1.0):.2f}%"


def track(row: Row) -> Markup:
    """A row's interval with its number as a dot, and behind it, as a band, what it is held against."""
    parts = [
        f'<line class="rule" x1="{_at(tick, row.scale)}" x2="{_at(tick, row.scale)}" y1="0" y2="28"/>'
        for tick in ticks(row.scale)
    ]
    if row.beside is not None:
        low, high = (_at(end, row.scale) for end in (row.beside.low, row.beside.high))
        width = f"{float(high[:-1]) - float(low[:-1]):.2f}%"
        middle = _at(row.beside.value, row.scale)
        parts.append(f'<rect class="band" x="{low}" width="{width}" y="4" height="20"/>')
        parts.append(f'<line class="beside" x1="{middle}" x2="{middle}" y1="4" y2="24"/>')
    low, value, high = (_at(end, row.scale) for end in (row.value.low, row.value.value, row.value.high))
    parts.append(f'<line class="whisker" x1="{low}" x2="{high}" y1="14" y2="14"/>')
    parts.append(f'<circle cx="{value}" cy="14" r="5"/>')
    return _svg("track", 28, parts, side=row.side)


def axis(scale: tuple[float, float], unit: str = "") -> Markup:
    """The numbers of an axis."""
    places = ticks(scale)
    ends = {places[0]: "start", places[-1]: "end"}
    parts = [
        f'<text x="{_at(tick, scale)}" y="12" text-anchor="{ends.get(tick, "middle")}">'
        f"{_short(100 * tick if unit == '%' else tick)}{unit.replace('%', ' %') if tick == places[-1] else ''}</text>"
        for tick in places
    ]
    return _svg("axis", 16, parts)


@dataclass(frozen=True)
class Ridge:
    """How the values of a group, (n,), are spread."""

    name: str
    values: np.ndarray
    side: str


def ridges(rows: Sequence[Ridge], cut: float, scale: tuple[float, float]) -> list[tuple[Ridge, Markup]]:
    """Each group as a hill over ``scale``, with the threshold ``cut`` as a line; the highest bar of each fills it."""
    edges = np.linspace(*scale, BINS + 1)
    found = []
    for row in rows:
        counts = np.histogram(np.clip(row.values, *scale), edges)[0]
        heights = 38 - 34 * counts / max(counts.max(), 1)
        x = np.linspace(0, 100, BINS + 1)
        steps = " ".join(f"L{x[i]:.2f} {h:.1f} L{x[i + 1]:.2f} {h:.1f}" for i, h in enumerate(heights))
        line = _at(cut, scale)
        parts = [
            f'<rect class="beyond" x="{line}" width="{100 - float(line[:-1]):.2f}%" y="0" height="38"/>',
            '<svg viewBox="0 0 100 38" width="100%" height="38" preserveAspectRatio="none">'
            f'<path class="hill" d="M0 38 {steps} L100 38 Z"/></svg>',
            f'<line class="cut" x1="{line}" x2="{line}" y1="0" y2="38"/>',
        ]
        found.append((row, _svg("ridge", 38, parts, side=row.side)))
    return found


@dataclass(frozen=True)
class Curve:
    """Heights (n,) at 0, 1, ... and a band around them."""

    y: np.ndarray
    low: np.ndarray
    high: np.ndarray
    side: str


def curves(lines: Mapping[str, Curve], scale: tuple[float, float], label: str) -> Markup:
    """Lines with bands over their places; they are named beside the chart."""
    most = max(max(len(line.y) for line in lines.values()) - 1, 1)
    parts = [
        f'<line class="rule" x1="0" x2="100%" y1="{_down(tick, scale)}" y2="{_down(tick, scale)}"/>'
        for tick in ticks(scale)
    ]
    parts.append('<svg viewBox="0 0 100 160" width="100%" height="160" preserveAspectRatio="none">')
    for line in lines.values():
        x = [100 * place / most for place in range(len(line.y))]
        band = [*zip(x, line.high, strict=True), *list(zip(x, line.low, strict=True))[::-1]]
        parts.append(f'<polygon class="area {line.side}" points="{_points(band, scale)}"/>')
        parts.append(f'<polyline class="line {line.side}" points="{_points(zip(x, line.y, strict=True), scale)}"/>')
    parts.append("</svg>")
    parts += [f'<text x="0" y="{_down(tick, scale) - 3:.1f}">{_short(tick)}</text>' for tick in ticks(scale)]
    parts.append('<text x="0" y="166">first frame</text>')
    parts.append(f'<text x="100%" y="166" text-anchor="end">{most + 1}th</text>')
    return _svg("curves", 170, parts, label=label)


@dataclass(frozen=True)
class Point:
    """A point with an interval of x and of y, and the text beside it."""

    label: str
    x: Interval
    y: Interval


def scatter(
    series: Mapping[str, tuple[str, Sequence[Point]]], scale: tuple[float, float], names: tuple[str, str], label: str
) -> Markup:
    """Points with intervals both ways, those of a series, (side, points), joined; both axes have one ``scale``.

    ``names`` are those of the axes, across and up. Each point is named beside it, below or above by turns.
    """
    places = ticks(scale)
    parts = [
        f'<line class="rule" x1="8%" x2="96%" y1="{_up(tick, scale)}" y2="{_up(tick, scale)}"/>' for tick in places
    ]
    parts += [f'<text x="0" y="{_up(tick, scale) + 4}">{_short(tick)}</text>' for tick in places]
    parts += [f'<line class="rule" x1="{x}" x2="{x}" y1="24" y2="264"/>' for x in (_in(tick, scale) for tick in places)]
    parts += [f'<text x="{_in(tick, scale)}" y="282" text-anchor="middle">{_short(tick)}</text>' for tick in places]
    for turn, (side, spots) in enumerate(series.values()):
        drawn = []
        for before, spot in zip([None, *spots], spots, strict=False):
            x, y = _in(spot.x.value, scale), _up(spot.y.value, scale)
            ends = f'x1="{_in(spot.x.low, scale)}" x2="{_in(spot.x.high, scale)}" y1="{y}" y2="{y}"'
            drawn.append(f'<line class="line faint" {ends}/>')
            ends = f'x1="{x}" x2="{x}" y1="{_up(spot.y.low, scale)}" y2="{_up(spot.y.high, scale)}"'
            drawn.append(f'<line class="line faint" {ends}/>')
            if before is not None:
                start = f'x1="{_in(before.x.value, scale)}" y1="{_up(before.y.value, scale)}"'
                drawn.append(f'<line class="line" {start} x2="{x}" y2="{y}"/>')
        for spot in spots:
            x, y = _in(spot.x.value, scale), _up(spot.y.value, scale)
            drawn.append(f'<circle cx="{x}" cy="{y}" r="5"/>')
            drawn.append(f'<text x="{x}" y="{y}" dx="8" dy="{(16, -8)[turn % 2]}">{escape(spot.label)}</text>')
        parts.append(f'<g class="{side}">{"".join(drawn)}</g>')
    parts.append(f'<text x="0" y="12">{escape(names[1])}</text>')
    parts.append(f'<text x="96%" y="302" text-anchor="end">{escape(names[0])}</text>')
    return _svg("curves", 306, parts, label=label)


def _in(value: float, scale: tuple[float, float]) -> str:
    """Percent of the width, within margins."""
    return f"{8 + 0.88 * float(_at(value, scale)[:-1]):.2f}%"


def _up(value: float, scale: tuple[float, float]) -> float:
    return round(264 - 2.4 * float(_at(value, scale)[:-1]), 1)


def _points(places: "object", scale: tuple[float, float]) -> str:
    return " ".join(f"{x:.2f},{_down(float(y), scale):.1f}" for x, y in places)  # type: ignore[attr-defined]


def _down(value: float, scale: tuple[float, float]) -> float:
    return round(150 - 136 * (min(max(value, scale[0]), scale[1]) - scale[0]) / (scale[1] - scale[0] or 1), 1)


def _short(value: float) -> str:
    return number(value) if not math.isclose(value, round(value), abs_tol=1e-9) else f"{value:.0f}".replace("-", "−")


def _svg(kind: str, height: int, parts: Sequence[str], side: str = "", label: str = "") -> Markup:
    """Without a ``label`` it says nothing that the text beside it does not, and is passed over by a screen reader."""
    said = f'role="img" aria-label="{escape(label)}"' if label else 'aria-hidden="true"'
    return Markup(f'<svg class="{kind} {side}" width="100%" height="{height}" {said}>{"".join(parts)}</svg>')
