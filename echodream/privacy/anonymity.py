"""Measures of an anonymized set: hidden rate, local cloaking, DCR, NNDR, distance to the own avatar. Pure functions.

Row i of one set of embeddings is record i; row i of the other is its avatar, the anonymized version. Distances are
Euclidean, rounded to single precision, so smaller differences are ties. *Nearer* means strictly nearer: a tie never
hides a record.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from echodream.errors import UserError
from echodream.metrics.bootstrap import (
    Interval,
    bootstrap_mean,
    bootstrap_median,
    clopper_pearson_interval,
    unit_indices,
)
from echodream.privacy.nearer import BLOCK, Closest, Nearer, between, blocks, distance, points

_CALLER = "The comparison of records and avatars"


@dataclass(frozen=True)
class Target:
    """The value that the literature asks for: more than ``above``."""

    above: float
    text: str


TARGETS = {
    "hidden rate": Target(90.0, "> 90 %"),
    "local cloaking, avatars": Target(5.0, "> 5"),
    "DCR": Target(0.2, "> 0.2"),
    "NNDR": Target(0.3, "> 0.3"),
}
"""Published targets of the avatar method and of medical image anonymization, by name of the measure."""


@dataclass(frozen=True)
class AvatarComparison:
    """Distances and ranks of each avatar k and its record, ``source[k]``. All arrays are (m,)."""

    source: np.ndarray
    distance: np.ndarray
    """Distance between record and avatar."""
    nearer_avatars: np.ndarray
    """Number of other avatars strictly nearer to the record: int64."""
    nearer_records: np.ndarray
    """Number of other records strictly nearer to the record: int64."""
    closest_distance: np.ndarray
    """Distance of the avatar to the closest record (DCR)."""
    distance_ratio: np.ndarray
    """Distance to the closest over distance to the second closest record (NNDR); 1 if the second is 0, NaN if there is
    one record."""
    closest_record: np.ndarray
    """Index of the record closest to the avatar; of several at the same distance the first."""
    assigned: bool
    """Whether ``source`` is unknown, and the closest record stands for it."""

    @property
    def hidden(self) -> np.ndarray:
        """Whether the record's nearest avatar is not its own: bool."""
        return self.nearer_avatars > 0

    @property
    def nobody_nearer(self) -> np.ndarray:
        """Whether neither another avatar nor another record is nearer to the record than its own avatar: bool."""
        return (self.nearer_avatars == 0) & (self.nearer_records == 0)


def compare_avatars(records: Tensor, avatars: Tensor, paired: bool = True, block: int = BLOCK) -> AvatarComparison:
    """Compare ``records``, (n, D), with ``avatars``, (m, D), by Euclidean distance.

    ``paired``: avatar i is of record i, and n = m. Otherwise the closest record (the first of several) stands for the
    source of each avatar. Memory does not grow with n x m. Raises ``UserError`` for sets that cannot be compared.
    """
    if paired and len(records) != len(avatars):
        raise UserError(
            f"{len(records)} records and {len(avatars)} avatars are not pairs: give one avatar of each record, or "
            "compare them unpaired."
        )
    x, y = points(_CALLER, records, avatars)
    with torch.no_grad():
        closest, source = Closest(len(y)), torch.arange(len(y))
        if not paired:
            for part in blocks(x, y, block):
                closest.add(part)
            source = closest.row
        own_distance, nearer_counts = between(x.given, y.given, source, torch.arange(len(y))), []
        order = source.argsort(stable=True)
        for other, excluded in ((y, order), (x, source[order])):
            nearer = Nearer(source[order], own_distance[order], excluded)
            for part in blocks(x, other, block):
                nearer.add(part)
                if paired and other is y:
                    closest.add(part)
            nearer_counts.append(torch.empty_like(nearer.count).scatter_(0, order, nearer.count))
    first, second = closest.apart.numpy().T
    ratio = np.divide(first, second, out=np.ones_like(first), where=second > 0)
    return AvatarComparison(
        source=source.numpy(),
        distance=own_distance.numpy(),
        nearer_avatars=nearer_counts[0].numpy(),
        nearer_records=nearer_counts[1].numpy(),
        closest_distance=first,
        distance_ratio=np.where(np.isfinite(second), ratio, np.nan),
        closest_record=closest.row.numpy(),
        assigned=not paired,
    )


