"""Base class of the sources ``Videos`` and ``Images``: a folder of files with an optional csv."""

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import ClassVar

from echodream import validation
from echodream.errors import UserError
from echodream.ingest import listing
from echodream.ingest.csv_tables import check_column_names, parse_cells, parse_number, parse_split, read_table
from echodream.ingest.listing import ListedRecording, RawFile
from echodream.ingest.source import CellValue, Limits, Recording, Video
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
    meaning; all others are study columns. Columns that are not listed are not read."""
    classes: tuple[str, ...] | None = None
    """Values of class_name; the position in this list is class_id."""
    patient_from: str | None = None
    """What counts as one patient: each "file", each "folder" of files, each PatientID of the "csv", or "all" files
    together. None: "csv" if ``columns`` has PatientID, else "file"."""

    kind: ClassVar[str]
    """Name of such a study in messages."""
    expected_files: ClassVar[str]
    """Required content of the folder, for error messages."""
    special: ClassVar[tuple[str, ...]] = ("FileName", "PatientID", "Split")

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", validation.column_names("columns", self.columns))
        if self.classes is not None:
            object.__setattr__(self, "classes", validation.list_of_values("classes", self.classes))
            if len(set(self.classes)) < len(self.classes):
                raise UserError(f"classes {list(self.classes)} has a class twice")
            if self.csv is None or "class_name" not in self.columns:
                raise UserError("classes needs csv= and class_name in columns")
        if "FileName" not in self.columns:
            raise UserError("columns has no FileName: set it to the csv column with the names of the files")
        check_column_names([name for name in self.columns if name not in self.special], "columns")
        if self.csv is not None:
            validation.text("csv", self.csv)
        if self.patient_from is not None:
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

    def study_columns(self, cells: Mapping[str, str], where: str) -> dict[str, CellValue]:
        """The study columns of a row, whose ``cells`` have the names of ``read_columns``. Raises ``UserError``."""
        return parse_cells(cells, [name for name in self.columns if name not in self.special])

    def _list_file(self, root: Path, key: str, entry: RawFile) -> ListedRecording:
        """The recording of a file, without the csv; its name is the key."""
        patients = {"folder": listing.parent_folder(key) or root.resolve().name, "all": "all"}
        patient = patients.get(self.patient_from or "file", key)
        sizes = () if entry.problem else self.file_sizes(entry)
        return ListedRecording(key, patient, entry.path, problem=entry.problem, counted=entry.counted, sizes=sizes)

    def _join_csv(
        self, root: Path, table: Path, listed: Mapping[str, ListedRecording]
    ) -> tuple[dict[str, ListedRecording], list[Recording]]:
        """The files joined with the rows of the csv, and the rows without a file."""
        columns = self.read_columns()
        rows = read_table(table, tuple(columns.values()))
        keys = _FileIndex(listed, table.parent.relative_to(root).as_posix())
        split_check = PatientSplitCheck(table.name)
        result: dict[str, ListedRecording] = {}
        used: dict[str, dict[str, str]] = {}
        extra: list[Recording] = []
        for line, row in enumerate(rows, start=2):
            cells = {name: row[column] for name, column in columns.items()}
            key, problem = keys.find(cells["FileName"])
            name = cells["FileName"] or f"row-{line}"
            if key is None:
                extra.append(Recording(name, "", problem=problem))
            elif key not in used:
                used[key] = cells
                result[key] = self._add_row(listed[key], cells, f"{table.name}, line {line},")
                split_check.add(result[key], line)
            else:
                same = {**cells, "FileName": ""} == {**used[key], "FileName": ""}
                if not same:
                    result[key] = replace(result[key], problem=f"two rows of {table.name} contradict each other")
                problem = f"a second row for the same file: {'the first is used' if same else 'they contradict'}"
                extra.append(Recording(f"{name} line {line}", "", problem=problem))
        lost = f"no row in {table.name}"
        return {
            key: result.get(key) or replace(entry, problem=entry.problem or lost) for key, entry in listed.items()
        }, extra

    def _add_row(self, recording: ListedRecording, cells: Mapping[str, str], where: str) -> ListedRecording:
        problem, patient, rate = None, recording.patient, None
        if self.patient_from == "csv" or (self.patient_from is None and "PatientID" in cells):
            patient = clean_text(cells["PatientID"])
            problem = None if patient else "no PatientID in the csv"
        if cells.get("FPS"):
            rate = parse_number(cells["FPS"])
            if rate is None or not 0 < rate <= 1000:
                raise UserError(f"{where} has the frame rate {cells['FPS']!r}: use frames per second from 0 to 1000")
        columns = self.study_columns(cells, where)
        if "class_name" in cells:
            columns["class_name"] = name = clean_text(cells["class_name"])
            if not name:
                problem = problem or "no class_name in the csv"
            elif self.classes is not None:
                if name not in self.classes:
                    known = ", ".join(self.classes)
                    raise UserError(f"{where} has the class {name!r}, which is not one of classes: {known}")
                columns["class_id"] = self.classes.index(name)
        split = parse_split(cells.get("Split", ""), where)
        problem = recording.problem or problem
        return replace(recording, patient=patient, split=split, columns=columns, problem=problem, fps=rate)


class _FileIndex:
    """Finds files by the name in a csv, without access to the file system."""

    def __init__(self, keys: Iterable[str], base: str) -> None:
        self.base = base
        self.exact = set(keys)
        self.loose: dict[str, list[str]] = {}
        for key in self.exact:
            path = PurePosixPath(key)
            for form in {str(path.with_suffix("")), path.name, path.stem} - {key}:
                self.loose.setdefault(form, []).append(key)

    def find(self, text: str) -> tuple[str | None, str | None]:
        """The key of the file and None, or None and the reason for rejection."""
        path = PurePosixPath(text.replace("\\", "/"))
        if not text:
            return None, "the row names no file"
        if path.is_absolute() or ".." in path.parts or re.match("[A-Za-z]:", text):
            return None, listing.OUTSIDE_RAW
        for form in (str(path), str(PurePosixPath(self.base) / path)):
            keys = [form] if form in self.exact else self.loose.get(form, [])
            if len(keys) == 1:
                return keys[0], None
            if keys:
                return None, f"{len(keys)} files have this name: give the path"
        return None, listing.MISSING_FILE


def _with_short_names(listed: Mapping[str, ListedRecording]) -> Sequence[ListedRecording]:
    """The recordings, named by the file name without suffix if this name is unique, else by the key."""
    stems = {key: PurePosixPath(key).stem for key in listed}
    count = Counter(stems.values())
    names = {key: stem if count[stem] == 1 else key for key, stem in stems.items()}
    return [
        replace(recording, name=names[key], patient=names[key] if recording.patient == key else recording.patient)
        for key, recording in listed.items()
    ]
