"""The points of a sweep as a curve: what anonymised images are still worth against how well they are linked."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from echodream.plotting import Line, Spot, lines_of, spots_of
from echodream.report.figures import interval
from echodream.report.sweep_results import UTILITY, Points, order

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


def picture(curve: Mapping[str, Any]) -> np.ndarray:
    """All over the value that was swept, and utility against linkability: uint8 (height, width, 3)."""
    points, swept = curve["points"], curve["swept"]
    numeric = all(order(point["value"])[0] == 0 for point in points)
    x = np.array([float(point["value"]) if numeric else float(k) for k, point in enumerate(points)])
    lines, spots = {}, {}
    for key, said in {**SAID, "utility": str(curve["utility"])}.items():
        there = [number for number, point in enumerate(points) if key in point]
        if not there:
            continue
        y, low, high = (np.array([points[k][key][end] for k in there]) for end in ("value", "low", "high"))
        lines[said] = Line(x[there], y, low, high)
        if key != "utility":
            own = [(points[k]["value"], interval(points[k][key]), interval(points[k]["utility"])) for k in there]
            spots[said] = [Spot(value, link, worth) for value, link, worth in own if link and worth]
    ends = np.concatenate([part for line in lines.values() for part in (line.low, line.high) if part is not None])
    up = (float(np.floor(10 * min(0.5, ends.min())) / 10), max(1.0, float(ends.max())))
    across, title = (float(x.min()), float(x.max())), f"over {swept}" if numeric else f"over {swept}, in order"
    over = lines_of(title, lines, across, up, below=True)
    against = spots_of(f"{curve['utility']}, over linkability; at each point {swept}", spots, up, up)
    return np.concatenate([over, against], axis=1)
