"""Perceptual loss of EfficientNet-lite0."""

import pytest
import torch
from scipy.ndimage import gaussian_filter

from echodream.losses import perceptual
from echodream.losses.perceptual import Lite0EnergyScore, Lite0Loss, build_lite0_energy_score, build_lite0_loss
from echodream.networks.extractors import lite0
from echodream.networks.extractors.lite0 import load_lite0, normalize

needs_extra = pytest.mark.skipif(not lite0.is_installed(), reason="needs the extra features")


def frames(seed: int) -> torch.Tensor:
    return torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@needs_extra
def test_by_hand_at_the_first_stage() -> None:
    x, y = frames(0), frames(1)
    first = [next(iter(load_lite0().stages(normalize(each)))) for each in (x, y)]
    unit = [each / each.norm(dim=1, keepdim=True).clamp(min=1e-12) for each in first]
    expected = (unit[0] - unit[1]).square().sum(dim=1).mean()
    assert Lite0Loss(1.0, stages=1)(x, y, None).item() == pytest.approx(expected.item(), rel=1e-5)  # type: ignore[arg-type]


@needs_extra
def test_it_grows_with_blur_and_has_a_gradient_for_the_reconstruction_only() -> None:
    loss, x = Lite0Loss(1.0), frames(0)
    blurred = [torch.from_numpy(gaussian_filter(x.numpy(), (0, 0, sigma, sigma))) for sigma in (0.0, 0.5, 1.5)]
    values = [loss(x, each, None).item() for each in blurred]  # type: ignore[arg-type]
    assert values[0] == 0
    assert values[1] < values[2]
    reconstruction = blurred[1].requires_grad_()
    loss(x, reconstruction, None).backward()  # type: ignore[arg-type]
    assert reconstruction.grad is not None
    assert not list(loss.parameters())
    assert not loss.state_dict()


@needs_extra
def test_energy_score_by_hand() -> None:
    x, y, z = frames(0), frames(1), frames(2)
    unit = [Lite0Loss(1.0, stages=1).activations(each)[0] for each in (x, y, z)]
    xy, xz, yz = (float((unit[i] - unit[j]).norm(dim=1).mean()) for i, j in ((0, 1), (0, 2), (1, 2)))
    expected = pytest.approx((xy + xz - yz) / 2, rel=1e-4)
    assert Lite0EnergyScore(1.0, stages=1)(x, y, z).item() == expected


@needs_extra
def test_energy_score_is_smallest_for_speckle_like_that_of_the_frames() -> None:
    """L1, in contrast, is smallest without speckle."""
    score, noise = Lite0EnergyScore(1.0), torch.randn(3, 16, 1, 32, 32, generator=torch.Generator().manual_seed(0)) / 4
    values = {amount: score(noise[0], amount * noise[1], amount * noise[2]).item() for amount in (0, 0.5, 1, 1.5)}
    assert min(values, key=values.__getitem__) == 1
    distances = {amount: (noise[0] - amount * noise[1]).abs().mean().item() for amount in (0, 0.5, 1)}
    assert min(distances, key=distances.__getitem__) == 0


def test_without_the_extra_it_is_off_with_a_message(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(perceptual.lite0, "is_installed", lambda: False)
    caplog.set_level("INFO")
    assert build_lite0_loss(0.5) is None
    assert "install the extra" in caplog.text
    caplog.clear()
    assert build_lite0_energy_score(0.5) is None
    assert "loss.lite0_energy is off" in caplog.text
    caplog.clear()
    assert build_lite0_loss(0.0) is None
    assert not caplog.text
