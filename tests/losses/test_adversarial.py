"""The patch discriminator, the loss of the discriminator and the loss of the generator."""

import math

import pytest
import torch
from scipy.ndimage import uniform_filter
from torch import Tensor

from echodream.errors import UserError
from echodream.losses.adversarial import PatchAdversarial

B, C, H, W = 2, 1, 32, 40


def made(criterion: str = "hinge") -> PatchAdversarial:
    torch.manual_seed(0)
    return PatchAdversarial(C, width=8, layers=2, criterion=criterion, start=0).eval()


def images(seed: int) -> Tensor:
    return torch.rand(B, C, H, W, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def losses(criterion: str, score: float) -> tuple[float, float, float]:
    """Generator loss, and discriminator losses of an image and of a reconstruction, if each score is ``score``."""
    squashed = {"hinge": math.tanh(score), "bce": 1 / (1 + math.exp(-score)), "least_squares": max(score, 0.05 * score)}
    value = squashed[criterion]
    if criterion == "hinge":
        return 1 - value, 1 - value, 1 + value
    if criterion == "bce":
        return -math.log(value), -math.log(value), -math.log(1 - value)
    return (value - 1) ** 2, (value - 1) ** 2, value**2


@pytest.mark.parametrize("criterion", ["hinge", "least_squares", "bce"])
@pytest.mark.parametrize("score", [-0.7, 0.4])
def test_both_losses_in_closed_form(criterion: str, score: float, monkeypatch: pytest.MonkeyPatch) -> None:
    adversarial = made(criterion)
    real = images(0)

    def scores(x: Tensor) -> list[Tensor]:
        return [torch.full((B, 1, 4, 5), score if torch.equal(x, real) else -2 * score)]

    monkeypatch.setattr(adversarial.discriminator, "forward", scores)
    assert adversarial.generator_loss(real).item() == pytest.approx(losses(criterion, score)[0], rel=1e-5)
    critic = 0.5 * (losses(criterion, score)[1] + losses(criterion, -2 * score)[2])
    assert adversarial.discriminator_loss(real, images(1)).item() == pytest.approx(critic, rel=1e-5)


def test_gradient_steps_lower_the_discriminator_and_the_generator_loss() -> None:
    adversarial = made()
    real, fake = images(0), images(1).mul(0.2).requires_grad_()
    before = adversarial.discriminator_loss(real, fake)
    optimizer = torch.optim.SGD(adversarial.discriminator.parameters(), lr=0.05)
    before.backward()
    assert fake.grad is None  # the discriminator loss has no gradient for the autoencoder
    optimizer.step()
    assert adversarial.discriminator_loss(real, fake).item() < before.item()
    fooled = adversarial.generator_loss(fake)
    (gradient,) = torch.autograd.grad(fooled, fake)
    assert adversarial.generator_loss(fake - 0.5 * gradient / gradient.norm()).item() < fooled.item()


def test_bce_works_in_half_precision() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert made("bce").discriminator_loss(images(0), images(1)).dtype == torch.float32


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"criterion": "wasserstein"}, "choose one of hinge"), ({"start": -1}, "start is -1: give a number from 0")],
)
def test_invalid_settings_are_refused(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        PatchAdversarial(C, **wrong)  # type: ignore[arg-type]


def test_the_discriminator_can_get_frames_minus_their_local_mean() -> None:
    """Input of the discriminator: frames minus their local mean (as in scipy), divided by the std in training."""
    adversarial, frames = PatchAdversarial(C, width=8, layers=2, start=0, local_mean=5), images(0) * 0.02 - 0.9
    adversarial.fit_residual_std(frames)
    seen: list[Tensor] = []
    adversarial.discriminator.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    adversarial.generator_loss(frames)
    residual = frames - torch.from_numpy(uniform_filter(frames.numpy(), (1, 1, 5, 5), mode="mirror"))
    assert torch.allclose(seen[0], residual / residual.std(), atol=1e-3)
    assert seen[0].std().item() == pytest.approx(1, rel=1e-4)
    assert "residual_std" in adversarial.state_dict()


def test_with_local_contrast_dark_and_bright_speckle_count_the_same() -> None:
    """Multiplicative speckle on a bright and a dark half: with local contrast, both residuals have the same std."""
    speckle = torch.rand(B, C, H, W, generator=torch.Generator().manual_seed(3)) * 0.2 + 0.9
    level = torch.full((H, W), 0.5)
    level[:, W // 2 :] = 0.05
    frames = speckle * level * 2 - 1
    for contrast, ratio in ((1e-4, 1.0), (None, 0.1)):
        adversarial = PatchAdversarial(C, width=8, layers=2, start=0, local_mean=5, local_contrast=contrast)
        residual = adversarial._residual(frames)
        bright, dark = residual[..., : W // 2 - 3].std(), residual[..., W // 2 + 3 :].std()
        assert (dark / bright).item() == pytest.approx(ratio, rel=0.1)


@pytest.mark.parametrize(
    ("key", "value"),
    [("local_contrast", 0.0), ("local_mean", 4), ("local_mean", -1), ("lr", 0.0), ("discriminator_lr", -1)],
)
def test_invalid_windows_and_rates_are_refused(key: str, value: float) -> None:
    with pytest.raises(UserError, match=f"^loss.adversarial.{key} is {value}"):
        PatchAdversarial(C, width=8, layers=2, **{key: value})
