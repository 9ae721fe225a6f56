"""The privacy-utility trade-off of a sweep: utility of anonymized images against their linkability to patients."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from echodream.plotting import LinePlot, Series, plot_lines
from echodream.report.sweep_results import UTILITY_KEY, SweepResult, SweepResults, sort_key

INTERVAL_KEYS = ("value", "low", "high")
AUC_NAMES = {"outer": "outer: AUC", "inner": "inner: AUC"}
"""Names of the results on pairs of an original and its version ("outer"), and on pairs of two versions ("inner")."""
SERIES_LABELS = {"outer": "outer linkability, AUC", "inner": "inner linkability, AUC"}
UTILITY_RESULTS = (f"{UTILITY_KEY}: auc", f"{UTILITY_KEY} of versions: auc", "ratio: synthetic: auc", "class agreement")
"""Parts of the names of results that measure utility, in order of priority."""


def tradeoff_record(results: SweepResults, setting: str) -> dict[str, Any] | None:
    """The content of curve.json: linkability and utility with their intervals, for each value of ``setting``.

    None if fewer than two values of ``setting`` have linkability and utility.
    """
    names = list(dict.fromkeys(name for by_name in results.values() for name in by_name))
    utility = next((name for part in UTILITY_RESULTS for name in names if part in name), None)
    points = []
    for value, by_name in results.items():
        linkability = {key: _interval_record(by_name[name]) for key, name in AUC_NAMES.items() if name in by_name}
        if utility in by_name and linkability:
            points.append({"value": value, **linkability, "utility": _interval_record(by_name[utility])})
    if len(points) < 2:
        return None
    floors = [by_name[AUC_NAMES["inner"]].floor for by_name in results.values() if AUC_NAMES["inner"] in by_name]
    originals = next((floor for floor in floors if floor is not None), None)
    return {"swept": setting, "utility": utility, "points": points, "inner of originals": originals}


def _interval_record(result: SweepResult) -> dict[str, float]:
    low, high = (result.value if end is None else end for end in (result.low, result.high))
    return {"value": result.value, "low": low, "high": high}


def x_positions(values: Iterable[str], plotted_values: Iterable[str]) -> tuple[np.ndarray, list[str]]:
    """Positions of ``plotted_values`` on the x axis, (n,), and the tick labels.

    Numbers are their own positions, without tick labels. Otherwise positions are 0, 1, ... in the order of ``values``.
    """
    names = list(values)
    if all(sort_key(name)[0] == 0 for name in names):
        return np.array([float(name) for name in plotted_values]), []
    return np.array([float(names.index(name)) for name in plotted_values]), names


def axis_range(x: np.ndarray) -> tuple[float, float]:
    """Ends of an axis that shows all of ``x``, (n,)."""
    margin = 0.05 * float(x.max() - x.min()) or 1.0
    return float(x.min()) - margin, float(x.max()) + margin


def plot_tradeoff(record: Mapping[str, Any]) -> np.ndarray:
    """Plots of linkability and utility against the setting, and of utility against linkability: uint8 (H, W, 3)."""
    points, setting, utility = record["points"], str(record["swept"]), str(record["utility"])
    over_setting, over_linkability, all_ends = {}, {}, []
    values = [str(point["value"]) for point in points]
    for key, label in {**SERIES_LABELS, "utility": utility}.items():
        measured = [point for point in points if key in point]
        if not measured:
            continue
        names = [str(point["value"]) for point in measured]
        x, ticks = x_positions(values, names)
        y, low, high = (np.array([point[key][end] for point in measured]) for end in INTERVAL_KEYS)
        over_setting[label] = Series(x, y, low, high)
        all_ends += [low, high]
        if key != "utility":
            middle, bottom, top = (np.array([p["utility"][end] for p in measured]) for end in INTERVAL_KEYS)
            over_linkability[label] = Series(y, middle, bottom, top, low, high, names)
    ends = np.concatenate(all_ends)
    scale = (float(np.floor(10 * min(0.5, ends.min())) / 10), max(1.0, float(ends.max())))
    x_range = axis_range(x_positions(values, values)[0])
    left = LinePlot(f"Over {setting}", over_setting, setting, "value and 95 % interval", x_range, scale, ticks)
    title = f"Utility over linkability; each point is a value of {setting}"
    right = LinePlot(title, over_linkability, "AUC of linkability (0.5: chance)", utility, scale, scale)
    return plot_lines(left, right, columns=2)
