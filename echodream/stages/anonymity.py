"""``stage=anonymity``: measure distances between anonymized images and their originals."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from echodream.anonymization.comparison_spaces import comparison_spaces, embed_images
from echodream.anonymization.image_pairs import match_images, open_original_and_anonymized, select_images
from echodream.config.stage_signature import InputPath, OutputPath
from echodream.errors import UserError
from echodream.privacy import anonymity as avatars
from echodream.runs.atomic_folder import write_record, write_text
from echodream.runs.summary import Summary

RECORD = "anonymity.json"
DISTANCE_TABLE = "records.csv"
PAIRED_ASSIGNMENT = "each anonymized image names its original"
NEAREST_ASSIGNMENT = "no pairs: each image is compared with the nearest original"
STATEMENT = (
    "Measured with one identity network, with 95 % intervals over patients. Large distances do not prove anonymity: "
    "another network may still recognize the patient of an image. The hidden rate also counts an original as hidden if "
    "the nearest anonymized image is another one of the same patient; the measure hidden by patient does not."
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
    """Compare the anonymized images ``src`` with their originals ``real``; both are stores of latents, or of pixels.

    Images are compared as latents or pixels, and by the identity network ``artifact`` unless it is None. With
    ``paired``, the column ``match`` of ``src`` names the original; otherwise the nearest original is used. ``frames``
    frames of each recording of ``splits`` are compared; ``splits=None``: all splits if ``paired``, else TRAIN. Writes
    ``dst``/anonymity.json and records.csv. Raises ``UserError`` for images that cannot be compared.
    """
    original_store, anonymized_store = open_original_and_anonymized(real, src)
    originals = select_images(original_store, splits if paired or splits is not None else ["TRAIN"], frames, "real")
    if originals.sizes()["patients"] < 2:
        split = originals.recordings.split
        raise UserError(f"{original_store.root} has only one patient in {split}: anonymity needs two patients")
    if paired:
        anonymized = match_images(originals, anonymized_store, match)
    else:
        anonymized = select_images(anonymized_store, None, frames, "src")
    patients = (originals if paired else anonymized).patients
    spaces = comparison_spaces(original_store, anonymized_store, artifact, autoencoder)
    embeddings = embed_images(originals, spaces, "originals"), embed_images(anonymized, spaces, "anonymized")
    results, tables = {}, []
    for space, x, y in zip(spaces, *embeddings, strict=True):
        if bool((x == x[0]).all()):
            raise UserError(f"all originals have the same {space.name} embedding: train the identity network again")
        comparison = avatars.compare_avatars(x, y, paired)
        measures = avatars.anonymity_measures(comparison, patients, seed)
        if paired:
            hidden = avatars.percentage_interval(avatars.hidden_by_patient(x, y, patients), patients, seed)
            measures.insert(1, avatars.AnonymityMeasure("hidden by patient", hidden, "%"))
        entries = [measure.as_json() for measure in measures]
        results[space.name] = {"means": space.description, "network": space.fingerprint, "measures": entries}
        columns = {
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
        tables.append(pd.DataFrame(columns))
    record: dict[str, Any] = {
        "statement": STATEMENT,
        "spaces": results,
        "sizes": {"originals": originals.sizes(), "anonymised": anonymized.sizes()},
        "paired": paired,
        "assignment": PAIRED_ASSIGNMENT if paired else NEAREST_ASSIGNMENT,
        "match": match if paired else None,
        "splits": originals.recordings.split,
        "frames": frames,
        "seed": seed,
        "real": original_store.checksum,
        "source": anonymized_store.checksum,
        "command": command,
        "code_version": code_version,
    }
    write_text(Path(dst) / DISTANCE_TABLE, pd.concat(tables).to_csv(index=False))
    write_record(Path(dst) / RECORD, record)
    return Summary(f"anonymity: {dst}/{RECORD} done", _summary_lines(record))


def _summary_lines(record: Mapping[str, Any]) -> dict[str, object]:
    """Lines of the summary: numbers of images, and the measures with intervals and targets."""
    sizes = record["sizes"].items()
    summary: dict[str, object] = {
        "compared": ", ".join(f"{size['images']} {name} of {size['patients']} patients" for name, size in sizes),
        "pairs": record["assignment"],
    }
    for name, space in record["spaces"].items():
        for entry in space["measures"]:
            unit = f" {entry['unit']}" if entry["unit"] else ""
            target = f"  target {entry['target']}: {'met' if entry['met'] else 'not met'}" if entry["target"] else ""
            text = "{value:.4g}{} [{low:.4g}, {high:.4g}]{}".format(unit, target, **entry)
            summary[f"{name}: {entry['name']}"] = text
    return summary
