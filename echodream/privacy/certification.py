"""Positive controls: known copies of training patients, and which of them may choose a threshold."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from echodream.errors import UserError
from echodream.metrics.binomial_bounds import allowed_passes, clopper_pearson_lower, clopper_pearson_upper
from echodream.privacy.conformal import finite

WEAKEST = "weakest of all"


@dataclass(frozen=True)
class PatientScores:
    """One score per patient: ``values`` (m,) and ``patients`` (m,), in any order; kept in order of the patients."""

    values: np.ndarray
    patients: np.ndarray

    def __post_init__(self) -> None:
        values, patients = finite(self.values, "scores of patients"), np.array([str(name) for name in self.patients])
        if len(values) != len(patients):
            raise UserError(f"{len(values)} scores came with {len(patients)} patients: each score needs its own.")
        if len(set(patients.tolist())) != len(patients):
            raise UserError("A patient has two scores: give one score per patient, since the patient is the unit.")
        order = np.argsort(patients, kind="stable")
        object.__setattr__(self, "values", values[order])
        object.__setattr__(self, "patients", patients[order])

    def __len__(self) -> int:
        return len(self.values)

    def of(self, patients: frozenset[str]) -> np.ndarray:
        """The scores of those who are among ``patients``."""
        return self.values[[name in patients for name in self.patients.tolist()]]


@dataclass(frozen=True)
class Certificate:
    """What a threshold lets through of the copies under one transform; all numbers are of the certifying patients.

    ``bound``: upper bound of the probability that a copy of a random training patient passes, for this row alone, with
    confidence 1 - delta. ``joint_bound``: the bound at 1 - delta / rows: all rows hold at once with confidence
    1 - delta. ``lower``: lower bound at 1 - delta. ``choosing`` and ``choosing_passes``: the patients who chose.
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


def split(controls: Mapping[str, PatientScores], share: float, seed: int) -> tuple[frozenset[str], frozenset[str]]:
    """Patients who choose, a ``share`` of them, and those who certify: a function of names and seed, not of order.

    A patient is on one side with all of their copies. Patients with the same transforms are shared out among
    themselves, so that each transform is divided alike.
    """
    members = {kind: frozenset(controls[kind].patients.tolist()) for kind in sorted(controls)}
    kinds: dict[tuple[str, ...], list[str]] = {}
    for name in sorted(frozenset().union(*members.values())):
        has = tuple(kind for kind, names in members.items() if name in names)
        kinds.setdefault(has, []).append(name)
    generator = np.random.default_rng(seed)
    names = [kinds[has][place] for has in sorted(kinds) for place in generator.permutation(len(kinds[has]))]
    taken = np.floor(np.arange(1, len(names) + 1) * share + 1e-9)
    choose = {name for name, now, before in zip(names, taken, [0, *taken], strict=False) if now > before}
    return frozenset(choose), frozenset(names) - choose


def weakest(controls: Mapping[str, PatientScores]) -> PatientScores | None:
    """Per patient, the lowest score over all transforms; of the patients who have every one, None if there is none."""
    if not controls:
        return None
    shared = frozenset.intersection(*(frozenset(scores.patients.tolist()) for scores in controls.values()))
    if not shared:
        return None
    return PatientScores(np.min([scores.of(shared) for scores in controls.values()], axis=0), np.array(sorted(shared)))


def highest_certified(
    controls: Mapping[str, PatientScores], certifiers: frozenset[str], beta: float, delta: float
) -> float:
    """The highest tau at which every transform's bound is at most ``beta``; -inf where there is none."""
    found = []
    for scores in controls.values():
        lowest = np.sort(scores.of(certifiers))
        allowed = allowed_passes(len(lowest), beta, delta)
        found.append(float(lowest[allowed]) if 0 <= allowed < len(lowest) else -np.inf)
    return min(found, default=-np.inf)


def certify(
    controls: Mapping[str, PatientScores],
    tau: float,
    delta: float,
    choose: frozenset[str],
    certifiers: frozenset[str],
    between: tuple[float, float] | None = None,
    most: Mapping[str, float] | None = None,
) -> tuple[Certificate, ...]:
    """One row per transform: a copy passes where its score is below ``tau``. Only ``certifiers`` count for bounds.

    If ``certifiers`` lowered tau, ``between`` are the lowest and the highest that it could have become, which they did
    not choose. Since fewer copies pass below a lower tau, what the highest bounds from above and the lowest from below
    holds for ``tau``, too. ``most``: bounds that are known otherwise, by transform.
    """
    low, high = between or (tau, tau)
    rows = []
    for transform, scores in controls.items():
        values, chosen = scores.of(certifiers), scores.of(choose)
        passes, fewest, greatest = (int((values < at).sum()) for at in (tau, low, high))
        trials, limit = len(values), (most or {}).get(transform, 1.0)
        rows.append(
            Certificate(
                transform=transform,
                controls=trials,
                passes=passes,
                rate=passes / trials if trials else None,
                lower=clopper_pearson_lower(fewest, trials, delta) if trials else 0.0,
                bound=min(limit, clopper_pearson_upper(greatest, trials, delta)),
                joint_bound=min(limit, clopper_pearson_upper(greatest, trials, delta / len(controls))),
                choosing=len(chosen),
                choosing_passes=int((chosen < tau).sum()),
            )
        )
    return tuple(rows)
