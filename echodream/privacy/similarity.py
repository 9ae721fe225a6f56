"""How alike two embeddings are: one normalisation for samples, references, calibration patients and controls."""

from typing import Literal

import torch
from torch import Tensor

from echodream.errors import UserError

Similarity = Literal["cosine", "pearson", "euclidean"]
SIMILARITIES: tuple[Similarity, ...] = ("cosine", "pearson", "euclidean")


def normalised(embeddings: Tensor, similarity: Similarity, what: str = "embeddings") -> Tensor:
    """Embeddings, (n, D), made ready to be compared; returns float32, (n, D).

    ``cosine``: divided by their norm; ``pearson``: their mean over features taken off first, so that the product of
    two rows is the correlation; ``euclidean``: as they are. ``what`` names them in an error: what is not a finite
    (n, D), or has no direction (all features equal, for ``pearson``; all zero, for ``cosine``), raises ``UserError``.
    """
    if similarity not in SIMILARITIES:
        raise UserError(f"similarity={similarity!r} is not known: choose one of {', '.join(SIMILARITIES)}.")
    if embeddings.ndim != 2 or 0 in embeddings.shape:
        shape = tuple(embeddings.shape)
        raise UserError(f"The {what} have shape {shape}, not (n, D) with at least one row and one feature.")
    if not torch.isfinite(embeddings).all():
        raise UserError(f"The {what} hold NaN or infinite values: the identity network is broken; train it again.")
    if similarity == "euclidean":
        return embeddings.float()
    rows = embeddings.double()
    size = rows.norm(dim=1, keepdim=True)
    if similarity == "pearson":
        rows = rows - rows.mean(dim=1, keepdim=True)
    norm = rows.norm(dim=1, keepdim=True)
    if (norm <= 1e-6 * size).any():
        raise UserError(
            f"Some of the {what} are constant, so they have no {similarity} similarity: the identity network has "
            "collapsed or its output is saturated; train it again."
        )
    return (rows / norm).float()


def exact(x: Tensor, y: Tensor, similarity: Similarity) -> Tensor:
    """Similarity of rows of two normalised sets, (n, D) each; returns float64, (n,), at float32's precision.

    Computed in double precision and rounded, so that it does not depend on blocks, order or device. Euclidean
    distances come back negative: larger is always closer.
    """
    x, y = x.double(), y.double()
    found = -(x - y).square().sum(dim=1).sqrt() if similarity == "euclidean" else (x * y).sum(dim=1)
    return found.float().double()
