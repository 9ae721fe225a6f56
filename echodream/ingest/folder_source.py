"""Base class of the sources ``Videos`` and ``Images``: a folder of files with an optional csv."""

import re
import unicodedata
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import ClassVar

from echodream import validation
from echodream.errors import UserError
from echodream.ingest import csv_tables, listing
from echodream.ingest.csv_tables import Row
from echodream.ingest.listing import ListedRecording, RawFile
from echodream.ingest.source import CellValue, Limits, PatientEvidence, Recording, Video
from echodream.ingest.split import PatientSplitCheck
from echodream.store.table import clean_text

PATIENT_FROM_CHOICES = ("file", "folder", "csv", "all")


@dataclass(frozen=True)
class FolderSource(ABC):
    """Reads files below ``raw``. FileName is the file name without suffix, or the path if several files have this name.

    With a csv, rows without a file and files without a row are rejected.
    """

    csv: str | None = None
    """Path of a csv file below ``raw``."""
    columns: Mapping[str, str] = field(default_factory=lambda: {"FileName": "FileName"})
    """Store column -> csv column. FileName is required: the path of the file below ``raw`` or below the folder of the
    csv, or the unique name of the file, with or without suffix. Columns outside ``reserved_columns`` are study columns.
    Columns that are not listed, or are set to null, are not read."""
    classes: tuple[str, ...] | None = None
    """Values of class_name; the position in this list is class_id."""
    text_columns: tuple[str, ...] | None = None
    """Study columns that remain text even if most of their cells are numbers."""
    patient_from: str | int | None = None
    """Definition of one patient: one "file", one "folder" of files, one PatientID of the "csv", or "all" files. A
    number n means one folder name at level n below ``raw``; folders in ``raw`` are level 1. None means "csv" if
    ``columns`` has PatientID, else "file"."""

    kind: ClassVar[str]
    """Type of study, for error messages."""
    expected_files: ClassVar[str]
    """Required content of the folder, for error messages."""
    reserved_columns: ClassVar[tuple[str, ...]] = ("FileName", "PatientID", "Split")

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", validation.column_mapping("columns", self.columns))
        if self.classes is not None:
            object.__setattr__(self, "classes", validation.list_of_names("classes", self.classes))
            if len(set(self.classes)) < len(self.classes):
                raise UserError(f"classes {list(self.classes)} has a class twice: list each class once")
            if self.csv is None or "class_name" not in self.columns:
                raise UserError("classes needs csv= and class_name in columns")
        if "FileName" not in self.columns:
            raise UserError("columns has no FileName: set columns.FileName to the csv column with the file names")
        csv_tables.check_column_names(self._study_column_names(), "columns")
        if self.csv is not None:
            validation.nonempty_text("csv", self.csv)
        if self.text_columns is not None:
            object.__setattr__(self, "text_columns", validation.list_of_names("text_columns", self.text_columns))
            if unknown := sorted(set(self.text_columns) - set(self.columns)):
                raise UserError(f"text_columns has {unknown[0]}, which is not in columns: correct or remove it")
        if isinstance(self.patient_from, int):
            validation.whole_number("patient_from", self.patient_from, note=", the level of a folder below raw")
        elif self.patient_from is not None:
            validation.one_of("patient_from", self.patient_from, PATIENT_FROM_CHOICES)
        if self.patient_from == "csv" and (self.csv is None or "PatientID" not in self.columns):
            raise UserError("patient_from=csv needs csv= and PatientID in columns")

    def recordings(self, raw: Path | None) -> list[Recording]:
        root = listing.require_folder(raw, self.kind)
        if self.csv is not None:
            listing.require_inside_raw(root, root / self.csv, f"csv={self.csv}")
        files, other_files = self.group_files(listing.list_files(root), root)
        if all(entry.problem for entry in files.values()):
            raise UserError(f"{root} holds no {self.expected_files}: check raw= and data=")
        listed = {key: self._build_recording(root, key, entry) for key, entry in files.items()}
        rejected_rows: list[Recording] = []
        if self.csv is not None:
            listed, rejected_rows = self._join_csv(root, root / self.csv, listed)
        rejected = [*rejected_rows, *map(listing.reject_file, other_files)]
        return listing.with_unique_names([*_shorten_unique_names(listed), *rejected])

    @abstractmethod
    def group_files(self, entries: Sequence[RawFile], root: Path) -> tuple[dict[str, RawFile], list[RawFile]]:
        """Separate ``entries`` into recordings (path below ``root`` -> file) and all other files."""

    @abstractmethod
    def read(self, recording: Recording, limits: Limits) -> Video:
        """Decode one recording, as described in ``Source.read``."""

    def file_sizes(self, entry: RawFile) -> tuple[int, ...]:
        """List the sizes in bytes of the files of a recording; () for a recording in one file."""
        return ()

    def csv_columns(self) -> dict[str, str]:
        """Return store column -> csv column, for all columns of the csv that are read."""
        return dict(self.columns)

    def parse_study_columns(self, row: Row, numeric_columns: Iterable[str]) -> dict[str, CellValue]:
        """Parse the study columns of a csv row; the columns ``numeric_columns`` hold numbers. Raises ``UserError``."""
        names = self._study_column_names()
        texts = csv_tables.parse_cells({name: row[self.columns[name]] for name in names}, names)
        return {**texts, **{n: v for n in numeric_columns if (v := row.number(self.columns[n])) is not None}}

    def _study_column_names(self) -> list[str]:
        return [name for name in self.columns if name not in self.reserved_columns]

    def _build_recording(self, root: Path, key: str, entry: RawFile) -> ListedRecording:
        """Build the recording with the name ``key`` from a file, without the values of the csv."""
        folder, problem = listing.parent_folder(key), entry.problem
        patients = {"folder": folder or root.resolve().name, "all": "all"}
        patient = patients.get(str(self.patient_from), key)
        if isinstance(self.patient_from, int):
            patient = "".join(folder.split("/")[self.patient_from - 1 : self.patient_from])
            problem = problem or (None if patient else f"no folder of a patient at level {self.patient_from} below raw")
        kind = "level" if isinstance(self.patient_from, int) else "folder" if self.patient_from == "folder" else "file"
        evidence = None if self.patient_from == "all" else PatientEvidence(patient, kind)
        return ListedRecording(
            key, patient, entry.path, problem=problem, counted=entry.counted, evidence=evidence,
            sizes=() if problem else self.file_sizes(entry),
        )  # fmt: skip

    def _join_csv(
        self, root: Path, table: Path, listed: Mapping[str, ListedRecording]
    ) -> tuple[dict[str, ListedRecording], list[Recording]]:
        """Add the values of the csv to ``listed``. Returns all files, and the rejected rows. Raises ``UserError``."""
        columns = self.csv_columns()
        rows = csv_tables.read_table(table, tuple(columns.values()))
        study_columns = {name: self.columns[name] for name in self._study_column_names()}
        numeric_columns = csv_tables.find_numeric_columns(rows, study_columns, self.text_columns or ())
        index = _FileNameIndex(listed, root, table, [row[columns["FileName"]] for row in rows])
        split_check = PatientSplitCheck(table.name)
        joined: dict[str, ListedRecording] = {}
        lines: dict[str, int] = {}
        rejected_rows: list[Recording] = []
        for row in rows:
            key, problem = index.find_file(row[columns["FileName"]])
            name = row[columns["FileName"]] or f"row-{row.line}"
            if key is None:
                rejected_rows.append(Recording(name, "", problem=problem))
                continue
            recording = self._add_csv_row(listed[key], row, numeric_columns)
            if key not in joined:
                joined[key], lines[key] = recording, row.line
                split_check.add(recording, row.line)
            elif recording == joined[key]:
                problem = "a second row for the same file: the first row is used"
                rejected_rows.append(Recording(f"{name} line {row.line}", "", problem=problem, counted=False))
            else:
                problem = f"{table.name}, lines {lines[key]} and {row.line}: two rows of one file have different values"
                raise UserError(f"{problem}: correct or remove one of these rows")
        for key, entry in listed.items():
            joined.setdefault(key, replace(entry, problem=entry.problem or f"no row in {table.name}"))
        return {key: joined[key] for key in listed}, rejected_rows

    def _add_csv_row(self, recording: ListedRecording, row: Row, numeric_columns: Iterable[str]) -> ListedRecording:
        """Set the values of a csv row in the recording of a file. Raises ``UserError``."""
        cells = {name: row[column] for name, column in self.columns.items()}
        problem, patient, evidence, fps = None, recording.patient, recording.evidence, None
        if self.patient_from == "csv" or (self.patient_from is None and "PatientID" in cells):
            patient = clean_text(cells["PatientID"])
            evidence = PatientEvidence(patient)
            problem = None if patient else "no PatientID in the csv"
        if cells.get("FPS"):
            fps = csv_tables.parse_number(cells["FPS"])
            if fps is None or not 0 < fps <= 1000:
                location = row.location(self.columns["FPS"])
                raise UserError(f"{location} has the frame rate {cells['FPS']!r}: use frames per second from 0 to 1000")
        columns = self.parse_study_columns(row, numeric_columns)
        if "class_name" in cells:
            columns["class_name"] = name = clean_text(cells["class_name"])
            if not name:
                problem = problem or "no class_name in the csv"
            elif self.classes is not None:
                if name not in self.classes:
                    location, known = row.location(self.columns["class_name"]), ", ".join(self.classes)
                    raise UserError(f"{location} has the class {name!r}, which is not one of classes: {known}")
                columns["class_id"] = self.classes.index(name)
        split = csv_tables.parse_split(cells.get("Split", ""), row.location(self.columns.get("Split", "")))
        return replace(
            recording, patient=patient, split=split, columns=columns, problem=recording.problem or problem, fps=fps,
            evidence=evidence,
        )  # fmt: skip


