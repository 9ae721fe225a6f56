"""Source of MIMIC-CXR-JPG: chest X-rays with csv tables of splits, labels and views."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from echodream import validation
from echodream.errors import UserError
from echodream.ingest import listing
from echodream.ingest.csv_tables import Row, check_column_names, parse_cell, parse_split, read_table
from echodream.ingest.images import is_image, read_image
from echodream.ingest.labels import CHEXPERT_LABELS, LabelPolicy
from echodream.ingest.listing import RawFile
from echodream.ingest.pseudonym import Pseudonyms
from echodream.ingest.source import CellValue, Limits, Recording, Video
from echodream.ingest.split import PatientSplitCheck

_TABLE_NAME = re.compile(r"mimic-cxr-.*-(split|chexpert|metadata)\.csv(\.gz)?", re.IGNORECASE)
_CSV_NAME = re.compile(r"[^.].*\.csv(\.gz)?", re.IGNORECASE)
_IMAGE_PATH = re.compile(r"(?:.*/)?p\d+/p(?P<subject_id>\d+)/s(?P<study_id>\d+)/[^/]+")
_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_VIEW_COLUMN = "ViewPosition"


@dataclass(frozen=True)
class MimicCxr:
    """Reads ``p10/p10000032/s50414267/<dicom_id>.jpg`` anywhere below ``raw``, with the csv tables of the data set.

    Tables are joined by dicom_id, or by study_id if a table has no dicom_id. The first table with the columns dicom_id
    and split lists the images, and must have the columns subject_id and study_id. FileName, PatientID and the column
    Study are keyed pseudonyms. Other columns are View, if a table has ViewPosition, and ``labels``. If a study has no
    row in the table of a label, the label is an empty cell for any value of ``missing``.
    """

    key_file: str = field(metadata={"private": True})
    """File with the secret key of the pseudonyms; created if the file does not exist."""
    csv: tuple[str, ...] | None = None
    """Paths of csv files, plain or .gz, below ``raw``. None selects mimic-cxr-*-split.csv and the tables -chexpert and
    -metadata in the folder of this file, or the only csv in ``raw``."""
    labels: tuple[str, ...] | None = None
    """Csv columns of labels, with "_" for a space. None selects the 14 labels of CheXpert, [] selects no label."""
    uncertain: float | None = None
    """Stored value of an uncertain label (-1). None stores an empty cell, which training and evaluation ignore."""
    missing: float | None = 0.0
    """Stored value of a label that the report does not mention; None stores an empty cell."""
    views: tuple[str, ...] | None = None
    """Views to read, such as PA and AP; None reads all views."""
    subset: bool = False
    """Whether ``raw`` contains only some of the images; then rows without a file do not count for ``max_rejected``."""

    def __post_init__(self) -> None:
        validation.nonempty_text("key_file", self.key_file)
        for name in ("csv", "labels", "views"):
            if (values := getattr(self, name)) is not None:
                object.__setattr__(self, name, validation.list_of_names(name, values))
        for path in self.csv or ():
            validation.nonempty_text("csv", path)
        labels = self.label_names()
        check_column_names(labels, "labels")
        if len(set(labels)) < len(labels):
            raise UserError(f"labels {list(labels)} has a label twice: list each label once")
        LabelPolicy(self.uncertain, self.missing)
        validation.true_or_false("subset", self.subset)

    def label_names(self) -> tuple[str, ...]:
        """Return the names of the labels, which are columns of the store."""
        return CHEXPERT_LABELS if self.labels is None else tuple(name.replace(" ", "_") for name in self.labels)

    def recordings(self, raw: Path | None) -> list[Recording]:
        root = listing.require_folder(raw, "MIMIC-CXR")
        paths = self._table_paths(root)
        tables = [MimicTable(path) for path in paths]
        images = next((table for table in tables if {"dicom_id", "split"} <= {*table.columns}), None)
        if images is None or not {"subject_id", "study_id"} <= {*images.columns}:
            names = ", ".join(path.name for path in paths)
            raise UserError(f"no table has dicom_id, subject_id, study_id and split ({names}): set data.source.csv")
        labels = {name: _table_with_column(tables, name) for name in self.label_names()}
        views = next((table for table in tables if _VIEW_COLUMN in table.columns), None)
        if self.views is not None and views is None:
            raise UserError(f"data.source.views needs a table with {_VIEW_COLUMN}: add it to data.source.csv")
        entries = [entry for entry in listing.list_files(root) if entry.path not in paths]
        join = _TableFileJoin(self, images, labels, views, Pseudonyms.from_file(Path(self.key_file).expanduser()))
        return listing.with_unique_names(join.recordings(entries))

    def read(self, recording: Recording, limits: Limits) -> Video:
        return read_image(recording.file, limits)

    def _table_paths(self, root: Path) -> list[Path]:
        if self.csv is not None:
            paths = [root / name for name in self.csv]
        else:
            tables = (_matching_files(folder, _TABLE_NAME) for folder in listing.folders_below(root))
            study = next((paths for paths in tables if any("split" in path.name for path in paths)), None)
            paths = study or _matching_files(root, _CSV_NAME)
            paths = [path for path in paths if path.suffix != ".gz" or path.with_suffix("") not in paths]
            if not paths or (study is None and len(paths) > 1):
                raise UserError(f"{root} holds no mimic-cxr-*-split.csv: set data.source.csv to the tables below raw")
        for path in paths:
            listing.require_inside_raw(root, path, path.name)
        return paths


class MimicTable:
    """A csv file with one row per image (dicom_id) or study (study_id)."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self.rows = read_table(path, unique=True)
        self.columns: dict[str, str] = {}
        """Column name with "_" for a space -> column name in the file."""
        for name in self.rows[0] if self.rows else ():
            self.columns.setdefault(name.replace(" ", "_"), name)
        self.key = next((name for name in ("dicom_id", "study_id") if name in self.columns), "")
        if not self.key:
            raise UserError(f"{path.name} has no column dicom_id or study_id: remove it from data.source.csv")
        self._row_by_key: dict[str, Row] = {}
        for row in self.rows:
            first = self._row_by_key.setdefault(self.cell(row, self.key), row)
            if first != row:
                lines = f"{self.name}, lines {first.line} and {row.line},"
                raise UserError(f"{lines} have the same {self.key} but different values: remove one of them")

    def cell(self, row: Row, column: str) -> str:
        """Return the cell of ``column``, which has "_" for each space in its name."""
        return row[self.columns[column]]

    def find_row(self, image: Mapping[str, str]) -> Row | None:
        """Find the first row with the dicom_id or study_id of ``image``; None if the table has no row of this image."""
        return self._row_by_key.get(image[self.key])


