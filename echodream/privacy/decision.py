"""What a rule decided: the threshold, what it certifies, what it costs, and whether anything may pass at all."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from echodream.metrics.binomial_bounds import clopper_pearson_upper
from echodream.privacy.certification import Certificate, PatientScores
from echodream.privacy.conformal import finite, p_values

SCOPE = (
    "The bound is about these transforms, this identity network and copies of patients drawn at random from the "
    "training patients; it is not differential privacy, and a different kind of copy is not covered."
)


@dataclass(frozen=True)
class Cost:
    """What the threshold costs in samples that are no closer to the training patients than new patients are.

    ``level``: the conformal level of tau, (1 + rejected) / (patients + 1); ``bound``: upper bound of the probability
    that such a sample is rejected, with confidence 1 - delta; ``rejected`` of ``patients`` for calibration are.
    """

    level: float
    bound: float
    rejected: int
    patients: int


def cost(calibration: PatientScores | None, tau: float, delta: float) -> Cost | None:
    """The cost of ``tau``; None without calibration patients."""
    if calibration is None:
        return None
    rejected, patients = int((calibration.values >= tau).sum()), len(calibration)
    bound = clopper_pearson_upper(rejected, patients, delta)
    return Cost((1 + rejected) / (patients + 1), bound, rejected, patients)


@dataclass(frozen=True)
class Decision:
    """A sample is rejected where its score is at or above ``tau``. Without ``passed``, every sample is.

    ``statement``: the guarantee, or why there is none and what would help, for a reader. ``thresholds``: by name, the
    thresholds that ``tau`` was chosen from; ``decisive`` names the one that it is. ``table``: one row per transform;
    ``settings``: of the rule; ``sizes``: numbers of patients.
    """

    rule: str
    tau: float
    passed: bool
    statement: str
    decisive: str
    thresholds: dict[str, float]
    table: tuple[Certificate, ...]
    cost: Cost | None
    sizes: dict[str, int]
    settings: dict[str, Any]
    calibration: np.ndarray | None = field(default=None, repr=False, compare=False)
    between: tuple[float, float] | None = None
    """The lowest and the highest that tau could have become, where the certifying copies lowered it."""

    def rejected(self, scores: np.ndarray) -> np.ndarray:
        """Which samples may not be shared; bool, (n,)."""
        values = finite(scores, "scores of samples")
        return values >= self.tau if self.passed else np.ones(len(values), dtype=bool)

    def p_values(self, scores: np.ndarray) -> np.ndarray | None:
        """Conformal p-values, (n,), of samples with these scores; None without calibration patients."""
        values = finite(scores, "scores of samples")
        return None if self.calibration is None else p_values(values, self.calibration)

    @property
    def worst(self) -> Certificate | None:
        """The row with the largest bound. That bound holds for every declared transform at once, at 1 - delta."""
        return max(self.table, key=lambda row: row.bound, default=None)

    def as_dict(self) -> dict[str, Any]:
        """Everything but the calibration scores, as plain JSON; an infinite threshold is null."""
        found = asdict(self)
        del found["calibration"]
        found["tau"] = _plain(self.tau)
        found["thresholds"] = {name: _plain(value) for name, value in self.thresholds.items()}
        found["table"] = list(found["table"])
        return found


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
