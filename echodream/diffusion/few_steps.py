"""Settings of distilled models, which sample in few steps."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from echodream import validation
from echodream.errors import UserError

STEPS = "few_steps"
"""Key, in the condition values of a distilled model, of the position of its number of steps: int64, (B,)."""
SCALES = "guidance_scales"
"""Key, in the condition values of a distilled model, of the guidance scales: float32, (B, G)."""


@dataclass(frozen=True)
class FewSteps:
    """Sampling settings of a distilled model."""

    steps: tuple[int, ...]
    """Numbers of sampling steps that the model was trained for, increasing."""
    spacing: str
    """Spacing of the timesteps."""
    guidance: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Lowest and highest guidance scale in training, by condition; the model takes these scales as an input."""

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
    def from_settings(cls, settings: Mapping[str, Any]) -> "FewSteps":
        """Build the object from ``settings``, the result of ``FewSteps.settings``."""
        guidance = {name: (float(low), float(high)) for name, (low, high) in settings["guidance"].items()}
        return cls(tuple(settings["steps"]), settings["spacing"], guidance)

    @property
    def needs_input(self) -> bool:
        """Whether the number of steps, or guidance scales, are inputs of the network."""
        return len(self.steps) > 1 or bool(self.guidance)

    def check_steps(self, steps: int) -> None:
        """Raise ``UserError`` for a number of steps that the model was not trained for."""
        if steps not in self.steps:
            made = " or ".join(map(str, self.steps))
            raise UserError(f"steps={steps}: this model was distilled for steps={made}, so give one of these numbers")

    def inputs(self, scales: Mapping[str, float], steps: int | None, device: Any) -> dict[str, Tensor]:
        """Inputs of the network, (1, ...) each, for guidance ``scales`` and ``steps`` steps; None: the most steps."""
        row = torch.tensor([[scales.get(name, 1.0) for name in self.guidance]]).to(device, non_blocking=True)
        position = self.steps.index(steps) if steps is not None else len(self.steps) - 1
        return {STEPS: torch.full((1,), position, device=device), SCALES: row}
