"""The decision of a rule: threshold, certificates, cost, and whether samples may pass."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from echodream.metrics.binomial_bounds import clopper_pearson_upper, passing_copies_bound
from echodream.metrics.bootstrap import Interval, clopper_pearson_interval
from echodream.privacy.certification import Certificate, PatientScores
from echodream.privacy.conformal import finite_scores, p_values, rank_grid

SCOPE = (
    "The bound is about these transforms, this identity network and copies of patients drawn at random from the "
    "training patients; it is not differential privacy, and a different kind of copy is not covered."
)


@dataclass(frozen=True)
class RejectionCost:
    """Rejection of samples that are no closer to the training patients than new patients are.

    ``rejected``: number of the ``patients`` new patients who are rejected. ``level``: conformal level of the threshold,
    (1 + rejected) / (patients + 1), which is the rejection probability on average over calibration sets. ``bound``:
    upper bound, at confidence 1 - delta, of the rejection probability given these calibration patients. At an order
    statistic, this probability has the distribution Beta(1 + rejected, patients - rejected) (Vovk 2012, arXiv
    1209.2673). The bound also holds if known copies lowered the threshold. With several networks, ``level`` and
    ``bound`` are sums over the networks; each network has the confidence 1 - delta / networks (Bonferroni).
    """

    level: float
    bound: float
    rejected: int
    patients: int


def rejection_cost(
    calibration: PatientScores | None, tau: float, delta: float, networks: int = 1, outlier_tau: float | None = None
) -> RejectionCost | None:
    """``RejectionCost`` of the threshold ``tau``; None without calibration patients.

    With several ``networks``, a score is the highest of the networks' scores by ``conformal.rank_scores``.
    ``outlier_tau``: threshold of the outlier test, which counts as the last network; None: ``tau`` for all networks.
    """
    if calibration is None:
        return None
    rejected, patients = int((calibration.values >= tau).sum()), len(calibration)
    counts = [rejected if networks == 1 else int((rank_grid(patients) >= tau).sum())] * networks
    if outlier_tau is not None:
        counts[-1] = int((rank_grid(patients) >= outlier_tau).sum())
    level = sum(1 + count for count in counts) / (patients + 1)
    bound = sum(clopper_pearson_upper(count, patients, delta / networks) for count in counts)
    return RejectionCost(min(1.0, level), min(1.0, bound), rejected, patients)


@dataclass(frozen=True)
class PassingCopies:
    """Bounds of the number of copies among ``samples`` that pass, if a copy passes with probability beta.

    ``rejected``: number of samples that do not pass. ``expected``: bound of the expected number of copies. For each
    rejected copy, beta / (1 - beta) copies are expected to pass. Therefore (rejected + 1) beta / (1 - beta) bounds the
    number of copies that pass before the next rejection. ``bound``: bound of the number of copies at confidence 1 -
    delta, if copies pass independently of each other. Both bounds are at most ``samples``.
    """

    samples: int
    rejected: int
    expected: float
    bound: int


def passing_copies(samples: int, rejected: int, beta: float, delta: float) -> PassingCopies:
    """Bounds of the number of copies among ``samples`` that pass, from the number of ``rejected`` samples."""
    expected, bound = (rejected + 1) * beta / (1 - beta), passing_copies_bound(rejected, beta, delta)
    return PassingCopies(samples, rejected, min(expected, float(samples)), min(bound, samples))


@dataclass(frozen=True)
class Disagreement:
    """Consistency of several networks (arXiv 2510.01793) on ``samples``; each network has its own threshold.

    ``by_all``: number of samples that all networks reject. ``by_some``: number of samples that at least one network
    rejects and at least one accepts. ``share``: ``by_some`` as a share of all samples, with its exact interval.
    """

    samples: int
    by_all: int
    by_some: int
    share: Interval


def disagreement(scores: np.ndarray, tau: float) -> Disagreement:
    """Disagreement of K networks with ``scores`` on a common scale, (K, n), that reject scores of at least ``tau``."""
    rejected = scores >= tau
    by_all, by_any = int(rejected.all(axis=0).sum()), int(rejected.any(axis=0).sum())
    share = clopper_pearson_interval(by_any - by_all, rejected.shape[1])
    return Disagreement(rejected.shape[1], by_all, by_any - by_all, share)


@dataclass(frozen=True)
class Decision:
    """Decision of a rule: reject samples with a score of at least ``tau``, or all samples unless ``passed``.

    ``statement``: the guarantee, or the reason for a missing guarantee and a remedy. ``decisive``: name of the entry of
    ``thresholds`` that is ``tau``. ``table``: certificates of the transforms of the guarantee; ``reported``:
    certificates of transforms outside the guarantee. ``sizes``: numbers of calibration, choosing and certifying
    patients. ``settings``: settings of the rule. ``calibration``: scores of the calibration patients. ``between``: the
    lowest and highest possible tau, if tau was lowered because of the certifying copies. ``networks``: number of
    networks, including the outlier test if ``outliers`` is true. With several networks, a score is the highest of their
    scores by ``conformal.rank_scores``.
    """

    rule: str
    tau: float
    passed: bool
    statement: str
    decisive: str
    thresholds: dict[str, float]
    table: tuple[Certificate, ...]
    cost: RejectionCost | None
    sizes: dict[str, int]
    settings: dict[str, Any]
    calibration: np.ndarray | None = field(default=None, repr=False, compare=False)
    between: tuple[float, float] | None = None
    reported: tuple[Certificate, ...] = ()
    networks: int = 1
    outliers: bool = False

    def rejected(self, scores: np.ndarray) -> np.ndarray:
        """Whether samples with ``scores``, (n,), are rejected: bool (n,)."""
        values = finite_scores(scores, "scores of samples")
        return values >= self.tau if self.passed else np.ones(len(values), dtype=bool)

    def p_values(self, scores: np.ndarray) -> np.ndarray | None:
        """Conformal p-values of ``scores``, (n,), Bonferroni-corrected over networks; None without calibration."""
        values = finite_scores(scores, "scores of samples")
        if self.calibration is None:
            return None
        null = self.calibration if self.networks == 1 else rank_grid(len(self.calibration))
        return np.minimum(1.0, self.networks * p_values(values, null))

    def as_dict(self) -> dict[str, Any]:
        """All fields except the calibration scores, as JSON values; an infinite threshold becomes None."""
        record = asdict(self)
        del record["calibration"]
        record["tau"] = _finite_or_none(self.tau)
        record["thresholds"] = {name: _finite_or_none(value) for name, value in self.thresholds.items()}
        record["between"] = None if self.between is None else [_finite_or_none(value) for value in self.between]
        return record | {name: list(record[name]) for name in ("table", "reported")}


def _finite_or_none(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
