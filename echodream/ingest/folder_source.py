"""Any folder of files, with an optional csv that says what each of them is: what videos and images have in common."""

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import ClassVar

from echodream import validation
from echodream.errors import UserError
from echodream.ingest.csv_tables import check_column_names, parse_cells, parse_number, parse_split, read_table
from echodream.ingest.listing import (
    MISSING_FILE,
    OUTSIDE_RAW,
    ListedRecording,
    RawFile,
    list_files,
    non_recording,
    parent_folder,
    require_folder,
    require_inside_raw,
    with_unique_names,
)
from echodream.ingest.source import CellValue, Limits, Recording, Video
from echodream.ingest.split import PatientSplitCheck
from echodream.store.table import clean_text

PATIENT_FROM = ("file", "folder", "csv", "all")


@dataclass(frozen=True)
class FolderSource(ABC):
    """Files below ``raw``. FileName is the file's name without its suffix, or the whole path below ``raw`` where two
    share it. With a csv, each row and each file has to find the other."""

    csv: str | None = None
    """A csv file, as a path below ``raw``."""
    columns: Mapping[str, str] = field(default_factory=lambda: {"FileName": "FileName"})
    """Store column -> csv column. FileName (needed) finds the file by its path below ``raw`` or below the csv's folder,
    or by its name alone, with or without suffix, if there is one such file; PatientID, Split and the source's own
    ``special`` ones have their meaning; any other is a study column. Columns not named here are not read."""
    classes: tuple[str, ...] | None = None
    """Names of class_name whose place in this list is class_id."""
    patient_from: str | None = None
    """What a patient is: each ``file``, the ``folder`` a file lies in, the ``csv``'s PatientID, or ``all`` files
    together. Default: csv where ``columns`` names PatientID, else file."""

    kind: ClassVar[str]
    """What messages call such a study."""
    wanted: ClassVar[str]
    """What messages miss in a folder without a recording."""
    special: ClassVar[tuple[str, ...]] = ("FileName", "PatientID", "Split")

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", validation.column_names("columns", self.columns))
        if self.classes is not None:
            object.__setattr__(self, "classes", validation.list_of_values("classes", self.classes))
        if "FileName" not in self.columns:
            raise UserError("columns names no FileName: say which csv column names the files")
        check_column_names([name for name in self.columns if name not in self.special], "columns")
        if self.csv is not None:
            validation.text("csv", self.csv)
        if self.patient_from is not None:
            validation.one_of("patient_from", self.patient_from, PATIENT_FROM)
        if self.patient_from == "csv" and (self.csv is None or "PatientID" not in self.columns):
            raise UserError("patient_from=csv needs csv= and a PatientID in columns")
        if self.classes is not None and len(set(self.classes)) < len(self.classes):
            raise UserError(f"classes {list(self.classes)} names a class twice")
        if self.classes is not None and (self.csv is None or "class_name" not in self.columns):
            raise UserError("classes needs csv= and a class_name in columns")

    def recordings(self, raw: Path | None) -> list[Recording]:
        """List every file below ``raw``; see ``Source``."""
        root = require_folder(raw, self.kind)
        table = self._table(root)
        entries = list_files(root)
        found, others = self.group(entries, root)
        if not any(entry.problem is None for entry in found.values()):
            raise UserError(f"{root} holds no {self.wanted}")
        listed = {key: self._listed(root, key, entry) for key, entry in found.items()}
        extra: list[Recording] = []
        if table is not None:
            listed, extra = self._joined(root, table, listed)
        return with_unique_names([*_short_names(listed), *extra, *map(non_recording, others)])

    @abstractmethod
    def group(self, entries: Iterable[RawFile], root: Path) -> tuple[dict[str, RawFile], list[RawFile]]:
        """Key, a path below ``root`` -> recording, and the files that are none."""

    @abstractmethod
    def read(self, recording: Recording, limits: Limits) -> Video:
        """Decode one recording; see ``Source``."""

    def sizes(self, entry: RawFile) -> tuple[int, ...]:
        """Bytes of each file where a recording is made of many."""
        return ()

    def read_columns(self) -> dict[str, str]:
        """Name -> csv column for all that is read of a row."""
        return dict(self.columns)

    def study_columns(self, taken: Mapping[str, str], where: str) -> dict[str, CellValue]:
        """The study columns of a row that was read by ``read_columns``. Raises ``UserError`` that says ``where``."""
        return parse_cells(taken, {name: name for name in self.columns if name not in self.special})

    def _table(self, root: Path) -> Path | None:
        if self.csv is None:
            return None
        require_inside_raw(root, root / self.csv, f"csv={self.csv}")
        return root / self.csv

    def _listed(self, root: Path, key: str, entry: RawFile) -> ListedRecording:
        """A file before a csv says anything about it; its name is still its whole key."""
        patient = {"folder": parent_folder(key) or root.resolve().name, "all": "all"}.get(
            self.patient_from or "file", key
        )
        sizes = () if entry.problem else self.sizes(entry)
        return ListedRecording(key, patient, entry.path, problem=entry.problem, counted=entry.counted, sizes=sizes)

    def _joined(
        self, root: Path, table: Path, listed: Mapping[str, ListedRecording]
    ) -> tuple[dict[str, ListedRecording], list[Recording]]:
        """The files with what their rows say, and the rows that found no file of their own."""
        columns = self.read_columns()
        rows = read_table(table, tuple(columns.values()))
        keys = _Keys(listed, table.parent.relative_to(root).as_posix())
        given = PatientSplitCheck(table.name)
        result: dict[str, ListedRecording] = {}
        used: dict[str, dict[str, str]] = {}
        extra: list[Recording] = []
        for line, row in enumerate(rows, start=2):
            taken = {name: row[column] for name, column in columns.items()}
            key, problem = keys.find(taken["FileName"])
            name = taken["FileName"] or f"row-{line}"
            if key is None:
                extra.append(Recording(name, "", problem=problem))
            elif key not in used:
                used[key] = taken
                result[key] = self._with_row(listed[key], taken, f"{table.name}, line {line},")
                given.add(result[key], line)
            else:
                same = {**taken, "FileName": ""} == {**used[key], "FileName": ""}
                if not same:
                    result[key] = replace(result[key], problem=f"two rows of {table.name} contradict each other")
                problem = f"a second row for the same file: {'the first is taken' if same else 'they contradict'}"
                extra.append(Recording(f"{name} line {line}", "", problem=problem))
        lost = f"no row in {table.name}"
        return {
            key: result.get(key) or replace(entry, problem=entry.problem or lost) for key, entry in listed.items()
        }, extra

    def _with_row(self, recording: ListedRecording, taken: Mapping[str, str], where: str) -> ListedRecording:
        problem, patient, rate = None, recording.patient, None
        if self.patient_from == "csv" or (self.patient_from is None and "PatientID" in taken):
            patient = clean_text(taken["PatientID"])
            problem = None if patient else "no PatientID in the csv"
        if taken.get("FPS"):
            rate = parse_number(taken["FPS"])
            if rate is None or not 0 < rate <= 1000:
                raise UserError(f"{where} has the frame rate {taken['FPS']!r}: use frames per second from 0 to 1000")
        columns = self.study_columns(taken, where)
        if "class_name" in taken:
            columns["class_name"] = name = clean_text(taken["class_name"])
            if not name:
                problem = problem or "no class_name in the csv"
            elif self.classes is not None:
                if name not in self.classes:
                    known = ", ".join(self.classes)
                    raise UserError(f"{where} has the class {name!r}, which is not one of classes: {known}")
                columns["class_id"] = self.classes.index(name)
        given = parse_split(taken.get("Split", ""), where)
        problem = recording.problem or problem
        return replace(recording, patient=patient, split=given, columns=columns, problem=problem, fps=rate)


