"""Differentially private gradient steps (DP-SGD, Abadi et al. 2016, arXiv 1607.00133) with the patient as the unit.

In a step, each patient takes part with probability q, independently of others (Poisson sampling). The gradient of a
patient is clipped to a norm C, and Gaussian noise with standard deviation sigma C is added to the sum. The accountant
is that of opacus, for neighboring data sets that differ by all recordings of one patient.
"""

import hashlib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from echodream import validation
from echodream.errors import UserError
from echodream.metrics.rounding import bound_text

ACCOUNTANTS = ("prv", "rdp")
INSTALL_COMMAND = "pip install 'echodream[privacy]'"


@dataclass(frozen=True)
class PrivacySettings:
    """Settings of private training (``trainer.privacy``). Raises ``UserError`` for an invalid setting.

    ``patients``: expected number of patients in a step. ``examples``: number of training samples of each patient in a
    step, whose mean loss gives the gradient of the patient. ``clip``: clipping norm C.
    """

    epsilon: float
    delta: float
    clip: float
    patients: int
    examples: int
    accountant: str

    def __post_init__(self) -> None:
        validation.positive_number("trainer.privacy.epsilon", self.epsilon)
        validation.number("trainer.privacy.delta", self.delta, above=0, below=1)
        validation.positive_number("trainer.privacy.clip", self.clip)
        validation.whole_number("trainer.privacy.patients", self.patients)
        validation.whole_number("trainer.privacy.examples", self.examples)
        validation.one_of("trainer.privacy.accountant", self.accountant, ACCOUNTANTS)

    def sampling_rate(self, patients: int) -> float:
        """Probability q that one of ``patients`` patients is in a step. Raises ``UserError`` if delta is too large."""
        if self.delta >= 1 / patients:
            problem = f"trainer.privacy.delta is {self.delta:g}, and a delta of 1 / {patients} patients protects nobody"
            raise UserError(f"{problem}: give a smaller number, such as {0.1 / patients:.1g}")
        validation.whole_number("trainer.privacy.patients", self.patients, 1, patients, note=", the patients in TRAIN")
        return self.patients / patients


@dataclass(frozen=True)
class PrivacyBudget:
    """Noise of a private training, and the epsilon that the accountant states for it."""

    epsilon: float
    delta: float
    accountant: str
    """Accountant with the version of its package."""
    noise: float
    """sigma: standard deviation of the noise, divided by the clipping norm."""
    rate: float
    steps: int


def plan_budget(settings: PrivacySettings, sampling_rate: float, steps: int) -> PrivacyBudget:
    """Smallest noise with which ``steps`` steps stay within epsilon. Raises ``UserError`` if there is no such noise."""
    if find_spec("opacus") is None:
        raise UserError(f"trainer.privacy.epsilon needs the extra privacy: {INSTALL_COMMAND}")
    from opacus.accountants import create_accountant
    from opacus.accountants.utils import get_noise_multiplier

    delta, kind = settings.delta, settings.accountant
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a range of Renyi orders that is too small gives a larger, valid bound
        try:
            noise = get_noise_multiplier(
                target_epsilon=settings.epsilon,
                target_delta=delta,
                sample_rate=sampling_rate,
                steps=steps,
                accountant=kind,
                epsilon_tolerance=min(0.01, 0.01 * settings.epsilon),
            )
            accountant = create_accountant(mechanism=kind)
            accountant.history = [(noise, sampling_rate, steps)]
            epsilon = float(accountant.get_epsilon(delta=delta))
        except (ValueError, RuntimeError, MemoryError) as error:
            problem = f"trainer.privacy.epsilon={settings.epsilon:g} is not possible with {steps} steps"
            raise UserError(f"{problem} ({error}): give a larger epsilon or delta, or fewer steps") from error
    return PrivacyBudget(epsilon, delta, f"opacus {version('opacus')} {kind}", float(noise), sampling_rate, steps)


def clip_gradient(gradients: Sequence[Tensor], clip: float) -> tuple[list[Tensor], Tensor]:
    """``gradients`` scaled to a joint norm of at most ``clip``, and the joint norm before scaling."""
    norm = torch.stack([gradient.double().square().sum() for gradient in gradients]).sum().sqrt()
    if not torch.isfinite(norm):
        raise UserError("the gradient of a patient is not finite: lower model.lr; the same command resumes")
    factor = (clip / norm.clamp(min=1e-12)).clamp(max=1)
    return [(gradient * factor).to(gradient.dtype) for gradient in gradients], norm


def private_gradient(
    gradients: Iterable[Sequence[Tensor]], params: Sequence[Tensor], clip: float, noise: float, patients: int, seed: int
) -> list[Tensor]:
    """Mean of the clipped ``gradients`` of all patients plus noise, one tensor for each of the parameters ``params``.

    The sum is divided by the expected number of ``patients``, because the actual number in a step is secret. Without
    any gradients, the mean is noise.
    """
    total = [torch.zeros_like(parameter) for parameter in params]
    for each in gradients:
        torch._foreach_add_(total, clip_gradient(each, clip)[0])
    generator = torch.Generator(params[0].device).manual_seed(seed)
    for part in total:
        part += noise * clip * torch.randn(part.shape, generator=generator, device=part.device, dtype=part.dtype)
    return [part / patients for part in total]


def secret_seed(key: bytes, *labels: object) -> int:
    """Seed from the secret ``key`` for the use that ``labels`` name: 63 bits of SHA-256."""
    text = b"|".join([key, *(str(label).encode() for label in labels)])
    return int.from_bytes(hashlib.sha256(text).digest()[:8]) >> 1


def describe_budget(record: Mapping[str, Any], model: str) -> str:
    """The guarantee of a ``model`` (lidm or lvdm) in words, from the ``privacy`` of its artifact."""
    epsilon = bound_text(record["epsilon"], 3, upper=True)
    return (
        f"The training of this {model} is differentially private for patients: epsilon {epsilon} at delta "
        f"{record['delta']:g}, by the accountant {record['accountant']}, if initial model and autoencoder were not "
        "trained on these patients. This covers its weights and its samples before the filter. The filter's selection "
        f"of samples depends on the patients and is not covered; neither is any other network than this {model}."
    )
