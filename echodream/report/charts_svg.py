"""Charts as inline SVG. Horizontal positions are percentages, so that charts fit any width with constant text size."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from echodream.metrics.bootstrap import Interval
from echodream.report.number_format import axis_ticks, format_number
from echodream.report.tables import Row

BINS = 36
Scale = tuple[float, float]
"""Ends of an axis."""


def _x_percent(value: float, scale: Scale) -> str:
    """Position on the axis as a percentage of the width; values beyond the axis lie at its end."""
    share = (value - scale[0]) / (scale[1] - scale[0] or 1.0)
    return f"{100 * min(max(share, 0.0), 1.0):.2f}%"


def interval_chart(row: Row) -> Markup:
    """A row's value as a dot with its interval as a line, over the reference interval as a band."""
    parts = [
        f'<line class="rule" x1="{_x_percent(tick, row.scale)}" x2="{_x_percent(tick, row.scale)}" y1="0" y2="28"/>'
        for tick in axis_ticks(row.scale)
    ]
    if row.reference is not None:
        low, high = (_x_percent(end, row.scale) for end in (row.reference.low, row.reference.high))
        width = f"{float(high[:-1]) - float(low[:-1]):.2f}%"
        middle = _x_percent(row.reference.value, row.scale)
        parts.append(f'<rect class="band" x="{low}" width="{width}" y="4" height="20"/>')
        parts.append(f'<line class="beside" x1="{middle}" x2="{middle}" y1="4" y2="24"/>')
    low, value, high = (_x_percent(end, row.scale) for end in (row.value.low, row.value.value, row.value.high))
    parts.append(f'<line class="whisker" x1="{low}" x2="{high}" y1="14" y2="14"/>')
    parts.append(f'<circle cx="{value}" cy="14" r="5"/>')
    return _svg_element("track", 28, parts, group=row.group)


def axis_tick_labels(scale: Scale, unit: str = "") -> Markup:
    """The tick labels of an axis."""
    ticks = axis_ticks(scale)
    anchors = {ticks[0]: "start", ticks[-1]: "end"}
    parts = [
        f'<text x="{_x_percent(tick, scale)}" y="12" text-anchor="{anchors.get(tick, "middle")}">'
        f"{_tick_label(100 * tick if unit == '%' else tick)}{unit.replace('%', ' %') if tick == ticks[-1] else ''}"
        "</text>"
        for tick in ticks
    ]
    return _svg_element("axis", 16, parts)


@dataclass(frozen=True)
class ScoreGroup:
    """The scores, (n,), of samples, patients or copies; ``group`` is the color as in ``Row``."""

    name: str
    values: np.ndarray
    group: str


def histogram_charts(groups: Sequence[ScoreGroup], threshold: float, scale: Scale) -> list[tuple[ScoreGroup, Markup]]:
    """Each group with its histogram over ``scale``, scaled to full height, and ``threshold`` as a line."""
    edges = np.linspace(*scale, BINS + 1)
    charts = []
    for group in groups:
        counts = np.histogram(np.clip(group.values, *scale), edges)[0]
        heights = 38 - 34 * counts / max(counts.max(), 1)
        x = np.linspace(0, 100, BINS + 1)
        steps = " ".join(f"L{x[i]:.2f} {h:.1f} L{x[i + 1]:.2f} {h:.1f}" for i, h in enumerate(heights))
        line = _x_percent(threshold, scale)
        parts = [
            f'<rect class="beyond" x="{line}" width="{100 - float(line[:-1]):.2f}%" y="0" height="38"/>',
            '<svg viewBox="0 0 100 38" width="100%" height="38" preserveAspectRatio="none">'
            f'<path class="hill" d="M0 38 {steps} L100 38 Z"/></svg>',
            f'<line class="cut" x1="{line}" x2="{line}" y1="0" y2="38"/>',
        ]
        charts.append((group, _svg_element("ridge", 38, parts, group=group.group)))
    return charts


@dataclass(frozen=True)
class Curve:
    """Values (n,) at frames 0, 1, ..., their interval, and the color as in ``Row``."""

    y: np.ndarray
    low: np.ndarray
    high: np.ndarray
    group: str

    @classmethod
    def from_record(cls, record: Mapping[str, Any], key: str, group: str) -> "Curve":
        """The curve of a record with the lists ``key`` (values), "low" and "high"."""
        y, low, high = (np.array(record[each], float) for each in (key, "low", "high"))
        return cls(y, low, high, group)


