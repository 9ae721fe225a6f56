"""A synthetic set that another program made: its files as samples, and its agreement with the study."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from echodream.errors import UserError
from echodream.ingest.folder_source import FolderSource
from echodream.ingest.preprocessing import Preprocessing
from echodream.ingest.source import Recording, Source
from echodream.store import Store
from echodream.store.schema import DATASET, FILE_COLUMN
from echodream.store.table import clean_text


def list_samples(source: Source, raw: Path, recordings: Sequence[Recording]) -> list[Recording]:
    """Convert ``recordings`` to samples with numbered names, each its own patient, all in TRAIN, like ``stage=image``.

    File names are not used as names, because they may name patients. Raises ``UserError`` for a ``source`` whose
    layout is that of a study of patients.
    """
    if not isinstance(source, FolderSource):
        raise UserError("synthetic=true reads a folder of videos or images: give data=videos or data=images")
    usable = [recording for recording in recordings if recording.problem is None]
    samples = {
        id(recording): replace(
            recording,
            name=f"sample-{number:06d}",
            patient=f"S{number:06d}",
            split="TRAIN",
            evidence=None,
            columns={**recording.columns, FILE_COLUMN: clean_text(recording.file.relative_to(raw).as_posix())},
        )
        for number, recording in enumerate(usable)
    }
    return [samples.get(id(recording), recording) for recording in recordings]


def check_agreement(prepare: Preprocessing, real: Path) -> None:
    """Raise ``UserError`` unless frames will have size, channels and frame rate of the study ``real``, if it exists."""
    if not (real / DATASET).is_file():
        return
    study = Store(real, kind="video")
    size, of_study = prepare.size, (study.dataset.height, study.dataset.width)
    if None not in of_study and size is not None and size != of_study:
        value = of_study[0] if of_study[0] == of_study[1] else [*of_study]
        raise UserError(_difference(f"data.size={size}", f"frames of {of_study[1]}x{of_study[0]}", real, "size", value))
    channels = 1 if prepare.grey else 3
    if channels != study.dataset.channels:
        text = f"data.grey={str(prepare.grey).lower()}"
        raise UserError(
            _difference(text, f"{study.dataset.channels} channels", real, "grey", str(channels == 3).lower())
        )
    rate = float(study.table["FPS"].median())
    if prepare.fps is not None and (study.table["NumberOfFrames"] > 1).any() and abs(prepare.fps / rate - 1) > 0.01:
        raise UserError(
            _difference(f"data.fps={prepare.fps:g}", f"{rate:g} frames per second", real, "fps", f"{rate:g}")
        )


def _difference(setting: str, expected: str, real: Path, key: str, value: object) -> str:
    return f"{setting}, and the recordings of the study in real={real} have {expected}: set data.{key}={value}"
