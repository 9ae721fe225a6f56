"""Settings of distilled models, which sample in few steps."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from echodream import validation
from echodream.errors import UserError

STEPS_KEY = "few_steps"
"""Key of the index of the number of steps in ``FewStepConfig.steps``, an input of distilled models: int64, (B,)."""
SCALES_KEY = "guidance_scales"
"""Key of the guidance scales of G conditions, an input of distilled models: float32, (B, G)."""


@dataclass(frozen=True)
class FewStepConfig:
    """Sampling settings of a distilled model."""

    steps: tuple[int, ...]
    """Numbers of sampling steps that the model was trained for, increasing."""
    spacing: str
    """Spacing of the timesteps."""
    guidance: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Lowest and highest guidance scale in training, by condition; the scale is an input of the network."""

    def __post_init__(self) -> None:
        for steps in self.steps:
            validation.whole_number("distill.steps", steps, 1)
        if not self.steps or list(self.steps) != sorted(set(self.steps)):
            raise UserError(f"distill.steps={list(self.steps)}: give increasing whole numbers, such as [1,2,4]")
        for name, limits in self.guidance.items():
            if len(limits) != 2 or not all(map(validation.is_finite, limits)) or not 0 < limits[0] <= limits[1]:
                raise UserError(
                    f"distill.guidance.{name}={list(limits)}: give the lowest and the highest scale, such as [1,3]"
                )

    def settings(self) -> dict[str, Any]:
        """Arguments of the constructor, as JSON values."""
        settings = asdict(self)
        return {**settings, "guidance": {name: list(limits) for name, limits in self.guidance.items()}}

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> "FewStepConfig":
        """Build the object from ``settings``, the result of ``FewStepConfig.settings``."""
        guidance = {name: (float(low), float(high)) for name, (low, high) in settings["guidance"].items()}
        return cls(tuple(settings["steps"]), settings["spacing"], guidance)

    @property
    def has_network_inputs(self) -> bool:
        """Whether the number of steps, or guidance scales, are inputs of the network."""
        return len(self.steps) > 1 or bool(self.guidance)

    def check_steps(self, steps: int) -> None:
        """Raise ``UserError`` for a number of steps that the model was not trained for."""
        if steps not in self.steps:
            made = " or ".join(map(str, self.steps))
            raise UserError(f"steps={steps}: this model was distilled for steps={made}, so give one of these numbers")

    def encode(self, scales: Mapping[str, float], steps: int | None, device: Any) -> dict[str, Tensor]:
        """Encode guidance ``scales`` and number of ``steps`` (None: the largest) as network inputs, (1, ...) each."""
        row = torch.tensor([[scales.get(name, 1.0) for name in self.guidance]]).to(device, non_blocking=True)
        position = self.steps.index(steps) if steps is not None else len(self.steps) - 1
        return {STEPS_KEY: torch.full((1,), position, device=device), SCALES_KEY: row}