class _Keys:
    """Finds a file by what a csv calls it, without ever touching the file system."""

    def __init__(self, keys: Iterable[str], base: str) -> None:
        self.base = base
        self.exact = set(keys)
        self.loose: dict[str, list[str]] = {}
        for key in self.exact:
            path = PurePosixPath(key)
            for form in {str(path.with_suffix("")), path.name, path.stem} - {key}:
                self.loose.setdefault(form, []).append(key)

    def find(self, text: str) -> tuple[str | None, str | None]:
        """The file's key, or None and why."""
        path = PurePosixPath(text.replace("\\", "/"))
        if not text:
            return None, "the row names no file"
        if path.is_absolute() or ".." in path.parts or re.match("[A-Za-z]:", text):
            return None, OUTSIDE_RAW
        for form in (str(path), str(PurePosixPath(self.base) / path)):
            if form in self.exact:
                return form, None
            found = self.loose.get(form, [])
            if len(found) == 1:
                return found[0], None
            if found:
                return None, f"{len(found)} files have this name: give the path"
        return None, MISSING_FILE


def _short_names(listed: Mapping[str, ListedRecording]) -> Sequence[ListedRecording]:
    """Recordings named by the last part of their key without its suffix where that is unique, else by the whole key."""
    stems = {key: PurePosixPath(key).stem for key in listed}
    count = Counter(stems.values())
    names = {key: stem if count[stem] == 1 else key for key, stem in stems.items()}
    return [
        replace(recording, name=names[key], patient=names[key] if recording.patient == key else recording.patient)
        for key, recording in listed.items()
    ]
