"""Diagrams as pictures, drawn with Pillow: histograms, lines with bands, and rows of intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from echodream.metrics.intervals import Interval

COLOURS = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167))
"""Of one series after another; they can be told apart by the colour-blind."""
FRAME, GRID, INK = (120, 120, 120), (225, 225, 225), (20, 20, 20)
WIDTH, HEIGHT, LEFT, TOP, EDGE = 640, 400, 60, 40, 24


@dataclass(frozen=True)
class Line:
    """Points (x, y), (n,) each, and a band from ``low`` to ``high``, (n,), around them."""

    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None


@dataclass(frozen=True)
class Spot:
    """A point with an interval both ways, and what is written beside it."""

    name: str
    x: Interval
    y: Interval


def histograms(title: str, series: Mapping[str, np.ndarray], bins: int = 24) -> np.ndarray:
    """Shares of each series, (n,), by value, the highest bar of each at the top: uint8 (height, width, 3)."""
    low, high = (float(end([end(values) for values in series.values()])) for end in (np.min, np.max))
    edges = np.linspace(low, high if high > low else low + 1, bins + 1)
    lines = {}
    for name, values in series.items():
        counts = np.histogram(values, edges)[0]
        height = np.repeat(counts / max(counts.max(), 1), 2)
        x = np.repeat(edges, 2)[1:-1]
        lines[f"{name} (n {len(values)})"] = Line(
            np.concatenate([x[:1], x, x[-1:]]), np.concatenate([[0.0], height, [0.0]])
        )
    return lines_of(title, lines, (edges[0], edges[-1]), (0.0, 1.05), marks=False)


def lines_of(
    title: str,
    lines: Mapping[str, Line],
    across: tuple[float, float],
    up: tuple[float, float],
    marks: bool = True,
    below: bool = False,
) -> np.ndarray:
    """Lines over ``across`` and ``up``, the ends of both axes; without ``marks`` the upper one has no numbers.

    Their names stand at the top, or ``below``.
    """
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(picture, "RGBA")
    box = (LEFT, TOP, WIDTH - EDGE, HEIGHT - TOP)
    _frame(draw, box, title, across, up, marks)
    for number, (name, line) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        x, y = _place(line.x, across, box[0], box[2]), _place(line.y, up, box[3], box[1])
        if line.low is not None and line.high is not None and len(x) > 1:
            ends = [_place(side, up, box[3], box[1]) for side in (line.low, line.high)]
            band = [*zip(x, ends[0], strict=True), *zip(x[::-1], ends[1][::-1], strict=True)]
            draw.polygon(band, fill=(*colour, 50))
        draw.line([*zip(x, y, strict=True)], fill=colour, width=2)
        top = box[3] - 8 - 16 * len(lines) if below else box[1] + 8
        draw.text((box[0] + 10, top + 16 * number), name, fill=colour)
    return np.asarray(picture.convert("RGB"))


def spots_of(
    title: str, series: Mapping[str, Sequence[Spot]], across: tuple[float, float], up: tuple[float, float]
) -> np.ndarray:
    """Points with their intervals as crosses, those of a series joined: uint8 (height, width, 3)."""
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(picture, "RGBA")
    box = (LEFT, TOP, WIDTH - EDGE, HEIGHT - TOP)
    _frame(draw, box, title, across, up, marks=True)
    for number, (name, spots) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        places = []
        for spot in spots:
            x = _place(np.array([spot.x.low, spot.x.value, spot.x.high]), across, box[0], box[2])
            y = _place(np.array([spot.y.low, spot.y.value, spot.y.high]), up, box[3], box[1])
            draw.line([(x[0], y[1]), (x[2], y[1])], fill=(*colour, 90), width=2)
            draw.line([(x[1], y[0]), (x[1], y[2])], fill=(*colour, 90), width=2)
            places.append((x[1], y[1]))
        draw.line(places, fill=colour, width=2)
        for spot, (x1, y1) in zip(spots, places, strict=True):
            draw.ellipse((x1 - 4, y1 - 4, x1 + 4, y1 + 4), fill=colour, outline="white")
            draw.text((x1 + 7, y1 - 14 if number else y1 + 4), spot.name, fill=colour)
        draw.text((box[0] + 10, box[3] - 8 - 16 * (len(series) - number)), name, fill=colour)
    return np.asarray(picture.convert("RGB"))


def intervals_of(
    title: str, rows: Sequence[tuple[str, Interval, Interval | None]], low: float = 0.0, high: float = 1.0
) -> np.ndarray:
    """One row each: its name, its interval (blue), and below it what is expected (orange), from ``low`` to ``high``.

    What lies outside is drawn at the end.
    """
    from PIL import Image, ImageDraw

    left, step = 230, 34
    height = TOP + step * len(rows) + TOP
    picture = Image.new("RGB", (WIDTH, height), "white")
    draw = ImageDraw.Draw(picture, "RGBA")
    box = (left, TOP, WIDTH - EDGE, height - TOP)
    _frame(draw, box, title, (low, high), (0.0, 1.0), marks=False)
    for number, (name, value, expected) in enumerate(rows):
        middle = TOP + step * number + step // 2
        draw.text((8, middle - 7), name, fill=INK)
        for colour, interval, down in ((COLOURS[0], value, -4), (COLOURS[1], expected, 6)):
            if interval is not None:
                ends = _place(np.array([interval.low, interval.value, interval.high]), (low, high), left, box[2])
                draw.line([(ends[0], middle + down), (ends[2], middle + down)], fill=colour, width=3)
                draw.ellipse(
                    (ends[1] - 4, middle + down - 4, ends[1] + 4, middle + down + 4), fill=colour, outline="white"
                )
    return np.asarray(picture.convert("RGB"))


def _frame(
    draw: Any,
    box: tuple[int, int, int, int],
    title: str,
    across: tuple[float, float],
    up: tuple[float, float],
    marks: bool,
) -> None:
    """Title, axes and their numbers."""
    draw.text((8, 10), title, fill=INK)
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = box[0] + share * (box[2] - box[0]), box[3] - share * (box[3] - box[1])
        draw.line([(x, box[1]), (x, box[3])], fill=GRID)
        draw.text((x - 12, box[3] + 6), f"{across[0] + share * (across[1] - across[0]):.3g}", fill=INK)
        if marks:
            draw.line([(box[0], y), (box[2], y)], fill=GRID)
            draw.text((8, y - 7), f"{up[0] + share * (up[1] - up[0]):.3g}", fill=INK)
    draw.rectangle(box, outline=FRAME)


def _place(values: np.ndarray, ends: tuple[float, float], first: int, last: int) -> list[float]:
    """Where ``values`` lie between ``first`` and ``last``, pixels, of an axis with these ends; cut at both."""
    span = ends[1] - ends[0] or 1.0
    shares = np.clip((np.asarray(values, dtype=np.float64) - ends[0]) / span, 0, 1)
    return [float(first + share * (last - first)) for share in shares]
