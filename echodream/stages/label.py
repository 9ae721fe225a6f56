"""``stage=label``: copy a Store with the predictions of classifiers as labels."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from echodream import validation
from echodream.config.stage_signature import InputPath, OutputPath
from echodream.errors import UserError
from echodream.evaluation.class_agreement import LABEL_SOURCE
from echodream.evaluation.classifier_inference import open_classifier
from echodream.evaluation.relabeling import CONFIDENCE_COLUMN, check_classes, predicted_columns
from echodream.runs.summary import Summary
from echodream.store import Store, StoreWriter

PREVIOUS_PREFIX = "Asked"
"""Prefix of the columns with the previous labels, for example Asked_class_id."""


def label(
    *, src: InputPath, dst: OutputPath, artifacts: Sequence[InputPath], batch: int, command: str, code_version: str
) -> Summary:
    """Copy the video store ``src`` to ``dst`` with the classes that the classifiers ``artifacts`` predict.

    Probabilities of classifiers with the same classes are averaged. If classifiers have different classes, the most
    confident prediction is used; in a tie, the prediction of the first classifier. A regression model sets the column
    of its target. The column ``LABEL_SOURCE`` has the first 12 digits of the classifiers' fingerprints. Media files are
    hard links if possible. Raises ``UserError`` if class names contradict each other or a class of ``src`` is missing.
    """
    if not isinstance(artifacts, str | Sequence | None):
        raise UserError(f"artifacts={artifacts} is not possible: give the folders of one or more classifiers")
    folders = validation.path_list(artifacts)
    if not folders:
        raise UserError("artifacts= is empty: give the folder of at least one classifier")
    store, classifiers = Store(src, kind="video"), [open_classifier(folder) for folder in folders]
    if Path(dst).resolve() == store.root.resolve():
        raise UserError(f"dst={dst} is also src=: choose another dst=")
    if not len(store):
        raise UserError(f"src={store.root} has no recording: give another store")
    check_classes(store, classifiers)
    fingerprints = [each.artifact.fingerprint for each in classifiers]
    settings = {**store.dataset.settings, "labels": {"classifiers": fingerprints, "source": store.checksum}}
    dataset = replace(store.dataset, settings=settings, command=command, code_version=code_version, statistics=None)
    rows = store.rows()
    with StoreWriter(dst, dataset) as writer:
        if not writer.complete:
            columns = predicted_columns(store, classifiers, batch)
            source = {LABEL_SOURCE: "+".join(fingerprint[:12] for fingerprint in fingerprints)}
            for name, row in rows.items():
                if name not in writer.done:
                    titles = {key: f"{PREVIOUS_PREFIX}_{key}" for key in columns[name] if key in row}
                    previous = {title: row.get(title, row[key]) for key, title in titles.items()}
                    writer.copy(store.path(name), {**row, **columns[name], **previous, **source}, link=True)
            writer.finish(list(rows), store.dataset.statistics)
    return Summary(f"label: {dst} {writer.state}", _summary_lines(Store(dst).table))


def _summary_lines(table: pd.DataFrame) -> dict[str, object]:
    """Lines of the summary: class counts, confidence, and agreement with the previous classes."""
    lines: dict[str, object] = {"recordings": len(table), "labelled by": table[LABEL_SOURCE].iloc[0]}
    if CONFIDENCE_COLUMN not in table:
        return lines
    counts = table["class_name"].value_counts().sort_index()
    lines["classes"] = ", ".join(f"{name} {count}" for name, count in counts.items())
    lines["confidence"] = f"median {table[CONFIDENCE_COLUMN].median():.3f}, lowest {table[CONFIDENCE_COLUMN].min():.3f}"
    previous = f"{PREVIOUS_PREFIX}_class_id"
    if previous in table:
        same = table["class_id"] == table[previous]
        lines["as before"] = f"{int(same.sum())} of {len(table)}"
        key = f"{PREVIOUS_PREFIX}_class_name" if f"{PREVIOUS_PREFIX}_class_name" in table else previous
        for name, part in same.groupby(table[key]):
            lines[f"as before, {name}"] = f"{int(part.sum())} of {len(part)}"
    return lines
