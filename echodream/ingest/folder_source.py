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
from echodream.ingest import listing
from echodream.ingest.csv_tables import (
    Row,
    check_column_names,
    number_columns,
    parse_cells,
    parse_number,
    parse_split,
    read_table,
)
from echodream.ingest.listing import ListedRecording, RawFile
from echodream.ingest.source import CellValue, Limits, PatientEvidence, Recording, Video
from echodream.ingest.split import PatientSplitCheck
from echodream.store.table import clean_text

PATIENT_FROM = ("file", "folder", "csv", "all")


@dataclass(frozen=True)
class FolderSource(ABC):
    """Files below ``raw``. FileName is the name of the file without suffix, or its path below ``raw`` if two files have
    the same name. With a csv, rows without a file and files without a row are rejected."""

    csv: str | None = None
    """Path of a csv file below ``raw``."""
    columns: Mapping[str, str] = field(default_factory=lambda: {"FileName": "FileName"})
    """Store column -> csv column. FileName is required: the path of the file below ``raw`` or below the folder of the
    csv, or its unique name, with or without suffix. PatientID, Split and the other ``special`` columns have their
    meaning; all others are study columns. Columns that are not listed, or are None, are not read."""
    classes: tuple[str, ...] | None = None
    """Values of class_name; the position in this list is class_id."""
    text_columns: tuple[str, ...] | None = None
    """Study columns whose cells are text, also where most of them are numbers."""
    patient_from: str | int | None = None
    """What counts as one patient: each "file", each "folder" of files, each PatientID of the "csv", "all" files
    together, or each name of a folder at a level below ``raw``, from 1. None: "csv" if ``columns`` has PatientID, else
    "file"."""

    kind: ClassVar[str]
    """Name of such a study in messages."""
    expected_files: ClassVar[str]
    """Required content of the folder, for error messages."""
    special: ClassVar[tuple[str, ...]] = ("FileName", "PatientID", "Split")

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", validation.column_names("columns", self.columns))
        if self.classes is not None:
            object.__setattr__(self, "classes", validation.list_of_names("classes", self.classes))
            if len(set(self.classes)) < len(self.classes):
                raise UserError(f"classes {list(self.classes)} has a class twice")
            if self.csv is None or "class_name" not in self.columns:
                raise UserError("classes needs csv= and class_name in columns")
        if "FileName" not in self.columns:
            raise UserError("columns has no FileName: set it to the csv column with the names of the files")
        check_column_names([name for name in self.columns if name not in self.special], "columns")
        if self.csv is not None:
            validation.text("csv", self.csv)
        if self.text_columns is not None:
            object.__setattr__(self, "text_columns", validation.list_of_names("text_columns", self.text_columns))
            if unknown := sorted(set(self.text_columns) - set(self.columns)):
                raise UserError(f"text_columns has {unknown[0]}, which is not in columns: correct or remove it")
        if isinstance(self.patient_from, int):
            validation.whole_number("patient_from", self.patient_from, note=", the level of a folder below raw")
        elif self.patient_from is not None:
            validation.one_of("patient_from", self.patient_from, PATIENT_FROM)
        if self.patient_from == "csv" and (self.csv is None or "PatientID" not in self.columns):
            raise UserError("patient_from=csv needs csv= and PatientID in columns")

    def recordings(self, raw: Path | None) -> list[Recording]:
        root = listing.require_folder(raw, self.kind)
        if self.csv is not None:
            listing.require_inside_raw(root, root / self.csv, f"csv={self.csv}")
        files, others = self.group(listing.list_files(root), root)
        if all(entry.problem for entry in files.values()):
            raise UserError(f"{root} holds no {self.expected_files}")
        listed = {key: self._list_file(root, key, entry) for key, entry in files.items()}
        extra: list[Recording] = []
        if self.csv is not None:
            listed, extra = self._join_csv(root, root / self.csv, listed)
        return listing.with_unique_names([*_with_short_names(listed), *extra, *map(listing.non_recording, others)])

    @abstractmethod
    def group(self, entries: Iterable[RawFile], root: Path) -> tuple[dict[str, RawFile], list[RawFile]]:
        """Key (a path below ``root``) -> file of a recording; and the files that are not recordings."""

    @abstractmethod
    def read(self, recording: Recording, limits: Limits) -> Video:
        """Decode one recording; see ``Source``."""

    def file_sizes(self, entry: RawFile) -> tuple[int, ...]:
        """Sizes in bytes of the files of a recording with several files."""
        return ()

    def read_columns(self) -> dict[str, str]:
        """Name -> csv column, for all columns that are read."""
        return dict(self.columns)

    def study_columns(self, row: Row, numeric: Iterable[str]) -> dict[str, CellValue]:
        """The study columns of a row of the csv; those in ``numeric`` are numbers. Raises ``UserError``."""
        names = [name for name in self.columns if name not in self.special]
        texts = parse_cells({name: row[self.columns[name]] for name in names}, names)
        return {**texts, **{n: v for n in numeric if (v := row.number(self.columns[n])) is not None}}

    def _list_file(self, root: Path, key: str, entry: RawFile) -> ListedRecording:
        """The recording of a file, without the csv; its name is the key."""
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
        """The files joined with the rows of the csv, and the rows without a file."""
        columns = self.read_columns()
        rows = read_table(table, tuple(columns.values()))
        study_columns = {name: column for name, column in self.columns.items() if name not in self.special}
        numeric = number_columns(rows, study_columns, self.text_columns or ())
        keys = _FileIndex(listed, root, table, [row[columns["FileName"]] for row in rows])
        split_check = PatientSplitCheck(table.name)
        result: dict[str, ListedRecording] = {}
        lines: dict[str, int] = {}
        extra: list[Recording] = []
        for row in rows:
            key, problem = keys.find(row[columns["FileName"]])
            name = row[columns["FileName"]] or f"row-{row.line}"
            if key is None:
                extra.append(Recording(name, "", problem=problem))
                continue
            recording = self._add_row(listed[key], row, numeric)
            if key not in result:
                result[key], lines[key] = recording, row.line
                split_check.add(recording, row.line)
            elif recording == result[key]:
                problem = "a second row for the same file: the first is used"
                extra.append(Recording(f"{name} line {row.line}", "", problem=problem, counted=False))
            else:
                raise UserError(
                    f"{table.name}, lines {lines[key]} and {row.line}: two rows of one file have different values: "
                    "correct or remove one of them"
                )
        lost = f"no row in {table.name}"
        return {
            key: result.get(key) or replace(entry, problem=entry.problem or lost) for key, entry in listed.items()
        }, extra

    def _add_row(self, recording: ListedRecording, row: Row, numeric: Iterable[str]) -> ListedRecording:
        cells = {name: row[column] for name, column in self.columns.items()}
        problem, patient, evidence, rate = None, recording.patient, recording.evidence, None
        if self.patient_from == "csv" or (self.patient_from is None and "PatientID" in cells):
            patient = clean_text(cells["PatientID"])
            evidence = PatientEvidence(patient)
            problem = None if patient else "no PatientID in the csv"
        if cells.get("FPS"):
            rate = parse_number(cells["FPS"])
            if rate is None or not 0 < rate <= 1000:
                where = row.where(self.columns["FPS"])
                raise UserError(f"{where} has the frame rate {cells['FPS']!r}: use frames per second from 0 to 1000")
        columns = self.study_columns(row, numeric)
        if "class_name" in cells:
            where = row.where(self.columns["class_name"])
            columns["class_name"] = name = clean_text(cells["class_name"])
            if not name:
                problem = problem or "no class_name in the csv"
            elif self.classes is not None:
                if name not in self.classes:
                    known = ", ".join(self.classes)
                    raise UserError(f"{where} has the class {name!r}, which is not one of classes: {known}")
                columns["class_id"] = self.classes.index(name)
        split = parse_split(cells.get("Split", ""), row.where(self.columns.get("Split", "")))
        return replace(
            recording, patient=patient, split=split, columns=columns, problem=recording.problem or problem, fps=rate,
            evidence=evidence,
        )  # fmt: skip


