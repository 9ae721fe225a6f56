"""Formats of numbers, intervals and axes on the page."""

import math

from echodream.metrics.bootstrap import Interval


def format_number(value: float) -> str:
    """Short form of ``value``, with a narrow space between thousands and U+2212 as minus: ``12.3``, ``1 234``."""
    size = abs(value)
    if size >= 100 or (size >= 10 and value == round(value)):
        text = f"{value:,.0f}".replace(",", "\u202f")
    elif size >= 10:
        text = f"{value:.1f}"
    elif size >= 0.0095 or value == 0:
        text = f"{value:.2f}"
    else:
        text = f"{value:.2g}" if size >= 1e-4 else f"{value:.0e}"
    text = "0.00" if text == "-0.00" else text
    return text.replace("-", "\u2212")


def format_ratio(ratio: float) -> str:
    """``ratio`` with one decimal below 10: ``2.7``, ``31``."""
    return f"{ratio:.1f}" if ratio < 10 else f"{ratio:,.0f}".replace(",", "\u202f")


def format_value(interval: Interval) -> str:
    """The value of ``interval``, rounded according to the width of the interval."""
    decimals = _decimal_places(interval)
    return format_number(interval.value) if decimals is None else _format_decimals(interval.value, decimals)


def format_ends(interval: Interval) -> str:
    """The ends of ``interval``, such as ``0.84 to 0.98``; empty if the width is 0."""
    if (decimals := _decimal_places(interval)) is None:
        return ""
    return " to ".join(_format_decimals(end, decimals) for end in (interval.low, interval.high))


def format_interval(interval: Interval) -> str:
    """The value of ``interval`` with its ends in parentheses, if its width is not 0."""
    return f"{format_value(interval)} ({ends})" if (ends := format_ends(interval)) else format_value(interval)


def _decimal_places(interval: Interval) -> int | None:
    """Number of decimals that shows one or two digits of the width of ``interval``; None if the width is 0."""
    width, size = interval.high - interval.low, max(abs(interval.low), abs(interval.high))
    if width <= 0:
        return None
    min_decimals = 0 if size >= 100 else 1 if size >= 10 else 2
    return min(max(math.ceil(0.7 - math.log10(width)), min_decimals), 3 if size >= 0.02 else 5)


def _format_decimals(value: float, decimals: int) -> str:
    text = f"{round(value, decimals) + 0.0:,.{decimals}f}"  # + 0.0 removes the sign of -0.0
    return text.replace(",", "\u202f").replace("-", "\u2212")


def format_percent(share: float) -> str:
    """``share`` in percent, with a no-break space: ``9.6 %``, ``100 %``."""
    value = 100 * share
    text = f"{value:.0f}" if value >= 9.95 or abs(value - round(value)) < 0.005 else f"{value:.2g}"
    return f"{text}\u00a0%".replace("-", "\u2212")


def format_count(number: int, noun: str) -> str:
    """``number`` with the singular or plural of ``noun``: ``1 video``, ``52 videos``."""
    return f"{number:,}".replace(",", "\u202f") + f" {noun if number == 1 else noun + 's'}"


def capitalized(text: str) -> str:
    """``text`` with an upper-case first letter; the other letters do not change."""
    return text[:1].upper() + text[1:]


def axis_end(value: float) -> float:
    """The smallest round number that is not below ``value``, as the end of an axis; 1 if ``value`` is not positive."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if step * power >= value * 0.999)


def axis_ticks(scale: tuple[float, float]) -> list[float]:
    """Three to six positions on an axis from ``scale[0]`` to ``scale[1]``, round numbers if possible."""
    low, high = scale
    span = high - low
    for steps in (4, 5, 3, 2):
        step = span / steps
        power = 10.0 ** math.floor(math.log10(step))
        ticks = [low + step * number for number in range(steps + 1)]
        is_round = any(abs(step / power - digit) < 1e-6 for digit in (1, 2, 2.5, 5, 10))
        if is_round and (low >= 0 or any(abs(tick) < 1e-9 * span for tick in ticks)):
            return [0.0 if abs(tick) < 1e-9 * span else tick for tick in ticks]
    middle = 0.0 if low < 0 < high else (low + high) / 2
    margin = 0.15 * span
    return [*[low] * (middle - low > margin), middle, *[high] * (high - middle > margin)]
