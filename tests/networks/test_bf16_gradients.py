"""Gradients in bf16 on a CPU equal those in float32 up to rounding, in networks that train in bf16 by default."""

from collections.abc import Callable, Iterable

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor, nn

from echodream.config.paths import CONF_DIR
from echodream.networks.autoencoder import build_autoencoder


def relative_error(parameters: Iterable[nn.Parameter], loss: Callable[[], Tensor]) -> float:
    """Norm of the difference of all gradients of ``loss`` in bf16 and in float32, divided by the norm in float32.

    Before each backward pass, freed memory is filled with NaN, so that uninitialized gradients are noticed.
    """
    gradients = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            value = loss()
        for size in (2**power for power in range(6, 20)):
            torch.full((size,), torch.nan)
        found = torch.autograd.grad(value.float(), list(parameters := list(parameters)), allow_unused=True)
        gradients.append(torch.cat([each.flatten() for each in found if each is not None]))
    exact, rounded = gradients
    return float((exact - rounded).norm() / exact.norm())


def test_gradients_of_the_autoencoder() -> None:
    torch.manual_seed(0)
    network, x = build_autoencoder(1, [16, 32, 64, 64], layers=1, groups=8), torch.rand(2, 1, 64, 64)
    assert relative_error(network.parameters(), lambda: (network(x).sample - x).abs().mean()) < 0.2


@pytest.mark.parametrize("side", [8, 4])  # with 4, the network has a level of one pixel
def test_gradients_of_the_image_model(side: int) -> None:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose("train", ["model=lidm", "data=phantom", "preset=tiny"])
    torch.manual_seed(0)
    network = instantiate(cfg.denoiser)(channels=4, extra_channels=0, token_width=32).network
    x, t, tokens = torch.randn(2, 4, side, side + 4), torch.tensor([5, 600]), torch.randn(2, 1, 32)
    assert relative_error(network.parameters(), lambda: network(x, t, tokens).sample.square().mean()) < 0.1
