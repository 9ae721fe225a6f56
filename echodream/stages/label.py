"""``stage=label``: what classifiers say of the recordings of a Store becomes its labels, and it is marked so."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from echodream.config.stage_signature import InputPath, OutputPath
from echodream.errors import UserError
from echodream.evaluation.classifier_inference import OpenClassifier, open_classifier, predict_split
from echodream.runs.atomic_folder import share_file
from echodream.runs.summary import Summary
from echodream.store import Store, StoreWriter
from echodream.store.schema import SPLITS

LABEL_SOURCE = "LabelSource"
"""The column that marks a relabelled store: the first 12 digits of the classifiers' fingerprints, joined by "+"."""
ASKED = "Asked"
"""Begins the name of the column that keeps what was there before, as Asked_class_id."""
CONFIDENCE = "Confidence"


@dataclass(frozen=True)
class Answers:
    """What the classifiers of one set of classes say together, for N recordings."""

    ids: list[int]
    names: list[str]
    shares: np.ndarray
    """Probabilities, (N, K), the mean over the classifiers."""


def label(
    *, src: InputPath, dst: OutputPath, artifacts: Sequence[InputPath], batch: int, command: str, code_version: str
) -> Summary:
    """Copy the video store ``src`` to ``dst`` with the classes that the classifiers ``artifacts`` see in it.

    Classifiers of the same classes are averaged by probability; of several sets of classes the one with the most
    confident answer wins, the first where two are equal. A regression gives its column. The copy shares media files
    with ``src``. Raises ``UserError`` for classifiers that contradict each other or do not know the classes of ``src``.
    """
    if artifacts is not None and not isinstance(artifacts, str | Sequence):
        raise UserError(f"artifacts={artifacts} is not possible: give the folder of a classifier, or a list of them")
    folders = [artifacts] if isinstance(artifacts, str) else [str(folder) for folder in artifacts or []]
    if not folders:
        raise UserError("artifacts= is empty: give the folder of one classifier at least")
    store, models = Store(src, kind="video"), [open_classifier(folder) for folder in folders]
    if Path(dst).resolve() == store.root.resolve():
        raise UserError(f"dst={dst} is the store that is read: a store is never changed, choose another dst=")
    _check(store, models)
    marks = [model.artifact.fingerprint for model in models]
    labels: dict[str, Any] = {"classifiers": marks, "source": store.checksum}
    settings = {**store.dataset.settings, "labels": labels}  # where the videos come from stays
    dataset = replace(store.dataset, settings=settings, command=command, code_version=code_version, statistics=None)
    rows = store.rows()
    with StoreWriter(dst, dataset) as writer:
        complete = writer.complete
        if not complete:
            said = _said(store, models, batch)
            mark = {LABEL_SOURCE: "+".join(fingerprint[:12] for fingerprint in marks)}
            for name, row in rows.items():
                if name not in writer.done:
                    media = writer.scratch_path(name)
                    share_file(store.path(name), media)
                    before = {(was := f"{ASKED}_{key}"): row.get(was, row[key]) for key in said[name] if key in row}
                    writer.commit({**row, **said[name], **before, **mark}, media)
            writer.finish(list(rows), store.dataset.statistics)
    state = "already complete, nothing to do" if complete else "done"
    return Summary(f"label: {dst} {state}", _facts(Store(dst).table))