@dataclass(frozen=True)
class _TableFileJoin:
    """Joins the rows of the tables with the image files."""

    source: MimicCxr
    image_table: MimicTable
    label_tables: Mapping[str, MimicTable]
    view_table: MimicTable | None
    pseudonyms: Pseudonyms

    def recordings(self, entries: Sequence[RawFile]) -> list[Recording]:
        """List recordings for all rows and files, named by pseudonyms."""
        files: dict[str, list[RawFile]] = {}
        for entry in entries:
            if is_image(entry):
                files.setdefault(entry.path.stem, []).append(entry)
        listed: list[Recording] = []
        split_check = PatientSplitCheck(self.image_table.name)
        for index, row in enumerate(self.image_table.rows):
            image = {name: self.image_table.cell(row, name) for name in ("dicom_id", "study_id", "subject_id", "split")}
            if self.image_table.find_row(image) is not row:
                name = self.pseudonyms.hash_recording(f"row {index}")
                listed.append(Recording(name, "", problem="a second row for the same image", counted=False))
                continue
            recording = self._build_recording(image, files.pop(image["dicom_id"], []), row)
            split_check.add(recording, row.line)
            listed.append(recording)
        problem = f"no row in {self.image_table.name}"
        listed += [self._reject_file(entry, problem) for same_name in files.values() for entry in same_name]
        return listed + [self._reject_file(entry) for entry in entries if not is_image(entry)]

    def _build_recording(self, image: Mapping[str, str], files: Sequence[RawFile], row: Row) -> Recording:
        name = self.pseudonyms.hash_recording(f"image {image['dicom_id']}" if image["dicom_id"] else f"row {row.line}")
        if not all(_IDENTIFIER.fullmatch(image[key]) for key in ("dicom_id", "study_id", "subject_id")):
            return Recording(name, "", problem="the row has no usable dicom_id, study_id or subject_id")
        columns = self._study_columns(image)
        view = columns.get("View")
        if self.source.views is not None and view not in self.source.views:
            return Recording(name, "", problem=f"not selected: view {view or 'unknown'}", counted=False)
        patient = self.pseudonyms.hash_patient(image["subject_id"])
        split = parse_split(image["split"], row.location("split"))
        if split is None:
            return Recording(name, patient, problem=f"no split in {self.image_table.name}")
        if not files:
            return Recording(name, patient, problem=listing.MISSING_FILE_REASON, counted=not self.source.subset)
        problem = files[0].problem
        if len(files) > 1:
            problem = f"{len(files)} files have this dicom_id"
        elif (path := _IMAGE_PATH.fullmatch(files[0].relative_path)) and any(
            image[key].lstrip("ps") != number for key, number in path.groupdict().items()
        ):
            problem = f"the file is in the folder of another patient or study than {self.image_table.name} states"
        return Recording(name, patient, files[0].path, split, columns, problem)

    def _study_columns(self, image: Mapping[str, str]) -> dict[str, CellValue]:
        """Return the study columns of an image: Study, View if known, and labels."""
        columns: dict[str, CellValue] = {"Study": self.pseudonyms.hash_study(image["study_id"])}
        row = self.view_table.find_row(image) if self.view_table else None
        if self.view_table and row and (view := parse_cell(self.view_table.cell(row, _VIEW_COLUMN))):
            columns["View"] = str(view)
        policy = LabelPolicy(self.source.uncertain, self.source.missing)
        for name, table in self.label_tables.items():
            if (row := table.find_row(image)) is not None:
                label = policy.parse(table.cell(row, name), row.location(name))
                if label is not None:
                    columns[name] = label
        return columns

    def _reject_file(self, entry: RawFile, problem: str | None = None) -> Recording:
        """Reject the file ``entry`` under a pseudonym, because the path of the file identifies the patient."""
        name = self.pseudonyms.hash_recording(f"file {entry.relative_path}")
        rejected = replace(listing.reject_file(entry), name=name)
        return replace(rejected, problem=problem, counted=True) if problem and not entry.problem else rejected


def _table_with_column(tables: Iterable[MimicTable], label: str) -> MimicTable:
    """Find the first table with the column ``label``. Raises ``UserError`` if no table has this column."""
    for table in tables:
        if label in table.columns:
            return table
    available = ", ".join(f"{table.name} has {', '.join([*table.columns][:20])}" for table in tables)
    raise UserError(f"data.source.labels has {label}, but no table has this column: {available}")


def _matching_files(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    return [path for path in listing.folder_contents(folder) if pattern.fullmatch(path.name) and path.is_file()]
