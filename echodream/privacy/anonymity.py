"""What an anonymised set still says about its records: the five measures of paired sets. Pure functions of tensors.

Record i has its avatar, the anonymised version of it, as rows of two sets of embeddings. Distances are Euclidean, and
what differs by less than single precision is a tie. *Nearer* means strictly nearer: a tie never hides anybody.
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

_WHAT = "The comparison of records and avatars"


@dataclass(frozen=True)
class Target:
    """What the literature asks of a measure: more than ``above``."""

    above: float
    text: str


TARGETS = {
    "hidden rate": Target(90.0, "> 90 %"),
    "local cloaking, avatars": Target(5.0, "> 5"),
    "DCR": Target(0.2, "> 0.2"),
    "NNDR": Target(0.3, "> 0.3"),
}
"""Of the avatar method and of medical image anonymisation; by the name of the measure."""


@dataclass(frozen=True)
class Compared:
    """What is known of each avatar k and the record that it is of, ``source[k]``. All are (m,)."""

    source: np.ndarray
    distance: np.ndarray
    """Between the record and the avatar."""
    avatars: np.ndarray
    """Other avatars that are strictly nearer to the record: int64."""
    records: np.ndarray
    """Other records that are strictly nearer to the record: int64."""
    closest: np.ndarray
    """Distance of the avatar to the closest record."""
    ratio: np.ndarray
    """Of the distances to the closest and the second closest record; 1 where the second is 0. NaN with one record."""
    closest_record: np.ndarray
    """Which record is closest to the avatar; of several at the same distance the first."""
    assigned: bool
    """Whether ``source`` was not known, and the closest record was taken for it."""

    @property
    def hidden(self) -> np.ndarray:
        """Whether the record's nearest avatar is not its own: bool."""
        return self.avatars > 0

    @property
    def alone(self) -> np.ndarray:
        """Whether no other avatar and no other record is nearer to the record than its own avatar: bool."""
        return (self.avatars == 0) & (self.records == 0)


def compare(records: Tensor, avatars: Tensor, paired: bool = True, block: int = BLOCK) -> Compared:
    """Compare ``records``, (n, D), with ``avatars``, (m, D), by Euclidean distance.

    ``paired``: avatar i is of record i, and n = m. Otherwise each avatar is taken for one of the record that is closest
    to it (the first of several), since a generator without pairs has no other. Memory does not grow with n x m. Raises
    ``UserError`` for sets that cannot be compared.
    """
    if paired and len(records) != len(avatars):
        raise UserError(
            f"{len(records)} records and {len(avatars)} avatars are not pairs: give one avatar of each record, or "
            "compare them unpaired."
        )
    x, y = points(_WHAT, records, avatars)
    with torch.no_grad():
        closest, source = Closest(len(y)), torch.arange(len(y))
        if not paired:
            for part in blocks(x, y, block):
                closest.add(part)
            source = closest.row
        apart, near = between(x.given, y.given, source, torch.arange(len(y))), []
        order = source.argsort(stable=True)
        for other, but in ((y, order), (x, source[order])):
            found = Nearer(source[order], apart[order], but)
            for part in blocks(x, other, block):
                found.add(part)
                if paired and other is y:
                    closest.add(part)
            near.append(torch.empty_like(found.count).scatter_(0, order, found.count))
    first, second = closest.apart.numpy().T
    ratio = np.divide(first, second, out=np.ones_like(first), where=second > 0)
    return Compared(
        source=source.numpy(),
        distance=apart.numpy(),
        avatars=near[0].numpy(),
        records=near[1].numpy(),
        closest=first,
        ratio=np.where(np.isfinite(second), ratio, np.nan),
        closest_record=closest.row.numpy(),
        assigned=not paired,
    )


def hidden_patients(
    records: Tensor, avatars: Tensor, patients: Sequence[object] | np.ndarray, block: int = BLOCK
) -> np.ndarray:
    """Whether the nearest avatar of each record, (n, D), is of another patient; bool (n,). Row i is of one patient.

    A record that other images of its patient hide is not hidden here. A tie is the own patient's.
    """
    if len(records) != len(avatars):
        raise UserError(f"{len(records)} records and {len(avatars)} avatars are not pairs: give one of each.")
    x, y = points(_WHAT, avatars, records)
    unit = torch.from_numpy(unit_indices(patients, len(records)))
    closest, own = Closest(len(y)), torch.full((len(y),), torch.inf, dtype=torch.float64)
    with torch.no_grad():
        for part in blocks(x, y, block):
            closest.add(part)
        for patient in range(int(unit.max()) + 1):
            rows = (unit == patient).nonzero().squeeze(1)
            for row in rows.tolist():
                own[row] = distance(x.given[rows], y.given[row].expand(len(rows), -1)).min()
    return torch.lt(closest.apart[:, 0], own).numpy()


def percentage(values: np.ndarray, patients: Sequence[object] | np.ndarray, seed: int = 0) -> Interval:
    """How many of ``values``, bool (n,), are true, in %, with a 95 % interval by drawing whole ``patients``, (n,).

    Where all patients agree it is that of as many independent trials as there are patients (Clopper-Pearson).
    """
    found = bootstrap_mean(values.astype(np.float64), patients, seed=seed)
    if found.value in (0.0, 1.0):
        count = len(np.unique(unit_indices(patients, len(values))))
        found = clopper_pearson_interval(round(found.value) * count, count)
    return Interval(100 * found.value, 100 * found.low, 100 * found.high)


@dataclass(frozen=True)
class Measure:
    """One of the measures with its interval, and what the literature asks for."""

    name: str
    value: Interval
    unit: str = ""
    target: Target | None = None

    @property
    def met(self) -> bool | None:
        """Whether the value is above the target; None where there is none, or no value."""
        return (
            None if self.target is None or not np.isfinite(self.value.value) else self.value.value > self.target.above
        )


def measures(found: Compared, patients: Sequence[object] | np.ndarray, seed: int = 0) -> list[Measure]:
    """The measures of the literature, with 95 % intervals over the ``patients`` of the avatars' records, (m,)."""
    if not len(found.source) or len(patients) != len(found.source):
        raise UserError(f"{len(found.source)} avatars came with {len(patients)} patients: each needs its own.")
    typical = {
        "local cloaking, avatars": found.avatars.astype(np.float64),
        "local cloaking, records": found.records.astype(np.float64),
        "DCR": found.closest,
        "NNDR": found.ratio,
        "distance to own avatar": found.distance,
    }
    shares = {"hidden rate": found.hidden, "nobody nearer": found.alone}
    hidden, nobody = (
        Measure(name, percentage(values, patients, seed), "%", TARGETS.get(name)) for name, values in shares.items()
    )
    medians = [
        Measure(name, bootstrap_median(values, patients, seed=seed), "", TARGETS.get(name))
        for name, values in typical.items()
    ]
    return [hidden, *medians[:2], nobody, *medians[2:]]
