"""``stage=pairs``: sample pairs of images for ``stage=linkability``, half of one patient and half of two patients."""

from collections.abc import Sequence
from pathlib import Path

from echodream import validation
from echodream.anonymization.image_pairs import select_images
from echodream.anonymization.verification_pairs import images_by_patient, pairs_table, sample_pairs
from echodream.config.stage_signature import InputPath, OutputPath
from echodream.errors import UserError
from echodream.runs.atomic_folder import write_record, write_text
from echodream.runs.summary import Summary
from echodream.store import open_complete

RECORD = "pairs.json"


def pairs(
    *,
    src: InputPath,
    dst: OutputPath,
    splits: Sequence[str],
    frames: int,
    per_patient: int,
    within: bool,
    seed: int,
    command: str,
    code_version: str,
) -> Summary:
    """Sample pairs of images of the store ``src`` for each of ``splits``; write ``dst``/<split>.csv.

    Images are ``frames`` frames of each recording. Each patient has at most ``per_patient`` pairs of two images, of
    different recordings unless ``within``. Raises ``UserError`` if no patient of a split has two images.
    """
    validation.whole_number("per_patient", per_patient)
    store = open_complete(src, "src")
    if len(set(splits)) != len(splits) or not splits:
        raise UserError(f"splits={list(splits)} is not possible: give some of TRAIN, VAL and TEST, each once")
    summary, tables = {}, {}
    for split in splits:
        images = select_images(store, [split], frames, "src")
        sampled = sample_pairs(images, per_patient, within, [seed, len(split), *split.encode()])
        tables[split] = pairs_table(images, sampled)
        single = images.sizes()["patients"] - len(images_by_patient(images, within))
        note = f"; patients without a second image: {single}" if single else ""
        summary[split] = f"{len(sampled) // 2} pairs of one patient, {len(sampled) // 2} of two{note}"
    folder = Path(dst)
    for split, table in tables.items():
        write_text(folder / f"{split}.csv", table.to_csv(index=False))
    record = {"source": store.checksum, "frames": frames, "per_patient": per_patient, "within": within}
    record |= {"seed": seed, "pairs": {split: len(table) for split, table in tables.items()}}
    write_record(folder / RECORD, {**record, "command": command, "code_version": code_version})
    return Summary(f"pairs: {dst} done", summary)
