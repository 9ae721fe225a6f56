"""The points of a sweep as a curve: what anonymised images are still worth against how well they are linked."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from echodream.plotting import LinePlot, Series, plot_lines
from echodream.report.sweep_results import UTILITY, Points, order

ENDS = ("value", "low", "high")
LINKS = {"outer": "outer: AUC", "inner": "inner: AUC"}
"""How well a version is linked to its original, and two versions of a patient to each other: figures of linkability."""
UTILITIES = (f"{UTILITY}: auc", f"{UTILITY} of versions: auc", "ratio: synthetic: auc", "class agreement")
"""Parts of the names of figures that stand for what images are worth; the first that is there."""
SAID = {"outer": "outer linkability, AUC", "inner": "inner linkability, AUC"}


def tradeoff(found: Points, name: str) -> dict[str, Any] | None:
    """The curve as a record: for each value of ``name`` linkability and utility, each with its interval.

    None where fewer than two values have both.
    """
    names = list(dict.fromkeys(figure for figures in found.values() for figure in figures))
    utility = next((figure for part in UTILITIES for figure in names if part in figure), None)
    points = []
    for value, figures in found.items():
        links = {key: _plain(figures[figure]) for key, figure in LINKS.items() if figure in figures}
        if utility in figures and links:
            points.append({"value": value, **links, "utility": _plain(figures[utility])})
    if len(points) < 2:
        return None
    floors = [figures[LINKS["inner"]].floor for figures in found.values() if LINKS["inner"] in figures]
    originals = next((floor for floor in floors if floor is not None), None)
    return {"swept": name, "utility": utility, "points": points, "inner of originals": originals}


def _plain(figure: Any) -> dict[str, float]:
    low, high = (figure.value if end is None else end for end in (figure.low, figure.high))
    return {"value": figure.value, "low": low, "high": high}


def x_positions(values: Iterable[str], kept: Iterable[str]) -> tuple[np.ndarray, list[str]]:
    """Where the values ``kept`` lie on the x axis: (n,), and the texts of its ticks if not all ``values`` are numbers.

    Numbers lie at themselves, texts at 0, 1, ... in the order of ``values``.
    """
    names = list(values)
    if all(order(name)[0] == 0 for name in names):
        return np.array([float(name) for name in kept]), []
    return np.array([float(names.index(name)) for name in kept]), names


def axis_range(x: np.ndarray) -> tuple[float, float]:
    """The ends of an axis that shows all of ``x``, (n,)."""
    margin = 0.05 * float(x.max() - x.min()) or 1.0
    return float(x.min()) - margin, float(x.max()) + margin


def picture(curve: Mapping[str, Any]) -> np.ndarray:
    """Linkability and utility over the swept value, and utility over linkability: uint8 (height, width, 3)."""
    points, swept, utility = curve["points"], str(curve["swept"]), str(curve["utility"])
    over_value, over_linkability, all_ends = {}, {}, []
    values = [str(point["value"]) for point in points]
    for key, name in {**SAID, "utility": utility}.items():
        measured = [point for point in points if key in point]
        if not measured:
            continue
        x, ticks = x_positions(values, [str(point["value"]) for point in measured])
        y, low, high = (np.array([point[key][end] for point in measured]) for end in ENDS)
        over_value[name] = Series(x, y, low, high)
        all_ends += [low, high]
        if key != "utility":
            worth, least, most = (np.array([point["utility"][end] for point in measured]) for end in ENDS)
            labels = [str(point["value"]) for point in measured]
            over_linkability[name] = Series(y, worth, least, most, low, high, labels)
    ends = np.concatenate(all_ends)
    scale = (float(np.floor(10 * min(0.5, ends.min())) / 10), max(1.0, float(ends.max())))
    positions = x_positions(values, values)[0]
    left = LinePlot(f"Over {swept}", over_value, swept, "value and 95 % interval", axis_range(positions), scale, ticks)
    title = f"Utility over linkability; each point is a value of {swept}"
    right = LinePlot(title, over_linkability, "AUC of linkability (0.5: chance)", utility, scale, scale)
    return plot_lines(left, right, columns=2)
