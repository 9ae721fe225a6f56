"""Types of charts, as inline SVG. The files in ``report/sections/`` choose the charts of the report.

Horizontal positions are percentages of the width, so that charts of any width have the same text size.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from echodream.metrics.bootstrap import Interval
from echodream.report.number_format import axis_ticks, format_number
from echodream.report.tables import Row

HISTOGRAM_BINS = 36
Scale = tuple[float, float]
"""Lower and upper end of an axis."""


def _axis_percent(value: float, scale: Scale) -> float:
    """Position of ``value`` on the axis in percent; a value beyond the axis lies at its end."""
    share = (value - scale[0]) / (scale[1] - scale[0] or 1.0)
    return round(100 * min(max(share, 0.0), 1.0), 2)


def interval_chart(row: Row) -> Markup:
    """Chart of a row: the value as a dot, its interval as a line, the reference interval as a band."""
    ticks = [_axis_percent(tick, row.scale) for tick in axis_ticks(row.scale)]
    elements = [f'<line class="rule" x1="{x:.2f}%" x2="{x:.2f}%" y1="0" y2="28"/>' for x in ticks]
    if row.reference is not None:
        low, high = (_axis_percent(end, row.scale) for end in (row.reference.low, row.reference.high))
        x = _axis_percent(row.reference.value, row.scale)
        elements.append(f'<rect class="band" x="{low:.2f}%" width="{high - low:.2f}%" y="4" height="20"/>')
        elements.append(f'<line class="reference" x1="{x:.2f}%" x2="{x:.2f}%" y1="4" y2="24"/>')
    low, x, high = (_axis_percent(end, row.scale) for end in (row.value.low, row.value.value, row.value.high))
    elements.append(f'<line class="whisker" x1="{low:.2f}%" x2="{high:.2f}%" y1="14" y2="14"/>')
    elements.append(f'<circle cx="{x:.2f}%" cy="14" r="5"/>')
    return _svg_element("track", 28, elements, color=row.color)


def axis_tick_labels(scale: Scale, unit: str = "") -> Markup:
    """The tick labels of an axis; the last label has the unit."""
    ticks = axis_ticks(scale)
    anchors = {ticks[0]: "start", ticks[-1]: "end"}
    elements = [
        f'<text x="{_axis_percent(tick, scale):.2f}%" y="12" text-anchor="{anchors.get(tick, "middle")}">'
        f"{_tick_label(100 * tick if unit == '%' else tick)}{unit.replace('%', ' %') if tick == ticks[-1] else ''}"
        "</text>"
        for tick in ticks
    ]
    return _svg_element("axis", 16, elements)


@dataclass(frozen=True)
class ScoreGroup:
    """Similarity scores ``values``, (n,), of samples, patients or copies; ``color`` is one of the colors of ``Row``."""

    name: str
    values: np.ndarray
    color: str


def histogram_charts(groups: Sequence[ScoreGroup], threshold: float, scale: Scale) -> list[tuple[ScoreGroup, Markup]]:
    """Chart of each group: its histogram, scaled to the same height for all groups, and ``threshold`` as a line."""
    charts = []
    for group in groups:
        counts, edges = np.histogram(np.clip(group.values, *scale), HISTOGRAM_BINS, scale)
        heights = 38 - 34 * counts / max(counts.max(), 1)
        x = [_axis_percent(edge, scale) for edge in edges]
        steps = " ".join(f"L{x[i]:.2f} {h:.1f} L{x[i + 1]:.2f} {h:.1f}" for i, h in enumerate(heights))
        line = _axis_percent(threshold, scale)
        elements = [
            f'<rect class="beyond" x="{line:.2f}%" width="{100 - line:.2f}%" y="0" height="38"/>',
            '<svg viewBox="0 0 100 38" width="100%" height="38" preserveAspectRatio="none">'
            f'<path class="histogram" d="M0 38 {steps} L100 38 Z"/></svg>',
            f'<line class="threshold" x1="{line:.2f}%" x2="{line:.2f}%" y1="0" y2="38"/>',
        ]
        charts.append((group, _svg_element("ridge", 38, elements, color=group.color)))
    return charts


def line_chart(curves: Mapping[str, np.ndarray], scale: Scale, label: str) -> Markup:
    """Line chart of ``curves``, color -> (3, n): values over n frames, and lower and upper ends of their intervals.

    ``label`` is the text for screen readers.
    """
    last = max(max(curve.shape[1] for curve in curves.values()) - 1, 1)
    ticks = [(_line_y(tick, scale), _tick_label(tick)) for tick in axis_ticks(scale)]
    elements = [f'<line class="rule" x1="0" x2="100%" y1="{y}" y2="{y}"/>' for y, _ in ticks]
    elements.append('<svg viewBox="0 0 100 160" width="100%" height="160" preserveAspectRatio="none">')
    for color, curve in curves.items():
        x = [100 * frame / last for frame in range(curve.shape[1])]
        values, low, high = ([*zip(x, part, strict=True)] for part in curve)
        elements.append(f'<polygon class="area {color}" points="{_line_points([*high, *low[::-1]], scale)}"/>')
        elements.append(f'<polyline class="line {color}" points="{_line_points(values, scale)}"/>')
    elements.append("</svg>")
    elements += [f'<text x="0" y="{y - 3:.1f}">{text}</text>' for y, text in ticks]
    elements.append('<text x="0" y="166">frame 1</text>')
    elements.append(f'<text x="100%" y="166" text-anchor="end">frame {last + 1}</text>')
    return _svg_element("curves", 170, elements, label=label)


@dataclass(frozen=True)
class Point:
    """A labeled point of a chart, with an interval of x and of y."""

    label: str
    x: Interval
    y: Interval


def scatter_chart(
    series: Mapping[str, tuple[str, Sequence[Point]]], scale: Scale, axis_labels: tuple[str, str], label: str
) -> Markup:
    """Chart of points with error bars of x and y; lines join the points of a series, which is (color, points).

    Both axes have the ``scale``; ``axis_labels`` are the labels of x and y. Point labels are below the points of the
    first series, above the points of the second, and so on.
    """
    elements = []
    for tick in axis_ticks(scale):
        x, y, text = _scatter_x(tick, scale), _scatter_y(tick, scale), _tick_label(tick)
        elements.append(f'<line class="rule" x1="8%" x2="96%" y1="{y}" y2="{y}"/><text x="0" y="{y + 4}">{text}</text>')
        elements.append(f'<line class="rule" x1="{x}" x2="{x}" y1="24" y2="264"/>')
        elements.append(f'<text x="{x}" y="282" text-anchor="middle">{text}</text>')
    for number, (color, points) in enumerate(series.values()):
        shapes = []
        for previous, point in zip([None, *points], points, strict=False):
            x, y = _scatter_x(point.x.value, scale), _scatter_y(point.y.value, scale)
            left, right = (_scatter_x(end, scale) for end in (point.x.low, point.x.high))
            bottom, top = (_scatter_y(end, scale) for end in (point.y.low, point.y.high))
            shapes.append(f'<line class="line faint" x1="{left}" x2="{right}" y1="{y}" y2="{y}"/>')
            shapes.append(f'<line class="line faint" x1="{x}" x2="{x}" y1="{bottom}" y2="{top}"/>')
            if previous is not None:
                start = f'x1="{_scatter_x(previous.x.value, scale)}" y1="{_scatter_y(previous.y.value, scale)}"'
                shapes.append(f'<line class="line" {start} x2="{x}" y2="{y}"/>')
        for point in points:
            x, y = _scatter_x(point.x.value, scale), _scatter_y(point.y.value, scale)
            shapes.append(f'<circle cx="{x}" cy="{y}" r="5"/>')
            shapes.append(f'<text x="{x}" y="{y}" dx="8" dy="{(16, -8)[number % 2]}">{escape(point.label)}</text>')
        elements.append(f'<g class="{color}">{"".join(shapes)}</g>')
    elements.append(f'<text x="0" y="12">{escape(axis_labels[1])}</text>')
    elements.append(f'<text x="96%" y="302" text-anchor="end">{escape(axis_labels[0])}</text>')
    return _svg_element("curves", 306, elements, label=label)


def _scatter_x(value: float, scale: Scale) -> str:
    """Horizontal position of ``value`` in percent of the width, between margins of 8 % and 4 %."""
    return f"{8 + 0.88 * _axis_percent(value, scale):.2f}%"


def _scatter_y(value: float, scale: Scale) -> float:
    return round(264 - 2.4 * _axis_percent(value, scale), 1)


def _line_points(points: Iterable[tuple[float, float]], scale: Scale) -> str:
    return " ".join(f"{x:.2f},{_line_y(float(y), scale):.1f}" for x, y in points)


def _line_y(value: float, scale: Scale) -> float:
    return round(150 - 1.36 * _axis_percent(value, scale), 1)


def _tick_label(value: float) -> str:
    is_integer = math.isclose(value, round(value), abs_tol=1e-9)
    return f"{value:.0f}".replace("-", "−") if is_integer else format_number(value)


def _svg_element(css_class: str, height: int, elements: Sequence[str], color: str = "", label: str = "") -> Markup:
    """An SVG element. Without ``label``, it is hidden from screen readers, because the page has the numbers as text."""
    role = f'role="img" aria-label="{escape(label)}"' if label else 'aria-hidden="true"'
    return Markup(f'<svg class="{css_class} {color}" width="100%" height="{height}" {role}>{"".join(elements)}</svg>')
