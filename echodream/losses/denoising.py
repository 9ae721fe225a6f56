"""Denoising loss: the squared error of the prediction, for each sample of a batch."""

from torch import Tensor


def mean_squared_errors(prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared error of each sample, (B,); ``prediction`` and ``target`` are (B, C, *rest).

    ``mask``, bool (B, F), excludes padded frames of clips, (B, C, F, H, W), so that all clips have equal weight.
    """
    squares = (prediction.float() - target.float()).square()
    if mask is None:
        return squares.flatten(1).mean(dim=1)
    frames = squares.mean(dim=(1, 3, 4))
    recorded = mask.to(frames.dtype)
    return (frames * recorded).sum(dim=1) / recorded.sum(dim=1).clamp(min=1)
