"""Every plot shows its data, with title, axis labels and legend; equal data give equal bytes."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from echodream.metrics.bootstrap import Interval
from echodream.plotting import (
    COLORS,
    LinePlot,
    Series,
    plot_confusion_matrix,
    plot_histograms,
    plot_intervals,
    plot_lines,
    plot_predictions,
    plot_roc,
    plot_verification,
)

ROOT = str(Path(__file__).resolve().parent.parent)
X = np.array([0.0, 1.0, 2.0])
ROWS = [("a", Interval(0.5, 0.25, 1.0), None), ("b", Interval(0.1, 0.1, 0.1), Interval(2.0, 0.5, 3.0))]
COUNTS = np.array([[8, 2], [1, 3]])
VALUES = {"many": np.repeat([0.0, 0.55], [10, 30]), "few": np.repeat([0.2, 1.0], [1, 2])}


def line_plot(*series: Series, **more: Any) -> LinePlot:
    return LinePlot("title", {f"s{k}": one for k, one in enumerate(series)}, "x", "y", (0.0, 2.0), (0.0, 1.0), **more)


PLOTS: dict[Callable[..., Any], tuple[Any, ...]] = {
    plot_lines: (line_plot(Series(X, X / 4, X / 8, X / 2)),),
    plot_histograms: ("title", VALUES, "similarity"),
    plot_intervals: ("title", ROWS, "value", ("samples", "expected")),
    plot_confusion_matrix: (COUNTS, ["ASD", "Non-ASD"]),
    plot_roc: ({"ASD  AUC 0.9": (X / 2, X / 2)},),
    plot_predictions: ("EF", 50 + X, 52 + X),
    plot_verification: (X / 2, X / 2, {"same patient": X, "different patients": X - 1}),
}


def axes_of(plot: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Axes of the matplotlib figure, before the figure is converted to pixels."""
    figure: Any = plot.__wrapped__(*arguments)  # type: ignore[attr-defined]
    return list(figure.axes)


def legend_of(axes: Any) -> list[str]:
    legend = axes.get_legend() or axes.figure.legends[0]
    return [text.get_text() for text in legend.get_texts()]


@pytest.mark.parametrize("plot", PLOTS)
@pytest.mark.slow
def test_every_plot_is_labeled_and_has_the_same_bytes_again(plot: Callable[..., Any]) -> None:
    pixels = plot(*PLOTS[plot])
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3
    assert (pixels[:, [0, 1, -2, -1]] == 255).all()  # the border is white, so no text is cut off
    assert np.array_equal(pixels, plot(*PLOTS[plot]))
    for axes in axes_of(plot, *PLOTS[plot]):
        assert axes.get_title()
        assert axes.get_xlabel()
        assert axes.get_ylabel() or plot is plot_intervals  # plot_intervals has row names instead of a label


def test_a_line_has_its_points_band_and_range() -> None:
    band = Series(X, X / 4, X / 8, X / 2)
    (axes,) = axes_of(plot_lines, line_plot(band, Series(X, 1 - X / 4)))
    assert (axes.get_xlim(), axes.get_ylim()) == ((0, 2), (0, 1))
    assert [line.get_xydata().tolist() for line in axes.lines] == [[*map(list, zip(X, y, strict=True))] for y in (X / 4, 1 - X / 4)]  # fmt: skip # noqa: E501
    ends = axes.collections[0].get_paths()[0].vertices
    assert {(1.0, 0.125), (1.0, 0.5)} <= {tuple(point) for point in ends.tolist()}
    assert legend_of(axes) == ["s0", "s1"]
    assert [line.get_color() for line in axes.lines] == list(COLORS[:2])


def test_panels_error_bars_and_named_ticks() -> None:
    points = Series(X, X / 4, X / 8, X / 2, X - 0.1, X + 0.1, ["a", "b", "c"])
    left, right = axes_of(plot_lines, line_plot(points), line_plot(points, ticks=["none", "half", "all"]))
    assert [text.get_text() for text in left.texts] == ["a", "b", "c"]
    horizontal, vertical = (bars.get_segments() for bars in left.collections)
    assert np.allclose(horizontal[1], [[0.9, 0.25], [1.1, 0.25]])
    assert np.allclose(vertical[1], [[1.0, 0.125], [1.0, 0.5]])
    assert [tick.get_text() for tick in right.get_xticklabels()] == ["none", "half", "all"]
    assert plot_lines(line_plot(points), line_plot(points), columns=2).shape == (400, 1280, 3)


