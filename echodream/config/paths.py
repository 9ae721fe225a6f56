"""Folder conf/ with the yaml files: next to the package in a git checkout, inside the package in a wheel."""

from pathlib import Path

_PACKAGE_DIR = Path(__file__).resolve().parent.parent
CONF_DIR = _PACKAGE_DIR / "conf" if (_PACKAGE_DIR / "conf").is_dir() else _PACKAGE_DIR.parent / "conf"
