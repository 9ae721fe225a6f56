"""The linear Gaussian denoiser compared with Monte Carlo, and calibrated errors compared with planted membership."""

import numpy as np
import pytest
import torch

from echodream.metrics.classification import auc_interval
from echodream.privacy.attacks.gaussian_denoiser import VARIANCE_FLOOR, GaussianDenoiser
from echodream.privacy.attacks.membership import calibrated_errors


def test_expected_errors_are_those_of_the_wiener_filter() -> None:
    """Compared with Monte Carlo: dense covariance and sampled noise, x_t = x + noise / sqrt(snr)."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(7, 5, generator=generator) * torch.tensor([3.0, 1.0, 1.0, 0.5, 0.1]) + 2
    for count in (7, 4):  # 7 rows: more than the 5 dimensions; 4 rows: fewer
        fitted = rows[:count]
        denoiser = GaussianDenoiser(fitted)
        centered = (fitted - fitted.mean(dim=0)).double()
        floor = VARIANCE_FLOOR * centered.square().mean()
        covariance = centered.T @ centered / count + floor * torch.eye(5).double()
        snr = torch.tensor([0.2, 4.0])
        x = torch.randn(3, 5, generator=generator)
        found = denoiser.expected_errors(x, snr)
        for level, ratio in enumerate(snr.double()):
            gain = covariance @ torch.linalg.inv(covariance + torch.eye(5).double() / ratio)
            noise = torch.randn(60_000, 5, generator=generator).double() / ratio.sqrt()
            for row in range(3):
                difference = x[row].double() - fitted.mean(dim=0).double()
                restored = (difference + noise) @ gain.T
                expected = (restored - difference).square().mean()
                assert found[row, level] == pytest.approx(float(expected), rel=0.02)


def test_what_makes_a_patient_difficult_is_no_membership() -> None:
    """Weak memorization is found only if errors are calibrated by the difficulty of each patient."""
    generator, member = np.random.default_rng(0), np.arange(160) < 100
    difficulty = generator.lognormal(0, 0.5, 160)
    errors = 0.7 * difficulty - 0.2 * member + 0.05 * generator.normal(size=160)
    raw, calibrated = -errors, -calibrated_errors(errors, difficulty, member)
    assert auc_interval(raw[member], raw[~member]).value < 0.75
    assert auc_interval(calibrated[member], calibrated[~member]).value > 0.95


def test_a_network_that_remembers_nobody_is_at_chance_also_if_the_groups_differ() -> None:
    covered = []
    for seed in range(100):
        generator, member = np.random.default_rng(seed), np.arange(120) < 80
        difficulty = generator.lognormal(0.4 * member, 0.5)
        score = -calibrated_errors(0.7 * difficulty + 0.1 * generator.normal(size=120), difficulty, member)
        interval = auc_interval(score[member], score[~member])
        covered.append(interval.low <= 0.5 <= interval.high)
        assert auc_interval(-difficulty[member], -difficulty[~member]).value < 0.5
    assert np.mean(covered) >= 0.88
