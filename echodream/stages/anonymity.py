"""``stage=anonymity``: distances between anonymized images and their originals, in identity space and as latents."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from echodream.anonymization.comparison_spaces import ComparisonSpace, comparison_spaces, embed_images
from echodream.anonymization.image_pairs import ImageSet, match_images, open_original_and_anonymized, select_images
from echodream.config.stage_signature import InputPath, OutputPath
from echodream.errors import UserError
from echodream.privacy import anonymity as avatars
from echodream.runs.atomic_folder import write_record, write_text
from echodream.runs.summary import Summary

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
    src: InputPath,
    real: InputPath,
    artifact: InputPath | None,
    autoencoder: InputPath,
    dst: OutputPath,
    paired: bool,
    match: str,
    splits: Sequence[str] | None,
    frames: int,
    seed: int,
    command: str,
    code_version: str,
) -> Summary:
    """Compare the anonymized images ``src`` with their originals ``real``, stores of latents or of pixels.

    Images are compared in the space of the identity network ``artifact``, if given, and as latents or pixels.
    ``paired``: the column ``match`` of ``src`` names the original; otherwise the nearest original is used.
    ``frames`` of each recording of ``splits`` are compared (None: all splits; without pairs TRAIN). Writes
    ``dst``/anonymity.json and records.csv. Raises ``UserError`` for images that cannot be compared.
    """
    original_store, anonymized_store = open_original_and_anonymized(real, src)
    originals = select_images(original_store, splits if paired or splits is not None else ["TRAIN"], frames, "real")
    if originals.sizes()["patients"] < 2:
        split = originals.recordings.split
        raise UserError(f"{original_store.root} has one patient only in {split}: nobody can hide among others")
    if paired:
        anonymized = match_images(originals, anonymized_store, match)
    else:
        anonymized = select_images(anonymized_store, None, frames, "src")
    patients = (originals if paired else anonymized).patients
    spaces = comparison_spaces(original_store, anonymized_store, artifact, autoencoder)
    embeddings = embed_images(originals, spaces, "originals"), embed_images(anonymized, spaces, "anonymised")
    measured, tables = {}, []
    for space, x, y in zip(spaces, *embeddings, strict=True):
        if bool((x == x[0]).all()):
            raise UserError(f"all originals have the same {space.name} embedding: the network has collapsed")
        comparison = avatars.compare_avatars(x, y, paired)
        measures = avatars.anonymity_measures(comparison, patients, seed)
        if paired:
            hidden = avatars.percentage_interval(avatars.hidden_by_patient(x, y, patients), patients, seed)
            measures.insert(1, avatars.AnonymityMeasure("hidden by patient", hidden, "%"))
        entries = [measure.as_json() for measure in measures]
        measured[space.name] = {"means": space.description, "network": space.fingerprint, "measures": entries}
        tables.append(_distance_table(space, comparison, originals, anonymized))
    record: dict[str, Any] = {
        "statement": STATEMENT,
        "spaces": measured,
        "sizes": {"originals": originals.sizes(), "anonymised": anonymized.sizes()},
        "paired": paired,
        "assignment": PAIRED if paired else ASSIGNED,
        "match": match if paired else None,
        "splits": originals.recordings.split,
        "frames": frames,
        "seed": seed,
        "real": original_store.checksum,
        "source": anonymized_store.checksum,
        "command": command,
        "code_version": code_version,
    }
    write_text(Path(dst) / RECORDS, pd.concat(tables).to_csv(index=False))
    write_record(Path(dst) / REPORT, record)
    return Summary(f"anonymity: {dst}/{REPORT} done", _summary(record))


def _distance_table(
    space: ComparisonSpace, comparison: avatars.AvatarComparison, originals: ImageSet, anonymized: ImageSet
) -> pd.DataFrame:
    """A row for each anonymized image: its original, distances, and numbers of nearer images."""
    return pd.DataFrame(
        {
            "Space": space.name,
            "FileName": anonymized.names,
            "Frame": anonymized.frame,
            "Original": originals.names[comparison.source],
            "Distance": np.round(comparison.distance, 6),
            "NearerAvatars": comparison.nearer_avatars,
            "NearerRecords": comparison.nearer_records,
            "DCR": np.round(comparison.closest_distance, 6),
            "NNDR": np.round(comparison.distance_ratio, 6),
            "ClosestOriginal": originals.names[comparison.closest_record],
        }
    )


def _summary(record: Mapping[str, Any]) -> dict[str, object]:
    """The measures with intervals and targets."""
    sizes = record["sizes"].items()
    summary: dict[str, object] = {
        "compared": ", ".join(f"{size['images']} {name} of {size['patients']} patients" for name, size in sizes),
        "pairs": record["assignment"],
    }
    for name, space in record["spaces"].items():
        for entry in space["measures"]:
            summary[f"{name}: {entry['name']}"] = _format_measure(entry)
    return summary


def _format_measure(entry: Mapping[str, Any]) -> str:
    unit = f" {entry['unit']}" if entry["unit"] else ""
    text = "{:.4g}{} [{:.4g}, {:.4g}]".format(entry["value"], unit, entry["low"], entry["high"])
    if entry["target"] is None:
        return text
    return f"{text}  target {entry['target']}: {'met' if entry['met'] else 'not met'}"
