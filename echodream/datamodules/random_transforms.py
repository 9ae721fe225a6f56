"""Random transforms of frames, such as a shift by 0 to 10 %, for copies in the filter and in training of model=reid."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from echodream import validation
from echodream.datamodules.augmentation import Transform

Amount = float | Sequence[float]
"""A fixed amount, or a range [lowest, highest] from which the value is sampled uniformly."""
FLIPS = ((-1,), (-2,), (-1, -2))
"""Axes of (C, F, H, W) that are reversed by a horizontal flip, a vertical flip, and both."""


@dataclass(frozen=True)
class RandomParameter:
    """Limits and texts of a parameter: a range is limited by ``low`` and ``high``, a fixed amount by 0 and ``high``.

    Texts show a value times ``factor`` with ``unit``, such as "4 %". ``range_suffix``, such as " of the side", follows
    a range. ``effect`` describes the effect on a copy, with values in ``effect_unit``, by default ``unit``.
    """

    low: float
    high: float
    factor: float
    unit: str
    effect: str
    range_suffix: str = ""
    effect_unit: str = ""


PARAMETERS = {
    "gain": RandomParameter(-10, 10, 100, " %", "brighter or darker by {}"),
    "contrast": RandomParameter(-10, 10, 100, " %", "more or less contrast by {}"),
    "speckle": RandomParameter(0, 10, 100, " %", "{} of speckle noise added"),
    "shift": RandomParameter(0, 1, 100, " %", "moved by {} of the side", " of the side"),
    "zoom": RandomParameter(0.1, 10, 1, " times", "magnified {}"),
    "rotate": RandomParameter(-180, 180, 1, " degrees", "turned by {}", effect_unit="°"),
    "blur": RandomParameter(0, 50, 1, " px", "blurred by {}"),
    "elastic": RandomParameter(0, 50, 1, " px", "deformed by {}"),
    "jpeg": RandomParameter(1, 95, 1, "", "compressed as JPEG of quality {}", " of quality"),
    "blend": RandomParameter(0, 1, 100, " %", "blended with {} of another patient", " of another patient"),
    "interpolate": RandomParameter(0, 1, 100, " %", "latents mixed with {} of another patient", " of another patient"),
}
"""Parameters that have an amount or a range, in the order of ``RandomTransform.description``."""
CROP_PARAMETER = RandomParameter(0, 100, 100, " %", "cut and enlarged by {}")
"""Limits and texts of a fixed amount of ``zoom``."""


@dataclass(frozen=True)
class RandomTransform:
    """Distribution of transforms; each parameter is an amount, or a range from which its value is sampled uniformly.

    The direction of an amount (brighter or darker, left or right) is random. ``gain`` 0.4 multiplies intensities by 1.4
    or 1 / 1.4; ``contrast`` 0.4 raises intensities to the power 1.4 or 1 / 1.4; ``speckle``: standard deviation of
    multiplicative noise; ``shift``: fraction of the side, sampled for each direction; ``rotate``: degrees; ``zoom`` 0.1
    crops the inner 1 / 1.1 of the frame; ``flip``: true for a mirror image, "vertical", or "any" for a random one of
    both flips and their composition; ``blur``: standard deviation in pixels; ``elastic``: root mean square displacement
    in pixels; ``jpeg``: quality; ``blend`` and ``interpolate``: weight of the pixels and latents of another patient;
    ``invert``: exchange of black and white.

    In a range, the sign of gain, contrast and rotation is the direction, such as [-15, 15] degrees, and zoom is the
    factor, such as [0.8, 1.25]. With ``count``, such as [2, 4], a transform uses 2 to 4 of the parameters that are set,
    selected at random. Raises ``UserError`` for a value out of range.
    """

    gain: Amount = 0.0
    contrast: Amount = 0.0
    speckle: Amount = 0.0
    shift: Amount = 0.0
    rotate: Amount = 0.0
    zoom: Amount = 0.0
    flip: bool | str = False
    blur: Amount = 0.0
    elastic: Amount = 0.0
    jpeg: Amount = 0
    blend: Amount = 0.0
    interpolate: Amount = 0.0
    invert: bool = False
    count: Sequence[int] | None = None

    def __post_init__(self) -> None:
        for name, parameter in PARAMETERS.items():
            value = getattr(self, name)
            if isinstance(value, Sequence) and not isinstance(value, str):
                object.__setattr__(self, name, _checked_range(name, tuple(value), parameter))
            elif name == "jpeg" and value != 0:
                validation.whole_number(name, value, 1, 95, note=", or 0 for no compression")
            else:
                validation.number(name, value, 0, (CROP_PARAMETER if name == "zoom" else parameter).high)
        if not isinstance(self.flip, bool):
            validation.one_of("flip", self.flip, ("vertical", "any"))
        validation.true_or_false("invert", self.invert)
        if self.count is not None:
            count, most = validation.list_of_values("count", self.count), len(self.parameters)
            whole = all(validation.is_whole(number, 1, most) for number in count)
            if len(count) != 2 or not whole or count[0] > count[1]:
                validation.refuse("count", count, f"give [fewest, most], at most the {most} parameters that are set")
            object.__setattr__(self, "count", count)

    @property
    def parameters(self) -> list[str]:
        """Names of the parameters that are set, in the order of the fields."""
        return [field.name for field in fields(RandomTransform) if field.name != "count" and getattr(self, field.name)]

    @property
    def has_fixed_amounts(self) -> bool:
        """Whether only the directions of the amounts are random."""
        ranges = any(isinstance(getattr(self, name), tuple) for name in PARAMETERS)
        random = self.count or self.flip == "any" or self.speckle or self.elastic or self.needs_other_patient
        return not ranges and not random

    @property
    def needs_other_patient(self) -> bool:
        """Whether a copy is mixed with frames of another patient."""
        return bool(self.blend or self.interpolate)

    def sample(self, rng: np.random.Generator) -> Transform:
        """Sample a transform with random directions."""
        return self.sample_in_direction(rng.choice([-1, 1], 5).tolist(), rng)

    def sample_in_direction(self, signs: Sequence[int], rng: np.random.Generator) -> Transform:
        """Sample a transform; ``signs``, +1 or -1, are the directions of gain, contrast, both shifts and rotation."""
        names = self.parameters
        if self.count is not None:
            number = int(rng.integers(self.count[0], self.count[1] + 1))
            names = [names[place] for place in sorted(rng.permutation(len(names))[:number].tolist())]
        return Transform(**{name: self._sample_value(name, signs, rng) for name in names})

    def _sample_value(self, name: str, signs: Sequence[int], rng: np.random.Generator) -> Any:
        """Sample the value of the parameter ``name`` for a ``Transform``."""
        amount = getattr(self, name)
        is_range = isinstance(amount, tuple)
        if name == "invert":
            return True
        if name == "flip":
            return FLIPS[rng.integers(3)] if amount == "any" else FLIPS[amount == "vertical"]
        if name == "jpeg":
            return int(rng.integers(amount[0], amount[1] + 1)) if is_range else amount
        if name == "shift":
            down, right = rng.uniform(amount[0], amount[1], 2).tolist() if is_range else (amount, amount)
            return (down * signs[2], right * signs[3])
        value = float(rng.uniform(*amount)) if is_range else float(amount)
        if name in ("gain", "contrast"):
            value = value if is_range else value * signs[("gain", "contrast").index(name)]
            return (1 + abs(value)) ** (1 if value > 0 else -1)
        if name == "rotate":
            return value if is_range else value * signs[4]
        return value if is_range or name != "zoom" else 1 + value

    @property
    def amount(self) -> str:
        """Text of the amounts, such as "by 4 %"; if there are several, each follows the name of its parameter."""
        texts = {name: self._amount_text(name) for name in self.parameters}
        if self.count is not None:
            listed = "; ".join(f"{name} {text}".strip() for name, text in texts.items())
            return f"{self._count_text()} at random of: {listed}"
        if len(texts) == 1:
            ((name, text),) = texts.items()
            return text if name in ("flip", "invert") or isinstance(getattr(self, name), tuple) else f"by {text}"
        shown = [f"{name} {text}".strip() for name, text in texts.items() if name != "flip" or text]
        return f"with {' and '.join(shown)}" if shown else ""

    def _amount_text(self, name: str) -> str:
        """Text of the amount or range of the parameter ``name``; empty for a horizontal flip and inversion."""
        if name not in PARAMETERS:
            flips = {"vertical": "vertical", "any": "horizontal, vertical or both, at random"}
            return flips.get(str(getattr(self, name)), "")
        parameter, number = self._parameter_and_number(name)
        if isinstance(getattr(self, name), tuple):
            return f"uniform from {number}{parameter.unit}{parameter.range_suffix}"
        return f"{number}{parameter.unit}"

    def _parameter_and_number(self, name: str) -> tuple[RandomParameter, str]:
        """The ``RandomParameter`` of ``name``, and the text of its number or range, such as "0 to 10"."""
        value = getattr(self, name)
        is_range = isinstance(value, tuple)
        parameter = CROP_PARAMETER if name == "zoom" and not is_range else PARAMETERS[name]
        return parameter, " to ".join(f"{parameter.factor * end:g}" for end in (value if is_range else (value,)))

    def _count_text(self) -> str:
        """Text of the number of parameters, such as "2 to 4"."""
        return " to ".join(map(str, dict.fromkeys(self.count or ())))

    @property
    def description(self) -> str:
        """Description of the effect on a copy, such as "moved by 4 % of the side"."""
        texts = []
        for name in (name for name in PARAMETERS if getattr(self, name)):
            parameter, number = self._parameter_and_number(name)
            texts.append(parameter.effect.format(f"{number}{parameter.effect_unit or parameter.unit}"))
        flips = {"vertical": "upside down", "any": "mirrored, upside down or both"}
        texts += [flips.get(str(self.flip), "mirrored")] if self.flip else []
        texts += ["inverted"] if self.invert else []
        if self.count is not None:
            return f"{self._count_text()} of these at random: {'; '.join(texts)}"
        return ", ".join(texts) or "through the autoencoder and back"


def _checked_range(name: str, value: tuple[Any, ...], parameter: RandomParameter) -> tuple[float, float]:
    """Check the range ``value`` of the parameter ``name``. Raises ``UserError``."""
    is_valid = validation.is_whole if name == "jpeg" else validation.is_finite
    limits = f"from {parameter.low:g} to {parameter.high:g}{', the factor' if name == 'zoom' else ''}"
    inside = all(is_valid(end) and parameter.low <= end <= parameter.high for end in value)
    if len(value) != 2 or not inside or value[0] > value[1]:
        kind = "whole numbers" if name == "jpeg" else "numbers"
        validation.refuse(name, value, f"give one number, or a range [lowest, highest] of {kind} {limits}")
    return value[0], value[1]
