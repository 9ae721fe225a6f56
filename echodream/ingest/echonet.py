"""Sources of EchoNet-Dynamic and EchoNet-Pediatric: videos with FileList.csv and expert tracings at ED and ES."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from echodream import validation
from echodream.errors import UserError
from echodream.ingest import listing
from echodream.ingest.csv_tables import NUMBER_COLUMNS, Row, parse_cells, parse_number, parse_split, read_table
from echodream.ingest.listing import ListedRecording, RawFile
from echodream.ingest.media_files import VIDEO_SUFFIXES, read_video_file
from echodream.ingest.pixels import convert_marks_to_seconds
from echodream.ingest.source import Limits, PatientEvidence, Recording, Video

FILE_LIST = "FileList.csv"
TRACINGS = "VolumeTracings.csv"


class _EchoNetSource:
    """Base class: reads the videos of an EchoNet study."""

    def read(self, recording: Recording, limits: Limits) -> Video:
        assert isinstance(recording, ListedRecording)
        video = read_video_file(recording.file, limits)
        return replace(video, marks=convert_marks_to_seconds(video.times, recording.mark_frames))


@dataclass(frozen=True)
class EchoNetDynamic(_EchoNetSource):
    """EchoNet-Dynamic, in the apical four-chamber view: ``FileList.csv`` and ``Videos/*.avi``.

    The study defines the splits, but no patient identifiers, so each video counts as one patient. Columns: EF, ESV,
    EDV, View. ED and ES are the two traced frames of a video in ``VolumeTracings.csv``; ED has the larger tracing.
    """

    def recordings(self, raw: Path | None) -> list[Recording]:
        root = listing.require_folder(raw, "EchoNet-Dynamic")
        study = next(filter(_is_study_folder, listing.folders_below(root)), None)
        if study is None:
            raise UserError(f"{root} has no folder that contains {FILE_LIST} and Videos: correct raw=")
        rows = _read_file_list(root, study, ("FileName", "EF", "ESV", "EDV", "Split"))
        splits = [parse_split(row["Split"], row.location("Split")) for row in rows]
        return _join_files(root, study, rows, splits, ("EF", "ESV", "EDV"), "A4C")


@dataclass(frozen=True)
class EchoNetPediatric(_EchoNetSource):
    """One view of EchoNet-Pediatric: ``A4C/`` or ``PSAX/`` with ``FileList.csv`` and ``Videos/*.avi``.

    ``raw`` is the folder of one view or of both views. The study has ten folds instead of splits, but no patient
    identifiers, so each video counts as one patient. Columns: EF, Sex, Age, Weight, Height, View.
    """

    view: str = "A4C"
    """View to read: A4C or PSAX."""
    val_folds: tuple[int, ...] = (8,)
    """Folds of the split VAL."""
    test_folds: tuple[int, ...] = (9,)
    """Folds of the split TEST. Folds in neither ``val_folds`` nor ``test_folds`` are TRAIN."""

    def __post_init__(self) -> None:
        for name in ("val_folds", "test_folds"):
            object.__setattr__(self, name, validation.list_of_values(name, getattr(self, name)))
        validation.one_of("view", self.view, ("A4C", "PSAX"))
        folds = self.val_folds + self.test_folds
        if len(set(folds)) < len(folds) or not set(folds) <= set(range(10)):
            raise UserError(f"val_folds is {self.val_folds}, test_folds {self.test_folds}: use 0 to 9 without repeats")

    def recordings(self, raw: Path | None) -> list[Recording]:
        root = listing.require_folder(raw, "EchoNet-Pediatric")
        view = self.view.casefold()
        folders = [folder for folder in listing.folders_below(root) if folder.name.casefold() == view]
        study = next(filter(_is_study_folder, [*folders, root]), None)
        if study is None:
            raise UserError(f"{root} has no folder {self.view} that contains {FILE_LIST} and Videos: correct raw=")
        rows = _read_file_list(root, study, ("FileName", "EF", "Split"))
        columns = ("EF", "Sex", "Age", "Weight", "Height")
        return _join_files(root, study, rows, map(self._split_of_row, rows), columns, self.view)

    def _split_of_row(self, row: Row) -> str:
        fold = parse_number(row["Split"])
        if fold not in range(10):
            raise UserError(f"{row.location('Split')} has the fold {row['Split']!r}: 0 to 9 are expected")
        return "VAL" if fold in self.val_folds else "TEST" if fold in self.test_folds else "TRAIN"


def _is_study_folder(folder: Path) -> bool:
    return (folder / FILE_LIST).is_file() and listing.find_ignoring_case(folder, "Videos") is not None


def _read_file_list(root: Path, study: Path, required: Sequence[str]) -> list[Row]:
    """Read FileList.csv. Raises ``UserError`` if FileList.csv or VolumeTracings.csv is a link that leaves ``root``."""
    for name in (FILE_LIST, TRACINGS):
        listing.require_inside_raw(root, study / name, name)
    return read_table(study / FILE_LIST, required)


def _join_files(
    root: Path, study: Path, rows: list[Row], splits: Iterable[str | None], columns: Sequence[str], view: str
) -> list[Recording]:
    """Join the rows of FileList.csv with the files in Videos; rows without a file and files without a row are rejected.

    Raises ``UserError`` for two rows of one file with different values.
    """
    tables = {study / FILE_LIST, study / TRACINGS}
    folder = listing.find_ignoring_case(study, "Videos")
    videos: dict[str, RawFile] = {}
    stems: dict[str, list[str]] = {}
    other_files: list[RawFile] = []
    for entry in listing.list_files(root):
        file = entry.path
        if file.parent == folder and file.suffix.lower() in VIDEO_SUFFIXES and not file.name.startswith("."):
            videos[file.name] = entry
            stems.setdefault(file.stem.casefold(), []).append(file.name)
        elif file.is_relative_to(study) and file not in tables:
            other_files.append(entry)
    marks = _read_key_frames(study / TRACINGS)
    listed: list[Recording] = []
    first_rows: dict[str, tuple[Recording, int]] = {}
    texts = [name for name in columns if name not in NUMBER_COLUMNS]
    for row, split in zip(rows, splits, strict=True):
        cells = {**row.numbers(set(columns) - {*texts}), **parse_cells(row, texts)}
        cells = {**{name: cells[name] for name in columns if name in cells}, "View": view}
        file_name = _find_video(row["FileName"], stems)
        stem = _remove_video_suffix(file_name or row["FileName"])
        video = videos[file_name] if file_name else None
        problem = video.problem if video else listing.MISSING_FILE_REASON
        recording = ListedRecording(
            stem, stem, video.path if video else None, split, cells, problem, evidence=PatientEvidence(stem, "file"),
            mark_frames=marks.get(stem, marks.get(_remove_video_suffix(row["FileName"]), {})),
        )  # fmt: skip
        first, line = first_rows.setdefault(stem, (recording, row.line))
        if line == row.line:
            listed.append(recording)
        elif recording == first:
            name, problem = f"{stem} line {row.line}", "a second row for the same file"
            listed.append(Recording(name, "", problem=problem, counted=False))
        else:
            lines, remedy = f"{row.table}, lines {line} and {row.line}", "correct or remove one of these rows"
            raise UserError(f"{lines}: two rows of {stem} have different values: {remedy}")
    listed += [
        Recording(name, "", video.path, problem=f"no row in {FILE_LIST}")
        for name, video in videos.items()
        if _remove_video_suffix(name) not in first_rows
    ]
    return listing.with_unique_names([*listed, *map(listing.reject_file, other_files)])


def _find_video(name: str, stems: Mapping[str, Sequence[str]]) -> str | None:
    """Find a video by name, with or without suffix; ``stems`` maps names without suffix, in lower case, to files."""
    files = stems.get(_remove_video_suffix(name).casefold(), ())
    exact = [file for file in files if file in (name, f"{name}.avi", f"{_remove_video_suffix(name)}.avi")]
    return exact[0] if exact else files[0] if len(files) == 1 else None


def _remove_video_suffix(name: str) -> str:
    """Remove the suffix of a video file from ``name``; some tables of EchoNet list names without this suffix."""
    path = Path(name)
    return path.stem if path.suffix.lower() in VIDEO_SUFFIXES else name


def _read_key_frames(path: Path) -> dict[str, dict[str, tuple[int, ...]]]:
    """Read the ED and ES frames of videos with exactly two traced frames; ED is the frame of the larger tracing."""
    if not path.is_file():
        return {}
    traced: dict[str, dict[int, list[Row]]] = {}
    for row in read_table(path, ("FileName", "Frame")):
        if row["Frame"].lower().startswith("no "):  # "No Systolic" marks a video without a traced frame
            continue
        frame = row.number("Frame")
        if frame is not None and (frame < 0 or frame != int(frame)):
            raise UserError(f"{row.location('Frame')} has the frame {row['Frame']!r}: write a whole number from 0")
        if frame is not None:
            traced.setdefault(_remove_video_suffix(row["FileName"]), {}).setdefault(int(frame), []).append(row)
    key_frames: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, frames in traced.items():
        if len(frames) == 2:
            systole, diastole = sorted(frames, key=lambda frame: _tracing_size(frames[frame]))
            key_frames[name] = {"ED": (diastole,), "ES": (systole,)}
    return key_frames


def _tracing_size(rows: Iterable[Row]) -> float:
    """Compute the total length of the chords of a tracing (X1, Y1, X2, Y2), or the area of its outline (X, Y)."""
    chords = list(_parse_points(rows, ("X1", "Y1", "X2", "Y2")))
    if chords:
        return sum(math.hypot(x2 - x1, y2 - y1) for x1, y1, x2, y2 in chords)
    outline = np.array(list(_parse_points(rows, ("X", "Y"))), dtype=np.float64).reshape(-1, 2)
    x, y = outline.T
    return abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1))) / 2


def _parse_points(rows: Iterable[Row], names: tuple[str, ...]) -> Iterator[tuple[float, ...]]:
    for row in rows:
        numbers = row.numbers(names)
        if len(numbers) == len(names):
            yield tuple(float(number) for number in numbers.values())
