"""``stage=compare``: compare the results of a sweep in a table and a plot."""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from echodream.config.stage_signature import OutputPath
from echodream.errors import UserError
from echodream.plotting import LinePlot, Series, plot_lines, save_png
from echodream.report.privacy_utility_curve import ENDS, axis_range, plot_tradeoff, tradeoff_record, x_positions
from echodream.report.sweep_results import REJECTED, SweepResult, SweepResults, read_sweep, sort_key, swept_folders
from echodream.runs.atomic_folder import TEMPORARY_PREFIX, write_record, write_text
from echodream.runs.summary import Summary
from echodream.store.table import write_table

TABLE, TEXT, PLOT = "comparison.csv", "comparison.md", "comparison.png"
CURVE, CURVE_PLOT = "curve.json", "curve.png"
DEFAULT_FIGURES = (
    *("frechet", "FID", "FVD", "class agreement", "EF", "ratio: synthetic: auc", REJECTED),
    *("inner: AUC", "outer: AUC", "identity: hidden rate", "utility: auc", "utility of versions: auc"),
)
"""Parts of the names of the default results: fidelity, adherence, utility, rejection, linkability."""
MAX_FIGURES = 12
"""Maximum number of results in the default table, and in the plot."""
_DETAILS = re.compile(r", |support|count|auc_")  # results of single classes: not shown by default


def compare(
    *,
    points: Sequence[str] | str | None,
    name: str,
    figures: Sequence[str] | str | None,
    dst: OutputPath,
    command: str,
    code_version: str,
) -> Summary:
    """Read the records in the folders ``points``, patterns in which * stands for the value of the setting ``name``.

    Writes ``dst``/comparison.csv (all results), .md and .png (results whose names contain one of ``figures``, or the
    default results), and curve.json and .png if linkability and utility of anonymized images were measured. Raises
    ``UserError`` for fewer than two values, or if no result has one of ``figures`` in its name.
    """
    patterns = _list_of_texts("points", points) or []
    results = read_sweep(patterns)
    shown = _choose_names(results, _list_of_texts("figures", figures))
    folder = Path(dst)
    folder.mkdir(parents=True, exist_ok=True)
    text = _markdown_page(results, shown, name)
    _write_atomically(write_table, folder / TABLE, _table_rows(results))
    write_text(folder / TEXT, text)
    _write_atomically(save_png, folder / PLOT, _plot_results(results, shown, name))
    if (curve := tradeoff_record(results, name)) is not None:
        _write_atomically(save_png, folder / CURVE_PLOT, plot_tradeoff(curve))
        write_record(folder / CURVE, {**curve, "command": command, "code_version": code_version})
    all_names = {name for by_name in results.values() for name in by_name}
    facts = {"values": ", ".join(results), "figures": f"{len(shown)} of {len(all_names)}"}
    all_values = {value for pattern in patterns for value, _ in swept_folders(pattern)}
    if without_records := sorted(all_values - set(results), key=sort_key):
        facts["without reports"] = f"{', '.join(without_records)}: these points are not in the table"
    return Summary(f"compare: {dst} done\n\n{text}", facts)


def _list_of_texts(key: str, value: Any) -> list[str] | None:
    """A setting that is a text or a list of texts, as a list; None if it is null."""
    if value is None or isinstance(value, str):
        return value if value is None else [value]
    if not isinstance(value, Sequence):
        example = "a*" if key == "points" else "auc"
        raise UserError(f"{key}={value} is not possible: give a list of texts, as [{example}]")
    return [str(item) for item in value]


def _choose_names(results: SweepResults, figures: Sequence[str] | None) -> list[str]:
    """Names of the results that are shown, in the order of the records."""
    names = list(dict.fromkeys(name for by_name in results.values() for name in by_name))
    if figures is None:
        chosen = [name for name in names if any(part in name for part in DEFAULT_FIGURES) and not _DETAILS.search(name)]
        return (chosen or names)[:MAX_FIGURES]
    for part in figures:
        if not any(part in name for name in names):
            raise UserError(f"figures has {part!r}, which no report has: choose from {'; '.join(names[:40])}")
    return [name for name in names if any(part in name for part in figures)]