def merged(parts: Sequence[Answers]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The most confident answer for each of N recordings: which of ``parts``, which place in it, how probable."""
    best = np.stack([part.shares.max(axis=1) for part in parts])
    part = best.argmax(axis=0)
    places = np.stack([one.shares.argmax(axis=1) for one in parts])
    rows = np.arange(best.shape[1])
    return part, places[part, rows], best[part, rows]


def _check(store: Store, models: Sequence[OpenClassifier]) -> None:
    if not len(store):
        raise UserError(f"src={store.root} holds no recording: there is nothing to label")
    known: dict[int, str] = {}
    for model in models:
        for number, name in zip(model.facts["class_ids"], model.facts["class_names"], strict=True):
            if known.setdefault(int(number), name) != name:
                raise UserError(f"{model.folder} calls class {number} {name}, another {known[number]}: train both anew")
    if "class_id" not in store.table or not known:
        return
    if unknown := sorted(set(store.table["class_id"].dropna().astype(int)) - set(known)):
        raise UserError(
            f"src={store.root} has class_id {unknown[0]}, and the artifacts know {sorted(known)}: add one that knows it"
        )


def _said(store: Store, models: Sequence[OpenClassifier], batch: int) -> dict[str, dict[str, Any]]:
    """The new columns of each recording."""
    outputs = [_outputs(model, store, batch) for model in models]
    names = outputs[0].index.tolist()
    found: dict[str, dict[str, Any]] = {name: {} for name in names}
    if parts := _parts(models, outputs):
        titles = _titles(parts)
        for row, (part, place, sure) in enumerate(zip(*merged(parts), strict=True)):
            one, cells = parts[part], found[names[row]]
            cells |= {"class_id": one.ids[place], "class_name": one.names[place], CONFIDENCE: round(float(sure), 6)}
            shares = np.concatenate([each.shares[row] for each in parts])
            cells |= {title: round(float(share), 6) for title, share in zip(titles, shares, strict=True)}
    for model, output in zip(models, outputs, strict=True):
        if model.facts["task"] == "regression":
            for name, value in zip(names, output.to_numpy()[:, 0], strict=True):
                found[name][model.facts["column"]] = round(float(value), 4)
    return found


def _outputs(model: OpenClassifier, store: Store, batch: int) -> pd.DataFrame:
    """A row for each recording, in the order of the store."""
    there = [split for split in SPLITS if (store.table["Split"] == split).any()]
    tables = []
    for split in there:
        rows, outputs = predict_split(model, store, split, batch)
        tables.append(pd.DataFrame(outputs, index=rows["FileName"]))
    return pd.concat(tables).loc[store.table["FileName"]]


def _parts(models: Sequence[OpenClassifier], outputs: Sequence[pd.DataFrame]) -> list[Answers]:
    """Probabilities of the classifiers, those of the same classes averaged, in the order of the first of each."""
    groups: dict[tuple[int, ...], list[np.ndarray]] = {}
    names: dict[tuple[int, ...], list[str]] = {}
    for model, output in zip(models, outputs, strict=True):
        if model.facts["task"] == "regression":
            continue
        ids = tuple(map(int, model.facts["class_ids"]))
        logits = output.to_numpy()
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        groups.setdefault(ids, []).append(powers / powers.sum(axis=1, keepdims=True))
        names[ids] = list(model.facts["class_names"])
    return [Answers([*ids], names[ids], np.mean(shares, axis=0)) for ids, shares in groups.items()]


def _titles(parts: Sequence[Answers]) -> list[str]:
    """A column for each probability, as P_Non_ASD; P2_ASD for the second set of classes that has ASD.

    Names that are the same in plain letters get the number of their class, as P1_Gr__e_4.
    """
    found: list[str] = []
    for number, part in enumerate(parts, start=1):
        for name, place in zip(part.names, part.ids, strict=True):
            plain = re.sub(r"\W", "_", name, flags=re.ASCII)[:50]
            names = (f"P_{plain}", f"P{number}_{plain}", f"P{number}_{plain}_{place}")
            found.append(next(title for title in names if title not in found))
    return found


def _facts(table: pd.DataFrame) -> dict[str, object]:
    facts: dict[str, object] = {"recordings": len(table), "labelled by": table[LABEL_SOURCE].iloc[0]}
    if CONFIDENCE not in table:
        return facts
    counts = table["class_name"].value_counts().sort_index()
    facts["classes"] = ", ".join(f"{name} {count}" for name, count in counts.items())
    facts["confidence"] = f"median {table[CONFIDENCE].median():.3f}, lowest {table[CONFIDENCE].min():.3f}"
    before = f"{ASKED}_class_id"
    if before in table:
        same = table["class_id"] == table[before]
        facts["as before"] = f"{int(same.sum())} of {len(table)}"
        key = f"{ASKED}_class_name" if f"{ASKED}_class_name" in table else before
        for name, part in same.groupby(table[key]):
            facts[f"as before, {name}"] = f"{int(part.sum())} of {len(part)}"
    return facts
