"""Losses of the autoencoder, compared with closed forms, torch.distributions and torchmetrics."""

import math

import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor, nn
from torchmetrics.image import MultiScaleStructuralSimilarityIndexMeasure

from echodream.errors import UserError
from echodream.losses.autoencoder import KL, L1, L2, MultiScaleSSIM, adaptive_adversarial_weight

B, C, H, W, D = 2, 3, 60, 52, 4


@pytest.fixture
def posterior() -> DiagonalGaussianDistribution:
    return DiagonalGaussianDistribution(torch.randn(B, 2 * D, 5, 7, generator=torch.Generator().manual_seed(0)))


def images(seed: int, height: int = H, width: int = W) -> Tensor:
    return torch.rand(B, C, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_l1_and_l2_of_known_differences(posterior: DiagonalGaussianDistribution) -> None:
    x = torch.zeros(B, C, 5, 7)
    y = x.clone()
    y[0] += 0.5
    y[1, 1] -= 0.3  # in one of three channels
    assert L1(1)(x, y, posterior).item() == pytest.approx((0.5 + 0.1) / 2)
    assert L2(1)(x, y, posterior).item() == pytest.approx((0.25 + 0.03) / 2)


def test_kl_matches_torch_distributions_per_value(posterior: DiagonalGaussianDistribution) -> None:
    normal = torch.distributions.Normal(posterior.mean, posterior.std)
    truth = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).sum(dim=(1, 2, 3)).mean()
    found = KL(1)(images(0), images(1), posterior)
    assert found.item() == pytest.approx(truth.item() / (C * H * W), rel=1e-5)


def test_kl_is_zero_for_the_standard_normal() -> None:
    assert KL(1)(images(0), images(0), DiagonalGaussianDistribution(torch.zeros(B, 2 * D, 5, 7))).item() == 0


def test_ms_ssim_is_that_of_torchmetrics_with_the_exponents_of_the_paper(
    posterior: DiagonalGaussianDistribution,
) -> None:
    x = images(0)
    y = (x + 0.3 * images(1)).clamp(-1, 1)
    exponents = torch.tensor([0.0448, 0.2856, 0.3001])
    metric = MultiScaleStructuralSimilarityIndexMeasure(
        data_range=(-1.0, 1.0), betas=tuple((exponents / exponents.sum()).tolist()), normalize="relu", sigma=1.5
    )
    assert MultiScaleSSIM(1, scales=3)(x, y, posterior).item() == pytest.approx(1 - metric(y, x).item(), abs=1e-6)


def test_ms_ssim_loss_increases_with_distortion(posterior: DiagonalGaussianDistribution) -> None:
    x, noise, term = images(0), images(1), MultiScaleSSIM(1, scales=2)
    values = [term(x, (x + amount * noise).clamp(-1, 1), posterior).item() for amount in (0, 0.1, 0.3, 0.9)]
    assert values[0] == pytest.approx(0, abs=1e-6)
    assert values == sorted(values)
    assert values[-1] > 0.2


def test_ms_ssim_refuses_small_images(posterior: DiagonalGaussianDistribution) -> None:
    x = images(0, 40, 36)
    with pytest.raises(UserError, match=r"frames of 36x40 are too small for loss.ms_ssim.scales=3"):
        MultiScaleSSIM(1, scales=3)(x, x, posterior)
    assert MultiScaleSSIM(1, scales=2)(x, x, posterior).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("scales", [0, 6])
def test_ms_ssim_refuses_an_invalid_number_of_scales(scales: int) -> None:
    with pytest.raises(UserError, match=r"loss.ms_ssim.scales"):
        MultiScaleSSIM(1, scales=scales)


@pytest.mark.parametrize("weight", [-1, math.nan, math.inf, "much", True])
def test_a_weight_is_a_nonnegative_number(weight: object) -> None:
    with pytest.raises(UserError, match=r"the weight of KL is .*: give a number from 0"):
        KL(weight)  # type: ignore[arg-type]


def test_adaptive_weight_is_the_ratio_of_gradient_norms() -> None:
    last = nn.Parameter(torch.tensor([3.0, 4.0]))
    reconstruction = last.square().sum()  # gradient (6, 8), norm 10
    adversarial = 2 * last[0]  # gradient (2, 0), norm 2
    found = adaptive_adversarial_weight(reconstruction, adversarial, last)
    assert found.item() == pytest.approx(10 / (2 + 1e-4))
    assert not found.requires_grad
    assert last.grad is None
    (reconstruction + adversarial).backward()  # the computation graph is still available


def test_adaptive_weight_is_bounded() -> None:
    last = nn.Parameter(torch.tensor([3.0, 4.0]))
    assert adaptive_adversarial_weight(1e9 * last.sum(), 0 * last.sum(), last).item() == 1e4
    assert adaptive_adversarial_weight(last.square().sum(), 2 * last[0], last, maximum=3).item() == 3