def _markdown_page(results: SweepResults, shown: Sequence[str], setting: str) -> str:
    """A table with a row for each value and a column for each result, the floors in the last row; then warnings."""
    rows = [[value, *(_format_cell(by_name.get(name)) for name in shown)] for value, by_name in results.items()]
    floors = [_mean_floor(results, name) for name in shown]
    if any(floor is not None for floor in floors):
        rows.append(["real", *("" if floor is None else f"{floor:.3g}" for floor in floors)])
    header = [setting, *shown]
    lines = [header, ["---"] * len(header), *rows]
    text = "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines) + "\n"
    return text + "".join(f"\n- {warning}\n" for warning in _warning_lines(results, shown))


def _warning_lines(results: SweepResults, shown: Sequence[str]) -> Iterator[str]:
    """Each warning once, with the names of its results, and with its values if other values lack the warning."""
    values_by_warning: dict[str, dict[str, list[str]]] = {}
    for value, by_name in results.items():
        for name in shown:
            if name in by_name and by_name[name].warning:
                values_by_warning.setdefault(by_name[name].warning, {}).setdefault(name, []).append(value)
    for warning, values_by_name in values_by_warning.items():
        values = list(dict.fromkeys(value for each in values_by_name.values() for value in each))
        for_all = all(len(each) == len(results) for each in values_by_name.values())
        where = "" if for_all else f" (at {', '.join(values)})"
        yield f"{', '.join(values_by_name)}{where}: {warning}"


def _format_cell(result: SweepResult | None) -> str:
    if result is None:
        return ""
    ends = "" if result.low is None or result.high is None else f" ({result.low:.3g} to {result.high:.3g})"
    return f"{result.value:.3g}{ends}"


def _mean_floor(results: SweepResults, name: str) -> float | None:
    """Mean of the floors over all values, whose numbers of samples may differ."""
    floors = [by_name[name].floor for by_name in results.values() if name in by_name]
    known = [floor for floor in floors if floor is not None]
    return float(np.mean(known)) if known else None


def _plot_results(results: SweepResults, shown: Sequence[str], setting: str) -> np.ndarray:
    """A panel for each result: its value and interval over ``setting``, and the floor."""
    panels = []
    for name in shown[:MAX_FIGURES]:
        points = {value: by_name[name] for value, by_name in results.items() if name in by_name}
        x, ticks = x_positions(results, points)
        y, low, high = (np.array([getattr(point, end) for point in points.values()], dtype=float) for end in ENDS)
        low, high = np.where(np.isnan(low), y, low), np.where(np.isnan(high), y, high)
        series = {"value and 95 % interval" if (high > low).any() else "value": Series(x, y, low, high)}
        floor = _mean_floor(results, name)
        if floor is not None:
            series["real recordings (mean over the points)"] = Series(x[[0, -1]], np.full(2, floor))
        ends = np.concatenate([low, high, [] if floor is None else [floor]])
        margin = 0.08 * (ends.max() - ends.min()) or 0.5
        y_range = (float(ends.min() - margin), float(ends.max() + margin))
        panels.append(LinePlot(name, series, setting, name, axis_range(x), y_range, ticks))
    return plot_lines(*panels)


def _table_rows(results: SweepResults) -> list[dict[str, Any]]:
    """A row of comparison.csv for each result."""
    rows = []
    for value, by_name in results.items():
        for name, result in by_name.items():
            numbers = {"Value": result.value, "Low": result.low, "High": result.high, "Floor": result.floor}
            rows.append({"Point": value, "Figure": name, **numbers, "Warning": result.warning})
    return rows


def _write_atomically(write: Callable[[Path, Any], None], path: Path, content: Any) -> None:
    """Call ``write`` with a temporary path and ``content``, then rename the file to ``path``."""
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}")
    write(temporary, content)
    temporary.replace(path)