class _FileNameIndex:
    """Finds files by the names in a csv, without access to the file system."""

    def __init__(self, keys: Iterable[str], root: Path, table: Path, names: Sequence[str]) -> None:
        """Index the paths ``keys`` of files below ``root``, for the file ``names`` in the csv ``table``."""
        self.csv_folder = table.parent.relative_to(root).as_posix()
        self.keys = set(keys)
        self.keys_by_name: dict[str, list[str]] = {}
        """Variant of a path (file name, path without suffix, lower case) -> paths of the files."""
        for key in self.keys:
            path = PurePosixPath(key)
            variants = {str(path.with_suffix("")), path.name, path.stem}
            for variant in {*variants, *map(_normalize_case, (key, *variants))} - {key}:
                self.keys_by_name.setdefault(variant, []).append(key)
        top_folders = {PurePosixPath(name.replace("\\", "/")).parent.parts[:1] for name in names if name}
        self.ignored_folder = next(iter(top_folders)) if len(top_folders) == 1 else ()
        """First folder of all paths in the csv, if ``root`` does not contain it, such as after renaming; else ()."""
        if any(PurePosixPath(key).parts[:1] == self.ignored_folder for key in self.keys):
            self.ignored_folder = ()

    def find_file(self, name: str) -> tuple[str | None, str | None]:
        """Return the path of the file ``name`` and None, or None and the reason for rejection."""
        path = PurePosixPath(name.replace("\\", "/"))
        if not name:
            return None, "the row names no file"
        if path.is_absolute() or ".." in path.parts or re.match("[A-Za-z]:", name):
            return None, listing.OUTSIDE_RAW_REASON
        path = PurePosixPath(*path.parts[len(self.ignored_folder) :])
        variants = (str(path), str(PurePosixPath(self.csv_folder) / path))
        for variant in (*variants, *map(_normalize_case, variants)):
            keys = [variant] if variant in self.keys else self.keys_by_name.get(variant, [])
            if len(keys) == 1:
                return keys[0], None
            if keys:
                return None, f"{len(keys)} files have this name: give the path"
        return None, listing.MISSING_FILE_REASON


def _normalize_case(text: str) -> str:
    """Convert ``text`` to lower case and to Unicode form NFC; macOS stores accents as separate characters."""
    return unicodedata.normalize("NFC", text).casefold()


def _shorten_unique_names(listed: Mapping[str, ListedRecording]) -> Sequence[ListedRecording]:
    """Name recordings by the file name without suffix if this name is unique, else by the path."""
    stems = {key: PurePosixPath(key).stem for key in listed}
    count = Counter(stems.values())
    names = {key: stem if count[stem] == 1 else key for key, stem in stems.items()}
    return [
        replace(recording, name=names[key], patient=names[key] if recording.patient == key else recording.patient)
        for key, recording in listed.items()
    ]
