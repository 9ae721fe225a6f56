"""Privacy filter, audit and fidelity metrics for arrays of embeddings, such as samples of another program."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from echodream import validation
from echodream.auditing.embedding_sets import AuditSets, EmbeddingSet, embedding_set
from echodream.auditing.record import STATEMENT, measure_all
from echodream.errors import UserError
from echodream.metrics.bootstrap import Interval, SamplingUnits
from echodream.metrics.fidelity import METRICS, Features, compare_features
from echodream.privacy.certification import PatientScores
from echodream.privacy.decision import Decision
from echodream.privacy.nearest_neighbors import NearestPatients, nearest_patients
from echodream.privacy.rules import Calibrated, Evidence
from echodream.privacy.similarity import Similarity, normalize

Array = np.ndarray | Tensor
Copies = Array | tuple[Array, Sequence[object]]
"""Embeddings of copies, and the patient of each row; without patients, row i is a copy of training row i."""


@dataclass(frozen=True)
class FilterResult:
    """Decision of the privacy filter. ``table`` has a row per sample: Score, PValue, Kept, NearestPatient."""

    decision: Decision
    table: pd.DataFrame

    @property
    def kept(self) -> np.ndarray:
        """Whether each sample passes: bool, (n,). Without a guarantee, no sample passes."""
        return self.table["Kept"].to_numpy(bool)

    def __str__(self) -> str:
        return f"{int(self.kept.sum())} of {len(self.table)} samples pass. {self.decision.statement}"

    def _repr_html_(self) -> str:
        rows = pd.DataFrame([vars(row) for row in self.decision.table])
        return f"<p>{html.escape(str(self))}</p>{rows.to_html(index=False) if len(rows) else ''}"


def filter(
    samples: Array,
    training: Array,
    calibration: Array,
    *,
    controls: Mapping[str, Copies],
    patients: Sequence[object] | None = None,
    report_only: Mapping[str, Copies] | None = None,
    similarity: Similarity = "cosine",
    **rule: Any,
) -> FilterResult:
    """Decide which samples pass, with the calibrated rule and the scores of stage=filter.

    ``samples``: embeddings (n, D), or (n, f, D) of f frames per sample. ``training``: embeddings (m, D), with a name in
    ``patients`` for each row; by default each row is a new patient. ``calibration``: one patient who is not in
    training per row, (k, D) or (k, f, D). ``controls``: embeddings of copies of training patients, by name of the
    transform. ``report_only``: further copies, which are not part of the guarantee. ``rule``: settings of
    conf/rule/calibrated.yaml.
    """
    known = [field.name for field in fields(Calibrated) if field.name != "similarity"]
    for name in rule:
        validation.one_of("setting", name, known)
    references, names = _embedding_rows("training", training, (2,)), _row_names("patients", patients, len(training))
    queries = {
        "samples": _embedding_rows("samples", samples),
        "calibration": _embedding_rows("calibration", calibration),
    }
    reported, copied = dict(report_only or {}), dict[str, list[str]]()
    for transform, copies in {**controls, **reported}.items():
        embeddings, own = copies if isinstance(copies, tuple) else (copies, names)
        queries[f"controls.{transform}"] = part = _embedding_rows(f"controls.{transform}", embeddings)
        copied[transform] = _row_names(f"controls.{transform}", own, len(part))
        if unknown := sorted(set(copied[transform]) - set(names)):
            raise UserError(f"controls.{transform} has a copy of {unknown[0]}, who is not in patients=: remove it")
    nearest = {key: _nearest_patients(part, references, names, similarity) for key, part in queries.items()}
    by_control = {key: PatientScores(nearest[f"controls.{key}"].score, np.array(own)) for key, own in copied.items()}
    new = np.array([f"calibration {row}" for row in range(len(nearest["calibration"].score))])
    scores = nearest["samples"].score
    evidence = Evidence(
        calibration=PatientScores(nearest["calibration"].score, new),
        controls={name: part for name, part in by_control.items() if name not in reported},
        reported={name: part for name, part in by_control.items() if name in reported},
        samples=scores,
        copied_patients=len(set(names)),
    )
    decision = Calibrated(**rule, similarity=similarity).decide(evidence)
    columns = {"Score": scores, "PValue": decision.p_values(scores), "Kept": ~decision.rejected(scores)}
    return FilterResult(decision, pd.DataFrame({**columns, "NearestPatient": nearest["samples"].patient}))


def _nearest_patients(frames: Tensor, references: Tensor, names: list[str], similarity: Similarity) -> NearestPatients:
    """Find the training patient nearest to any frame of a sample, for n samples; ``frames``: (n, f, D)."""
    groups = np.repeat(np.arange(len(frames)), frames.shape[1])
    return nearest_patients(frames.flatten(0, 1), [(references, names)], similarity, groups)


def audit(
    samples: Array,
    training: Array,
    held_out: Array,
    *,
    similarity: Similarity = "cosine",
    far: float = 0.01,
    cells: int | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Measures of stage=audit for embeddings, with value, interval, expected value, and whether the value stands out.

    Each row of an array is a sample, training patient or held-out patient: (n, D), or (n, f, D) with f frames,
    preferably of two or more recordings. ``far`` and ``cells``: see conf/stage/audit.yaml. The table has one row per
    measure. ``attrs`` of the table: "not measured" (impossible with these data), "statement" (limits of an audit).
    """
    groups = {"sample": samples, "training patient": training, "held-out patient": held_out}
    sample_set, train, new = (_embedding_set(name, values, similarity) for name, values in groups.items())
    measures, missing = measure_all([AuditSets(sample_set, train, new, similarity, seed, far, cells)])
    rows = [
        {
            "measure": each.name,
            "about": each.about,
            **asdict(each.value),
            **_interval_columns("expected", each.expected),
            "stands_out": each.stands_out,
            "means": each.means,
        }
        for each in measures
    ]
    table = pd.DataFrame(rows).set_index("measure")
    table.attrs = {"not measured": missing, "statement": STATEMENT}
    return table


