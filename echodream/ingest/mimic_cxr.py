"""MIMIC-CXR-JPG: chest X-rays by patient and study, with tables of splits, labels and views."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from echodream import validation
from echodream.errors import UserError
from echodream.ingest.csv_tables import parse_cell, parse_split, read_table
from echodream.ingest.images import is_image, read_image
from echodream.ingest.labels import CHEXPERT, LabelPolicy, check_label_names
from echodream.ingest.listing import (
    MISSING_FILE,
    RawFile,
    find_folder,
    list_files,
    non_recording,
    require_folder,
    require_inside_raw,
    with_unique_names,
)
from echodream.ingest.pseudonym import Pseudonyms
from echodream.ingest.source import CellValue, Limits, Recording, Video
from echodream.ingest.split import PatientSplitCheck

_TABLE = re.compile(r"mimic-cxr-.*-(split|chexpert|metadata)\.csv(\.gz)?", re.IGNORECASE)
_ANY_TABLE = re.compile(r"[^.].*\.csv(\.gz)?", re.IGNORECASE)
_PLACE = re.compile(r"(?:.*/)?p\d+/p(?P<subject_id>\d+)/s(?P<study_id>\d+)/[^/]+")
_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_VIEW = "ViewPosition"


@dataclass(frozen=True)
class MimicCxr:
    """``p10/p10000032/s50414267/<dicom_id>.jpg`` anywhere below ``raw``, and the tables that say what they are.

    The tables are joined by dicom_id, or by study_id where they have no dicom_id. One of them gives every image its
    subject_id, study_id and split, which is respected. FileName, PatientID and the column Study are keyed pseudonyms.
    Columns: View (ViewPosition) where a table has it, and ``labels``. A study without a row in the table of labels has
    empty cells, whatever ``missing`` says.
    """

    key_file: str = field(metadata={"private": True})
    """File with the secret key of the pseudonyms, see ``Pseudonyms``; made if it does not exist."""
    csv: tuple[str, ...] | None = None
    """csv files, plain or .gz, as paths below ``raw``. None: mimic-cxr-*-split, -chexpert and -metadata where the first
    is, or the only csv of ``raw``."""
    labels: tuple[str, ...] | None = None
    """Which labels, by their csv columns with ``_`` for a space. None: the 14 of CheXpert; empty: none."""
    uncertain: float | None = None
    """What is stored for -1, uncertain; None: an empty cell, which neither trains nor scores."""
    missing: float | None = 0.0
    """What is stored for a label that the report does not mention; None: an empty cell."""
    views: tuple[str, ...] | None = None
    """Which views to take, such as PA and AP; None: all."""
    subset: bool = False
    """Whether ``raw`` is meant to hold only a part of the images: rows without a file do not count as lost then."""

    def __post_init__(self) -> None:
        validation.text("key_file", self.key_file)
        for name in ("csv", "labels", "views"):
            if (given := getattr(self, name)) is not None:
                object.__setattr__(self, name, validation.list_of_values(name, given))
        for path in self.csv or ():
            validation.text("csv", path)
        check_label_names(self.wanted())
        LabelPolicy(self.uncertain, self.missing)
        validation.true_or_false("subset", self.subset)

    def wanted(self) -> tuple[str, ...]:
        """The labels."""
        return CHEXPERT if self.labels is None else tuple(name.replace(" ", "_") for name in self.labels)

    def recordings(self, raw: Path | None) -> list[Recording]:
        """List the rows of the split table and every file below ``raw``; see ``Source``."""
        root = require_folder(raw, "MIMIC-CXR")
        paths = self._paths(root)
        tables = [Table(path) for path in paths]
        rows = next((table for table in tables if table.has("dicom_id", "split")), None)
        if rows is None or not rows.has("subject_id", "study_id"):
            names = ", ".join(path.name for path in paths)
            raise UserError(f"no table has dicom_id, subject_id, study_id and split (of {names}): set data.source.csv")
        columns = {name: _owner(tables, name) for name in self.wanted()}
        view = next((table for table in tables if table.has(_VIEW)), None)
        if self.views is not None and view is None:
            raise UserError(f"data.source.views needs a table with {_VIEW}: add it to data.source.csv, or drop views")
        entries = [entry for entry in list_files(root) if entry.path not in paths]
        pseudonyms = Pseudonyms.from_file(Path(self.key_file).expanduser())
        listing = _Listing(self, rows, columns, view, pseudonyms)
        return with_unique_names(listing.recordings(entries))

    def read(self, recording: Recording, limits: Limits) -> Video:
        """Decode one image; see ``Source``."""
        assert recording.path is not None
        return read_image(recording.path, limits)

    def _paths(self, root: Path) -> list[Path]:
        if self.csv is not None:
            paths = [root / name for name in self.csv]
        else:
            home = find_folder(root, lambda folder: any("split" in path.name for path in _files(folder, _TABLE)))
            paths = _files(home, _TABLE) if home else _files(root, _ANY_TABLE)
            paths = [path for path in paths if path.suffix != ".gz" or path.with_suffix("") not in paths]
            if not paths or (home is None and len(paths) > 1):
                raise UserError(f"{root} holds no mimic-cxr-*-split.csv: set data.source.csv to the tables below raw")
        for path in paths:
            require_inside_raw(root, path, path.name)
        return paths


class Table:
    """A csv file with one row for each image (dicom_id) or study (study_id); column names have ``_`` for a space."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        rows = read_table(path)
        self.columns = [name.replace(" ", "_") for name in (rows[0] if rows else ())]
        self.key = next((name for name in ("dicom_id", "study_id") if name in self.columns), None)
        if self.key is None:
            raise UserError(f"{path.name} has no column dicom_id or study_id: leave it out of data.source.csv")
        self.cells = [tuple(row.values()) for row in rows]
        self.line: dict[str, int] = {}
        place = self.columns.index(self.key)
        for line, cells in enumerate(self.cells):
            first = self.line.setdefault(cells[place], line)
            if self.cells[first] != cells:
                same = f"{self.name}, lines {first + 2} and {line + 2}, have one {self.key}"
                raise UserError(f"{same} and contradict each other: remove one of them")

    def has(self, *names: str) -> bool:
        """Whether there are all these columns."""
        return set(names) <= set(self.columns)

    def cell(self, line: int, column: str) -> str:
        """A cell by its line, from 0, the first row."""
        return self.cells[line][self.columns.index(column)]

    def row(self, image: Mapping[str, str]) -> int | None:
        """The line about an image of which dicom_id and study_id are known."""
        assert self.key is not None
        return self.line.get(image[self.key])


