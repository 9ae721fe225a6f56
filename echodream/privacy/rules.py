"""Rules of the filter: threshold and guarantee from the scores of calibration patients and of known copies."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import ClassVar

import numpy as np

from echodream import validation
from echodream.errors import UserError
from echodream.metrics.binomial_bounds import calibration_patients_needed, controls_needed, passes_for_power
from echodream.privacy import certification, statements
from echodream.privacy.certification import WEAKEST, Certificate, PatientScores, certify
from echodream.privacy.conformal import benjamini_hochberg, conformal_threshold, finite_scores, p_values, rank_grid
from echodream.privacy.decision import Decision, RejectionCost, rejection_cost
from echodream.privacy.similarity import Similarity


@dataclass(frozen=True)
class Evidence:
    """Scores from which a rule decides: similarities to the nearest training patient; higher means closer.

    ``calibration``: scores of held-out patients, on whom neither the generator nor the identity network was trained.
    ``controls``: scores of one copy of each training patient, by transform. ``reported``: scores of copies under
    transforms outside the guarantee. ``train_to_test``: highest similarity of each training image to a test image,
    (n_train,), for the published rule. ``samples``: scores of the samples, for Benjamini-Hochberg. ``amounts``:
    strength of each transform, as text. ``copied_patients``: number of training patients who were selected for copying,
    None if unknown; a patient without further recordings or frames has no copy under some transforms. ``networks``:
    number of networks, including the outlier test if ``outliers`` is true. The score of several networks is the highest
    of their ranks (``conformal.rank_scores``).
    """

    calibration: PatientScores | None = None
    controls: Mapping[str, PatientScores] = field(default_factory=dict)
    reported: Mapping[str, PatientScores] = field(default_factory=dict)
    train_to_test: np.ndarray | None = None
    samples: np.ndarray | None = None
    amounts: Mapping[str, str] = field(default_factory=dict)
    copied_patients: int | None = None
    networks: int = 1
    outliers: bool = False

    def __post_init__(self) -> None:
        if WEAKEST in self.controls:
            raise UserError(f"A control may not be called {WEAKEST!r}, the name of a table row: rename the control.")
        patients = set() if self.calibration is None else set(self.calibration.patients.tolist())
        for transform, scores in self.controls.items():
            if patients & set(scores.patients.tolist()):
                raise UserError(
                    f"A patient is used for calibration and for the copies under {transform!r}: copies are of training "
                    "patients, and calibration patients must not be in training; split the study by patient."
                )

    @property
    def network_calibration_scores(self) -> np.ndarray | None:
        """Calibration scores of the network, (n,); with several networks, the ``rank_grid`` that all networks share."""
        if self.calibration is None:
            return None
        return self.calibration.values if self.networks == 1 else rank_grid(len(self.calibration))

    @property
    def certified_controls(self) -> dict[str, PatientScores]:
        """Scores by control in order of names, then the lowest score of each patient with copies under all controls."""
        rows = {name: self.controls[name] for name in sorted(self.controls)}
        lowest = certification.lowest_patient_scores(rows) if len(rows) > 1 else None
        return rows if lowest is None else {**rows, WEAKEST: lowest}

    def certify_report_only_controls(
        self, tau: float, delta: float, choosing_patients: frozenset[str], tau_range: tuple[float, float] | None = None
    ) -> tuple[Certificate, ...]:
        """Certificates of the transforms outside the guarantee, from all patients except ``choosing_patients``."""
        patients = frozenset(name for scores in self.reported.values() for name in scores.patients.tolist())
        return certify(self.reported, tau, delta, choosing_patients, patients - choosing_patients, tau_range)

    def sizes(self, choosing_patients: frozenset[str], certifying_patients: frozenset[str]) -> dict[str, int]:
        """Numbers of calibration and of copied patients, for the record."""
        return {
            "calibration_patients": 0 if self.calibration is None else len(self.calibration),
            "choosing_patients": len(choosing_patients),
            "certifying_patients": len(certifying_patients),
        }


class Rule(ABC):
    """Base class of rules, which compute a ``Decision`` from ``Evidence`` with scores by ``similarity``."""

    name: ClassVar[str]
    similarity: Similarity

    @abstractmethod
    def decide(self, evidence: Evidence) -> Decision:
        """Choose a threshold, and decide whether samples may pass. Raises ``UserError`` for missing evidence."""


@dataclass(frozen=True)
class Percentile(Rule):
    """The published rule (EchoNet-Synthetic): tau is a percentile of the train-to-test maxima of Pearson correlation.

    The maxima are over test images, but tau is applied to maxima over training images. The rule therefore rejects about
    1 - .95^(n_train / n_test) of harmless samples. The rule gives no guarantee; controls and calibration patients do
    not change tau.
    """

    name: ClassVar[str] = "percentile"
    percent: float = 95.0
    delta: float = 0.05
    similarity: Similarity = "pearson"

    def __post_init__(self) -> None:
        validation.number("rule.percent", self.percent, above=0, below=100)
        validation.number("rule.delta", self.delta, above=0, below=1)

    def decide(self, evidence: Evidence) -> Decision:
        """Set tau from ``evidence.train_to_test``, with linear interpolation between order statistics, as in numpy."""
        if evidence.train_to_test is None:
            raise UserError("rule=percentile needs the train-to-test maxima: the study must have test patients.")
        maxima = finite_scores(evidence.train_to_test, "train-to-test maxima")
        tau = float(np.percentile(maxima, self.percent))
        rows = evidence.certified_controls
        patients = frozenset(name for scores in rows.values() for name in scores.patients.tolist())
        table = certify(rows, tau, self.delta, frozenset(), patients) if rows else ()
        if evidence.networks > 1:
            raise UserError(
                "rule=percentile compares samples by one network: leave out copies= and outliers=, or use "
                "rule=calibrated"
            )
        return Decision(
            rule=self.name,
            tau=tau,
            passed=True,
            statement=statements.no_guarantee(self.percent),
            decisive="percentile",
            thresholds={"percentile": tau},
            table=table,
            cost=rejection_cost(evidence.calibration, tau, self.delta),
            sizes={"train_to_test": len(maxima), **evidence.sizes(frozenset(), patients)},
            settings=asdict(self),
            calibration=None if evidence.calibration is None else evidence.calibration.values,
            reported=evidence.certify_report_only_controls(tau, self.delta, frozenset()) if table else (),
        )


@dataclass(frozen=True)
class Calibrated(Rule):
    """Rule with two bounds: ``alpha`` for harmless samples that are rejected, ``beta`` for copies that pass.

    tau starts at the smaller of the conformal threshold of ``alpha`` and the threshold that rejects enough copies of
    the choosing patients. If at this tau the copies of the certifying patients confirm ``beta`` under every declared
    transform, with confidence 1 - ``delta``, tau is final. Otherwise tau is lowered to the highest certified threshold,
    but not below the conformal threshold of ``alpha_max``.

    Testing several transforms and thresholds needs no multiplicity correction. Each transform must be certified, so a
    false claim needs a false rejection for the worst transform (intersection-union test). Fewer copies pass a lower
    threshold. A false claim at the final tau therefore implies a false rejection just above the highest tau at which
    beta truly holds. This highest tau is fixed, so the probability of a false claim is at most delta (fixed-sequence
    testing; Bates et al. 2021, Angelopoulos et al. 2021).

    ``choose``: fraction of the patients whose copies choose the first tau; with 0, ``alpha`` gives the first tau.
    With several networks, a sample is rejected if one of them rejects it, and each network has an equal share of
    ``alpha`` (Bonferroni). The thresholds of the networks are lowered together, along the ranks of the calibration
    scores. The threshold of the outlier test is not lowered: samples that are no outliers have rank 0.

    ``worst_case``: the lowest score of each patient over all transforms must meet ``beta`` as well.
    ``benjamini_hochberg``: ``alpha`` bounds the expected fraction of harmless samples among the rejected samples.
    ``power``: intended probability that the first tau is certified.
    """

    name: ClassVar[str] = "calibrated"
    alpha: float = 0.05
    beta: float = 0.05
    delta: float = 0.05
    alpha_max: float = 0.2
    choose: float = 0.5
    worst_case: bool = False
    benjamini_hochberg: bool = False
    power: float = 0.95
    seed: int = 0
    similarity: Similarity = "cosine"

    def __post_init__(self) -> None:
        for key in ("alpha", "beta", "delta", "alpha_max", "power"):
            validation.number(f"rule.{key}", getattr(self, key), above=0, below=1)
        if self.alpha_max < self.alpha:
            raise UserError(
                f"rule.alpha_max={self.alpha_max} is below rule.alpha={self.alpha}: give at least rule.alpha"
            )
        validation.number(
            "rule.choose", self.choose, 0, below=1, note=", so that the copies of some patients test the threshold"
        )

    def decide(self, evidence: Evidence) -> Decision:
        """Choose the threshold tau, and certify it by copies. No sample may pass unless the decision ``passed``."""
        rows = evidence.certified_controls
        required = {name: scores for name, scores in rows.items() if self.worst_case or name != WEAKEST}
        choosing, certifying = certification.split_patients(evidence.controls, self.choose, self.seed)
        failure = self._missing_evidence(evidence, required, certifying)
        calibration = evidence.network_calibration_scores
        tau, decisive, thresholds, tau_range = -math.inf, "none", dict[str, float](), None
        table: tuple[Certificate, ...] = ()
        if not failure and calibration is not None:
            thresholds = self._candidate_thresholds(evidence, calibration, required, choosing, certifying)
            first, decisive = self._first_and_final_threshold(thresholds)
            tau = thresholds[decisive]
            tau_range = (thresholds["alpha_max"], thresholds[first]) if decisive == "certified" else None
            known_bounds = dict.fromkeys(required, self.beta) if tau_range else None
            table = certify(rows, tau, self.delta, choosing, certifying, tau_range, known_bounds)
            if failing := [row for row in table if row.transform in required and row.bound > self.beta]:
                worst = max(failing, key=lambda row: row.bound)
                failure = statements.bound_not_reached(worst, self.beta, self.delta, self.alpha_max, self.choose)
        outliers: float | None = None
        if calibration is not None and evidence.outliers:
            outliers = conformal_threshold(rank_grid(len(calibration)), self.outlier_level(evidence.networks))
        parameters = evidence.calibration, tau, self.delta, evidence.networks, outliers
        cost = rejection_cost(*parameters) if thresholds else None
        return Decision(
            rule=self.name,
            tau=tau,
            passed=not failure,
            statement=failure or self._guarantee_statement(evidence, decisive, table, cost),
            decisive=decisive,
            thresholds=thresholds,
            table=table,
            cost=cost,
            sizes=evidence.sizes(choosing, certifying),
            settings=asdict(self),
            calibration=calibration,
            between=tau_range,
            reported=evidence.certify_report_only_controls(tau, self.delta, choosing, tau_range) if table else (),
            networks=evidence.networks,
            outliers=evidence.outliers,
        )

    def _missing_evidence(
        self, evidence: Evidence, required: Mapping[str, PatientScores], certifying_patients: frozenset[str]
    ) -> str:
        """Sentence about too few patients or copies of the ``required`` transforms; empty if they are enough."""
        patients = 0 if evidence.calibration is None else len(evidence.calibration)
        if patients < calibration_patients_needed(self.alpha / evidence.networks):
            return statements.too_few_calibration_patients(self.alpha, patients, evidence.networks, evidence.outliers)
        if not required:
            return statements.no_controls(self.beta, self.delta, self.choose)
        if self.worst_case and len(evidence.controls) > 1 and WEAKEST not in required:
            return statements.NO_PATIENT_WITH_ALL_COPIES
        counts = {name: len(scores.select(certifying_patients)) for name, scores in required.items()}
        fewest = min(counts, key=counts.__getitem__)
        if counts[fewest] < controls_needed(self.beta, self.delta):
            count, patients = counts[fewest], len(required[fewest])
            return statements.too_few_controls(fewest, count, patients, self.beta, self.delta, self.choose)
        if self.benjamini_hochberg and evidence.samples is None:
            raise UserError("rule.benjamini_hochberg=true needs scores of samples: give them, or set it to false.")
        return ""

    def _candidate_thresholds(
        self,
        evidence: Evidence,
        calibration: np.ndarray,
        rows: Mapping[str, PatientScores],
        choosing_patients: frozenset[str],
        certifying_patients: frozenset[str],
    ) -> dict[str, float]:
        """Candidate thresholds by name.

        ``alpha`` and ``alpha_max``: conformal thresholds. ``beta``: the threshold that rejects enough copies of the
        choosing patients under each transform. ``certified``: the highest threshold with a bound of at most ``beta``.
        """
        level, networks = self.alpha, evidence.networks
        if self.benjamini_hochberg and evidence.samples is not None:
            samples = finite_scores(evidence.samples, "scores of samples")
            level = benjamini_hochberg(np.minimum(1.0, networks * p_values(samples, calibration)), self.alpha)
        beta = math.inf
        for scores in rows.values():
            lowest, count = np.sort(scores.select(choosing_patients)), len(scores.select(certifying_patients))
            if len(lowest) == 0:
                continue
            passes = passes_for_power(len(lowest), count, self.beta, self.delta, self.power)
            if passes >= 0:  # otherwise there are too few copies under this transform to choose a threshold
                beta = min(beta, float(lowest[passes]))
        return {
            "alpha": conformal_threshold(calibration, level / networks),
            "beta": beta,
            "alpha_max": conformal_threshold(calibration, self._largest_level(evidence)),
            "certified": certification.highest_certified_threshold(rows, certifying_patients, self.beta, self.delta),
        }

    def outlier_level(self, networks: int) -> float:
        """Level of the outlier test, one of ``networks`` tests, which have equal shares of ``alpha``."""
        return self.alpha / networks

    def _largest_level(self, evidence: Evidence) -> float:
        """Level of each identity network at ``alpha_max``; the level of the outlier test stays ``outlier_level``."""
        if not evidence.outliers:
            return self.alpha_max / evidence.networks
        return (self.alpha_max - self.outlier_level(evidence.networks)) / (evidence.networks - 1)

    def _first_and_final_threshold(self, thresholds: Mapping[str, float]) -> tuple[str, str]:
        """Names of the first and of the final threshold.

        tau starts at the smaller of the thresholds alpha and beta, but not below alpha_max. The first threshold is
        final if it is certified. Otherwise the highest certified threshold is final, but not below alpha_max.
        """
        alpha, beta, alpha_max, certified = (thresholds[k] for k in ("alpha", "beta", "alpha_max", "certified"))
        first = "alpha" if alpha <= beta else "beta" if beta > alpha_max else "alpha_max"
        if certified >= thresholds[first]:
            return first, first
        return first, "certified" if certified >= alpha_max else "alpha_max"

    def _guarantee_statement(
        self, evidence: Evidence, decisive: str, table: tuple[Certificate, ...], cost: RejectionCost | None
    ) -> str:
        """Text of the guarantee of a decision that passed."""
        rows = [row for row in table if row.transform != WEAKEST]
        amounts = {
            row.transform: statements.amount_and_patients(
                evidence.amounts.get(row.transform, ""), len(evidence.controls[row.transform]), evidence.copied_patients
            )
            for row in rows
        }
        fewest_controls = min(row.controls for row in rows)
        level = self.alpha if decisive == "alpha" else self.alpha_max
        copies = statements.copy_guarantee(
            amounts,
            fewest_controls,
            self.beta,
            self.delta,
            self.worst_case,
            decisive == "certified",
            self.choose,
            evidence.networks,
            self.outlier_level(evidence.networks) if evidence.outliers else None,
        )
        fdr = self.benjamini_hochberg  # the threshold depends on the samples, so ``cost`` is no bound
        rejection = statements.rejection_guarantee(
            level, fdr and decisive == "alpha", None if fdr else cost, self.delta, evidence.outliers
        )
        return f"{copies} {rejection}"
