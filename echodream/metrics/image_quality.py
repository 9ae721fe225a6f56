"""How faithful a reconstruction is: PSNR, SSIM and MAE per image, whole or where tissue moves."""

import torch
from torch import Tensor
from torch.nn import functional


def mae(x: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean absolute error per image, in grey levels of 0..255. Images in [-1, 1], (B, C, H, W); returns (B,)."""
    return _average((x - y).abs().mean(dim=1), mask) * 127.5


def psnr(x: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio per image, in dB, for a range of 2 ([-1, 1]). (B, C, H, W) twice; returns (B,).

    Capped at 100 dB, so that equal images have a finite value.
    """
    error = _average((x - y).square().mean(dim=1), mask)
    return 10 * torch.log10(4 / error.clamp(min=4e-10))


def ssim(x: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
    """Structural similarity per image (Wang et al. 2004; Gaussian window of 11, sigma 1.5). (B, C, H, W); returns (B,).

    The image is mirrored at its border, as torchmetrics has it.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    result = structural_similarity_index_measure(y, x, data_range=2.0, reduction="none", return_full_image=True)
    return _average(result[1].mean(dim=1), mask)


def moving_pixels(x: Tensor, threshold: float = 16.0) -> Tensor:
    """Where each frame differs from the one before by more than ``threshold`` grey levels of 0..255.

    ``x`` is in [-1, 1], (B, C, F, H, W); the first frame is compared with the second, and in a single frame nothing
    moves. Returns bool, (B, F, H, W).
    """
    if x.shape[2] == 1:
        return torch.zeros_like(x[:, 0], dtype=torch.bool)
    change = (x[:, :, 1:] - x[:, :, :-1]).abs().amax(dim=1) * 127.5 > threshold
    return torch.cat([change[:, :1], change], dim=1)


def bicubic_round_trip(x: Tensor, factor: int) -> Tensor:
    """``x``, (B, C, H, W), reduced by ``factor`` and enlarged with an antialiased bicubic filter: the bar to clear."""
    size = x.shape[-2:]
    small = functional.interpolate(x, scale_factor=1 / factor, mode="bicubic", antialias=True)
    return functional.interpolate(small, size=size, mode="bicubic", antialias=True).clamp(-1, 1)


def _average(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over space of (B, H, W), where ``mask`` is true; NaN for an image with an empty mask."""
    if mask is None:
        return values.mean(dim=(1, 2))
    return (values * mask).sum(dim=(1, 2)) / mask.sum(dim=(1, 2))
