import io

import numpy as np
import pytest
import torch
from PIL import Image

from echodream.datamodules.augmentation import (
    Augment,
    add_noise,
    affine,
    blur,
    contrast,
    deform,
    flip,
    gain,
    invert,
    jpeg,
    speckle,
)
from echodream.datamodules.normalization import from_uint8, to_uint8, unwhiten, whiten
from echodream.errors import UserError
from tests.support.stores import STATISTICS

C, F, H, W = 4, 3, 10, 14


def pixels(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def ramp() -> torch.Tensor:
    """Linear ramp, (C, F, H, W), in both directions: bilinear interpolation reproduces a linear function exactly."""
    down, right = torch.arange(H).view(H, 1), torch.arange(W)
    return torch.stack([down * 0.3 + right * 0.1 + c for c in range(C * F)]).view(C, F, H, W)


def inner(x: torch.Tensor, margin: int = 3) -> torch.Tensor:
    return x[..., margin:-margin, margin:-margin]


@pytest.mark.parametrize(
    ("shape", "dim"), [((4, 3, 5, 7), 0), ((2, 4, 3, 5, 7), 1), ((2, 4, 5, 7), 1), ((2, 3, 4), -1)]
)
def test_whitening_is_by_channel_and_has_an_inverse(shape: tuple[int, ...], dim: int) -> None:
    x = pixels(*shape)
    white = whiten(x, STATISTICS, dim)
    for channel in range(4):
        expected = (x.select(dim, channel) - STATISTICS.mean[channel]) / STATISTICS.std[channel]
        torch.testing.assert_close(white.select(dim, channel), expected)
    torch.testing.assert_close(unwhiten(white, STATISTICS, dim), x)


def test_whitening_refuses_a_dimension_that_is_not_the_channels() -> None:
    with pytest.raises(ValueError, match="dimension 0 does not have 4 channels"):
        whiten(pixels(3, 4, 5, 7), STATISTICS)


def test_half_precision_latents_are_whitened_in_single() -> None:
    assert whiten(torch.zeros(4, 3, 5, 7, dtype=torch.float16), STATISTICS).dtype == torch.float32


def test_every_pixel_value_comes_back() -> None:
    values = torch.arange(256, dtype=torch.uint8)
    x = from_uint8(values)
    assert (x[0], x[255]) == (-1, 1)
    assert torch.equal(to_uint8(x), values)
    assert to_uint8(torch.tensor([-1.5, 1.5])).tolist() == [0, 255]


def test_gain_multiplies_intensity() -> None:
    x = torch.tensor([-1.0, -0.5, 0.0, 0.9]).view(1, 1, 2, 2)  # as intensities: 0, 0.25, 0.5, 0.95
    torch.testing.assert_close(gain(x, 1.5).flatten(), torch.tensor([-1.0, -0.25, 0.5, 1.0]))


def test_contrast_is_a_power_of_intensity() -> None:
    x = torch.tensor([-1.0, -0.5, 0.0, 1.0]).view(1, 1, 2, 2)
    torch.testing.assert_close(contrast(x, 2.0).flatten(), torch.tensor([-1.0, -0.875, -0.5, 1.0]))


def test_speckle_scales_with_intensity_and_is_one_for_all_channels() -> None:
    grey = torch.full((3, 2, 50, 70), -0.6)  # as intensity: 0.2
    out = speckle(grey, 0.1, rng())
    assert torch.equal(out[0], out[2])
    assert not torch.equal(out[:, 0], out[:, 1])
    assert abs(((out[0] + 1) / 2).std().item() - 0.02) < 0.001
    assert torch.equal(speckle(-torch.ones(1, 2, 5, 7), 0.5, rng()), -torch.ones(1, 2, 5, 7))


def test_noise_has_the_strength_asked_for() -> None:
    out = add_noise(torch.zeros(4, 3, 50, 70), 0.3, rng())
    assert abs(out.std().item() - 0.3) < 0.01
    assert abs(out.mean().item()) < 0.01


def test_flip_exchanges_left_and_right() -> None:
    x = pixels(C, F, H, W)
    assert torch.equal(flip(x)[..., 0], x[..., -1])
    assert torch.equal(flip(x, -2)[..., 0, :], x[..., -1, :])


def test_invert_exchanges_black_and_white() -> None:
    assert invert(torch.tensor([-1.0, -0.5, 1.0])).tolist() == [1.0, 0.5, -1.0]


@pytest.mark.parametrize("sigma", [0.7, 1.6])
def test_blur_is_a_gaussian_of_every_frame(sigma: float) -> None:
    """A single bright pixel becomes a Gaussian of the given standard deviation; a constant image stays constant."""
    x = torch.zeros(2, 3, 21, 25)
    x[1, 2, 10, 12] = 1
    down, right = np.mgrid[:21, :25] - np.array([10, 12])[:, None, None]
    expected = np.exp(-(down**2 + right**2) / 2 / sigma**2)
    found = blur(x, sigma)
    torch.testing.assert_close(found[1, 2], torch.from_numpy(expected / expected.sum()).float(), atol=3e-3, rtol=0)
    assert found.sum() == pytest.approx(1, abs=1e-5)
    assert found[0].abs().max() == found[1, :2].abs().max() == 0
    torch.testing.assert_close(blur(torch.full((C, F, H, W), 0.3), sigma), torch.full((C, F, H, W), 0.3))
    assert torch.equal(blur(x, 0.0), x)


def test_elastic_displaces_by_its_amount_and_all_frames_alike() -> None:
    """On a ramp, the change of intensity is the displacement: of the given size, smooth, and equal in all frames."""
    side = 64
    down = torch.arange(side).view(1, 1, side, 1).expand(1, 2, side, side) / 100
    right = down.transpose(2, 3)
    for ramp_ in (down, right):
        moved = (deform(ramp_, 1.5, rng()) - ramp_) * 100
        assert torch.equal(moved[:, 0], moved[:, 1])
        assert float(inner(moved, 6).square().mean().sqrt()) == pytest.approx(1.5, rel=0.3)
        assert float(inner(moved, 6).diff(dim=-1).abs().max()) < 0.6
    assert not torch.equal(deform(down, 1.5, rng(1)), deform(down, 1.5, rng(2)))
    assert torch.equal(deform(down, 0.0, rng()), down)


def test_jpeg_is_pillow_s_of_every_channel() -> None:
    x = affine(pixels(C, F, 40, 56), zoom=8.0)
    errors = []
    for quality in (10, 50, 95):
        found = jpeg(x, quality)
        assert found.shape == x.shape
        errors.append(float((found - x).abs().mean()))
        file = io.BytesIO()
        Image.fromarray(to_uint8(x)[1, 2].numpy()).save(file, "JPEG", quality=quality)
        assert torch.equal(to_uint8(found)[1, 2], torch.from_numpy(np.asarray(Image.open(file)).copy()))
    assert errors[0] > 2 * errors[1] > 2 * errors[2]
    assert errors[2] < 0.02


def test_affine_shifts_down_and_right_by_shares_of_the_sides() -> None:
    x = ramp()
    out = affine(x, shift=(2 / H, 3 / W))
    torch.testing.assert_close(out[..., 2:, 3:], x[..., :-2, :-3])
    torch.testing.assert_close(out[..., 0, 3:], x[..., 0, :-3])  # pixels outside the image have the value of the border


def test_affine_zooms_about_the_centre() -> None:
    x = ramp()
    centre = (x[..., H // 2 - 1 : H // 2 + 1, W // 2 - 1 : W // 2 + 1]).mean((-1, -2), keepdim=True)
    torch.testing.assert_close(affine(x, zoom=2.0), (x - centre) / 2 + centre)


@pytest.mark.parametrize("degrees", [25.0, -40.0])
def test_affine_rotates_in_pixels_though_height_and_width_differ(degrees: float) -> None:
    angle = np.deg2rad(degrees)
    down, right = np.mgrid[:H, :W] - np.array([(H - 1) / 2, (W - 1) / 2])[:, None, None]
    # counterclockwise on the screen, where rows go down: pixels at the right move up
    source_right = right * np.cos(angle) - down * np.sin(angle)
    source_down = right * np.sin(angle) + down * np.cos(angle)
    expected = (source_down + (H - 1) / 2) * 0.3 + (source_right + (W - 1) / 2) * 0.1
    out = affine(ramp(), degrees=degrees)
    torch.testing.assert_close(inner(out[0, 0]), inner(torch.from_numpy(expected).float()), atol=1e-4, rtol=0)


def test_affine_by_a_quarter_turn_anticlockwise_is_that_of_numpy() -> None:
    x = pixels(C, F, 9, 9)
    expected = np.rot90(x.numpy(), axes=(-2, -1)).copy()
    torch.testing.assert_close(affine(x, degrees=90.0), torch.from_numpy(expected), atol=1e-4, rtol=0)


def test_affine_shifts_after_it_rotates() -> None:
    square = pixels(C, F, 9, 9)
    turned = torch.from_numpy(np.rot90(square.numpy(), axes=(-2, -1)).copy())
    moved = affine(square, shift=(2 / 9, -3 / 9), degrees=90.0)
    torch.testing.assert_close(moved[..., 2:, :-3], turned[..., :-2, 3:], atol=1e-4, rtol=0)
    x = pixels(C, F, H, W)
    both = affine(x, shift=(2 / H, -3 / W), degrees=180.0)
    torch.testing.assert_close(both[..., 2:, :-3], x.flip(-1, -2)[..., :-2, 3:], atol=1e-4, rtol=0)


def test_an_augmentation_is_a_function_of_its_generator() -> None:
    vary = Augment(gain=0.3, contrast=0.3, speckle=0.2, noise=0.1, shift=0.1, rotate=10, zoom=0.2, flip=0.5)
    x = pixels(C, F, H, W)
    assert torch.equal(vary(x, rng(1)), vary(x, rng(1)))
    assert not torch.equal(vary(x, rng(1)), vary(x, rng(2)))


def test_no_augmentation_is_none() -> None:
    x = pixels(C, F, H, W)
    assert torch.equal(Augment()(x, rng()), x)


def test_one_draw_holds_for_all_frames() -> None:
    x = pixels(C, 1, H, W).expand(C, F, H, W)
    out = Augment(gain=0.3, contrast=0.3, shift=0.1, rotate=10, zoom=0.2, flip=0.5)(x, rng())
    torch.testing.assert_close(out, out[:, :1].expand(C, F, H, W))
    assert not torch.equal(out, x)


def test_amounts_stay_within_what_is_asked() -> None:
    x = torch.zeros(1, 1, 3, 5)  # as intensity: 0.5
    found = [(Augment(gain=0.25)(x, rng(seed))[0, 0, 0, 0].item() + 1) / 2 for seed in range(200)]
    assert 0.4 <= min(found) < 0.41
    assert 0.615 < max(found) <= 0.625


def test_flips_come_as_often_as_asked() -> None:
    x = pixels(1, 1, 3, 5)
    flips = sum(torch.equal(Augment(flip=0.25)(x, rng(seed)), flip(x)) for seed in range(400))
    assert 70 <= flips <= 130


@pytest.mark.parametrize("wrong", [{"gain": -0.1}, {"flip": 1.5}, {"rotate": 181}, {"noise": "much"}, {"shift": True}])
def test_an_amount_that_cannot_be_is_named(wrong: dict[str, float]) -> None:
    name = next(iter(wrong))
    with pytest.raises(UserError, match=f"(?i)augment.{name} is {wrong[name]!r}"):
        Augment(**wrong)
