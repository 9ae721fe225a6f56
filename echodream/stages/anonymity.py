"""``stage=anonymity``: how far anonymised images are from their originals, where an identity network sees them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from echodream.anonymization.image_pairs import (
    Images,
    Space,
    check_alike,
    chosen,
    embedded,
    images,
    opened,
    partners,
    spaces,
    versions,
)
from echodream.errors import UserError
from echodream.metrics.bootstrap import Interval
from echodream.privacy.anonymity import Compared, Measure, compare, hidden_patients, measures, percentage
from echodream.runs.atomic_folder import FRESH, write_record
from echodream.runs.summary import Summary
from echodream.store import Store

REPORT = "anonymity.json"
RECORDS = "records.csv"
PAIRED = "each anonymised image is of the original with its name"
ASSIGNED = "the set has no pairs: each image is taken for a version of the nearest original in training"
STATEMENT = (
    "Measured with one identity network, with 95 % intervals over patients. Large distances alone prove nothing: an "
    "image can be far from its original and still show whose it is, to a network that looks for it. A hidden rate "
    "counts images, and where a patient has several, another of the same patient hides none: see hidden by patient."
)


def anonymity(
    *,
    src: str,
    real: str,
    artifact: str | None,
    autoencoder: str,
    dst: str,
    paired: bool,
    match: str,
    splits: Sequence[str] | None,
    frames: int,
    seed: int,
    command: str,
    code_version: str,
) -> Summary:
    """Compare the anonymised images ``src`` with their originals ``real``, stores of latents or of pixels.

    In the space of the identity network ``artifact``, if given, and of latents or pixels as they are. ``paired``: the
    column ``match`` of ``src`` names the original; else the nearest is taken for it. ``frames`` of each recording of
    ``splits`` are compared (None: all; without pairs TRAIN). Writes ``dst``/anonymity.json and records.csv. Raises
    ``UserError`` for what cannot be compared.
    """
    original, source = opened(real, "real"), opened(src, "src")
    check_alike(original, source)
    rows = chosen(original, splits if paired or splits is not None else ["TRAIN"], "real")
    if len(set(rows.table["PatientID"].astype(str))) < 2:
        raise UserError(f"{original.root} has one patient only in {rows.split}: nobody can hide among others")
    originals = images(rows, frames)
    made = versions(originals, partners(rows, source, match)) if paired else images(chosen(source, None, "src"), frames)
    sides = originals, made
    places = spaces(original, [source], artifact, autoencoder)
    embeddings = [embedded(side, places, what) for side, what in zip(sides, ("originals", "anonymised"), strict=True)]
    found = {}
    tables = []
    for place, x, y in zip(places, *embeddings, strict=True):
        if bool((x == x[0]).all()):
            raise UserError(f"all originals have the same place in {place.name} space: the network has collapsed")
        compared = compare(x, y, paired)
        whose = (sides[0] if paired else sides[1]).patients
        measured = measures(compared, whose, seed)
        if paired:
            hidden = hidden_patients(x, y, whose)
            measured.insert(1, Measure("hidden by patient", percentage(hidden, whose, seed), "%"))
        found[place.name] = {"means": place.means, "network": place.fingerprint, "measures": [*map(_told, measured)]}
        tables.append(_table(place, compared, sides))
    record: dict[str, Any] = {"statement": STATEMENT, "spaces": found, "sizes": _sizes(sides)}
    record |= {"paired": paired, "assignment": PAIRED if paired else ASSIGNED, "match": match if paired else None}
    record |= {"splits": rows.split, "frames": frames, "seed": seed, **_fingerprints(original, source)}
    _write(Path(dst), {**record, "command": command, "code_version": code_version}, pd.concat(tables))
    return Summary(f"anonymity: {dst}/{REPORT} done", _lines(record))


def _told(measure: Measure) -> dict[str, Any]:
    target = None if measure.target is None else measure.target.text
    entry = {"name": measure.name, "unit": measure.unit, **asdict(measure.value), "target": target, "met": measure.met}
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in entry.items()
    }


def _table(place: Space, found: Compared, sides: tuple[Images, Images]) -> pd.DataFrame:
    """A row for each anonymised image: which original it is of, and how well it hides it."""
    real, made = sides
    return pd.DataFrame(
        {
            "Space": place.name,
            "FileName": made.names,
            "Frame": made.place,
            "Original": real.names[found.source],
            "Distance": np.round(found.distance, 6),
            "NearerAvatars": found.avatars,
            "NearerRecords": found.records,
            "DCR": np.round(found.closest, 6),
            "NNDR": np.round(found.ratio, 6),
            "ClosestOriginal": real.names[found.closest_record],
        }
    )


def _sizes(sides: tuple[Images, Images]) -> dict[str, dict[str, int]]:
    names = ("originals", "anonymised")
    return {
        name: {"images": len(side), "recordings": len(side.rows), "patients": len(set(side.patients.tolist()))}
        for name, side in zip(names, sides, strict=True)
    }


def _fingerprints(real: Store, source: Store) -> dict[str, str]:
    return {"real": real.checksum, "source": source.checksum}


def _write(folder: Path, record: Mapping[str, Any], table: pd.DataFrame) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    fresh = folder / f"{FRESH}{RECORDS}"
    table.to_csv(fresh, index=False)
    fresh.replace(folder / RECORDS)
    write_record(folder / REPORT, record)


def _lines(record: Mapping[str, Any]) -> dict[str, object]:
    sizes = record["sizes"]
    facts: dict[str, object] = {
        "compared": ", ".join(f"{of['images']} {name} of {of['patients']} patients" for name, of in sizes.items()),
        "pairs": record["assignment"],
    }
    for name, space in record["spaces"].items():
        for entry in space["measures"]:
            facts[f"{name}: {entry['name']}"] = line(entry)
    return facts


def line(entry: Mapping[str, Any]) -> str:
    """A measure, its interval and its target, as the screen shows them."""
    value = Interval(*(math.nan if entry[name] is None else entry[name] for name in ("value", "low", "high")))
    unit = f" {entry['unit']}" if entry["unit"] else ""
    text = f"{value.value:.4g}{unit} [{value.low:.4g}, {value.high:.4g}]"
    if entry["target"] is None:
        return text
    return f"{text}  target {entry['target']}: {'met' if entry['met'] else 'not met'}"
