"""Lists the samples of a synthetic set from another program, and compares their format with the real study."""

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
    """Convert ``recordings`` to samples with numbered names, one patient per sample, in TRAIN, as ``stage=image`` does.

    FileName is ``sample-<number>``, because the name of a raw file may identify a patient. Raises ``UserError`` unless
    ``source`` reads a folder of videos or images.
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


def check_matches_real_study(settings: Preprocessing, real: Path) -> None:
    """Raise ``UserError`` if ``settings`` give another size, channel number or frame rate than the store ``real`` has.

    A store ``real`` that does not exist is not checked.
    """
    if not (real / DATASET).is_file():
        return
    study = Store(real, kind="video")
    size, study_size = settings.size, (study.dataset.height, study.dataset.width)
    if None not in study_size and size is not None and size != study_size:
        value = study_size[0] if study_size[0] == study_size[1] else [*study_size]
        raise _mismatch_error(f"data.size={size}", f"frames of {study_size[1]}x{study_size[0]}", real, "size", value)
    channels = 1 if settings.grey else 3
    if channels != study.dataset.channels:
        grey = f"data.grey={str(settings.grey).lower()}"
        raise _mismatch_error(grey, f"{study.dataset.channels} channels", real, "grey", str(channels == 3).lower())
    rate = float(study.table["FPS"].median())
    if settings.fps is not None and (study.table["NumberOfFrames"] > 1).any() and abs(settings.fps / rate - 1) > 0.01:
        raise _mismatch_error(f"data.fps={settings.fps:g}", f"{rate:g} frames per second", real, "fps", f"{rate:g}")


def _mismatch_error(setting: str, expected: str, real: Path, key: str, value: object) -> UserError:
    problem = f"{setting}, but the recordings of the study in real={real} have {expected}"
    return UserError(f"{problem}: set data.{key}={value}")
