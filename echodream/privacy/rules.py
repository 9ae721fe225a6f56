"""Rules: from the scores of calibration patients and known copies to a threshold and what it guarantees."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import ClassVar

import numpy as np

from echodream import validation
from echodream.errors import UserError
from echodream.metrics.binomial_bounds import calibration_needed, chosen_passes, controls_needed
from echodream.privacy import statements
from echodream.privacy.certification import (
    WEAKEST,
    Certificate,
    PatientScores,
    certify,
    highest_certified,
    split,
    weakest,
)
from echodream.privacy.conformal import benjamini_hochberg, conformal_threshold, finite, p_values
from echodream.privacy.decision import Decision, cost
from echodream.privacy.similarity import Similarity


@dataclass(frozen=True)
class Evidence:
    """What a rule decides from. Scores are similarities to the nearest training patient: higher is closer.

    ``calibration``: one per patient whom neither the generator nor the identity network saw. ``controls``: by declared
    transform, one known copy per training patient. ``train_to_test``: for each training image the highest similarity
    to a test image, (n_train,), for the published rule. ``samples``: scores of the samples, for Benjamini-Hochberg.
    ``amounts``: what each transform does, in words, for the statement.
    """

    calibration: PatientScores | None = None
    controls: Mapping[str, PatientScores] = field(default_factory=dict)
    train_to_test: np.ndarray | None = None
    samples: np.ndarray | None = None
    amounts: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if WEAKEST in self.controls:
            raise UserError(f"A transform may not be called {WEAKEST!r}: that is the name of a row of the table.")
        held = set() if self.calibration is None else set(self.calibration.patients.tolist())
        for transform, scores in self.controls.items():
            if held & set(scores.patients.tolist()):
                raise UserError(
                    f"A patient is used for calibration and for the copies under {transform!r}: copies are of training "
                    "patients and calibration is of patients whom no network saw; split the study by patient."
                )

    @property
    def rows(self) -> dict[str, PatientScores]:
        """The controls in order of name, and each patient's weakest where some patient has every transform."""
        rows = {name: self.controls[name] for name in sorted(self.controls)}
        lowest = weakest(rows) if len(rows) > 1 else None
        return rows if lowest is None else {**rows, WEAKEST: lowest}


class Rule(ABC):
    """Evidence to a decision. ``similarity`` is the one that its scores must be made with."""

    name: ClassVar[str]
    similarity: Similarity

    @abstractmethod
    def decide(self, evidence: Evidence) -> Decision:
        """The threshold, and what is guaranteed; ``UserError`` for evidence that is broken rather than too little."""


@dataclass(frozen=True)
class Percentile(Rule):
    """The published rule (EchoNet-Synthetic): tau is a percentile of the train-to-test maxima of Pearson correlation.

    It is a maximum over test images, applied to maxima over training images, so it rejects about
    1 - .95^(n_train / n_test) of harmless samples, and it says nothing about copies. Controls and calibration
    patients, where given, are only measured.
    """

    name: ClassVar[str] = "percentile"
    percent: float = 95.0
    delta: float = 0.05
    similarity: Similarity = "pearson"

    def __post_init__(self) -> None:
        validation.number("rule.percent", self.percent, above=0, below=100)
        _probability("delta", self.delta)

    def decide(self, evidence: Evidence) -> Decision:
        """tau from ``evidence.train_to_test``, interpolated linearly between order statistics, as numpy does."""
        if evidence.train_to_test is None:
            raise UserError("rule=percentile needs the train-to-test maxima: the study must have test patients.")
        maxima = finite(evidence.train_to_test, "train-to-test maxima")
        tau = float(np.percentile(maxima, self.percent))
        rows = evidence.rows
        everyone = frozenset(name for scores in rows.values() for name in scores.patients.tolist())
        return Decision(
            rule=self.name,
            tau=tau,
            passed=True,
            statement=statements.percentile(self.percent),
            decisive="percentile",
            thresholds={"percentile": tau},
            table=certify(rows, tau, self.delta, frozenset(), everyone) if rows else (),
            cost=cost(evidence.calibration, tau, self.delta),
            sizes={"train_to_test": len(maxima), **_sizes(evidence, frozenset(), everyone)},
            settings=asdict(self),
            calibration=None if evidence.calibration is None else evidence.calibration.values,
        )