def hidden_by_patient(
    records: Tensor, avatars: Tensor, patients: Sequence[object] | np.ndarray, block: int = BLOCK
) -> np.ndarray:
    """Whether the nearest avatar of each record, (n, D), is of another patient; bool (n,).

    Avatar i is of record i; ``patients``, (n,), has the patient of both. A tie counts as the same patient.
    """
    if len(records) != len(avatars):
        raise UserError(f"{len(records)} records and {len(avatars)} avatars are not pairs: give one of each.")
    x, y = points(_CALLER, avatars, records)
    unit = torch.from_numpy(unit_indices(patients, len(records)))
    closest, own_distance = Closest(len(y)), torch.full((len(y),), torch.inf, dtype=torch.float64)
    with torch.no_grad():
        for part in blocks(x, y, block):
            closest.add(part)
        for patient in range(int(unit.max()) + 1):
            rows = (unit == patient).nonzero().squeeze(1)
            for row in rows.tolist():
                own_distance[row] = distance(x.given[rows], y.given[row].expand(len(rows), -1)).min()
    return torch.lt(closest.apart[:, 0], own_distance).numpy()


def percentage_interval(values: np.ndarray, patients: Sequence[object] | np.ndarray, seed: int = 0) -> Interval:
    """Percentage of true ``values``, bool (n,), with a 95 % bootstrap interval over ``patients``, (n,).

    At 0 and 100 % the interval is Clopper and Pearson's, of as many trials as there are patients.
    """
    mean = bootstrap_mean(values.astype(np.float64), patients, seed=seed)
    if mean.value in (0.0, 1.0):
        count = len(np.unique(unit_indices(patients, len(values))))
        mean = clopper_pearson_interval(round(mean.value) * count, count)
    return Interval(100 * mean.value, 100 * mean.low, 100 * mean.high)


@dataclass(frozen=True)
class AnonymityMeasure:
    """One measure with its interval and its published target."""

    name: str
    value: Interval
    unit: str = ""
    target: Target | None = None

    @property
    def met(self) -> bool | None:
        """Whether the value is above the target; None without a target or a value."""
        if self.target is None or not np.isfinite(self.value.value):
            return None
        return self.value.value > self.target.above


def anonymity_measures(
    comparison: AvatarComparison, patients: Sequence[object] | np.ndarray, seed: int = 0
) -> list[AnonymityMeasure]:
    """The measures of the literature, with 95 % intervals over ``patients``, (m,), those of the avatars' records."""
    if not len(comparison.source) or len(patients) != len(comparison.source):
        raise UserError(f"{len(comparison.source)} avatars came with {len(patients)} patients: each needs its own.")

    def percentage(name: str, values: np.ndarray) -> AnonymityMeasure:
        return AnonymityMeasure(name, percentage_interval(values, patients, seed), "%", TARGETS.get(name))

    def median(name: str, values: np.ndarray) -> AnonymityMeasure:
        return AnonymityMeasure(name, bootstrap_median(values, patients, seed=seed), "", TARGETS.get(name))

    return [
        percentage("hidden rate", comparison.hidden),
        median("local cloaking, avatars", comparison.nearer_avatars.astype(np.float64)),
        median("local cloaking, records", comparison.nearer_records.astype(np.float64)),
        percentage("nobody nearer", comparison.nobody_nearer),
        median("DCR", comparison.closest_distance),
        median("NNDR", comparison.distance_ratio),
        median("distance to own avatar", comparison.distance),
    ]
