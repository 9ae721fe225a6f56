"""Where the configuration is: beside the package in a checkout, inside it in a wheel; paths of settings."""

from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).resolve().parent.parent
CONF_DIR = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"


def listed(given: Any) -> list[str]:
    """The paths of a setting that is one of them, several, or None."""
    return [] if given is None else [str(given)] if isinstance(given, str | Path) else [str(one) for one in given]
