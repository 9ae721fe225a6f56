"""The error of a prediction, one number for each sample."""

from torch import Tensor


def mean_squares(prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared error of each sample, (B,); both are (B, C, *rest).

    ``mask``, bool (B, F), tells which frames of clips, (B, C, F, H, W), are real: the mean is over those alone, so that
    a short clip weighs as much as a long one. A clip without any has error 0.
    """
    squares = (prediction.float() - target.float()).square()
    if mask is None:
        return squares.flatten(1).mean(dim=1)
    frames = squares.mean(dim=(1, 3, 4))
    real = mask.to(frames.dtype)
    return (frames * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)
