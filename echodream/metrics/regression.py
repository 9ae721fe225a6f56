"""Regression metrics, with optional weights of ``bootstrap.bootstrap_weights``."""

import numpy as np


def regression_metrics(
    predicted: np.ndarray, truth: np.ndarray, weights: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """R2, MAE and RMSE, (R,) each, of ``predicted``, (N,), and ``truth``, (N,), for ``weights`` (R, N).

    R2 may be negative, and is NaN if ``truth`` is constant.
    """
    w = np.ones((1, len(truth))) if weights is None else weights
    total = w.sum(axis=1)
    squared = w @ (predicted - truth) ** 2 / total
    mean = w @ truth / total
    variance = (w * (truth[None] - mean[:, None]) ** 2).sum(axis=1) / total
    with np.errstate(divide="ignore", invalid="ignore"):
        r2 = np.where(variance > 0, 1 - squared / variance, np.nan)
    return {"r2": r2, "mae": w @ abs(predicted - truth) / total, "rmse": np.sqrt(squared)}
