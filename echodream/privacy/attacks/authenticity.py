"""Authenticity: whether a sample is farther from training data than the next patient is (Alaa et al., 2102.08921)."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from echodream.metrics.bootstrap import unit_indices
from echodream.privacy.nearest_neighbors import check_embeddings, nearest_other_patient, nearest_rows


def authenticity(synthetic: Tensor, train: Tensor, train_patients: Sequence[object] | None = None) -> np.ndarray:
    """Whether each row of ``synthetic``, (n, D), is authentic by Euclidean distances: bool (n,).

    A row is not authentic if it is closer to its nearest row of ``train``, (m, D), than that row is to the nearest row
    of another patient. Without ``train_patients``, each training row counts as one patient, as in the paper.
    """
    x, y = check_embeddings("authenticity", synthetic, train)
    distance, index = nearest_rows(x, y)
    to_other_patient = nearest_other_patient(y, unit_indices(train_patients, len(y)))
    return torch.gt(distance, to_other_patient[index]).cpu().numpy()