class _FileIndex:
    """Finds files by the name in a csv, without access to the file system."""

    def __init__(self, keys: Iterable[str], root: Path, table: Path, texts: Sequence[str]) -> None:
        """``keys`` are the paths of the files below ``root``, ``texts`` the names in the csv ``table``."""
        self.base = table.parent.relative_to(root).as_posix()
        self.exact = set(keys)
        self.loose: dict[str, list[str]] = {}
        """Other forms of a path, and all forms in lower case -> keys. A key is also its own form in lower case."""
        for key in self.exact:
            path = PurePosixPath(key)
            forms = {str(path.with_suffix("")), path.name, path.stem}
            for form in {*forms, *map(_fold, (key, *forms))} - {key}:
                self.loose.setdefault(form, []).append(key)
        tops = {PurePosixPath(text.replace("\\", "/")).parent.parts[:1] for text in texts if text}
        self.top = next(iter(tops)) if len(tops) == 1 else ()
        """First folder of every path of the csv if no such folder exists in raw, which was renamed; it is ignored."""
        if any(PurePosixPath(key).parts[:1] == self.top for key in self.exact):
            self.top = ()

    def find(self, text: str) -> tuple[str | None, str | None]:
        """The key of the file and None, or None and the reason for rejection."""
        path = PurePosixPath(text.replace("\\", "/"))
        if not text:
            return None, "the row names no file"
        if path.is_absolute() or ".." in path.parts or re.match("[A-Za-z]:", text):
            return None, listing.OUTSIDE_RAW
        path = PurePosixPath(*path.parts[len(self.top) :])
        forms = (str(path), str(PurePosixPath(self.base) / path))
        for form in (*forms, *map(_fold, forms)):
            keys = [form] if form in self.exact else self.loose.get(form, [])
            if len(keys) == 1:
                return keys[0], None
            if keys:
                return None, f"{len(keys)} files have this name: give the path"
        return None, listing.MISSING_FILE


def _fold(text: str) -> str:
    """``text`` in lower case and in the composed form (NFC): macOS writes accents as characters of their own."""
    return unicodedata.normalize("NFC", text).casefold()


def _with_short_names(listed: Mapping[str, ListedRecording]) -> Sequence[ListedRecording]:
    """The recordings, named by the file name without suffix if this name is unique, else by the key."""
    stems = {key: PurePosixPath(key).stem for key in listed}
    count = Counter(stems.values())
    names = {key: stem if count[stem] == 1 else key for key, stem in stems.items()}
    return [
        replace(recording, name=names[key], patient=names[key] if recording.patient == key else recording.patient)
        for key, recording in listed.items()
    ]
