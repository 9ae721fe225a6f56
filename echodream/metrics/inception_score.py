"""The inception score (arXiv 1606.03498): how sure a classifier is of each sample, and how much its answers vary."""

import numpy as np

from echodream.metrics.bootstrap import Estimate


def inception_score(scores: np.ndarray) -> Estimate:
    """exp of the mean Kullback-Leibler divergence between p(y | x) and p(y), from logits, (N, K).

    Over all samples at once, without the usual ten splits, each of which would be of a smaller N. 1 to K. The influence
    of a sample is that of its own divergence: p(y) moves the mean only in second order.
    """
    logits = np.asarray(scores, np.float64)
    if logits.ndim != 2 or not np.isfinite(logits).all() or len(logits) < 2:
        raise ValueError(f"scores are {logits.shape}, not finite (N, K) with N at least 2")
    logs = logits - logits.max(axis=1, keepdims=True)
    logs -= np.log(np.exp(logs).sum(axis=1, keepdims=True))
    chances = np.exp(logs)
    average = chances.mean(axis=0)
    own = (chances * (logs - np.log(np.maximum(average, 1e-300)))).sum(axis=1)
    value = float(np.exp(own.mean()))
    return Estimate(value, value * (own - own.mean()), np.zeros(0), (1.0, float(logits.shape[1])))