def _interval_columns(name: str, interval: Interval) -> dict[str, float]:
    """Value and ends of ``interval`` in the columns ``name``, ``name``_low and ``name``_high."""
    return dict(zip((name, f"{name}_low", f"{name}_high"), astuple(interval), strict=True))


def _embedding_set(name: str, values: Array, similarity: Similarity) -> EmbeddingSet:
    frames = _embedding_rows(f"{name}s", values)
    embedded = normalize(frames.flatten(0, 1), similarity, f"{name}s").unflatten(0, frames.shape[:2])
    return embedding_set([f"{name} {row}" for row in range(len(frames))], embedded, is_sample=name == "sample")


def evaluate(
    synthetic: Array,
    real: Array,
    floor: Array,
    *,
    units: Sequence[object] | None = None,
    real_units: Sequence[object] | None = None,
    floor_units: Sequence[object] | None = None,
    neighbours: int = 5,
    seed: int = 0,
) -> pd.DataFrame:
    """Fidelity metrics of stage=evaluate for features, (N, D): one row per metric, with its interval and floor.

    ``synthetic`` is compared with ``real``. The floor of a metric is its value for ``floor``, features of other real
    recordings, such as training recordings, instead of ``synthetic``. Larger sets are reduced to the size of the
    smallest set by random selection. ``units``: sample or patient of each row, for intervals; default: the row.
    """
    validation.whole_number("neighbours", neighbours)
    groups = {"synthetic": (synthetic, units), "real": (real, real_units), "floor": (floor, floor_units)}
    count = min(len(values) for values, _ in groups.values())
    if count < 2:
        raise UserError(f"a set has {count} rows of features: give at least 2")
    features: list[Features] = []
    for key, (values, names) in groups.items():
        rows = as_tensor(key, values, (2,)).double().numpy()
        owners = np.array(_row_names(f"{key} units", names, len(values)))
        chosen = np.sort(np.random.default_rng(seed).permutation(len(rows))[:count])
        features.append(Features(rows[chosen], SamplingUnits(owners[chosen])))
    table = {}
    for name, metric in compare_features(features[0], features[1], features[2], neighbours, seed).items():
        columns = _interval_columns("floor", metric.floor)
        table[name] = {**asdict(metric.value), **columns, "better": METRICS[name].better}
    return pd.DataFrame.from_dict(table, orient="index").rename_axis("metric")


def as_tensor(name: str, values: Any, dimensions: Sequence[int]) -> Tensor:
    """Convert an array or tensor to a tensor on the CPU. Raises ``UserError`` unless ``ndim`` is in ``dimensions``."""
    if not isinstance(values, np.ndarray | Tensor):
        raise UserError(f"{name} is a {type(values).__name__}: give a numpy array or a tensor")
    x = torch.from_numpy(np.ascontiguousarray(values)) if isinstance(values, np.ndarray) else values.detach().cpu()
    if x.ndim not in dimensions or 0 in x.shape:
        counts = " or ".join(map(str, dimensions))
        raise UserError(f"{name} has the shape {tuple(x.shape)}: give {counts} dimensions, none of them empty")
    return x


def _embedding_rows(name: str, values: Any, dimensions: Sequence[int] = (2, 3)) -> Tensor:
    """Embeddings as float32: (n, D), or (n, f, D) if ``dimensions`` include 3; ``UserError`` for another shape."""
    x = as_tensor(name, values, dimensions).float()
    return x[:, None] if 3 in dimensions and x.ndim == 2 else x


def _row_names(name: str, names: Sequence[object] | None, count: int) -> list[str]:
    """Names of ``count`` rows as texts, by default the row numbers. Raises ``UserError`` for more or fewer names."""
    if names is None:
        return [str(row) for row in range(count)]
    texts = [str(entry) for entry in names]
    if len(texts) != count:
        raise UserError(f"{name}: {len(texts)} names for {count} rows; give the name of each row")
    return texts
