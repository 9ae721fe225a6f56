"""Certification of a threshold by positive controls: one copy of each training patient under each transform."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from echodream.errors import UserError
from echodream.metrics.binomial_bounds import allowed_passes, clopper_pearson_lower, clopper_pearson_upper
from echodream.privacy.conformal import finite_scores

WEAKEST = "weakest of all"
"""Name of the table row with the lowest score of each patient over all transforms."""


@dataclass(frozen=True)
class PatientScores:
    """One score per patient: ``values`` and ``patients``, (m,) each, sorted by patient."""

    values: np.ndarray
    patients: np.ndarray

    def __post_init__(self) -> None:
        values = finite_scores(self.values, "scores of patients")
        patients = np.array([str(name) for name in self.patients])
        if len(values) != len(patients):
            raise UserError(f"{len(values)} scores and {len(patients)} patients: give the patient of each score.")
        if len(set(patients.tolist())) != len(patients):
            raise UserError("A patient has two scores: give one score per patient, the unit of certification.")
        order = np.argsort(patients, kind="stable")
        object.__setattr__(self, "values", values[order])
        object.__setattr__(self, "patients", patients[order])

    def __len__(self) -> int:
        return len(self.values)

    def select(self, patients: frozenset[str]) -> np.ndarray:
        """Scores of the ``patients`` who have a score."""
        return self.values[[name in patients for name in self.patients.tolist()]]


@dataclass(frozen=True)
class Certificate:
    """Copies under one ``transform``: ``controls`` copies of certifying patients, of which ``passes`` pass the filter.

    ``lower``, ``bound``: lower and upper bound, each at confidence 1 - delta, of the probability that a copy of a
    random training patient passes the filter. ``joint_bound``: upper bound at confidence 1 - delta / rows, so that the
    bounds of all rows hold jointly. ``choosing``: number of copies that chose the first threshold. ``choosing_passes``:
    number of the choosing copies that pass.
    """

    transform: str
    controls: int
    passes: int
    rate: float | None
    lower: float
    bound: float
    joint_bound: float
    choosing: int = 0
    choosing_passes: int = 0


def split_patients(
    controls: Mapping[str, PatientScores], share: float, seed: int
) -> tuple[frozenset[str], frozenset[str]]:
    """Split patients: copies of a ``share`` of them choose the threshold, copies of the other patients certify it.

    The split is stratified by the set of transforms that a patient has copies of. The split depends on names and seed,
    not on the order of the patients.
    """
    members = {kind: frozenset(controls[kind].patients.tolist()) for kind in sorted(controls)}
    strata: dict[tuple[str, ...], list[str]] = {}
    for name in sorted(frozenset().union(*members.values())):
        transforms = tuple(kind for kind, names in members.items() if name in names)
        strata.setdefault(transforms, []).append(name)
    rng = np.random.default_rng(seed)
    names = [strata[key][place] for key in sorted(strata) for place in rng.permutation(len(strata[key]))]
    chosen = np.floor(np.arange(len(names) + 1) * share + 1e-9)
    choosing_patients = {name for name, increase in zip(names, np.diff(chosen), strict=True) if increase}
    return frozenset(choosing_patients), frozenset(names) - choosing_patients


def lowest_patient_scores(controls: Mapping[str, PatientScores]) -> PatientScores | None:
    """Lowest score over all transforms of each patient with copies under all transforms; None without patients."""
    patients = [frozenset(scores.patients.tolist()) for scores in controls.values()]
    if not (shared := frozenset.intersection(*patients) if patients else frozenset()):
        return None
    lowest = np.min([scores.select(shared) for scores in controls.values()], axis=0)
    return PatientScores(lowest, np.array(sorted(shared)))


def highest_certified_threshold(
    controls: Mapping[str, PatientScores], certifying_patients: frozenset[str], beta: float, delta: float
) -> float:
    """Highest threshold at which the bound of each transform is at most ``beta``; -inf without such a threshold."""
    thresholds = []
    for scores in controls.values():
        lowest = np.sort(scores.select(certifying_patients))
        allowed = allowed_passes(len(lowest), beta, delta)
        thresholds.append(float(lowest[allowed]) if 0 <= allowed < len(lowest) else -np.inf)
    return min(thresholds, default=-np.inf)


def certify(
    controls: Mapping[str, PatientScores],
    tau: float,
    delta: float,
    choosing_patients: frozenset[str],
    certifying_patients: frozenset[str],
    tau_range: tuple[float, float] | None = None,
    known_bounds: Mapping[str, float] | None = None,
) -> tuple[Certificate, ...]:
    """One certificate per transform: a copy passes if its score is below ``tau``; bounds use ``certifying_patients``.

    ``tau_range``: if tau was lowered because of the certifying patients, the lowest and highest possible tau, which do
    not depend on these patients. Fewer copies pass a lower threshold. Therefore the upper bound at the highest tau and
    the lower bound at the lowest tau hold for ``tau``. ``known_bounds``: upper bounds that are already known, by
    transform; a certificate has the smaller of the known and the computed bound.
    """
    lowest, highest = tau_range or (tau, tau)
    rows = []
    for transform, scores in controls.items():
        values, chosen = scores.select(certifying_patients), scores.select(choosing_patients)
        passes, fewest, most = (int((values < threshold).sum()) for threshold in (tau, lowest, highest))
        trials, limit = len(values), (known_bounds or {}).get(transform, 1.0)
        rows.append(
            Certificate(
                transform=transform,
                controls=trials,
                passes=passes,
                rate=passes / trials if trials else None,
                lower=clopper_pearson_lower(fewest, trials, delta) if trials else 0.0,
                bound=min(limit, clopper_pearson_upper(most, trials, delta)),
                joint_bound=min(limit, clopper_pearson_upper(most, trials, delta / len(controls))),
                choosing=len(chosen),
                choosing_passes=int((chosen < tau).sum()),
            )
        )
    return tuple(rows)
