"""Differentially private steps: clipping and noise compared with loops, epsilon compared with closed forms."""

import math
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import norm
from torch import Tensor

from echodream.errors import UserError
from echodream.privacy.private_steps import (
    PrivacySettings,
    clip_gradient,
    describe_budget,
    plan_budget,
    private_gradient,
    secret_seed,
)

SHAPES = ((3, 2), (5,), ())


def settings(**changed: Any) -> PrivacySettings:
    given = {"epsilon": 8.0, "delta": 1e-5, "clip": 1.0, "patients": 4, "examples": 2, "accountant": "rdp"}
    return PrivacySettings(**{**given, **changed})


def gradients_of(seed: int, scale: float) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(shape, generator=generator) for shape in SHAPES]


def clipped_by_hand(gradients: Sequence[Tensor], clip: float) -> list[np.ndarray]:
    flat = np.concatenate([part.numpy().astype(np.float64).ravel() for part in gradients])
    length = math.sqrt(sum(value * value for value in flat.tolist()))
    return [part.numpy().astype(np.float64) * min(1.0, clip / length) for part in gradients]


def test_the_joint_norm_of_all_parameters_is_clipped_and_short_gradients_are_unchanged() -> None:
    for seed, scale in ((0, 3.0), (1, 0.01)):
        gradients = gradients_of(seed, scale)
        clipped, length = clip_gradient(gradients, 0.7)
        for part, expected in zip(clipped, clipped_by_hand(gradients, 0.7), strict=True):
            assert part.numpy() == pytest.approx(expected, rel=1e-6)
        flat = torch.cat([part.flatten() for part in clipped]).double()
        assert flat.norm().item() == pytest.approx(min(0.7, length.item()), rel=1e-6)
    assert all(torch.equal(new, old) for new, old in zip(clipped, gradients, strict=True))
    nothing, length = clip_gradient([torch.zeros(3)], 0.7)
    assert torch.equal(nothing[0], torch.zeros(3))
    with pytest.raises(UserError, match="gradient of a patient is not finite"):
        clip_gradient([torch.tensor([1.0, math.inf])], 0.7)


def test_the_sum_without_noise_equals_a_loop_and_is_divided_by_the_expected_number() -> None:
    patients = [gradients_of(seed, scale) for seed, scale in ((0, 5.0), (1, 0.02), (2, 1.0))]
    found = private_gradient(iter(patients), patients[0], 0.5, 0.0, 7, 0)
    by_hand = [clipped_by_hand(each, 0.5) for each in patients]
    for number, part in enumerate(found):
        assert part.numpy() == pytest.approx(sum(each[number] for each in by_hand) / 7, rel=1e-5)


def test_one_patient_changes_the_sum_by_no_more_than_the_clipping_norm() -> None:
    patients = [gradients_of(seed, 10.0**seed) for seed in range(-2, 3)]
    whole = private_gradient(patients, patients[0], 0.5, 1.3, 1, 9)
    for left_out in range(len(patients)):
        rest = private_gradient([*patients[:left_out], *patients[left_out + 1 :]], patients[0], 0.5, 1.3, 1, 9)
        difference = torch.cat([(a - b).flatten() for a, b in zip(whole, rest, strict=True)])
        assert difference.norm().item() <= 0.5 * (1 + 1e-5)


def test_the_noise_has_the_stated_standard_deviation_and_is_there_without_patients() -> None:
    like = [torch.zeros(200, 300), torch.zeros(40_000)]
    found = private_gradient([], like, 0.5, 1.7, 4, 3)
    noise = torch.cat([part.flatten() for part in found]).double()
    expected = 1.7 * 0.5 / 4
    assert noise.std().item() == pytest.approx(expected, rel=4 / math.sqrt(2 * len(noise)))
    assert noise.mean().item() == pytest.approx(0, abs=4 * expected / math.sqrt(len(noise)))
    again, other = (private_gradient([], like, 0.5, 1.7, 4, seed) for seed in (3, 4))
    assert torch.equal(found[0], again[0])
    assert not torch.equal(found[0], other[0])
    assert abs(torch.corrcoef(torch.stack([found[1], other[1]]))[0, 1]) < 0.03
    assert abs(torch.corrcoef(torch.stack([found[0].flatten()[:40_000], found[1]]))[0, 1]) < 0.03


def test_seeds_differ_by_key_and_use() -> None:
    seeds = {
        secret_seed(key, *use) for key in (b"a", b"b") for use in (("noise", 1), ("noise", 11), ("order",), (1, 1))
    }
    assert len(seeds) == 8
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert secret_seed(b"a", "noise", 1) == secret_seed(b"a", "noise", 1)


def gaussian_epsilon(noise: float, delta: float) -> float:
    """Exact epsilon of one Gaussian mechanism of sensitivity 1 (Balle and Wang 2018, arXiv 1805.06530)."""

    def exceeds(epsilon: float) -> float:
        low, high = 0.5 / noise - epsilon * noise, -0.5 / noise - epsilon * noise
        return float(norm.cdf(low) - math.exp(epsilon) * norm.cdf(high) - delta)

    return float(brentq(exceeds, 0, 100))


