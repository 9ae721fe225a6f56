"""Inception score (arXiv 1606.03498)."""

import numpy as np
from scipy.special import rel_entr, softmax

from echodream.metrics.bootstrap import Estimate


def inception_score(logits: np.ndarray) -> Estimate:
    """exp of the mean Kullback-Leibler divergence of p(y | x) from p(y), from ``logits``, (N, K): a value in [1, K].

    All samples form one split, not the usual ten, because the score depends on N. The influence of a sample ignores its
    effect on p(y). Raises ``ValueError`` unless the logits are finite, with shape (N, K) and N of at least 2.
    """
    logits = np.asarray(logits, np.float64)
    if logits.ndim != 2 or not np.isfinite(logits).all() or len(logits) < 2:
        raise ValueError(f"logits are {logits.shape}, not finite (N, K) with N at least 2")
    p = softmax(logits, axis=1)
    divergence = rel_entr(p, p.mean(axis=0)).sum(axis=1)
    value = float(np.exp(divergence.mean()))
    return Estimate(value, value * (divergence - divergence.mean()), np.zeros(0), (1.0, float(logits.shape[1])))
