"""Classifier-free guidance with a scale for each condition, in an interval of diffusion time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from echodream import validation
from echodream.diffusion.few_steps import FewStepConfig
from echodream.diffusion.processes.base import Denoise, Process, expand_like
from echodream.errors import UserError

Predict = Callable[[Tensor, Tensor, Sequence[frozenset[str]]], Tensor]
"""Function from x_t (B, C, *rest), t (B,) and S sets of kept conditions to S predictions, (S, B, C, *rest)."""


@dataclass(frozen=True)
class Guidance:
    """Guidance settings. If all scales are 1, the guided prediction is the conditional prediction."""

    scales: Mapping[str, float] = field(default_factory=dict)
    """Guidance scale of each condition, by name; 0 removes the contribution of the condition. Default: 1."""
    interval: tuple[float, float] = (0.0, 1.0)
    """First and last relative time (0 data, 1 noise) at which guidance is applied (arXiv 2404.07724)."""
    rescale: float = 0.0
    """Strength, 0 to 1, of rescaling to the standard deviation of the conditional prediction (arXiv 2305.08891)."""
    autoguidance: float = 1.0
    """Scale of autoguidance by a weaker model (arXiv 2406.02507); 1 disables autoguidance."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "scales", dict(self.scales))
        object.__setattr__(self, "interval", tuple(self.interval))
        for name, scale in {**self.scales, "auto.scale": self.autoguidance}.items():
            validation.number(f"guidance.{name}", scale, note=", 1 for no guidance")
        times = self.interval
        if len(times) != 2 or not all(map(validation.is_finite, times)) or not 0 <= times[0] <= times[1] <= 1:
            validation.refuse("guidance.interval", times, "give two increasing numbers from 0 to 1")
        validation.fraction("guidance.rescale", self.rescale)

    @classmethod
    def from_record(cls, record: object, conditions: Sequence[str]) -> "Guidance":
        """Guidance from the sampling settings of a store, for a model with ``conditions``, without autoguidance."""
        if not isinstance(record, Mapping):
            return cls()
        scales = {name: scale for name, scale in record["scales"].items() if name in conditions}
        return cls(scales, tuple(record["interval"]), record["rescale"])

    def coefficients(self, names: Sequence[str], in_interval: bool = True) -> dict[frozenset[str], float]:
        """Coefficients of the guided prediction or, unless ``in_interval``, of the conditional prediction."""
        if unknown := [name for name in self.scales if name not in names]:
            known = ", ".join(names) or "none"
            raise UserError(f"guidance.{unknown[0]} is not a condition of this model; its conditions are {known}")
        if not in_interval:
            return {frozenset(names): 1.0}
        return subset_coefficients({name: float(scale) for name, scale in self.scales.items()}, names)

    def check_distilled(self, few_steps: FewStepConfig) -> None:
        """Raise ``UserError`` for guidance other than scales within the limits of the distilled model."""
        for key, value, neutral in (
            ("interval", tuple(self.interval), (0.0, 1.0)),
            ("rescale", self.rescale, 0.0),
            ("auto.scale", self.autoguidance, 1.0),
        ):
            if value != neutral:
                raise UserError(f"guidance.{key} cannot be combined with a distilled model: leave it out")
        for name, scale in self.scales.items():
            low, high = few_steps.guidance.get(name, (1.0, 1.0))
            if not low <= scale <= high:
                trained = f"scales of {low:g} to {high:g}" if name in few_steps.guidance else "the scale 1 only"
                raise UserError(f"guidance.{name}={scale:g}: this model was distilled for {trained}")

    def guided_denoiser(
        self, predict: Predict, names: Sequence[str], process: Process, weak: Predict | None = None
    ) -> Denoise:
        """Denoiser that returns the guided prediction, or, outside of the interval, the conditional prediction."""
        guided_terms, conditional = self.coefficients(names), self.coefficients(names, in_interval=False)
        if self.autoguidance != 1 and weak is None:
            raise UserError(f"guidance.auto.scale={self.autoguidance} needs guidance.auto.artifact=, a weaker model")

        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            inside, full = self._is_in_interval(process.relative_time(t)), frozenset(names)
            terms = guided_terms if inside else conditional
            if not inside or (terms == conditional and self.autoguidance == 1):
                return predict(x_t, t, [full])[0]
            needs_full = self.autoguidance != 1 or self.rescale
            sets = list(terms) + [full] * bool(needs_full and full not in terms)
            predictions = dict(zip(sets, predict(x_t, t, sets), strict=True))
            guided = weighted_sum(terms, predictions, x_t)
            if self.autoguidance != 1 and weak is not None:
                guided = guided + (self.autoguidance - 1) * (predictions[full] - weak(x_t, t, [full])[0])
            if not self.rescale:
                return guided
            dims = tuple(range(1, x_t.dim()))
            std, conditional_std = (x.std(dims, keepdim=True) for x in (guided, predictions[full]))
            factor = conditional_std / std.clamp(min=torch.finfo(std.dtype).tiny)  # arXiv 2305.08891, (15) and (16)
            return self.rescale * factor * guided + (1 - self.rescale) * guided

        return denoise

    def _is_in_interval(self, time: Tensor) -> bool:
        """Whether the relative ``time`` of all rows, (B,), is in the interval of guidance."""
        low, high = self.interval
        if (low, high) == (0.0, 1.0):
            return True
        inside = ((low <= time) & (time <= high)).unique().tolist()
        if len(inside) != 1:
            raise ValueError("rows have times inside and outside of the interval: give all rows one time")
        return bool(inside[0])


def subset_coefficients(scales: Mapping[str, Any], names: Sequence[str]) -> dict[frozenset[str], Any]:
    """Coefficient of the prediction for each set of kept conditions. Coefficients sum to 1; zeros are omitted.

    The guided prediction is D() + s_1 (D(1) - D()) + s_2 (D(1, 2) - D(1)) + ... for conditions 1, 2, ... in the order
    of ``names``. D is the prediction with the listed conditions. A scale s (default: 1) is a number, or a tensor (B,)
    with a scale for each row, which gives coefficients (B,) that may be 0.
    """
    sets = [frozenset(names[:count]) for count in range(len(names) + 1)]
    steps = [1.0, *(scales.get(name, 1.0) for name in names), 0.0]
    terms = {kept: scale - following for kept, scale, following in zip(sets, steps, steps[1:], strict=False)}
    return {kept: value for kept, value in terms.items() if isinstance(value, Tensor) or value != 0}


def weighted_sum(
    coefficients: Mapping[frozenset[str], Any], predictions: Mapping[frozenset[str], Tensor], x: Tensor
) -> Tensor:
    """Sum of ``predictions``, (B, C, *rest), weighted by ``coefficients``, numbers or (B,), in the dtype of ``x``."""
    total = torch.zeros_like(x)
    for kept, value in coefficients.items():
        total = total + (expand_like(value, x) if isinstance(value, Tensor) else value) * predictions[kept]
    return total
