"""Formats of numbers, positions in charts, glossary, redaction, and encoded videos."""

import io
import re

import numpy as np
import pytest

from echodream.metrics.bootstrap import Interval
from echodream.report.glossary import is_distance, metric_meaning
from echodream.report.media import encode_within_size
from echodream.report.number_format import (
    axis_end,
    axis_ticks,
    format_ends,
    format_number,
    format_percent,
    format_ratio,
    format_value,
)
from echodream.report.svg_primitives import ScoreGroup, axis_tick_labels, histogram_charts, interval_chart
from echodream.report.tables import Row, parse_interval
from echodream.runs.redaction import redact_absolute_paths
from echodream.store.browser_video import encode_mp4


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.914, "0.91"),
        (0.0, "0.00"),
        (12.34, "12.3"),
        (40, "40"),
        (1234.4, "1\u202f234"),
        (0.00123, "0.0012"),
        (-0.5, "−0.50"),
    ],
)
def test_numbers(value: float, text: str) -> None:
    assert format_number(value) == text


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (Interval(0.912, 0.84, 0.979), "0.91|0.84 to 0.98"),
        (Interval(0.0543, 0.0483, 0.0607), "0.054|0.048 to 0.061"),
        (Interval(73.68, 71.06, 76.59), "73.7|71.1 to 76.6"),
        (Interval(-0.0001, -0.3, 0.2), "0.00|−0.30 to 0.20"),
        (Interval(2.5, 2.5, 2.5), "2.50|"),
    ],
)
def test_decimals_follow_the_width_of_the_interval(found: Interval, text: str) -> None:
    assert f"{format_value(found)}|{format_ends(found)}" == text


def test_percent_ratio_and_intervals_of_records() -> None:
    assert format_percent(0.05) == "5\u00a0%"
    assert format_percent(0.0247) == "2.5\u00a0%"
    assert format_percent(0.904) == "90\u00a0%"
    assert format_ratio(2.697) == "2.7"
    assert format_ratio(31.4) == "31"
    assert parse_interval({"value": 0.5, "low": None, "high": 0.7}) == Interval(0.5, 0.5, 0.7)
    assert parse_interval({"value": None}) is None
    assert parse_interval(float("nan")) is None
    with pytest.raises(ValueError, match="is not a number"):
        parse_interval({"value": True})


@pytest.mark.parametrize(
    ("scale", "found"),
    [
        ((0, 1), [0, 0.25, 0.5, 0.75, 1]),
        ((-4, 4), [-4, -2, 0, 2, 4]),
        ((0, 3), [0, 1, 2, 3]),
        ((-0.5, 0.8), [-0.5, 0, 0.8]),
    ],
)
def test_ticks_are_round_and_include_0(scale: tuple[float, float], found: list[float]) -> None:
    assert axis_ticks(scale) == pytest.approx(found)
    assert axis_end(5.767) == 6
    assert axis_end(1) == 1


def places(svg: str, element: str, attribute: str) -> list[float]:
    return [float(x) for x in re.findall(rf'<{element}[^>]* {attribute}="(-?[\d.]+)%"', svg)]


def test_interval_chart_positions() -> None:
    svg = interval_chart(Row("auc", Interval(0.5, 0.25, 0.875), Interval(1.0, 0.5, 3.0), scale=(0.0, 2.0)))
    assert places(svg, "circle", "cx") == [25]
    assert places(svg, 'line class="whisker"', "x1") == [12.5]
    assert places(svg, 'line class="whisker"', "x2") == [43.75]
    assert places(svg, "rect", "x") == [25]
    assert places(svg, "rect", "width") == [75]  # the bar is cut at the end of the axis
    assert 'aria-hidden="true"' in svg
    assert ">200 %<" in axis_tick_labels((0.0, 2.0), "%")


def test_histogram_chart_positions() -> None:
    ((_, svg),) = histogram_charts([ScoreGroup("new", np.array([0.1, 0.1, 0.9]), "real")], 0.75, (0.0, 1.0))
    assert places(svg, 'line class="threshold"', "x1") == [75]
    heights = [float(y) for y in re.findall(r"L[\d.]+ ([\d.]+)", svg)]
    assert min(heights) == 4  # y of the top of the highest bar
    assert heights.count(21) == 2  # a bar of half the height: both upper corners


@pytest.mark.parametrize(
    ("name", "in_floors", "says"),
    [
        ("frechet[classifier]", True, "smaller is closer"),
        ("FVD16", True, "smaller is closer"),
        ("kernel[i3d]", False, "0 for equal distributions"),
        ("precision[dinov2]", False, "plausible"),
        ("coverage", False, "nearby"),
        ("average_precision", False, "all thresholds"),
        ("specificity", False, "classified correctly"),
        ("something new", False, ""),
    ],
)
def test_metrics_have_a_sentence(name: str, in_floors: bool, says: str) -> None:
    assert is_distance(name) == in_floors
    assert says in metric_meaning(name)
    assert bool(metric_meaning(name)) == bool(says)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("python sample.py src=/ward/DOE dst=samples/a", "python sample.py src=... dst=samples/a"),
        ("src=~/doe x=../doe/y", "src=... x=..."),
        ("src: C:\\ward\\doe", "src: ..."),
        ("a.b=[/x/y,z/w]", "a.b=[...,z/w]"),
        ("lr: 1e-4", "lr: 1e-4"),
    ],
)
def test_absolute_paths_are_redacted(text: str, left: str) -> None:
    assert redact_absolute_paths(text) == left


@pytest.mark.parametrize("colors", [1, 3])
def test_encoded_videos_keep_brightness_and_color(colors: int) -> None:
    """Uniform patches keep their brightness and color after encoding and decoding."""
    import av

    values = np.random.default_rng(1).integers(20, 236, (2, 3, colors)).astype(np.uint8)
    frame = values.repeat(32, axis=0).repeat(32, axis=1)
    found = av.open(io.BytesIO(encode_mp4(frame[None].repeat(3, axis=0), 25.0, 18))).decode(video=0)
    shown = np.stack([picture.to_ndarray(format="rgb24") for picture in found])[:, 16::32, 16::32]
    assert np.abs(shown.astype(int) - values.astype(int)).max() <= 6


def test_videos_are_compressed_until_they_fit() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (12, 49, 65, 1)).astype(np.uint8)  # odd height and width
    (best,) = encode_within_size([(frames, 25.0)], 10**6, "lower look.pairs")
    (small,) = encode_within_size([(frames, 25.0)], len(best) - 1, "lower look.pairs")
    assert len(small) < len(best)
    assert encode_within_size([(frames, 25.0)], 10**6, "lower look.pairs") == [best]
