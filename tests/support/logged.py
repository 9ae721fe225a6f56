"""What a LightningModule logs, without a trainer."""

from types import SimpleNamespace
from typing import Any


def capture_logs(module: Any) -> dict[str, float]:
    """The dict into which ``module`` logs from now on."""
    logged: dict[str, float] = {}
    module.log = lambda name, value, **_: logged.update({name: float(value)})
    module._trainer = SimpleNamespace(world_size=1)
    return logged
