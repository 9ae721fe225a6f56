"""Image quality metrics compared with numpy and torchmetrics, and the mask of moving pixels by hand."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchmetrics.image import StructuralSimilarityIndexMeasure

from echodream.metrics.image_quality import bicubic_round_trip, mae, moving_pixels, psnr, ssim

B, C, F, H, W = 2, 3, 4, 24, 40


def images(seed: int) -> Tensor:
    return torch.rand(B, C, H, W, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def mask() -> Tensor:
    return torch.rand(B, H, W, generator=torch.Generator().manual_seed(9)) > 0.7


@pytest.mark.parametrize("where", [None, mask()])
def test_mae_and_psnr_equal_numpy(where: Tensor | None) -> None:
    x, y = images(0), images(1)
    left, right = ((image.double().numpy() + 1) * 127.5 for image in (x, y))
    for index in range(B):
        chosen = np.ones((H, W), bool) if where is None else where[index].numpy()
        difference = (left - right)[index][:, chosen]
        assert mae(x, y, where)[index].item() == pytest.approx(np.abs(difference).mean(), rel=1e-5)
        truth = 10 * math.log10(255**2 / np.mean(difference**2))
        assert psnr(x, y, where)[index].item() == pytest.approx(truth, abs=1e-4)


def test_equal_images_have_a_finite_psnr() -> None:
    assert psnr(images(0), images(0)).tolist() == pytest.approx([100.0] * B)


def test_ssim_equals_torchmetrics() -> None:
    x = images(0)
    y = (x + 0.4 * images(1)).clamp(-1, 1)
    metric = StructuralSimilarityIndexMeasure(
        data_range=(-1.0, 1.0), reduction="none", kernel_size=11, gaussian_kernel=True, sigma=1.5
    )
    assert ssim(x, y).tolist() == pytest.approx(metric(y, x).tolist(), abs=1e-5)
    assert ssim(x, x).tolist() == pytest.approx([1.0] * B)


def gaussian_mean(image: np.ndarray) -> np.ndarray:
    """Local means of an image (H, W) under the Gaussian SSIM window, at positions where the window fits."""
    window = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window /= window.sum()
    rows = np.apply_along_axis(lambda line: np.convolve(line, window, "valid"), 1, image)
    return np.apply_along_axis(lambda line: np.convolve(line, window, "valid"), 0, rows)


def ssim_map(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """SSIM by equation 13 of Wang et al. at each position where the window fits; data range 2."""
    a, b = gaussian_mean(x), gaussian_mean(y)
    var_a, var_b, cov = (
        gaussian_mean(product) - means for product, means in ((x * x, a * a), (y * y, b * b), (x * y, a * b))
    )
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    return (2 * a * b + c1) * (2 * cov + c2) / ((a**2 + b**2 + c1) * (var_a + var_b + c2))


def test_masked_ssim_equals_the_ssim_map_in_the_mask() -> None:
    x, y = images(0), (images(0) + 0.4 * images(1)).clamp(-1, 1)
    where = torch.zeros(B, H, W, dtype=torch.bool)
    where[0, 6:9, 7:30] = True
    where[1, 10, 12] = True  # all masked pixels are 5 or more pixels from the border
    for index in range(B):
        maps = [ssim_map(*(image[index, channel].double().numpy() for image in (x, y))) for channel in range(C)]
        inner = where[index, 5:-5, 5:-5].numpy()
        assert ssim(x, y, where)[index].item() == pytest.approx(np.mean(maps, axis=0)[inner].mean(), abs=1e-4)


@pytest.mark.parametrize("metric", [mae, psnr, ssim])
def test_an_image_with_an_empty_mask_has_no_value(metric: object) -> None:
    where = mask()
    where[1] = False
    values = metric(images(0), images(1), where)  # type: ignore[operator]
    assert math.isfinite(values[0])
    assert math.isnan(values[1])


def test_moving_mask_by_hand() -> None:
    clip = torch.full((1, 2, F, 5, 7), -1.0)  # below, a change in one of two channels counts as motion
    clip[0, 1, 2:, 3, 4] = -1 + 17 / 127.5  # 17 gray levels brighter from frame 2 on
    clip[0, 0, 3, 0, 0] = -1 + 15 / 127.5  # 15 gray levels: below the threshold
    found = moving_pixels(clip)
    assert found.shape == (1, F, 5, 7)
    assert found.nonzero().tolist() == [[0, 2, 3, 4]]


def test_the_first_frame_is_compared_with_the_second() -> None:
    clip = torch.zeros(1, 1, F, 5, 7)
    clip[0, 0, 0, 1, 2] = 1.0
    assert moving_pixels(clip).nonzero().tolist() == [[0, 0, 1, 2], [0, 1, 1, 2]]


def test_nothing_moves_in_a_single_frame() -> None:
    assert moving_pixels(torch.zeros(2, 1, 1, 5, 7)).shape == (2, 1, 5, 7)
    assert not moving_pixels(torch.rand(2, 1, 1, 5, 7)).any()


def test_bicubic_round_trip_equals_pillow() -> None:
    """Pillow's bicubic filter has the same antialiased kernel, and resizes one float channel at a time."""
    x = images(0)
    found = bicubic_round_trip(x, 8)
    assert found.shape == x.shape
    for index in range(B):
        for channel in range(C):
            image = Image.fromarray(x[index, channel].numpy(), mode="F")
            small = image.resize((W // 8, H // 8), Image.Resampling.BICUBIC)
            truth = np.asarray(small.resize((W, H), Image.Resampling.BICUBIC)).clip(-1, 1)
            assert found[index, channel].numpy() == pytest.approx(truth, abs=2e-4)


def test_bicubic_round_trip_keeps_smooth_images() -> None:
    ramp = torch.linspace(-0.5, 0.5, 64).expand(1, 1, 64, 64)
    assert psnr(ramp, bicubic_round_trip(ramp, 8)).item() > 35
