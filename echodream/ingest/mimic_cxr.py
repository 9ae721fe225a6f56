"""MIMIC-CXR-JPG: chest X-rays by patient and study, with csv tables of splits, labels and views."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from echodream import validation
from echodream.errors import UserError
from echodream.ingest import listing
from echodream.ingest.csv_tables import Row, check_column_names, parse_cell, parse_split, read_table
from echodream.ingest.images import is_image, read_image
from echodream.ingest.labels import CHEXPERT, LabelPolicy
from echodream.ingest.listing import RawFile
from echodream.ingest.pseudonym import Pseudonyms
from echodream.ingest.source import CellValue, Limits, Recording, Video
from echodream.ingest.split import PatientSplitCheck

_TABLE = re.compile(r"mimic-cxr-.*-(split|chexpert|metadata)\.csv(\.gz)?", re.IGNORECASE)
_ANY_TABLE = re.compile(r"[^.].*\.csv(\.gz)?", re.IGNORECASE)
_IMAGE_PATH = re.compile(r"(?:.*/)?p\d+/p(?P<subject_id>\d+)/s(?P<study_id>\d+)/[^/]+")
_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_VIEW = "ViewPosition"


@dataclass(frozen=True)
class MimicCxr:
    """``p10/p10000032/s50414267/<dicom_id>.jpg`` anywhere below ``raw``, with the tables of the study.

    The tables are joined by dicom_id, or by study_id if they have no dicom_id. The first table with dicom_id and split
    lists the images; it needs subject_id and study_id too. FileName, PatientID and the column Study are keyed
    pseudonyms. Columns: View (ViewPosition) if a table has it, and ``labels``. A study without a row in the table of
    labels gets empty cells, whatever the value of ``missing``.
    """

    key_file: str = field(metadata={"private": True})
    """File with the secret key of the pseudonyms, see ``Pseudonyms``; created if it does not exist."""
    csv: tuple[str, ...] | None = None
    """Paths of csv files, plain or .gz, below ``raw``. None: mimic-cxr-*-split and, in the same folder, -chexpert and
    -metadata; or the only csv of ``raw``."""
    labels: tuple[str, ...] | None = None
    """Labels, by their csv columns with "_" for a space. None: the 14 labels of CheXpert; empty: none."""
    uncertain: float | None = None
    """Stored value for -1 (uncertain). None stores an empty cell, which is ignored in training and evaluation."""
    missing: float | None = 0.0
    """Stored value for a label that the report does not mention; None stores an empty cell."""
    views: tuple[str, ...] | None = None
    """Views to read, such as PA and AP; None: all."""
    subset: bool = False
    """Whether ``raw`` contains only a part of the images: rows without a file are then not counted as lost."""

    def __post_init__(self) -> None:
        validation.text("key_file", self.key_file)
        for name in ("csv", "labels", "views"):
            if (values := getattr(self, name)) is not None:
                object.__setattr__(self, name, validation.list_of_names(name, values))
        for path in self.csv or ():
            validation.text("csv", path)
        labels = self.label_names()
        check_column_names(labels, "labels")
        if len(set(labels)) < len(labels):
            raise UserError(f"labels {list(labels)} has a label twice")
        LabelPolicy(self.uncertain, self.missing)
        validation.true_or_false("subset", self.subset)

    def label_names(self) -> tuple[str, ...]:
        """Names of the labels that are read."""
        return CHEXPERT if self.labels is None else tuple(name.replace(" ", "_") for name in self.labels)

    def recordings(self, raw: Path | None) -> list[Recording]:
        root = listing.require_folder(raw, "MIMIC-CXR")
        paths = self._table_paths(root)
        tables = [Table(path) for path in paths]
        rows = next((table for table in tables if {"dicom_id", "split"} <= {*table.columns}), None)
        if rows is None or not {"subject_id", "study_id"} <= {*rows.columns}:
            names = ", ".join(path.name for path in paths)
            raise UserError(f"no table has dicom_id, subject_id, study_id and split ({names}): set data.source.csv")
        columns = {name: _table_with_column(tables, name) for name in self.label_names()}
        view = next((table for table in tables if _VIEW in table.columns), None)
        if self.views is not None and view is None:
            raise UserError(f"data.source.views needs a table with {_VIEW}: add it to data.source.csv")
        entries = [entry for entry in listing.list_files(root) if entry.path not in paths]
        join = _Join(self, rows, columns, view, Pseudonyms.from_file(Path(self.key_file).expanduser()))
        return listing.with_unique_names(join.recordings(entries))

    def read(self, recording: Recording, limits: Limits) -> Video:
        return read_image(recording.file, limits)

    def _table_paths(self, root: Path) -> list[Path]:
        if self.csv is not None:
            paths = [root / name for name in self.csv]
        else:
            groups = (_matching_files(folder, _TABLE) for folder in listing.folders_below(root))
            study = next((paths for paths in groups if any("split" in path.name for path in paths)), None)
            paths = study or _matching_files(root, _ANY_TABLE)
            paths = [path for path in paths if path.suffix != ".gz" or path.with_suffix("") not in paths]
            if not paths or (study is None and len(paths) > 1):
                raise UserError(f"{root} holds no mimic-cxr-*-split.csv: set data.source.csv to the tables below raw")
        for path in paths:
            listing.require_inside_raw(root, path, path.name)
        return paths


class Table:
    """A csv file with one row per image (dicom_id) or study (study_id); spaces in column names become "_"."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self.rows = read_table(path, unique=True)
        self.columns = [name.replace(" ", "_") for name in (self.rows[0] if self.rows else ())]
        self.key = next((name for name in ("dicom_id", "study_id") if name in self.columns), None)
        if self.key is None:
            raise UserError(f"{path.name} has no column dicom_id or study_id: remove it from data.source.csv")
        self.cells = [tuple(row.values()) for row in self.rows]
        self.line: dict[str, int] = {}
        place = self.columns.index(self.key)
        for line, cells in enumerate(self.cells):
            first = self.line.setdefault(cells[place], line)
            if self.cells[first] != cells:
                lines = f"{self.name}, lines {self.rows[first].line} and {self.rows[line].line},"
                raise UserError(f"{lines} have the same {self.key} but different values: remove one of them")

    def cell(self, line: int, column: str) -> str:
        """A cell by row number, from 0, and column name."""
        return self.cells[line][self.columns.index(column)]

    def where(self, line: int, column: str = "") -> str:
        """The place of a row or cell in the file, for messages; row numbers are from 0."""
        return self.rows[line].where(column)

    def row_number(self, image: Mapping[str, str]) -> int | None:
        """Row number of an image with dicom_id and study_id; None if the table has no row for the image."""
        assert self.key is not None
        return self.line.get(image[self.key])


