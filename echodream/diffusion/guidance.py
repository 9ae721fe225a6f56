"""Guidance by any number of conditions, each with a scale of its own, over an interval of noise levels."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from echodream import validation
from echodream.diffusion.processes.base import Denoise, Process
from echodream.errors import UserError

Predict = Callable[[Tensor, Tensor, Sequence[frozenset[str]]], Tensor]
"""(x_t (B, C, *rest), t (B,), T sets of conditions that are kept) to (T, B, C, *rest), in one call of the network."""


@dataclass(frozen=True)
class Guidance:
    """How strongly each condition counts. With all scales at 1 this is the conditional model and nothing else."""

    scales: Mapping[str, float] = field(default_factory=dict)
    """By name of condition; 1 for one that is not named, 0 to leave it out."""
    interval: tuple[float, float] = (0.0, 1.0)
    """Noise levels, 0 data and 1 noise, between which guidance is applied (2404.07724)."""
    rescale: float = 0.0
    """How far, 0 to 1, the guided prediction is brought back to the conditional one's deviation (2305.08891, 3.4)."""
    auto: float = 1.0
    """Scale of guidance by a weaker model (2406.02507); 1: without."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "scales", dict(self.scales))
        object.__setattr__(self, "interval", tuple(self.interval))
        for name, scale in {**self.scales, "auto": self.auto}.items():
            validation.number(f"guidance.{name}", scale, note=", 1 for no guidance")
        levels = self.interval
        if len(levels) != 2 or not all(map(validation.is_finite, levels)) or not 0 <= levels[0] <= levels[1] <= 1:
            validation.refuse("guidance.interval", levels, "give two rising noise levels from 0 to 1")
        validation.share("guidance.rescale", self.rescale)

    def terms(self, names: Sequence[str], inside: bool = True) -> dict[frozenset[str], float]:
        """The sets of conditions that are kept, and what each prediction is multiplied by; these sum to 1.

        With ``names`` in the order of composition d = D() + s_1 (D(1) - D()) + s_2 (D(1, 2) - D(1)) + ..., sorted by
        prediction. One with the coefficient 0 is left out. ``inside`` the interval; outside all scales are 1.
        """
        self._check(names)
        kept = [frozenset(names[:count]) for count in range(len(names) + 1)]
        if not inside:
            return {kept[-1]: 1.0}
        scales = [1.0, *(float(self.scales.get(name, 1.0)) for name in names), 0.0]
        terms = {one: before - after for one, before, after in zip(kept, scales, scales[1:], strict=False)}
        return {one: coefficient for one, coefficient in terms.items() if coefficient}

    def denoiser(
        self, predict: Predict, names: Sequence[str], process: Process, weak: Predict | None = None
    ) -> Denoise:
        """Guided predictions, with all sets of a step in one call of ``predict``, and the ``weak`` model in one more.

        The rows of a call share one time. Outside the interval it is one set and one call.
        """
        within, without = self.terms(names), self.terms(names, inside=False)
        if self.auto != 1 and weak is None:
            raise UserError(f"guidance.auto={self.auto} needs a second, weaker model; name one, or set guidance.auto=1")

        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            inside = self._inside(process.level(t))
            terms, full = within if inside else without, frozenset(names)
            if not inside or (terms == without and self.auto == 1):
                return predict(x_t, t, [full])[0]
            wants_full = self.auto != 1 or self.rescale
            kept = list(terms) + [full] * bool(wants_full and full not in terms)
            predictions = dict(zip(kept, predict(x_t, t, kept), strict=True))
            guided = sum((scale * predictions[one] for one, scale in terms.items()), torch.zeros_like(x_t))
            if self.auto != 1 and weak is not None:
                guided = guided + (self.auto - 1) * (predictions[full] - weak(x_t, t, [full])[0])
            return rescaled(guided, predictions[full], self.rescale) if self.rescale else guided

        return denoise

    def _inside(self, level: Tensor) -> bool:
        low, high = self.interval
        if (low, high) == (0.0, 1.0):
            return True
        found = ((low <= level) & (level <= high)).unique().tolist()
        if len(found) != 1:
            raise ValueError("the rows of one call stand on both sides of the interval: give them one time")
        return bool(found[0])

    def _check(self, names: Sequence[str]) -> None:
        for name in self.scales:
            if name not in names:
                known = ", ".join(names) if names else "nothing, and takes no guidance"
                raise UserError(f"guidance.{name} names no condition of this model, which knows {known}")


def rescaled(guided: Tensor, full: Tensor, share: float) -> Tensor:
    """``guided`` with a ``share`` of the way back to the deviation of ``full``; both (B, C, *rest), by sample.

    Equations 15 and 16 of 2305.08891.
    """
    dims = tuple(range(1, guided.dim()))
    deviation = guided.std(dims, keepdim=True)
    factor = full.std(dims, keepdim=True) / deviation.clamp(min=torch.finfo(deviation.dtype).tiny)
    return share * factor * guided + (1 - share) * guided
