"""Plots as uint8 images, (height, width, 3), by matplotlib without pyplot; equal data give equal bytes."""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np

from echodream.metrics.bootstrap import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
"""Palette of Okabe and Ito for color-blind readers; one color for each series."""
DPI = 100
_PLOT_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E1E1E1",
    "axes.edgecolor": "#787878",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}
_Arguments = ParamSpec("_Arguments")


@dataclass(frozen=True)
class Series:
    """A line through n points ``x``, ``y``, (n,) each; ``labels`` are n texts next to the points.

    Intervals of y from ``low`` to ``high`` are plotted as a band, or as error bars if ``x_low`` and ``x_high`` are set.
    """

    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    x_low: np.ndarray | None = None
    x_high: np.ndarray | None = None
    labels: Sequence[str] = ()


@dataclass(frozen=True)
class LinePlot:
    """A panel of ``plot_lines``: its ``series`` by name, axis labels and ranges, and tick texts at x = 0, 1, ..."""

    title: str
    series: Mapping[str, Series]
    x_label: str
    y_label: str
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    ticks: Sequence[str] = ()


def _render_to_pixels(plot: Callable[_Arguments, "Figure"]) -> Callable[_Arguments, np.ndarray]:
    """Decorator that renders the figure of ``plot`` to pixels; ``__wrapped__`` is the undecorated ``plot``."""

    @functools.wraps(plot)
    def render(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> np.ndarray:
        from matplotlib import style
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        with style.context(["default", _PLOT_STYLE]):
            canvas = FigureCanvasAgg(plot(*args, **kwargs))
            canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()

    return render


def _new_figure(width: int, height: int, rows: int = 1, columns: int = 1) -> "tuple[Figure, list[Axes]]":
    """Figure of ``width`` x ``height`` pixels, and its axes in row-major order."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


@_render_to_pixels
def plot_lines(*plots: LinePlot, columns: int = 1) -> "Figure":
    """Line plots in panels of 640 x 400 pixels, ``columns`` panels in a row."""
    rows = -(-len(plots) // columns)
    figure, axes = _new_figure(640 * columns, 400 * rows, rows, columns)
    for ax, plot in zip(axes, plots, strict=False):
        for number, (name, series) in enumerate(plot.series.items()):
            _draw_series(ax, series, name, COLORS[number % len(COLORS)], label_offset=(5, 5 if number % 2 else -13))
        ax.set(title=plot.title, xlabel=plot.x_label, ylabel=plot.y_label, xlim=plot.x_range, ylim=plot.y_range)
        if plot.ticks:
            ax.set_xticks(range(len(plot.ticks)), plot.ticks)
        ax.legend(loc="best")
    return figure


def _draw_series(ax: "Axes", series: Series, name: str, color: str, label_offset: tuple[int, int]) -> None:
    ax.plot(series.x, series.y, color=color, label=name, marker="o" if len(series.x) < 20 else "", markersize=4)
    if series.low is None or series.high is None:
        return
    if series.x_low is None or series.x_high is None:
        ax.fill_between(series.x, series.low, series.high, color=color, alpha=0.2, linewidth=0)
    else:
        ax.hlines(series.y, series.x_low, series.x_high, color=color, alpha=0.35)
        ax.vlines(series.x, series.low, series.high, color=color, alpha=0.35)
    for text, x, y in zip(series.labels, series.x, series.y, strict=False):
        ax.annotate(text, (x, y), label_offset, textcoords="offset points", color=color)


@_render_to_pixels
def plot_histograms(title: str, series: Mapping[str, np.ndarray], x_label: str, bins: int = 24) -> "Figure":
    """Histograms of ``series``, (n,) each, with ``bins`` common bins; the highest bin of each series has height 1."""
    figure, (ax,) = _new_figure(640, 400)
    _draw_histograms(ax, series, bins)
    ax.set(title=title, xlabel=x_label)
    return figure


def _draw_histograms(ax: "Axes", series: Mapping[str, np.ndarray], bins: int) -> None:
    low, high = (float(extreme(np.concatenate([*series.values()]))) for extreme in (np.min, np.max))
    edges = np.linspace(low, high if high > low else low + 1, bins + 1)
    for color, (name, values) in zip(itertools.cycle(COLORS), series.items(), strict=False):
        counts = np.histogram(values, edges)[0]
        ax.stairs(counts / max(counts.max(), 1), edges, color=color, linewidth=1.5, label=f"{name} (n = {len(values)})")
    ax.set(ylabel="count / highest count", xlim=(edges[0], edges[-1]), ylim=(0, 1.25))
    ax.legend(loc="best")


@_render_to_pixels
def plot_intervals(
    title: str, rows: Sequence[tuple[str, Interval, Interval | None]], x_label: str, names: tuple[str, str]
) -> "Figure":
    """Plot with a row for each (name, interval, expected interval or None); ``names`` are the two legend entries.

    The x axis ranges from 0 to 1; values are clipped to this range.
    """
    figure, (ax,) = _new_figure(760, 110 + 34 * len(rows))
    for color, name, column, offset in ((COLORS[0], names[0], 1, -0.15), (COLORS[1], names[1], 2, 0.15)):
        intervals = [(index + offset, row[column]) for index, row in enumerate(rows)]
        points = [(y, interval.value, interval.low, interval.high) for y, interval in intervals if interval is not None]  # type: ignore[union-attr]
        y, value, low, high = np.array(points, dtype=float).reshape(-1, 4).T
        ax.hlines(y, low.clip(0, 1), high.clip(0, 1), color=color, linewidth=2.5)
        ax.plot(value.clip(0, 1), y, "o", color=color, label=name, clip_on=False)
    ax.set(title=title, xlabel=x_label, xlim=(0, 1), ylim=(len(rows) - 0.5, -0.5))
    ax.set_yticks(range(len(rows)), [row[0] for row in rows])
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


@_render_to_pixels
def plot_confusion_matrix(counts: np.ndarray, names: Sequence[str]) -> "Figure":
    """Confusion matrix, (K, K): counts of true class (row) and predicted class (column), shaded by share of the row."""
    side = 84 * len(names)
    figure, (ax,) = _new_figure(side + 210, side + 150)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for i, j in np.ndindex(shares.shape):
        color = "white" if shares[i, j] > 0.5 else "black"
        ax.text(j, i, f"{counts[i, j]}\n{shares[i, j]:.0%}", ha="center", va="center", color=color)
    ax.grid(False)
    ax.set(title="Confusion matrix", xlabel="predicted class (count, share of the true class)", ylabel="true class")
    ax.set_xticks(range(len(names)), [name[:18] for name in names], rotation=30, ha="right")
    ax.set_yticks(range(len(names)), [name[:18] for name in names])
    return figure


@_render_to_pixels
def plot_roc(curves: Mapping[str, tuple[np.ndarray, np.ndarray]], title: str = "ROC curve") -> "Figure":
    """ROC curves by name, each with false and true positive rates, (n,)."""
    figure, (ax,) = _new_figure(480, 480)
    for color, (name, rates) in zip(itertools.cycle(COLORS), curves.items(), strict=False):
        ax.plot(*rates, color=color, label=name)
    ax.plot([0, 1], [0, 1], color="#787878", linestyle="--", linewidth=1, label="chance")
    labels = {"xlabel": "false positive rate (1 - specificity)", "ylabel": "true positive rate (sensitivity)"}
    ax.set(title=title, xlim=(0, 1), ylim=(0, 1.01), aspect="equal", **labels)
    ax.legend(loc="lower right")
    return figure


@_render_to_pixels
def plot_predictions(column: str, truth: np.ndarray, predicted: np.ndarray) -> "Figure":
    """Scatter plot of the true and predicted values of ``column``, (N,) each, one point per recording."""
    figure, (ax,) = _new_figure(480, 480)
    values = np.concatenate([truth, predicted])
    margin = 0.04 * (values.max() - values.min()) or 0.5
    limits = (float(values.min() - margin), float(values.max() + margin))
    ax.plot(limits, limits, color="#787878", linestyle="--", linewidth=1, label="predicted = true")
    ax.plot(truth, predicted, "o", color=COLORS[0], markersize=4, label=f"recordings (n = {len(truth)})")
    labels = {"xlabel": f"true {column}", "ylabel": f"predicted {column}"}
    ax.set(title=f"{column}: predicted and true", xlim=limits, ylim=limits, aspect="equal", **labels)
    ax.legend(loc="upper left")
    return figure


@_render_to_pixels
def plot_verification(
    false_accept_rate: np.ndarray, true_accept_rate: np.ndarray, similarity: Mapping[str, np.ndarray]
) -> "Figure":
    """ROC curve of patient verification, rates (n,), and histograms of ``similarity`` for each type of pair."""
    figure, (roc, histogram) = _new_figure(960, 420, columns=2)
    roc.plot(np.maximum(false_accept_rate, 1e-4), true_accept_rate, color=COLORS[0])
    labels = {"xlabel": "false accept rate (FAR)", "ylabel": "true accept rate (TAR)"}
    roc.set(title="ROC curve of verification", xscale="log", xlim=(1e-4, 1), ylim=(0, 1.01), **labels)
    _draw_histograms(histogram, similarity, 64)
    histogram.set(title="Similarity of pairs of frames", xlabel="similarity")
    return figure


def save_png(path: Any, pixels: np.ndarray) -> None:
    """Write ``pixels``, uint8 (height, width, 3), to ``path`` as PNG without metadata."""
    from PIL import Image

    Image.fromarray(pixels).save(path, format="PNG", optimize=True)