@dataclass(frozen=True)
class _Join:
    """Joins the rows of the tables with the image files."""

    source: MimicCxr
    rows: Table
    labels: Mapping[str, Table]
    view: Table | None
    pseudonyms: Pseudonyms

    def recordings(self, entries: Sequence[RawFile]) -> list[Recording]:
        """Recordings for all rows and files, named by pseudonyms."""
        files: dict[str, list[RawFile]] = {}
        for entry in entries:
            if is_image(entry):
                files.setdefault(entry.path.stem, []).append(entry)
        listed: list[Recording] = []
        split_check = PatientSplitCheck(self.rows.name)
        for line in range(len(self.rows.cells)):
            image = {name: self.rows.cell(line, name) for name in ("dicom_id", "study_id", "subject_id", "split")}
            if self.rows.row_number(image) != line:
                name = self.pseudonyms.hash_recording(f"row {line}")
                listed.append(Recording(name, "", problem="a second row for the same image", counted=False))
                continue
            recording = self._build_recording(image, files.pop(image["dicom_id"], []), self.rows.rows[line])
            split_check.add(recording, self.rows.rows[line].line)
            listed.append(recording)
        lost = f"no row in {self.rows.name}"
        listed += [self._unlisted_file(entry, lost) for unused in files.values() for entry in unused]
        return listed + [self._unlisted_file(entry) for entry in entries if not is_image(entry)]

    def _build_recording(self, image: Mapping[str, str], files: Sequence[RawFile], row: Row) -> Recording:
        name = self.pseudonyms.hash_recording(f"image {image['dicom_id']}" if image["dicom_id"] else f"row {row.line}")
        if not all(_IDENTIFIER.fullmatch(image[key]) for key in ("dicom_id", "study_id", "subject_id")):
            return Recording(name, "", problem="the row has no usable dicom_id, study_id or subject_id")
        columns, view = self._study_columns(image)
        if self.source.views is not None and view not in self.source.views:
            return Recording(name, "", problem=f"not selected: view {view or 'unknown'}", counted=False)
        patient = self.pseudonyms.hash_patient(image["subject_id"])
        part = parse_split(image["split"], row.where("split"))
        if part is None:
            return Recording(name, patient, problem=f"no split in {self.rows.name}")
        if not files:
            return Recording(name, patient, problem=listing.MISSING_FILE, counted=not self.source.subset)
        problem = files[0].problem
        if len(files) > 1:
            problem = f"{len(files)} files have this dicom_id"
        elif (path := _IMAGE_PATH.fullmatch(files[0].relative)) and any(
            image[key].lstrip("ps") != number for key, number in path.groupdict().items()
        ):
            problem = f"the file is in the folder of another patient or study than {self.rows.name} states"
        return Recording(name, patient, files[0].path, part, columns, problem)

    def _study_columns(self, image: Mapping[str, str]) -> tuple[dict[str, CellValue], str]:
        """The study columns of an image, and its view."""
        columns: dict[str, CellValue] = {"Study": self.pseudonyms.hash_study(image["study_id"])}
        view = ""
        if self.view is not None and (line := self.view.row_number(image)) is not None:
            view = str(parse_cell(self.view.cell(line, _VIEW)) or "")
        if view:
            columns["View"] = view
        policy = LabelPolicy(self.source.uncertain, self.source.missing)
        for name, table in self.labels.items():
            if (line := table.row_number(image)) is not None:
                label = policy.parse(table.cell(line, name), table.where(line, name))
                if label is not None:
                    columns[name] = label
        return columns, view

    def _unlisted_file(self, entry: RawFile, problem: str | None = None) -> Recording:
        """A rejected file without a row, named by a pseudonym because its path identifies the patient."""
        rejected = replace(listing.non_recording(entry), name=self.pseudonyms.hash_recording(f"file {entry.relative}"))
        return replace(rejected, problem=problem, counted=True) if problem and not entry.problem else rejected


def _table_with_column(tables: Iterable[Table], label: str) -> Table:
    """The first table that has the column ``label``. Raises ``UserError``."""
    for table in tables:
        if label in table.columns:
            return table
    available = ", ".join(f"{table.name} has {', '.join(table.columns[:20])}" for table in tables)
    raise UserError(f"data.source.labels has {label}, but no table has this column: {available}")


def _matching_files(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if pattern.fullmatch(path.name) and path.is_file())
    except OSError:
        return []