@dataclass(frozen=True)
class _Listing:
    """The rows joined with the files."""

    source: MimicCxr
    rows: Table
    labels: Mapping[str, Table]
    view: Table | None
    pseudonyms: Pseudonyms

    def recordings(self, entries: Sequence[RawFile]) -> list[Recording]:
        """Each row and each file once, under its pseudonym."""
        files: dict[str, list[RawFile]] = {}
        for entry in entries:
            if is_image(entry):
                files.setdefault(entry.path.stem, []).append(entry)
        listed: list[Recording] = []
        given = PatientSplitCheck(self.rows.name)
        for line in range(len(self.rows.cells)):
            image = {name: self.rows.cell(line, name) for name in ("dicom_id", "study_id", "subject_id", "split")}
            if self.rows.row(image) != line:
                name = self.pseudonyms.recording(f"row {line}")
                listed.append(Recording(name, "", problem="a second row for the same image", counted=False))
                continue
            recording = self._recording(image, files.pop(image["dicom_id"], []), line + 2)
            given.add(recording, line + 2)
            listed.append(recording)
        lost = f"no row in {self.rows.name}"
        listed += [self._other(entry, lost) for found in files.values() for entry in found]
        return listed + [self._other(entry) for entry in entries if not is_image(entry)]

    def _recording(self, image: Mapping[str, str], files: Sequence[RawFile], line: int) -> Recording:
        where = f"{self.rows.name}, line {line},"
        name = self.pseudonyms.recording(f"image {image['dicom_id']}" if image["dicom_id"] else f"row {line}")
        if not all(_IDENTIFIER.fullmatch(image[key]) for key in ("dicom_id", "study_id", "subject_id")):
            return Recording(name, "", problem="the row has no usable dicom_id, study_id or subject_id")
        columns, view = self._columns(image)
        if self.source.views is not None and view not in self.source.views:
            return Recording(name, "", problem=f"not asked for: view {view or 'unknown'}", counted=False)
        patient = self.pseudonyms.patient(image["subject_id"])
        part = parse_split(image["split"], where)
        if part is None:
            return Recording(name, patient, problem=f"no split in {self.rows.name}")
        if not files:
            return Recording(name, patient, problem=MISSING_FILE, counted=not self.source.subset)
        problem = files[0].problem
        if len(files) > 1:
            problem = f"{len(files)} files have this dicom_id"
        elif (place := _PLACE.fullmatch(files[0].relative)) and any(
            image[key].lstrip("ps") != found for key, found in place.groupdict().items()
        ):
            problem = f"the file lies in the folder of another patient or study than {self.rows.name} says"
        return Recording(name, patient, files[0].path, part, columns, problem)

    def _columns(self, image: Mapping[str, str]) -> tuple[dict[str, CellValue], str]:
        """The study columns of an image, and its view."""
        found: dict[str, CellValue] = {"Study": self.pseudonyms.study(image["study_id"])}
        view = ""
        if self.view is not None and (line := self.view.row(image)) is not None:
            view = str(parse_cell(self.view.cell(line, _VIEW)) or "")
        if view:
            found["View"] = view
        policy = LabelPolicy(self.source.uncertain, self.source.missing)
        for name, table in self.labels.items():
            if (line := table.row(image)) is not None:
                label = policy.read(table.cell(line, name), f"{table.name}, line {line + 2}, {name},")
                if label is not None:
                    found[name] = label
        return found, view

    def _other(self, entry: RawFile, problem: str | None = None) -> Recording:
        """A file that belongs to no row; its path names the patient."""
        other = non_recording(entry)
        counted = problem is not None if entry.problem is None else entry.counted
        return Recording(
            self.pseudonyms.recording(f"file {entry.relative}"),
            "",
            entry.path,
            problem=entry.problem or problem or other.problem,
            counted=counted,
        )


def _owner(tables: Iterable[Table], label: str) -> Table:
    """The first table that has the column. Raises ``UserError``."""
    for table in tables:
        if table.has(label):
            return table
    there = ", ".join(f"{table.name} has {', '.join(table.columns[:20])}" for table in tables)
    raise UserError(f"data.source.labels names {label}, a column of no table: {there}")


def _files(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if pattern.fullmatch(path.name) and path.is_file())
    except OSError:
        return []
