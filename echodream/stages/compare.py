"""``stage=compare``: the points of a sweep beside each other, a table and a plot of their figures."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from echodream.config.stage_signature import OutputPath
from echodream.errors import UserError
from echodream.plotting import LinePlot, Series, plot_lines, save_png
from echodream.report.privacy_utility_curve import ENDS, axis_range, picture, tradeoff, x_positions
from echodream.report.sweep_results import REJECTED, Figure, Points, order, read_points, values
from echodream.runs.atomic_folder import FRESH, write_record
from echodream.runs.summary import Summary
from echodream.store.table import write_table

TABLE, TEXT, PLOT = "comparison.csv", "comparison.md", "comparison.png"
CURVE, PICTURE = "curve.json", "curve.png"
CHOICE = (
    *("frechet", "FID", "FVD", "class agreement", "EF", "ratio: synthetic: auc", REJECTED),
    *("inner: AUC", "outer: AUC", "identity: hidden rate", "utility: auc", "utility of versions: auc"),
)
"""Figures that are shown where none are asked for, if there: fidelity, adherence, utility, rejection, identity."""
MOST = 12
"""Figures that are shown on the screen and in the plot."""
_DETAIL = re.compile(r", |support|count|auc_")  # of single classes; in the csv, and where they are asked for


def compare(
    *,
    points: Sequence[str] | str | None,
    name: str,
    figures: Sequence[str] | str | None,
    dst: OutputPath,
    command: str,
    code_version: str,
) -> Summary:
    """Read the reports in the folders ``points``, patterns in which * stands for the value of ``name``.

    Writes ``dst``/comparison.csv (all figures), .md and .png (those whose names contain one of ``figures``, or a
    choice); and where points say how anonymised images are linked and what they are worth, curve.json and .png. Raises
    ``UserError`` when fewer than two values are found, or no figure that is asked for.
    """
    patterns = _texts("points", points) or []
    found = read_points(patterns)
    shown = _shown(found, _texts("figures", figures))
    folder = Path(dst)
    folder.mkdir(parents=True, exist_ok=True)
    text = _markdown(found, shown, name)
    _write(folder / TABLE, lambda path: write_table(path, list(_rows(found))))
    _write(folder / TEXT, lambda path: path.write_text(text, encoding="utf-8"))
    _write(folder / PLOT, lambda path: save_png(path, _plot(found, shown, name)))
    if (curve := tradeoff(found, name)) is not None:
        _write(folder / PICTURE, lambda path: save_png(path, picture(curve)))
        write_record(folder / CURVE, {**curve, "command": command, "code_version": code_version})
    facts = {
        "values": ", ".join(found),
        "figures": f"{len(shown)} of {len({n for one in found.values() for n in one})}",
    }
    if silent := sorted({value for one in patterns for value, _ in values(one)} - set(found), key=order):
        facts["without reports"] = f"{', '.join(silent)}: these points are not in the table"
    return Summary(f"compare: {dst} done\n\n{text}", facts)


def _texts(key: str, given: Any) -> list[str] | None:
    """A setting that is a text or several."""
    if given is None or isinstance(given, str):
        return given if given is None else [given]
    if not isinstance(given, Sequence):
        raise UserError(
            f"{key}={given} is not possible: give a list of texts, as [{'a*' if key == 'points' else 'auc'}]"
        )
    return [str(one) for one in given]


def _shown(found: Points, asked: Sequence[str] | None) -> list[str]:
    """Names of the figures that are shown, in the order of the reports."""
    names = list(dict.fromkeys(name for figures in found.values() for name in figures))
    if asked is None:
        chosen = [name for name in names if any(part in name for part in CHOICE) and not _DETAIL.search(name)]
        return (chosen or names)[:MOST]
    for part in asked:
        if not any(part in name for name in names):
            raise UserError(f"figures has {part!r}, which no report has: choose of {'; '.join(names[:40])}")
    return [name for name in names if any(part in name for part in asked)]


def _rows(found: Points) -> Iterator[dict[str, Any]]:
    for value, figures in found.items():
        for name, figure in figures.items():
            numbers = {"Value": figure.value, "Low": figure.low, "High": figure.high, "Floor": figure.floor}
            yield {"Point": value, "Figure": name, **numbers, "Warning": figure.warning}


def _markdown(found: Points, shown: Sequence[str], name: str) -> str:
    """A row for each value, a column for each figure, and the floor of each in the last row."""
    rows = [[value, *(_cell(figures.get(figure)) for figure in shown)] for value, figures in found.items()]
    floors = [_floor(found, figure) for figure in shown]
    if any(floor is not None for floor in floors):
        rows.append(["real", *("" if floor is None else f"{floor:.3g}" for floor in floors)])
    header = [name, *shown]
    lines = [header, ["---"] * len(header), *rows]
    text = "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines) + "\n"
    return text + "".join(f"\n- {warning}\n" for warning in _warnings(found, shown))


def _warnings(found: Points, shown: Sequence[str]) -> Iterator[str]:
    """What the reports say to beware of, each once, with the figures and the values that it is about."""
    about: dict[str, dict[str, list[str]]] = {}
    for value, figures in found.items():
        for name in shown:
            if name in figures and figures[name].warning:
                about.setdefault(figures[name].warning, {}).setdefault(name, []).append(value)
    for warning, names in about.items():
        values = list(dict.fromkeys(value for of in names.values() for value in of))
        where = "" if all(len(of) == len(found) for of in names.values()) else f" (at {', '.join(values)})"
        yield f"{', '.join(names)}{where}: {warning}"


def _cell(figure: Figure | None) -> str:
    if figure is None:
        return ""
    ends = "" if figure.low is None or figure.high is None else f" ({figure.low:.3g} to {figure.high:.3g})"
    return f"{figure.value:.3g}{ends}"


def _floor(found: Points, figure: str) -> float | None:
    """What real recordings give, the mean over the points, whose samples may differ in number."""
    floors = [one.floor for one in (figures.get(figure) for figures in found.values()) if one and one.floor is not None]
    return float(np.mean(floors)) if floors else None


def _plot(found: Points, shown: Sequence[str], name: str) -> np.ndarray:
    """A panel for each figure: its value over the swept values with its interval, and the floor."""
    panels = []
    for figure in shown[:MOST]:
        points = {value: figures[figure] for value, figures in found.items() if figure in figures}
        x, ticks = x_positions(found, points)
        y, low, high = (np.array([getattr(point, end) for point in points.values()], dtype=float) for end in ENDS)
        low, high = np.where(np.isnan(low), y, low), np.where(np.isnan(high), y, high)
        series = {"value and 95 % interval" if (high > low).any() else "value": Series(x, y, low, high)}
        floor = _floor(found, figure)
        if floor is not None:
            series["real recordings (mean over the points)"] = Series(x[[0, -1]], np.full(2, floor))
        values = np.concatenate([low, high, [] if floor is None else [floor]])
        margin = 0.08 * (values.max() - values.min()) or 0.5
        y_range = (float(values.min() - margin), float(values.max() + margin))
        panels.append(LinePlot(figure, series, name, figure, axis_range(x), y_range, ticks))
    return plot_lines(*panels)


def _write(path: Path, write: Any) -> None:
    """Whole or not at all."""
    fresh = path.with_name(f"{FRESH}{path.name}")
    write(fresh)
    fresh.replace(path)
