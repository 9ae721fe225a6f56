"""Measures of an anonymized set: hidden rate, local cloaking, DCR, NNDR, distance between record and avatar.

A record is an original image; an avatar is the anonymized version of a record. Distances are Euclidean and rounded to
single precision, so smaller differences are ties. "Nearer" means strictly nearer: a tie does not hide a record.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from echodream.errors import UserError
from echodream.metrics import bootstrap
from echodream.metrics.bootstrap import Interval, unit_indices
from echodream.privacy.nearest_neighbors import BLOCK, NearestReferences, check_embeddings, similarity_blocks
from echodream.privacy.similarity import paired_similarity

TARGETS = {"hidden rate": 90.0, "local cloaking, avatars": 5.0, "DCR": 0.2, "NNDR": 0.3}
"""Published targets of the avatar method and of medical image anonymization; a measure should exceed its target."""


@dataclass(frozen=True)
class AvatarComparison:
    """Distances and ranks of m avatars and their records. All arrays are (m,).

    ``source``: index of the avatar's record. ``distance``: distance between record and avatar. ``nearer_avatars``,
    ``nearer_records``: numbers of other avatars and of other records that are nearer to the record than its avatar is.
    ``closest_record``: index of the record closest to the avatar, the first one in a tie. ``closest_distance`` (DCR):
    distance of this record. ``distance_ratio`` (NNDR): ``closest_distance`` divided by the distance of the second
    closest record; 1 if the second distance is 0, NaN for a single record. ``source_is_assigned``: whether ``source``
    is unknown and therefore ``closest_record``.
    """

    source: np.ndarray
    distance: np.ndarray
    nearer_avatars: np.ndarray
    nearer_records: np.ndarray
    closest_distance: np.ndarray
    distance_ratio: np.ndarray
    closest_record: np.ndarray
    source_is_assigned: bool

    @property
    def is_hidden(self) -> np.ndarray:
        """Whether the nearest avatar of the record belongs to another record: bool."""
        return self.nearer_avatars > 0

    @property
    def avatar_is_nearest(self) -> np.ndarray:
        """Whether the avatar is the nearest neighbor of its record, among all avatars and other records: bool."""
        return (self.nearer_avatars == 0) & (self.nearer_records == 0)


def compare_avatars(
    records: Tensor, avatars: Tensor, paired: bool = True, block: int = BLOCK["cpu"]
) -> AvatarComparison:
    """Compare ``records``, (n, D), with ``avatars``, (m, D), by Euclidean distance.

    If ``paired``, avatar i belongs to record i, and n = m; otherwise the source of an avatar is its closest record.
    Memory does not grow with n x m. Raises ``UserError`` for sets that cannot be compared.
    """
    if paired and len(records) != len(avatars):
        counts = f"{len(records)} records and {len(avatars)} avatars"
        raise UserError(f"{counts} are not pairs: give one avatar of each record, or paired=false.")
    with torch.no_grad():
        x, y, center = _sets_and_center(records, avatars)
        closest, source = NearestReferences(len(y)), torch.arange(len(y))
        if not paired:
            for rows, columns, values in similarity_blocks(x, y, "euclidean", block, center):
                _add_records_as_references(closest, rows, columns, values)
            source = torch.from_numpy(closest.reference)
        own = paired_similarity(x[source], y, "euclidean")
        order = source.argsort(stable=True)
        count = []
        for others, excluded in ((y, torch.arange(len(y))), (x, source)):
            nearer = torch.zeros(len(y), dtype=torch.int64)
            for rows, columns, values in similarity_blocks(x, others, "euclidean", block, center):
                part = order[(source[order] >= rows.start) & (source[order] < rows.stop)]
                places = source[part] - rows.start, own[part], excluded[part] - columns.start
                nearer[part] += _count_above(values, *places)
                if paired and others is y:
                    _add_records_as_references(closest, rows, columns, values)
            count.append(nearer.numpy())
    first_distance, second_distance = -closest.score.astype(np.float64).T
    ratio = np.divide(first_distance, second_distance, out=np.ones_like(first_distance), where=second_distance > 0)
    return AvatarComparison(
        source=source.numpy(),
        distance=-own.numpy(),
        nearer_avatars=count[0],
        nearer_records=count[1],
        closest_distance=first_distance,
        distance_ratio=np.where(np.isfinite(second_distance), ratio, np.nan),
        closest_record=closest.reference,
        source_is_assigned=not paired,
    )


def _sets_and_center(*sets: Tensor) -> tuple[Tensor, ...]:
    """The ``sets`` as float32 on the CPU, and the mean of all their rows, (D,)."""
    checked = check_embeddings("The comparison of records and avatars", *sets, dtype=torch.float32)
    checked = [embeddings.cpu() for embeddings in checked]
    total = torch.stack([embeddings.sum(dim=0, dtype=torch.float64) for embeddings in checked]).sum(dim=0)
    return *checked, (total / sum(map(len, checked))).float()


def _add_records_as_references(closest: NearestReferences, rows: slice, columns: slice, values: Tensor) -> None:
    """Add ``values``, similarities (r, c) of the records ``rows`` to the avatars ``columns``, to ``closest``."""
    records = np.arange(rows.start, rows.stop)
    closest.add(columns, values.T, records, records)


def _count_above(values: Tensor, rows: Tensor, limit: Tensor, excluded: Tensor) -> Tensor:
    """Number of values above ``limit`` in each row of ``values[rows]``, except in the column ``excluded``: (q,).

    ``values`` is a block of columns, (r, c); ``rows``, ``limit`` and ``excluded`` are (q,). Columns outside of the
    block are ignored.
    """
    all_rows = len(rows) == len(values) and bool((rows == torch.arange(len(rows))).all())
    above = (values if all_rows else values[rows]) > limit.float()[:, None]
    inside = ((excluded >= 0) & (excluded < values.shape[1])).nonzero().squeeze(1)
    above[inside, excluded[inside]] = False
    return above.sum(dim=1)


def hidden_by_patient(
    records: Tensor, avatars: Tensor, patients: Sequence[object] | np.ndarray, block: int = BLOCK["cpu"]
) -> np.ndarray:
    """Whether the nearest avatar of each record, (n, D), is of another patient: bool (n,).

    Avatar i belongs to record i, and both belong to ``patients[i]``. In a tie, the same patient counts as the nearest.
    """
    if len(records) != len(avatars):
        raise UserError(f"{len(records)} records and {len(avatars)} avatars are not pairs: give one of each.")
    x, y, center = _sets_and_center(avatars, records)
    unit = torch.from_numpy(unit_indices(patients, len(records)))
    closest, own = NearestReferences(len(y)), torch.full((len(y),), -torch.inf, dtype=torch.float64)
    with torch.no_grad():
        for rows, columns, values in similarity_blocks(x, y, "euclidean", block, center):
            _add_records_as_references(closest, rows, columns, values)
        for patient in range(int(unit.max()) + 1):
            images = (unit == patient).nonzero().squeeze(1)
            for row in images.tolist():
                own[row] = paired_similarity(x[images], y[row].expand(len(images), -1), "euclidean").max()
    hidden: np.ndarray = closest.score[:, 0] > own.numpy()
    return hidden


def percentage_interval(values: np.ndarray, patients: Sequence[object] | np.ndarray, seed: int = 0) -> Interval:
    """Percentage of true ``values``, bool (n,), with a 95 % bootstrap interval over ``patients``, (n,).

    At 0 and 100 %, the interval is the Clopper-Pearson interval with one trial per patient.
    """
    mean = bootstrap.bootstrap_mean(values.astype(np.float64), patients, seed=seed)
    if mean.value in (0.0, 1.0):
        count = len(np.unique(unit_indices(patients, len(values))))
        mean = bootstrap.clopper_pearson_interval(round(mean.value) * count, count)
    return Interval(100 * mean.value, 100 * mean.low, 100 * mean.high)


@dataclass(frozen=True)
class AnonymityMeasure:
    """A measure of anonymity with its interval and its published target."""

    name: str
    value: Interval
    unit: str = ""
    target: float | None = None

    @property
    def meets_target(self) -> bool | None:
        """Whether the value is above the target; None without a target or a value."""
        if self.target is None or not np.isfinite(self.value.value):
            return None
        return self.value.value > self.target

    def as_json(self) -> dict[str, Any]:
        """The fields for anonymity.json."""
        target = None if self.target is None else f"> {self.target:g} {self.unit}".strip()
        return {"name": self.name, "unit": self.unit, **asdict(self.value), "target": target, "met": self.meets_target}


def anonymity_measures(
    comparison: AvatarComparison, patients: Sequence[object] | np.ndarray, seed: int = 0
) -> list[AnonymityMeasure]:
    """The published measures, with 95 % bootstrap intervals over the ``patients`` of the records of avatars, (m,)."""
    if not len(comparison.source) or len(patients) != len(comparison.source):
        raise UserError(
            f"{len(comparison.source)} avatars and {len(patients)} patients: give the patient of each avatar."
        )

    def percentage_measure(name: str, values: np.ndarray) -> AnonymityMeasure:
        return AnonymityMeasure(name, percentage_interval(values, patients, seed), "%", TARGETS.get(name))

    def median_measure(name: str, values: np.ndarray) -> AnonymityMeasure:
        return AnonymityMeasure(name, bootstrap.bootstrap_median(values, patients, seed=seed), "", TARGETS.get(name))

    return [
        percentage_measure("hidden rate", comparison.is_hidden),
        median_measure("local cloaking, avatars", comparison.nearer_avatars.astype(np.float64)),
        median_measure("local cloaking, records", comparison.nearer_records.astype(np.float64)),
        percentage_measure("nobody nearer", comparison.avatar_is_nearest),
        median_measure("DCR", comparison.closest_distance),
        median_measure("NNDR", comparison.distance_ratio),
        median_measure("distance to own avatar", comparison.distance),
    ]
