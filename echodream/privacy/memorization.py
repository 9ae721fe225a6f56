"""Rule that decides from distances whether a sample is a copy of a patient, a half-memorized copy, or novel."""

from dataclasses import dataclass

import numpy as np

from echodream.errors import UserError

CLASSES = ("copy", "half", "novel")
"""Classes of ``CopyRule.classify``, by increasing distance."""
OWN_SHARE = 0.95
"""Fraction of patients whose own frames are at most the distance of a copy apart."""
NEIGHBORS = 50
"""Number of nearest other patients, to whose mean distance a distance is relative."""


def relative_distances(nearest: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Distances ``nearest``, (n,), divided by the mean of the smallest ``NEIGHBORS`` distances to ``others``, (n, m).

    A blurred image is close to the images of every patient, so a small distance alone does not show that it is a copy
    (Carlini et al. 2023, arXiv 2301.13188, section 5.1). An infinite distance in ``others`` is left out.
    """
    if (count := min(NEIGHBORS, int(np.isfinite(others).sum(axis=1).min()) if others.size else 0)) < 1:
        raise UserError("memoriser=true needs two TRAIN patients outside of the fine-tuning: lower its patients")
    relative: np.ndarray = nearest / np.sort(others, axis=1)[:, :count].mean(axis=1)
    return relative


@dataclass(frozen=True)
class CopyRule:
    """Classes of samples by ``relative_distances`` to the nearest of the patients that a generator was fine-tuned on.

    A sample is novel if its distance is ``novel`` or more. Of the others, it is a copy if its distance is at most
    ``copy``, and half-memorized otherwise. ``own`` and ``others``: numbers of patients of ``copy_rule``.
    """

    copy: float
    novel: float
    own: int
    others: int

    def classify(self, distances: np.ndarray) -> np.ndarray:
        """Index in ``CLASSES`` of the class for each of ``distances``, (n,): int (n,)."""
        return np.where(distances >= self.novel, 2, np.where(distances <= self.copy, 0, 1))


def copy_rule(own: np.ndarray, others: np.ndarray) -> CopyRule:
    """The rule from relative distances of real frames, (m,) each, one per patient.

    ``own``: of frames of a patient to the nearest other frame of this patient; ``OWN_SHARE`` of them, or more, are at
    most the distance of a copy. ``others``: of frames of other patients to the nearest of the fine-tuning patients; a
    novel sample is no nearer than the nearest of these m patients. A sample that is exchangeable with them is therefore
    called a copy or half-memorized with probability 1 / (m + 1). Real patients set the scale also in Dar et al. 2024
    (arXiv 2402.01054).
    """
    if not len(own) or not len(others):
        raise UserError("memoriser=true needs patients with several frames, and patients outside of the fine-tuning")
    copy = float(np.quantile(own, OWN_SHARE, method="inverted_cdf"))
    return CopyRule(copy, float(others.min()), len(own), len(others))
