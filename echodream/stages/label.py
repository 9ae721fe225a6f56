"""``stage=label``: replace the labels of a Store by the predictions of classifiers."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from echodream.config.stage_signature import InputPath, OutputPath
from echodream.errors import UserError
from echodream.evaluation.class_agreement import LABEL_SOURCE
from echodream.evaluation.classifier_inference import open_classifier
from echodream.evaluation.relabeling import CONFIDENCE, check_classes, predicted_columns
from echodream.runs.summary import Summary
from echodream.store import Store, StoreWriter

ORIGINAL = "Asked"
"""Prefix of the column that keeps the previous value, as Asked_class_id."""


def label(
    *, src: InputPath, dst: OutputPath, artifacts: Sequence[InputPath], batch: int, command: str, code_version: str
) -> Summary:
    """Copy the video store ``src`` to ``dst`` with the classes that the classifiers ``artifacts`` predict.

    Probabilities of classifiers with the same classes are averaged; of several sets of classes, the most confident
    prediction is used, the first of equals. A regression sets its column. The column ``LABEL_SOURCE`` has the first 12
    digits of the classifiers' fingerprints, joined by "+". Media files are hard links if possible. Raises ``UserError``
    for classifiers with contradictory class names, or without a class of ``src``.
    """
    if artifacts is not None and not isinstance(artifacts, str | Sequence):
        raise UserError(f"artifacts={artifacts} is not possible: give the folder of a classifier, or a list of them")
    folders = [artifacts] if isinstance(artifacts, str) else [str(folder) for folder in artifacts or []]
    if not folders:
        raise UserError("artifacts= is empty: give the folder of at least one classifier")
    store, classifiers = Store(src, kind="video"), [open_classifier(folder) for folder in folders]
    if Path(dst).resolve() == store.root.resolve():
        raise UserError(f"dst={dst} is also src=: a store is never changed, choose another dst=")
    if not len(store):
        raise UserError(f"src={store.root} has no recording: there is nothing to label")
    check_classes(store, classifiers)
    fingerprints = [each.artifact.fingerprint for each in classifiers]
    labels: dict[str, Any] = {"classifiers": fingerprints, "source": store.checksum}
    settings = {**store.dataset.settings, "labels": labels}
    dataset = replace(store.dataset, settings=settings, command=command, code_version=code_version, statistics=None)
    rows = store.rows()
    with StoreWriter(dst, dataset) as writer:
        if not writer.complete:
            columns = predicted_columns(store, classifiers, batch)
            source = {LABEL_SOURCE: "+".join(fingerprint[:12] for fingerprint in fingerprints)}
            for name, row in rows.items():
                if name not in writer.done:
                    titles = {key: f"{ORIGINAL}_{key}" for key in columns[name] if key in row}
                    previous = {title: row.get(title, row[key]) for key, title in titles.items()}
                    writer.copy(store.path(name), {**row, **columns[name], **previous, **source}, link=True)
            writer.finish(list(rows), store.dataset.statistics)
    return Summary(f"label: {dst} {writer.state}", _summary(Store(dst).table))


def _summary(table: pd.DataFrame) -> dict[str, object]:
    """Class counts, confidence, and agreement with the previous classes."""
    lines: dict[str, object] = {"recordings": len(table), "labelled by": table[LABEL_SOURCE].iloc[0]}
    if CONFIDENCE not in table:
        return lines
    counts = table["class_name"].value_counts().sort_index()
    lines["classes"] = ", ".join(f"{name} {count}" for name, count in counts.items())
    lines["confidence"] = f"median {table[CONFIDENCE].median():.3f}, lowest {table[CONFIDENCE].min():.3f}"
    previous = f"{ORIGINAL}_class_id"
    if previous in table:
        same = table["class_id"] == table[previous]
        lines["as before"] = f"{int(same.sum())} of {len(table)}"
        key = f"{ORIGINAL}_class_name" if f"{ORIGINAL}_class_name" in table else previous
        for name, part in same.groupby(table[key]):
            lines[f"as before, {name}"] = f"{int(part.sum())} of {len(part)}"
    return lines
