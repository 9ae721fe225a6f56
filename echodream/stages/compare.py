"""``stage=compare``: compare the results of a sweep in a table and a plot."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from echodream import validation
from echodream.config.stage_signature import OutputPath
from echodream.errors import UserError
from echodream.plotting import LinePlot, Series, plot_lines, save_png
from echodream.report.privacy_utility_curve import axis_range, plot_tradeoff, tradeoff_record, x_positions
from echodream.report.sweep_results import REJECTED_KEY, SweepResult, SweepResults, read_sweep, sort_key, swept_folders
from echodream.runs.atomic_folder import write_record, write_text
from echodream.runs.summary import Summary
from echodream.store.schema import write_atomically
from echodream.store.table import write_table

TABLE, TEXT, PLOT = "comparison.csv", "comparison.md", "comparison.png"
CURVE, CURVE_PLOT = "curve.json", "curve.png"
DEFAULT_FIGURES = (
    *("frechet", "FID", "FVD", "class agreement", "EF", "ratio: synthetic: auc", REJECTED_KEY),
    *("inner: AUC", "outer: AUC", "identity: hidden rate", "utility: auc", "utility of versions: auc"),
)
"""The default table and plot show the results whose names contain one of these texts."""
MAX_FIGURES = 12
"""Maximum number of results in the default table and in the plot."""
_SINGLE_CLASS_PATTERN = re.compile(r", |support|count|auc_")
"""Pattern in the names of results for single classes, which the default table and plot do not show."""


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

    Writes comparison.csv with all results to ``dst``. comparison.md and comparison.png show the results whose names
    contain one of ``figures``, by default ``DEFAULT_FIGURES``. curve.json and curve.png need results of linkability and
    utility. Raises ``UserError`` for fewer than two values of the setting, or if no name contains one of ``figures``.
    """
    patterns = _list_of_texts("points", points) or []
    results = read_sweep(patterns)
    rows = [
        {
            "Point": value,
            "Figure": figure,
            "Value": result.value,
            "Low": result.low,
            "High": result.high,
            "Floor": result.floor,
            "Warning": result.warning,
        }
        for value, by_name in results.items()
        for figure, result in by_name.items()
    ]
    table = pd.DataFrame(rows).astype(dict.fromkeys(["Value", "Low", "High", "Floor"], float))
    shown_names = _choose_names(table["Figure"].unique().tolist(), _list_of_texts("figures", figures))
    table = table[table["Figure"].isin(shown_names)]
    folder = Path(dst)
    folder.mkdir(parents=True, exist_ok=True)
    text = _markdown_page(results, table, shown_names, name)
    write_atomically(write_table, folder / TABLE, rows)
    write_text(folder / TEXT, text)
    write_atomically(save_png, folder / PLOT, _plot_results(results, table, shown_names, name))
    if (curve := tradeoff_record(results, name)) is not None:
        write_atomically(save_png, folder / CURVE_PLOT, plot_tradeoff(curve))
        write_record(folder / CURVE, {**curve, "command": command, "code_version": code_version})
    all_names = {row["Figure"] for row in rows}
    facts = {"values": ", ".join(results), "figures": f"{len(shown_names)} of {len(all_names)}"}
    all_values = {value for pattern in patterns for value, _ in swept_folders(pattern)}
    if without_records := sorted(all_values - set(results), key=sort_key):
        facts["without reports"] = f"{', '.join(without_records)}: not in the table"
    return Summary(f"compare: {dst} done\n\n{text}", facts)


def _list_of_texts(key: str, value: Any) -> list[str] | None:
    """The ``value`` of the setting ``key`` as a list of texts; None if the setting is None."""
    if value is None or isinstance(value, str):
        return value if value is None else [value]
    return [str(item) for item in validation.list_of_values(key, value)]


def _choose_names(names: Sequence[str], figures: Sequence[str] | None) -> list[str]:
    """The ``names`` of results for the Markdown table and the plot: those that contain one of ``figures``."""
    if figures is None:
        totals = [name for name in names if not _SINGLE_CLASS_PATTERN.search(name)]
        chosen = [name for name in totals if any(part in name for part in DEFAULT_FIGURES)]
        return (chosen or list(names))[:MAX_FIGURES]
    for part in figures:
        if not any(part in name for name in names):
            raise UserError(f"figures has {part!r}, but no result has such a name: choose from {'; '.join(names[:40])}")
    return [name for name in names if any(part in name for part in figures)]


def _markdown_page(results: SweepResults, table: pd.DataFrame, shown_names: Sequence[str], setting: str) -> str:
    """Markdown table: rows are the values of ``setting``, columns are results; then warnings about the results."""
    rows = [[value, *(_format_cell(by_name.get(name)) for name in shown_names)] for value, by_name in results.items()]
    floors = table.groupby("Figure")["Floor"].mean()
    if floors.notna().any():  # the last row has the results of real recordings
        rows.append(["real", *("" if np.isnan(floors[name]) else f"{floors[name]:.3g}" for name in shown_names)])
    lines = [[setting, *shown_names], ["---"] * (len(shown_names) + 1), *rows]
    text = "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines) + "\n"
    for warning, part in table[table["Warning"] != ""].groupby("Warning", sort=False):
        is_everywhere = (part["Figure"].value_counts() == len(results)).all()
        where = "" if is_everywhere else f" (at {', '.join(part['Point'].unique())})"
        text += f"\n- {', '.join(part['Figure'].unique())}{where}: {warning}\n"
    return text


def _format_cell(result: SweepResult | None) -> str:
    if result is None:
        return ""
    interval = "" if result.low is None or result.high is None else f" ({result.low:.3g} to {result.high:.3g})"
    return f"{result.value:.3g}{interval}"


def _plot_results(results: SweepResults, table: pd.DataFrame, shown_names: Sequence[str], setting: str) -> np.ndarray:
    """Plot each result and its interval against ``setting``, with a line for real recordings: RGB pixels, (H, W, 3)."""
    panels = []
    for name in shown_names[:MAX_FIGURES]:
        part = table[table["Figure"] == name]
        x, ticks = x_positions(results, part["Point"])
        y, low, high = part["Value"], part["Low"].fillna(part["Value"]), part["High"].fillna(part["Value"])
        curve = Series(x, y.to_numpy(), low.to_numpy(), high.to_numpy())
        series = {"value and 95 % interval" if (high > low).any() else "value": curve}
        floor = part["Floor"].mean()
        if not np.isnan(floor):
            series["real recordings, mean over all values"] = Series(x[[0, -1]], np.full(2, floor))
        bottom, top = np.nanmin([low.min(), floor]), np.nanmax([high.max(), floor])
        margin = 0.08 * (top - bottom) or 0.5
        y_range = (float(bottom - margin), float(top + margin))
        panels.append(LinePlot(name, series, setting, name, axis_range(x), y_range, ticks))
    return plot_lines(*panels)