def subsampled_rdp(order: int, rate: float, noise: float) -> float:
    """RDP at integer ``order`` of the Poisson-subsampled Gaussian mechanism (Mironov et al. 2019, arXiv 1908.10530)."""
    terms = [
        math.comb(order, k) * (1 - rate) ** (order - k) * rate**k * math.exp((k * k - k) / (2 * noise**2))
        for k in range(order + 1)
    ]
    return math.log(math.fsum(terms)) / (order - 1)


@pytest.mark.slow
@pytest.mark.parametrize("accountant", ["prv", "rdp"])
@pytest.mark.parametrize("steps", [1, 25])
def test_without_sampling_epsilon_is_at_least_that_of_a_gaussian_mechanism(accountant: str, steps: int) -> None:
    """All patients in every step: the composition equals one Gaussian mechanism with noise sigma / sqrt(steps)."""
    pytest.importorskip("opacus")
    budget = plan_budget(settings(epsilon=3.0, delta=1e-4, accountant=accountant), 1.0, steps)
    exact = gaussian_epsilon(budget.noise / math.sqrt(steps), 1e-4)
    assert 3.0 - 0.031 <= budget.epsilon <= 3.0
    assert exact <= budget.epsilon
    assert exact > (2.85 if accountant == "prv" else 2.5)
    assert budget.accountant == f"opacus {version('opacus')} {accountant}"
    assert (budget.rate, budget.steps, budget.delta) == (1.0, steps, 1e-4)


@pytest.mark.slow
def test_with_sampling_epsilon_is_that_of_the_published_formula() -> None:
    """RDP at integer orders, converted to epsilon by the formula of Canonne et al. 2020 (arXiv 2004.00010)."""
    pytest.importorskip("opacus")
    rate, steps, delta = 16 / 120, 200, 1e-3
    budget = plan_budget(settings(epsilon=1.0, delta=delta), rate, steps)
    by_order = [
        steps * subsampled_rdp(order, rate, budget.noise)
        + math.log((order - 1) / order)
        - (math.log(delta) + math.log(order)) / (order - 1)
        for order in range(2, 40)
    ]
    assert budget.epsilon == pytest.approx(min(by_order), rel=0.02)
    assert budget.epsilon <= min(by_order) + 1e-9  # opacus also tries fractional orders
    assert plan_budget(settings(epsilon=1.0, delta=delta, accountant="prv"), rate, steps).noise < budget.noise
    assert plan_budget(settings(epsilon=0.5, delta=delta), rate, steps).noise > budget.noise
    assert plan_budget(settings(epsilon=1.0, delta=delta), rate, 2 * steps).noise > budget.noise


@pytest.mark.slow
def test_a_budget_that_no_noise_can_keep_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    utils = pytest.importorskip("opacus.accountants.utils")
    monkeypatch.setattr(utils, "MAX_SIGMA", 30)
    with pytest.raises(UserError, match=r"is not possible with 10 steps .*: give a larger epsilon"):
        plan_budget(settings(epsilon=1e-9), 0.5, 10)


def test_without_the_extra_one_sentence_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opacus", None)
    monkeypatch.setattr("echodream.privacy.private_steps.find_spec", lambda name: None)
    with pytest.raises(UserError) as caught:
        plan_budget(settings(), 0.5, 10)
    assert str(caught.value) == "trainer.privacy.epsilon needs the extra privacy: pip install 'echodream[privacy]'"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"epsilon": 0}, "trainer.privacy.epsilon is 0: give a number above 0"),
        ({"epsilon": "8"}, "trainer.privacy.epsilon"),
        ({"delta": 0}, "trainer.privacy.delta is 0"),
        ({"delta": 1}, "trainer.privacy.delta is 1"),
        ({"clip": -1}, "trainer.privacy.clip is -1"),
        ({"patients": 0}, "trainer.privacy.patients is 0"),
        ({"examples": 1.5}, "trainer.privacy.examples is 1.5"),
        ({"accountant": "gdp"}, "trainer.privacy.accountant is 'gdp': choose one of prv, rdp"),
    ],
)
def test_invalid_settings_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        settings(**changed)


def test_the_sampling_rate_needs_enough_patients_and_a_small_delta() -> None:
    assert settings(patients=16).sampling_rate(120) == 16 / 120
    assert settings(patients=16).sampling_rate(16) == 1.0
    with pytest.raises(UserError, match=r"patients is 16: give a whole number from 1 to 15, the patients in TRAIN"):
        settings(patients=16).sampling_rate(15)
    with pytest.raises(
        UserError, match=r"a delta of 1 / 100 patients protects nobody: give a smaller number, such as 0.001"
    ):
        settings(delta=0.01).sampling_rate(100)


def test_the_guarantee_in_words() -> None:
    said = describe_budget({"epsilon": 7.994, "delta": 1e-5, "accountant": "opacus 1.6.0 prv"}, "lidm")
    assert (
        "this lidm is differentially private for patients: epsilon 8 at delta 1e-05, by the accountant opacus 1.6.0 "
        "prv, if initial model and autoencoder were not trained on these patients" in said
    )
    assert "The filter's selection of samples depends on the patients and is not covered" in said