def test_an_interval_is_as_long_as_it_says_and_ends_at_the_axis() -> None:
    (axes,) = axes_of(plot_intervals, *PLOTS[plot_intervals])
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["a", "b"]
    measured, expected = ([segment[:, 0].tolist() for segment in bars.get_segments()] for bars in axes.collections)
    assert measured == [[0.25, 1.0], [0.1, 0.1]]
    assert expected == [[0.5, 1.0]]
    assert axes.lines[1].get_xdata().tolist() == [1.0]  # 2.0 of row b is outside the axis: no marker
    assert legend_of(axes) == ["samples", "expected"]


def test_the_highest_bin_of_each_histogram_has_height_1() -> None:
    (axes,) = axes_of(plot_histograms, "title", VALUES, "similarity", 10)
    for patch, (start, top) in zip(axes.patches, ((0.5, 0.6), (0.9, 1.0)), strict=True):
        heights, edges, _ = patch.get_data()
        assert heights.max() == 1
        assert edges[heights.argmax()] == pytest.approx(start)
        assert edges[heights.argmax() + 1] == pytest.approx(top)
    assert legend_of(axes) == ["many (n = 40)", "few (n = 3)"]
    (axes,) = axes_of(plot_histograms, "title", {"one": np.full(3, 0.7)}, "similarity")
    assert axes.get_xlim() == (0.7, 1.7)


def test_a_confusion_matrix_shows_counts_and_shares_of_rows() -> None:
    (axes,) = axes_of(plot_confusion_matrix, *PLOTS[plot_confusion_matrix])
    assert [text.get_text() for text in axes.texts] == ["8\n80%", "2\n20%", "1\n25%", "3\n75%"]
    assert np.allclose(axes.images[0].get_array(), [[0.8, 0.2], [0.25, 0.75]])
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["ASD", "Non-ASD"]


def test_curves_and_predictions_hold_their_points() -> None:
    (axes,) = axes_of(plot_roc, *PLOTS[plot_roc])
    assert legend_of(axes) == ["ASD  AUC 0.9", "chance"]
    assert axes.lines[0].get_xydata().tolist() == [[0, 0], [0.5, 0.5], [1, 1]]
    (axes,) = axes_of(plot_predictions, *PLOTS[plot_predictions])
    assert axes.lines[1].get_xydata().tolist() == [[50, 52], [51, 53], [52, 54]]
    assert axes.get_xlim() == axes.get_ylim()
    assert axes.get_xlabel() == "true EF"


def test_verification_has_a_logarithmic_axis_from_1e_4() -> None:
    roc, histogram = axes_of(plot_verification, *PLOTS[plot_verification])
    assert (roc.get_xscale(), roc.get_xlim()) == ("log", (1e-4, 1))
    assert roc.lines[0].get_xdata().tolist() == [1e-4, 0.5, 1]
    assert legend_of(histogram) == ["same patient (n = 3)", "different patients (n = 3)"]


@pytest.mark.slow
def test_neither_pyplot_nor_the_settings_of_the_user_have_a_part(tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_text("figure.facecolor: red\nfont.size: 30\nbackend: tkagg\n")
    script = """import hashlib, sys, numpy as np
from echodream.plotting import plot_predictions
assert "matplotlib" not in sys.modules
print(hashlib.sha256(plot_predictions("EF", np.arange(3.0), np.arange(3.0))).hexdigest())
assert "matplotlib.pyplot" not in sys.modules"""
    digests = set()
    for folder in (tmp_path, tmp_path / "empty"):
        folder.mkdir(exist_ok=True)
        command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {ROOT!r})\n{script}"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
        digests.add(done.stdout)
    assert len(digests) == 1
