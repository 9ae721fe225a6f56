"""Diagrams: what is drawn lies where it belongs."""

import numpy as np

from echodream.metrics.intervals import Interval
from echodream.plotting import COLOURS, EDGE, HEIGHT, LEFT, TOP, WIDTH, Line, histograms, intervals_of, lines_of


def where(picture: np.ndarray, colour: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of all pixels of a colour."""
    return np.nonzero((picture == colour).all(axis=2))


def test_a_line_goes_from_corner_to_corner_and_is_cut_at_the_ends() -> None:
    line = Line(np.array([-1.0, 0.0, 1.0, 2.0]), np.array([-1.0, 0.0, 1.0, 2.0]))
    picture = lines_of("", {"": line}, (0.0, 1.0), (0.0, 1.0))
    assert picture.shape == (HEIGHT, WIDTH, 3)
    down, across = where(picture, COLOURS[0])
    assert abs(across.min() - LEFT) <= 2
    assert abs(across.max() - (WIDTH - EDGE)) <= 2
    assert abs(down[across.argmin()] - (HEIGHT - TOP)) <= 2
    assert abs(down[across.argmax()] - TOP) <= 2


def test_a_band_is_pale_and_lies_between_its_ends() -> None:
    x, ones = np.array([0.0, 1.0]), np.ones(2)
    picture = lines_of("", {"": Line(x, 0.5 * ones, 0.25 * ones, 0.75 * ones)}, (0.0, 1.0), (0.0, 1.0))
    column = picture[:, LEFT + 100].astype(int)
    pale = np.nonzero((column[:, 0] < 215) & (column[:, 2] > 220))[0]
    high = HEIGHT - 2 * TOP
    assert abs(pale.min() - (TOP + high / 4)) <= 2
    assert abs(pale.max() - (TOP + 3 * high / 4)) <= 2


def test_an_interval_is_as_long_as_it_says() -> None:
    rows = [("a", Interval(0.5, 0.25, 1.0), None), ("b", Interval(0.1, 0.1, 0.1), Interval(2.0, 0.5, 3.0))]
    picture = intervals_of("", rows)
    left, right = 230, WIDTH - EDGE
    down, across = where(picture, COLOURS[0])
    first = across[down < TOP + 34]
    assert abs(first.min() - (left + (right - left) / 4)) <= 2
    assert abs(first.max() - right) <= 5
    down, across = where(picture, COLOURS[1])
    assert down.min() > TOP + 34  # the first row expects nothing
    assert abs(across.min() - (left + right) / 2) <= 2
    assert abs(across.max() - right) <= 5


def test_the_highest_bar_reaches_the_top_and_each_series_has_its_own_height() -> None:
    values = {"many": np.repeat([0.0, 0.55], [10, 30]), "few": np.repeat([0.2, 1.0], [1, 2])}
    picture = histograms("", values, bins=10)
    for number, (start, highest) in enumerate(((0.5, 0.6), (0.9, 1.0))):
        down, across = where(picture, COLOURS[number])
        kept = (down > TOP + 60) | (across > LEFT + 200)  # not the names
        top = down[kept].min()
        assert abs(top - (HEIGHT - TOP - (HEIGHT - 2 * TOP) / 1.05)) <= 2
        place = (across[kept][down[kept] <= top + 1] - LEFT) / (WIDTH - EDGE - LEFT)
        assert start - 0.02 <= place.min()
        assert place.max() <= highest + 0.02


def test_series_of_one_value_can_be_drawn() -> None:
    assert histograms("", {"": np.full(3, 0.7)}).shape == (HEIGHT, WIDTH, 3)
