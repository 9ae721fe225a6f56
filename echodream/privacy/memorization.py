"""Rule that decides from distances whether a sample is a copy of a patient, a half-memorized copy, or novel."""

from dataclasses import dataclass

import numpy as np

from echodream.errors import UserError

CLASSES = ("copy", "half", "novel")
"""Classes of ``CopyRule.classify``, by increasing distance."""
OWN_SHARE = 0.95
"""Fraction of patients whose distance to their own other frames is at most ``CopyRule.copy``."""
NEIGHBORS = 50
"""Number of nearest other patients; a relative distance is divided by the mean distance to them."""


def relative_distances(distances: np.ndarray, others: np.ndarray) -> np.ndarray:
    """``distances``, (n,), divided by the mean of the ``NEIGHBORS`` smallest distances to other patients, (n, m).

    A blurred image is close to the images of every patient, so a small distance alone does not show that it is a copy
    (Carlini et al. 2023, arXiv 2301.13188, section 5.1). Infinite distances in ``others`` are left out.
    """
    if (count := min(NEIGHBORS, int(np.isfinite(others).sum(axis=1).min()) if others.size else 0)) < 1:
        remedy = "lower memoriser_settings.patients"
        raise UserError(f"memoriser=true needs two TRAIN patients outside of the fine-tuning: {remedy}")
    relative: np.ndarray = distances / np.sort(others, axis=1)[:, :count].mean(axis=1)
    return relative


@dataclass(frozen=True)
class CopyRule:
    """Classifies samples by ``relative_distances`` to the nearest of the patients on whom a generator was fine-tuned.

    A sample is novel if its distance is ``novel`` or more. A sample that is not novel is a copy if its distance is at
    most ``copy``, otherwise half-memorized. ``own``, ``others``: numbers of patients in ``copy_rule``.
    """

    copy: float
    novel: float
    own: int
    others: int

    def classify(self, distances: np.ndarray) -> np.ndarray:
        """Index in ``CLASSES`` of the class for each of ``distances``, (n,): int (n,)."""
        return np.where(distances >= self.novel, 2, np.where(distances <= self.copy, 0, 1))


def copy_rule(own: np.ndarray, others: np.ndarray) -> CopyRule:
    """Compute the rule from relative distances of real frames, one per patient.

    ``own``: distance of frames of a patient to the nearest other frames of this patient. ``CopyRule.copy`` is the
    ``OWN_SHARE`` quantile of ``own``. ``others``, (m,): distance of frames of other patients to the nearest fine-tuning
    patient. ``CopyRule.novel`` is the minimum of ``others``, so a sample that is exchangeable with the m patients is
    novel with probability m / (m + 1). Dar et al. 2024 (arXiv 2402.01054) also derive the threshold from real patients.
    """
    if not len(own) or not len(others):
        raise UserError("memoriser=true needs patients with several frames, and patients outside of the fine-tuning")
    copy = float(np.quantile(own, OWN_SHARE, method="inverted_cdf"))
    return CopyRule(copy, float(others.min()), len(own), len(others))
