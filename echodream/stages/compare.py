"""``stage=compare``: the points of a sweep beside each other, a table and a plot of their figures."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from echodream.errors import UserError
from echodream.plotting import Line, lines_of
from echodream.report.privacy_utility_curve import picture, tradeoff
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
    dst: str,
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
    _write(folder / PLOT, lambda path: _plot(path, found, shown, name))
    if (curve := tradeoff(found, name)) is not None:
        _write(folder / PICTURE, lambda path: _save(path, picture(curve)))
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


def _plot(path: Path, found: Points, shown: Sequence[str], name: str) -> None:
    """A panel for each figure: its course over the values with its band, and the floor."""
    numeric = all(order(value)[0] == 0 for value in found)
    panels = []
    for figure in shown[:MOST]:
        there = [
            (number, value, figures[figure])
            for number, (value, figures) in enumerate(found.items())
            if figure in figures
        ]
        x = np.array([float(value) if numeric else float(number) for number, value, _ in there])
        made = [one for _, _, one in there]
        y = np.array([one.value for one in made])
        low, high = (np.array([one.value if end is None else end for one, end in ends]) for ends in _ends(made))
        lines = {"value and interval" if (high > low).any() else "value": Line(x, y, low, high)}
        if (floor := _floor(found, figure)) is not None:
            lines["real recordings (mean over the points)"] = Line(x[[0, -1]], np.full(2, floor))
        every = np.concatenate([low, high, [] if floor is None else [floor]])
        margin = 0.08 * (every.max() - every.min()) or 0.5
        across = (float(x.min()), float(x.max())) if x.max() > x.min() else (float(x[0]) - 1, float(x[0]) + 1)
        words = "" if numeric else " (0, 1, ... are " + ", ".join(found) + ")"
        up = (float(every.min() - margin), float(every.max() + margin))
        panels.append(lines_of(f"{figure}, over {name}{words}", lines, across, up))
    _save(path, np.concatenate(panels))


def _save(path: Path, pixels: np.ndarray) -> None:
    from PIL import Image

    Image.fromarray(pixels).save(path, format="PNG", optimize=True)


def _ends(made: Sequence[Figure]) -> tuple[list[tuple[Figure, float | None]], list[tuple[Figure, float | None]]]:
    return [(one, one.low) for one in made], [(one, one.high) for one in made]


def _write(path: Path, write: Any) -> None:
    """Whole or not at all."""
    fresh = path.with_name(f"{FRESH}{path.name}")
    write(fresh)
    fresh.replace(path)
