"""Quality of reconstructed images: PSNR, SSIM and MAE per image, optionally inside a mask."""

import torch
from torch import Tensor
from torch.nn import functional


def mae(x: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean absolute error in gray levels of 0..255: images in [-1, 1], (B, C, H, W), to (B,); ``mask``: (B, H, W)."""
    return _masked_mean((x - y).abs().mean(dim=1), mask) * 127.5


def psnr(x: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio in dB for a range of 2 ([-1, 1]): (B, C, H, W) to (B,). Equal images have 100 dB."""
    error = _masked_mean((x - y).square().mean(dim=1), mask)
    return 10 * torch.log10(4 / error.clamp(min=4e-10))


def ssim(x: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
    """Structural similarity (Wang et al. 2004; Gaussian window of 11 pixels, sigma 1.5): (B, C, H, W) to (B,).

    Images are padded by reflection, as in torchmetrics.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    result = structural_similarity_index_measure(y, x, data_range=2.0, reduction="none", return_full_image=True)
    return _masked_mean(result[1].mean(dim=1), mask)


def moving_pixels(x: Tensor, threshold: float = 16.0) -> Tensor:
    """Mask of pixels that differ from the previous frame by more than ``threshold`` gray levels of 0..255.

    ``x`` in [-1, 1], (B, C, F, H, W), to bool (B, F, H, W). The first frame has the mask of the second frame; the mask
    of a single frame is empty.
    """
    if x.shape[2] == 1:
        return torch.zeros_like(x[:, 0], dtype=torch.bool)
    change = (x[:, :, 1:] - x[:, :, :-1]).abs().amax(dim=1) * 127.5 > threshold
    return torch.cat([change[:, :1], change], dim=1)


def bicubic_round_trip(x: Tensor, factor: int) -> Tensor:
    """Baseline reconstruction of ``x``, (B, C, H, W): bicubic downsampling by ``factor``, then upsampling."""
    downsampled = functional.interpolate(x, scale_factor=1 / factor, mode="bicubic", antialias=True)
    return functional.interpolate(downsampled, size=x.shape[-2:], mode="bicubic", antialias=True).clamp(-1, 1)


def _masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of ``values``, (B, H, W), over the pixels of ``mask``: (B,); NaN for an empty mask."""
    if mask is None:
        return values.mean(dim=(1, 2))
    return (values * mask).sum(dim=(1, 2)) / mask.sum(dim=(1, 2))
