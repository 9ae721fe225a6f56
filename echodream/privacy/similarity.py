"""Similarity of embeddings: normalization, similarities of pairs, and similarity matrices."""

from typing import Literal

import torch
from torch import Tensor

from echodream.errors import UserError

Similarity = Literal["cosine", "pearson", "euclidean"]
SIMILARITIES: tuple[Similarity, ...] = ("cosine", "pearson", "euclidean")
CANCELLATION = 0.01
"""Share of |x|^2 + |y|^2 below which a squared distance is computed from the difference instead of the dot product."""
CHUNK_ROWS = 2**15
"""Number of rows that are normalized together, in double precision."""
CHUNK_NUMBERS = 2**22
"""Number of values in a chunk of differences between rows."""


def normalize(embeddings: Tensor, similarity: Similarity, name: str = "embeddings") -> Tensor:
    """Embeddings (n, D), prepared for ``similarity``: float32 (n, D).

    For ``cosine``, rows are divided by their norm. For ``pearson``, rows are centered over features, then divided by
    their norm, so that the dot product of two rows is their correlation. For ``euclidean``, rows do not change. Raises
    ``UserError`` about the embeddings ``name`` for a wrong shape, NaN or infinite values, and zero rows (for
    ``pearson``, constant rows).
    """
    if similarity not in SIMILARITIES:
        raise UserError(f"similarity={similarity!r} is not known: choose one of {', '.join(SIMILARITIES)}.")
    if embeddings.ndim != 2 or 0 in embeddings.shape:
        shape = tuple(embeddings.shape)
        raise UserError(f"The {name} have shape {shape}, not (n, D) with at least one row and one feature.")
    if not torch.isfinite(embeddings).all():
        raise UserError(f"The {name} hold NaN or infinite values: the identity network is broken; train it again.")
    if similarity == "euclidean":
        return embeddings.float()
    normalized = torch.empty_like(embeddings, dtype=torch.float32)
    for start in range(0, len(embeddings), CHUNK_ROWS):
        rows = embeddings[start : start + CHUNK_ROWS].double()
        norm_before = rows.norm(dim=1, keepdim=True)
        if similarity == "pearson":
            rows = rows - rows.mean(dim=1, keepdim=True)
        norm = rows.norm(dim=1, keepdim=True)
        if (norm <= 1e-6 * norm_before).any():
            raise UserError(
                f"Some of the {name} are constant, so they have no {similarity} similarity: the identity network has "
                "collapsed or its output is saturated; train it again."
            )
        normalized[start : start + CHUNK_ROWS] = rows / norm
    return normalized


def paired_similarity(x: Tensor, y: Tensor, similarity: Similarity) -> Tensor:
    """Similarity of row i of ``x`` to row i of ``y``, both normalized, (n, D): float32 values as float64 (n,).

    Euclidean distances are negative, so that a larger value always means closer.
    """
    x, y = x.double(), y.double()
    values = -(x - y).square().sum(dim=1).sqrt() if similarity == "euclidean" else (x * y).sum(dim=1)
    return values.float().double()


def similarity_matrix(x: Tensor, y: Tensor, similarity: Similarity, center: Tensor | None = None) -> Tensor:
    """Similarity of each row of ``x``, (n, D), to each row of ``y``, (m, D), both normalized: float32 (n, m).

    Similarities are computed in double precision and rounded, so that equal pairs have equal values in any block. For
    ``euclidean``, the similarity is the negative distance. ``center``, a point near the data, float32 (D,), is
    subtracted from both sets to reduce rounding errors of distances.
    """
    x, y = x.double(), y.double()
    if similarity != "euclidean":
        return (x @ y.T).float()
    if center is not None:  # exact: the difference of two float32 numbers fits into a double
        x, y = x - center.double(), y - center.double()
    return -euclidean_distances(x, y).float()


def euclidean_distances(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean distances, (n, m), of the rows of ``x``, float64 (n, D), from the rows of ``y``, (m, D).

    Distances are computed from dot products, or from differences where rounding errors would be too large. For rows
    near the origin, differences are needed less often.
    """
    sizes = x.square().sum(dim=1)[:, None] + y.square().sum(dim=1)
    squared = torch.addmm(sizes, x, y.T, alpha=-2)
    if squared.amin() < CANCELLATION * sizes.amax():
        row, column = (squared <= CANCELLATION * sizes).nonzero(as_tuple=True)
        if 16 * len(row) > squared.numel():
            return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
        size = max(1, CHUNK_NUMBERS // x.shape[1])
        for rows, columns in zip(row.split(size), column.split(size), strict=True):
            squared[rows, columns] = (x[rows] - y[columns]).square().sum(dim=1)
    return squared.sqrt_()
