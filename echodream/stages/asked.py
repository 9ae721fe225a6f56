"""Numbers that a stage is asked with, checked without importing anything."""

from echodream.errors import UserError


def whole(name: str, value: object, low: int = 1) -> int:
    """``value`` when it is a whole number from ``low``. Raises ``UserError``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise UserError(f"{name} is {value!r}; give a whole number from {low}")
    return value
