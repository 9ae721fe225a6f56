"""Collect the values that a LightningModule logs, without a trainer."""

from types import SimpleNamespace
from typing import Any


def capture_logs(module: Any) -> dict[str, float]:
    """Replace ``module.log``; returns the dict that collects the logged values."""
    logged: dict[str, float] = {}
    module.log = lambda name, value, **_: logged.update({name: float(value)})
    module._trainer = SimpleNamespace(world_size=1)
    return logged