@dataclass(frozen=True)
class Calibrated(Rule):
    """Rejects what is closer than new patients are (``alpha``), and closer than known copies can be (``beta``).

    tau begins at the smaller of the conformal threshold of ``alpha`` and the threshold that the choosing patients'
    copies need. If the copies of the other patients certify ``beta`` there, at confidence 1 - ``delta`` and under
    every declared transform, it stays; else tau goes down to the highest threshold at which they do, but never below
    the conformal threshold of ``alpha_max``.

    Both the transforms and the thresholds that are tried on the way down need no correction. Since *each* transform
    must be certified, a wrong claim needs the worst one's own test to be wrong (an intersection-union test). And since
    fewer copies pass the lower tau is, a claim that is wrong at the tau where it ends was wrong, too, just above the
    highest tau that truly holds beta. That one is fixed, so that it is certified with probability at most delta (a
    fixed sequence of tests; Bates et al. 2021, Angelopoulos et al. 2021).

    ``choose``: the share of control patients that choose where tau begins; 0 begins at ``alpha``.
    ``worst_case``: the weakest copy of each patient over all transforms must meet ``beta`` as well.
    ``benjamini_hochberg``: ``alpha`` bounds the share of harmless samples among those rejected instead.
    ``power``: the chance of being certified at once that the choosing patients aim for.
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
            _probability(key, getattr(self, key))
        if self.alpha_max < self.alpha:
            raise UserError(
                f"rule.alpha_max={self.alpha_max} is below rule.alpha={self.alpha}: it must be at least that."
            )
        if not 0 <= self.choose < 1:
            raise UserError(f"rule.choose={self.choose} must be at least 0 and below 1, so that some patients certify.")

    def decide(self, evidence: Evidence) -> Decision:
        """Choose tau and certify it; without ``passed`` nothing may survive."""
        rows = evidence.rows
        must = self._must(rows)
        chooses, certifiers = split(evidence.controls, self.choose, self.seed)
        short = self._too_few(evidence, rows, certifiers)
        if short or evidence.calibration is None:
            return self._decision(evidence, "none", {}, (), short, chooses, certifiers)
        thresholds = self._thresholds(evidence, evidence.calibration.values, must, chooses, certifiers)
        decisive = self._decisive(thresholds)
        between = self._between(decisive, thresholds)
        known = dict.fromkeys(must, self.beta) if between else None
        table = certify(rows, thresholds[decisive], self.delta, chooses, certifiers, between, known)
        failing = [row for row in table if row.transform in must and row.bound > self.beta]
        words = self._failure(failing) if failing else ""
        return self._decision(evidence, decisive, thresholds, table, words, chooses, certifiers)

    def _must(self, rows: Mapping[str, PatientScores]) -> dict[str, PatientScores]:
        """The rows that have to meet ``beta``."""
        return {name: scores for name, scores in rows.items() if self.worst_case or name != WEAKEST}

    def _too_few(self, evidence: Evidence, rows: Mapping[str, PatientScores], certifiers: frozenset[str]) -> str:
        """Why there is too little evidence for any threshold, and what would help; empty where there is enough."""
        patients = 0 if evidence.calibration is None else len(evidence.calibration)
        if patients < calibration_needed(self.alpha):
            return statements.few_calibration(self.alpha, patients)
        if not rows:
            return statements.no_controls(self.beta, self.delta, self.choose)
        if self.worst_case and len(evidence.controls) > 1 and WEAKEST not in rows:
            return statements.no_weakest()
        least = min(self._must(rows), key=lambda name: len(rows[name].of(certifiers)))
        found = len(rows[least].of(certifiers))
        if found < controls_needed(self.beta, self.delta):
            return statements.few_controls(least, found, len(rows[least]), self.beta, self.delta, self.choose)
        if self.benjamini_hochberg and evidence.samples is None:
            raise UserError(
                "rule.benjamini_hochberg=true needs the scores of the samples: give them, or set it to false."
            )
        return ""

    def _thresholds(
        self,
        evidence: Evidence,
        calibration: np.ndarray,
        rows: Mapping[str, PatientScores],
        chooses: frozenset[str],
        certifiers: frozenset[str],
    ) -> dict[str, float]:
        """By name: ``alpha``; ``alpha_max``; ``beta``, the lowest that the choosing patients' copies ask for; and
        ``certified``, the highest that the certifying patients' copies certify."""
        level = self.alpha
        if self.benjamini_hochberg and evidence.samples is not None:
            level = benjamini_hochberg(p_values(finite(evidence.samples, "scores of samples"), calibration), self.alpha)
        alpha, strictest = (conformal_threshold(calibration, share) for share in (level, self.alpha_max))
        beta = math.inf
        for scores in rows.values():
            lowest = np.sort(scores.of(chooses))
            if len(lowest) == 0:
                continue
            passes = chosen_passes(len(lowest), len(scores.of(certifiers)), self.beta, self.delta, self.power)
            if passes >= 0:  # else too few to aim with: the certifying copies lower tau no farther than they need
                beta = min(beta, float(lowest[passes]))
        certified = highest_certified(rows, certifiers, self.beta, self.delta)
        return {"alpha": alpha, "beta": beta, "alpha_max": strictest, "certified": certified}

    def _first(self, thresholds: Mapping[str, float]) -> str:
        """Where tau begins: at the smaller of alpha's and beta's threshold, but never below that of alpha_max."""
        if thresholds["alpha"] <= thresholds["beta"]:
            return "alpha"
        return "beta" if thresholds["beta"] > thresholds["alpha_max"] else "alpha_max"

    def _decisive(self, thresholds: Mapping[str, float]) -> str:
        """Which threshold is tau: where it begins, if that is certified; else the highest that is, if one may be."""
        first = self._first(thresholds)
        if thresholds["certified"] >= thresholds[first]:
            return first
        return "certified" if thresholds["certified"] >= thresholds["alpha_max"] else "alpha_max"

    def _between(self, decisive: str, thresholds: Mapping[str, float]) -> tuple[float, float] | None:
        """The lowest and the highest that tau could have become, where the certifying copies lowered it."""
        return (thresholds["alpha_max"], thresholds[self._first(thresholds)]) if decisive == "certified" else None

    def _failure(self, failing: list[Certificate]) -> str:
        worst = max(failing, key=lambda row: row.bound)
        return statements.not_reached(worst, self.beta, self.delta, self.alpha_max, self.choose)

    def _decision(
        self,
        evidence: Evidence,
        decisive: str,
        thresholds: dict[str, float],
        table: tuple[Certificate, ...],
        words: str,
        chooses: frozenset[str],
        certifiers: frozenset[str],
    ) -> Decision:
        """``words`` say why nothing may pass; without them all is well."""
        passed, tau = not words, thresholds.get(decisive, -math.inf)
        names = [name for name in self._must(evidence.rows) if name != WEAKEST]
        level = self.alpha if decisive == "alpha" else self.alpha_max
        if passed:
            fewest = min(row.controls for row in table if row.transform in names)
            told = {name: evidence.amounts.get(name, "") for name in names}
            words = statements.guarantee(
                told, fewest, self.beta, self.delta, self.worst_case, decisive == "certified", self.choose
            )
            words += " " + statements.price(level, self.benjamini_hochberg and decisive == "alpha")
        return Decision(
            rule=self.name,
            tau=tau,
            passed=passed,
            statement=words,
            decisive=decisive,
            thresholds=thresholds,
            table=table,
            cost=cost(evidence.calibration, tau, self.delta) if thresholds else None,
            sizes=_sizes(evidence, chooses, certifiers),
            settings=asdict(self),
            calibration=None if evidence.calibration is None else evidence.calibration.values,
            between=self._between(decisive, thresholds),
        )


def _sizes(evidence: Evidence, chooses: frozenset[str], certifiers: frozenset[str]) -> dict[str, int]:
    held = 0 if evidence.calibration is None else len(evidence.calibration)
    return {"calibration_patients": held, "choosing_patients": len(chooses), "certifying_patients": len(certifiers)}


def _probability(key: str, value: float) -> None:
    if not 0 < value < 1:
        raise UserError(f"rule.{key}={value} must lie between 0 and 1.")
