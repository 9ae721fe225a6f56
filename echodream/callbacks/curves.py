"""Pictures of what a classifier says of test patients: confusion matrix, ROC curves, predicted against true numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

COLOURS = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (230, 159, 0))
"""Of one curve after another; they can be told apart by the colour-blind."""
FRAME, GRID, INK = (120, 120, 120), (225, 225, 225), (20, 20, 20)
SIDE, EDGE = 360, 48


def confusion_picture(counts: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """``counts``, (K, K): how often class i (row) was called class j (column): uint8 (height, width, 3).

    Shades are shares of a row, the class that is true.
    """
    from PIL import Image, ImageDraw

    cell, left, top = 84, 120, 64
    size = cell * len(names)
    picture = Image.new("RGB", (left + size + 16, top + size + 16), "white")
    draw = ImageDraw.Draw(picture)
    draw.text((8, 8), "rows: true class; columns: predicted class", fill=INK)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    for i, name in enumerate(names):
        draw.text((8, top + cell * i + cell // 2 - 6), name[:18], fill=INK)
        draw.text((left + cell * i + 4, top - 18), name[:13], fill=INK)
        for j, share in enumerate(shares[i]):
            x, y = left + cell * j, top + cell * i
            shade = tuple(round(255 + share * (c - 255)) for c in COLOURS[0])
            draw.rectangle((x, y, x + cell - 2, y + cell - 2), fill=shade, outline=GRID)
            text = f"{counts[i, j]}\n{share:.0%}"
            draw.multiline_text((x + cell // 2 - 12, y + cell // 2 - 14), text, fill="white" if share > 0.5 else INK)
    return np.asarray(picture)


def roc_picture(curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """``curves`` by name: false and true positive rates, (n,) each: uint8 (height, width, 3)."""
    picture, draw = _axes("sensitivity against 1 - specificity", (0.0, 1.0))
    draw.line([(EDGE, EDGE + SIDE), (EDGE + SIDE, EDGE)], fill=FRAME)
    for number, (name, (across, up)) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        points = [(EDGE + float(x) * SIDE, EDGE + (1 - float(y)) * SIDE) for x, y in zip(across, up, strict=True)]
        draw.line(points, fill=colour, width=2)
        draw.text((EDGE + SIDE // 3, EDGE + SIDE - 20 - 16 * number), name, fill=colour)
    return np.asarray(picture)


def scatter_picture(column: str, truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """A point for each recording, ``truth`` across and ``predicted`` up, (N,) each: uint8 (height, width, 3)."""
    both = np.concatenate([truth, predicted])
    low, high = float(both.min()), float(both.max())
    span = high - low or 1.0
    picture, draw = _axes(f"{column}: predicted (up) against true (across)", (low, low + span))
    draw.line([(EDGE, EDGE + SIDE), (EDGE + SIDE, EDGE)], fill=FRAME)
    for x, y in zip((truth - low) / span, (predicted - low) / span, strict=True):
        place = (EDGE + float(x) * SIDE, EDGE + (1 - float(y)) * SIDE)
        draw.ellipse((place[0] - 3, place[1] - 3, place[0] + 3, place[1] + 3), fill=COLOURS[0], outline="white")
    return np.asarray(picture)


def _axes(title: str, ends: tuple[float, float]) -> tuple[Any, Any]:
    """A square diagram, both axes with these ``ends``."""
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (SIDE + 2 * EDGE, SIDE + 2 * EDGE), "white")
    draw = ImageDraw.Draw(picture)
    draw.text((8, 8), title, fill=INK)
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        place, mark = EDGE + share * SIDE, f"{ends[0] + share * (ends[1] - ends[0]):.3g}"
        down = EDGE + (1 - share) * SIDE
        draw.line([(place, EDGE), (place, EDGE + SIDE)], fill=GRID)
        draw.line([(EDGE, down), (EDGE + SIDE, down)], fill=GRID)
        draw.text((place - 10, EDGE + SIDE + 8), mark, fill=INK)
        draw.text((8, down - 6), mark, fill=INK)
    draw.rectangle((EDGE, EDGE, EDGE + SIDE, EDGE + SIDE), outline=FRAME)
    return picture, draw
