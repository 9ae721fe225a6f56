"""Rounding of bounds to the side on which they still hold."""

from decimal import ROUND_CEILING, ROUND_FLOOR, Context


def bound_text(bound: float, digits: int, *, upper: bool) -> str:
    """``bound`` with ``digits`` significant digits: an ``upper`` bound is rounded up, a lower bound down."""
    context = Context(prec=digits, rounding=ROUND_CEILING if upper else ROUND_FLOOR)
    return f"{float(context.create_decimal(repr(float(bound)))):.{digits}g}"
