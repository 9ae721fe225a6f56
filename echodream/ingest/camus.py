"""Source of CAMUS: apical two- and four-chamber half cycles of 500 patients, as NIfTI files with Info_*.cfg files."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from echodream import validation
from echodream.errors import UserError
from echodream.ingest import listing
from echodream.ingest.csv_tables import parse_cells, parse_number_cell
from echodream.ingest.listing import ListedRecording, RawFile
from echodream.ingest.nifti import read_nifti
from echodream.ingest.pixels import check_fps, convert_marks_to_seconds, make_video, uniform_times
from echodream.ingest.source import CellValue, Limits, Recording, Video

_VIEW_BY_CODE = {"4CH": "A4C", "2CH": "A2C"}
_SEQUENCE_FILE = re.compile(r"(?P<patient>patient\d+)_(?P<view>[24]CH)_half_sequence\.nii(\.gz)?", re.IGNORECASE)
_OTHER_CAMUS_FILE = re.compile(
    r"patient\d+_[24]CH_(ED|ES|half_sequence)(_gt)?\.(nii|nii\.gz|mhd|raw)|(patient\d+_)?Info_[24]CH\.cfg",
    re.IGNORECASE,
)
_SPLIT_FILE = re.compile(r"subgroup_(training|validation|testing)\.txt", re.IGNORECASE)
_SPLIT_BY_SUBGROUP = {"training": "TRAIN", "validation": "VAL", "testing": "TEST"}
_INFO_COLUMNS = ("EF", "Sex", "Age", "ImageQuality")
_NUMERIC_KEYS = ("EF", "Age", "ED", "ES", "FrameRate")


@dataclass(frozen=True)
class Camus:
    """Reads ``patientNNNN_{2CH,4CH}_half_sequence.nii.gz`` with ``Info_{2CH,4CH}.cfg`` from a folder per patient.

    All files may also be in one folder, with names such as ``patientNNNN_Info_4CH.cfg``. Splits are read from
    ``subgroup_{training,validation,testing}.txt`` if these files exist. Columns: View, and EF, Sex, Age and
    ImageQuality of the cfg file. ED and ES are frame numbers, from 1 in the cfg file and from 0 in the store.
    """

    views: tuple[str, ...] = ("A4C", "A2C")
    """Views to read: A4C, A2C or both."""
    fps: float = 50.0
    """Frames per second if neither the cfg file nor the NIfTI header states a frame rate."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "views", validation.list_of_values("views", self.views))
        if not self.views or set(self.views) - set(_VIEW_BY_CODE.values()):
            raise UserError(f"views is {list(self.views)}: use A4C, A2C or both")
        validation.frame_rate("fps", self.fps)

    def recordings(self, raw: Path | None) -> list[Recording]:
        root = listing.require_folder(raw, "CAMUS")
        entries = listing.list_files(root)
        listed = list(self._list_recordings(entries, _read_splits(entries)))
        if not any(isinstance(recording, ListedRecording) for recording in listed):
            raise UserError(f"{root} holds no patientNNNN_*_half_sequence.nii.gz of views {self.views}: check raw=")
        return listing.with_unique_names(listed)

    def _list_recordings(self, entries: Iterable[RawFile], splits: dict[str, str]) -> Iterator[Recording]:
        for entry in entries:
            name = entry.path.name
            match = _SEQUENCE_FILE.fullmatch(name)
            if match and _VIEW_BY_CODE[match["view"].upper()] in self.views:
                yield _build_recording(entry, match["patient"].lower(), match["view"].upper(), splits)
            elif entry.problem or not (match or _OTHER_CAMUS_FILE.fullmatch(name) or _SPLIT_FILE.fullmatch(name)):
                yield listing.reject_file(entry)

    def read(self, recording: Recording, limits: Limits) -> Video:
        assert isinstance(recording, ListedRecording)
        frames, rate = read_nifti(recording.file, limits)
        fps = check_fps(recording.fps or rate or self.fps)
        times = uniform_times(len(frames), fps)
        return make_video(frames, times, fps, marks=convert_marks_to_seconds(times, recording.mark_frames))


def _build_recording(entry: RawFile, patient: str, view: str, splits: dict[str, str]) -> Recording:
    info = {} if entry.problem else _read_info(entry.path.parent, patient, view)
    file = f"Info_{view}.cfg of {patient}"
    numbers = {key: parse_number_cell(info.get(key, ""), f"{file}, {key}") for key in _NUMERIC_KEYS}
    columns: dict[str, CellValue] = {"View": _VIEW_BY_CODE[view], **parse_cells(info, _INFO_COLUMNS)}
    columns |= {name: number for name in _INFO_COLUMNS if (number := numbers.get(name)) is not None}
    marks = {name: (int(frame) - 1,) for name in ("ED", "ES") if (frame := numbers[name]) and frame >= 1}
    return ListedRecording(
        f"{patient}_{view}", patient, entry.path, splits.get(patient), columns, entry.problem,
        fps=numbers["FrameRate"], mark_frames=marks,
    )  # fmt: skip


def _read_info(folder: Path, patient: str, view: str) -> dict[str, str]:
    """Read the ``key: value`` lines of the cfg file of a sequence; empty if there is no readable file."""
    for name in (f"Info_{view}.cfg", f"{patient}_Info_{view}.cfg"):
        path = folder / name
        if path.is_file() and not path.is_symlink():
            try:
                lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            except OSError:
                continue
            pairs = (line.partition(":") for line in lines)
            return {key.strip(): text.strip() for key, colon, text in pairs if colon}
    return {}


def _read_splits(entries: Iterable[RawFile]) -> dict[str, str]:
    """Map patients to splits by the ``subgroup_*.txt`` files. Raises ``UserError`` for a patient with two splits."""
    splits: dict[str, str] = {}
    for entry in entries:
        if (match := _SPLIT_FILE.fullmatch(entry.path.name)) and not entry.problem:
            split = _SPLIT_BY_SUBGROUP[match[1].lower()]
            for patient in entry.path.read_text(encoding="utf-8", errors="replace").lower().split():
                if splits.setdefault(patient, split) != split:
                    problem = f"{entry.path.name} lists {patient}, which is also in another subgroup"
                    raise UserError(f"{problem}: list each patient in one file")
    return splits