def line_chart(curves: Mapping[str, Curve], scale: Scale, label: str) -> Markup:
    """Curves over frames with their intervals as bands; ``label`` is read by screen readers."""
    last = max(max(len(curve.y) for curve in curves.values()) - 1, 1)
    parts = [
        f'<line class="rule" x1="0" x2="100%" y1="{_line_y(tick, scale)}" y2="{_line_y(tick, scale)}"/>'
        for tick in axis_ticks(scale)
    ]
    parts.append('<svg viewBox="0 0 100 160" width="100%" height="160" preserveAspectRatio="none">')
    for curve in curves.values():
        x = [100 * place / last for place in range(len(curve.y))]
        band = [*zip(x, curve.high, strict=True), *list(zip(x, curve.low, strict=True))[::-1]]
        parts.append(f'<polygon class="area {curve.group}" points="{_line_points(band, scale)}"/>')
        line = _line_points(zip(x, curve.y, strict=True), scale)
        parts.append(f'<polyline class="line {curve.group}" points="{line}"/>')
    parts.append("</svg>")
    parts += [
        f'<text x="0" y="{_line_y(tick, scale) - 3:.1f}">{_tick_label(tick)}</text>' for tick in axis_ticks(scale)
    ]
    parts.append('<text x="0" y="166">first frame</text>')
    parts.append(f'<text x="100%" y="166" text-anchor="end">{last + 1}th</text>')
    return _svg_element("curves", 170, parts, label=label)


@dataclass(frozen=True)
class Point:
    """A point with an interval of x and of y, and the text beside it."""

    label: str
    x: Interval
    y: Interval


def scatter_chart(
    series: Mapping[str, tuple[str, Sequence[Point]]], scale: Scale, axis_labels: tuple[str, str], label: str
) -> Markup:
    """Points with error bars of x and y; the points of a series, (color, points), are joined.

    ``scale`` is that of both axes, ``axis_labels`` are those of x and y. Point labels are below the points of the
    first series, above those of the second, and so on.
    """
    ticks = axis_ticks(scale)
    parts = [
        f'<line class="rule" x1="8%" x2="96%" y1="{_scatter_y(tick, scale)}" y2="{_scatter_y(tick, scale)}"/>'
        for tick in ticks
    ]
    parts += [f'<text x="0" y="{_scatter_y(tick, scale) + 4}">{_tick_label(tick)}</text>' for tick in ticks]
    columns = [(_scatter_x(tick, scale), _tick_label(tick)) for tick in ticks]
    parts += [f'<line class="rule" x1="{x}" x2="{x}" y1="24" y2="264"/>' for x, _ in columns]
    parts += [f'<text x="{x}" y="282" text-anchor="middle">{text}</text>' for x, text in columns]
    for number, (group, points) in enumerate(series.values()):
        shapes = []
        for before, point in zip([None, *points], points, strict=False):
            x, y = _scatter_x(point.x.value, scale), _scatter_y(point.y.value, scale)
            left, right = (_scatter_x(end, scale) for end in (point.x.low, point.x.high))
            bottom, top = (_scatter_y(end, scale) for end in (point.y.low, point.y.high))
            shapes.append(f'<line class="line faint" x1="{left}" x2="{right}" y1="{y}" y2="{y}"/>')
            shapes.append(f'<line class="line faint" x1="{x}" x2="{x}" y1="{bottom}" y2="{top}"/>')
            if before is not None:
                start = f'x1="{_scatter_x(before.x.value, scale)}" y1="{_scatter_y(before.y.value, scale)}"'
                shapes.append(f'<line class="line" {start} x2="{x}" y2="{y}"/>')
        for point in points:
            x, y = _scatter_x(point.x.value, scale), _scatter_y(point.y.value, scale)
            shapes.append(f'<circle cx="{x}" cy="{y}" r="5"/>')
            shapes.append(f'<text x="{x}" y="{y}" dx="8" dy="{(16, -8)[number % 2]}">{escape(point.label)}</text>')
        parts.append(f'<g class="{group}">{"".join(shapes)}</g>')
    parts.append(f'<text x="0" y="12">{escape(axis_labels[1])}</text>')
    parts.append(f'<text x="96%" y="302" text-anchor="end">{escape(axis_labels[0])}</text>')
    return _svg_element("curves", 306, parts, label=label)


def _scatter_x(value: float, scale: Scale) -> str:
    """Position as a percentage of the width, between margins of 8 % and 4 %."""
    return f"{8 + 0.88 * float(_x_percent(value, scale)[:-1]):.2f}%"


def _scatter_y(value: float, scale: Scale) -> float:
    return round(264 - 2.4 * float(_x_percent(value, scale)[:-1]), 1)


def _line_points(points: Iterable[tuple[float, float]], scale: Scale) -> str:
    return " ".join(f"{x:.2f},{_line_y(float(y), scale):.1f}" for x, y in points)


def _line_y(value: float, scale: Scale) -> float:
    return round(150 - 136 * (min(max(value, scale[0]), scale[1]) - scale[0]) / (scale[1] - scale[0] or 1), 1)


def _tick_label(value: float) -> str:
    is_whole = math.isclose(value, round(value), abs_tol=1e-9)
    return f"{value:.0f}".replace("-", "−") if is_whole else format_number(value)


def _svg_element(kind: str, height: int, parts: Sequence[str], group: str = "", label: str = "") -> Markup:
    """An SVG element. Without ``label`` it is hidden from screen readers, as its numbers are in the text."""
    role = f'role="img" aria-label="{escape(label)}"' if label else 'aria-hidden="true"'
    return Markup(f'<svg class="{kind} {group}" width="100%" height="{height}" {role}>{"".join(parts)}</svg>')
