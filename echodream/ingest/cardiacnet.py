"""Source of CardiacNet: apical four-chamber NIfTI recordings of two cohorts (ASD, PAH), each with a control group."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from echodream import validation
from echodream.errors import UserError
from echodream.ingest import csv_tables, listing
from echodream.ingest.csv_tables import Row
from echodream.ingest.listing import ListedRecording, RawFile
from echodream.ingest.nifti import NIFTI_SUFFIXES, read_nifti, segmentation_state
from echodream.ingest.pixels import FLIPS, ROTATIONS, check_fps, make_video, rotate_and_flip, uniform_times
from echodream.ingest.source import CellValue, Limits, PatientEvidence, Recording, Video

CLASSES = {"asd": (0, "ASD"), "nonasd": (1, "Non-ASD"), "nonpah": (2, "Non-PAH"), "pah": (3, "PAH")}
"""Lower-case letters of the name of a class folder -> class id and class name."""
COHORTS = {"cardiacnetasd": ("ASD", (0, 1)), "cardiacnetpah": ("PAH", (2, 3))}
"""Lower-case letters of the name of a cohort folder -> cohort and class ids."""
_IMAGE_OR_LABEL = re.compile(r"(?P<number>\d+)_(?P<kind>image|label)\.nii(?:\.gz)?", re.IGNORECASE)
_RESERVED_NAMES = ("FileName", "PatientID", "Split", "FPS", "ED", "ES", "NumberOfFrames", "FrameHeight", "FrameWidth")
_DEFAULT_TABLE = "recordings.csv"


@dataclass(frozen=True)
class CardiacNetRecording(ListedRecording):
    """A recording and the path ``label`` of its segmentation."""

    label: Path | None = None


@dataclass(frozen=True)
class CardiacNet:
    """Reads ``NNN_image.nii.gz`` from ``CardiacNet-ASD/{ASD,Non-ASD}`` and ``CardiacNet-PAH/{PAH,Non-PAH}``.

    ``raw`` is the folder of one cohort, or a folder that contains cohorts. An image may be in a folder
    ``NNN_image.nii``. FileName and PatientID are the class and the number of the file (``ASD-001``), because the study
    has no other identifiers. Columns: class_id, class_name, Cohort, and Label, which is the state of the segmentation
    file ``NNN_label.nii.gz``: complete, truncated or missing. Segmentations are not stored.
    """

    fps: float = 32.0
    """Frames per second if neither the table nor the NIfTI header states a frame rate."""
    rotate: int = 0
    """Rotation in degrees counter-clockwise that puts the apex at the top. At 0, image[h, w] is volume[w, h], which
    equals a rotation of the volume by 90 degrees and a flip."""
    flip: str = "none"
    """Flip after the rotation: "none", "horizontal" or "vertical"."""
    table: str | None = _DEFAULT_TABLE
    """Name of a csv in ``raw`` with FileName (``ASD-001``), PatientID and study columns. The columns Split, FPS, ED and
    ES are optional; ED and ES are in seconds, separated by spaces. The file ``recordings.csv`` may be missing."""

    def __post_init__(self) -> None:
        validation.one_of("rotate", self.rotate, ROTATIONS)
        validation.one_of("flip", self.flip, FLIPS)
        validation.frame_rate("fps", self.fps)
        if self.table is not None:
            validation.nonempty_text("table", self.table)

    def recordings(self, raw: Path | None) -> list[Recording]:
        root = listing.require_folder(raw, "CardiacNet")
        classes = _class_folders(root)
        table = self._find_table(root, {folder.parent.parent for folder in classes})
        listed = list(_list_recordings(root, classes, table))
        if table is not None:
            rows = csv_tables.read_table(table, ("FileName", "PatientID"), unique=True)
            columns = [name for name in (rows[0] if rows else ()) if name not in _RESERVED_NAMES]
            csv_tables.check_column_names(columns, table.name)
            numeric_columns = csv_tables.find_numeric_columns(rows, {name: name for name in columns})
            listed = list(_join_table(listed, rows, table.name, numeric_columns))
        return listing.with_unique_names(listed)

    def _find_table(self, root: Path, trees: Iterable[Path]) -> Path | None:
        if self.table is None:
            return None
        for folder in (root, *sorted(trees)):
            if (path := folder / self.table).is_file():
                if folder != root and folder in root.parents:
                    raise UserError(f"raw={root} is a part of {folder}, which contains {self.table}: use raw={folder}")
                listing.require_inside_raw(root, path, f"table={self.table}")
                return path
        if self.table != _DEFAULT_TABLE:
            raise UserError(f"table={self.table} does not exist in {root}: correct the name, or set table=null")
        return None

    def read(self, recording: Recording, limits: Limits) -> Video:
        assert isinstance(recording, CardiacNetRecording)
        frames, rate = read_nifti(recording.file, limits)
        frames = rotate_and_flip(frames, self.rotate, self.flip)
        fps = check_fps(recording.fps or rate or self.fps)
        columns = {"Label": segmentation_state(recording.label, recording.file)}
        return make_video(frames, uniform_times(len(frames), fps), fps, columns, recording.marks)


def _lower_case_letters(name: str) -> str:
    return re.sub("[^a-z]", "", name.casefold())


def _class_folders(root: Path) -> dict[Path, dict[str, CellValue]]:
    """Map each class folder below ``root`` to the columns of its recordings, in the order of the class ids."""
    folders: dict[int, tuple[Path, dict[str, CellValue]]] = {}
    for folder in listing.folders_below(root, 3):
        cohort, ids = COHORTS.get(_lower_case_letters(folder.name), ("", ()))
        for child in listing.subfolders(folder):
            class_id, class_name = CLASSES.get(_lower_case_letters(child.name), (-1, ""))
            if class_id not in ids:
                continue
            if class_id in folders:
                raise UserError(f"{folders[class_id][0]} and {child} are folders of class {class_name}: remove one")
            folders[class_id] = child, {"class_id": class_id, "class_name": class_name, "Cohort": cohort}
    if not folders:
        raise UserError(f"{root} holds no folder CardiacNet-{{ASD,PAH}}/{{ASD,Non-ASD,PAH,Non-PAH}}: check raw=")
    return dict(folders[class_id] for class_id in sorted(folders))


def _list_recordings(
    root: Path, classes: Mapping[Path, dict[str, CellValue]], table: Path | None
) -> Iterator[Recording]:
    unused_files = {entry.relative_path: entry for entry in listing.list_files(root) if entry.path != table}
    for folder, columns in classes.items():
        groups = _group_nifti_files(root, folder, unused_files)
        for number in sorted({number for number, _ in groups}):
            images, labels = (groups.get((number, kind), {}) for kind in ("image", "label"))
            yield from _pair_images_with_labels(f"{columns['class_name']}-{number}", columns, images, labels)
    yield from map(listing.reject_file, unused_files.values())


def _group_nifti_files(
    root: Path, class_folder: Path, unused_files: dict[str, RawFile]
) -> dict[tuple[str, str], dict[str, list[RawFile]]]:
    """Map (number, "image" or "label") to a dict, name -> files, and remove these files from ``unused_files``."""
    groups: dict[tuple[str, str], dict[str, list[RawFile]]] = {}
    for folder in listing.subfolders(class_folder):
        if match := _IMAGE_OR_LABEL.fullmatch(folder.name):
            groups.setdefault((match["number"], match["kind"].lower()), {})[folder.name] = []
    prefix = f"{class_folder.relative_to(root).as_posix()}/"
    for entry in [entry for relative, entry in unused_files.items() if relative.startswith(prefix)]:
        match = _IMAGE_OR_LABEL.fullmatch(entry.relative_path.removeprefix(prefix).split("/")[0])
        name = entry.path.name.lower()
        if match and (name.endswith(NIFTI_SUFFIXES) or entry.problem) and not name.startswith("."):
            key = match["number"], match["kind"].lower()
            groups.setdefault(key, {}).setdefault(match[0], []).append(entry)
            del unused_files[entry.relative_path]
    return groups


def _pair_images_with_labels(
    name: str,
    columns: Mapping[str, CellValue],
    images: Mapping[str, list[RawFile]],
    labels: Mapping[str, list[RawFile]],
) -> Iterator[Recording]:
    """Yield the recording ``name`` with its first image and its label; all other images of this name are rejected."""
    label = next((files[0].path for files in labels.values() if files and not files[0].problem), None)
    first: Path | None = None
    if not images:
        yield CardiacNetRecording(name, name, columns=columns, problem="a label without its image")
    for index, (entry_name, files) in enumerate(sorted(images.items())):
        path = files[0].path if files else None
        problem = files[0].problem if len(files) == 1 else f"{len(files)} NIfTI files where one is expected"
        if index:  # only the first image in the order of names is read
            is_copy = problem is None and listing.have_same_content(first, path)
            problem = f"a second copy of {name}: not read" if is_copy else f"another file for {name}: not read"
            yield Recording(f"{name}-{entry_name}", name, path, problem=problem, counted=not is_copy)
        else:
            first = None if problem else path
            yield CardiacNetRecording(name, name, path, columns=columns, problem=problem, label=label)


def _join_table(listed: Iterable[Recording], rows: Iterable[Row], table: str, numeric: set[str]) -> Iterator[Recording]:
    """Join recordings and csv rows by name; a recording or row without a match is rejected. Raises ``UserError``."""
    by_name: dict[str, Row] = {}
    for row in rows:
        if by_name.setdefault(row["FileName"], row) != row:
            lines = f"lines {by_name[row['FileName']].line} and {row.line}"
            raise UserError(f"{table} has two rows for {row['FileName']!r}, {lines}: remove one")
    for recording in listed:
        if not isinstance(recording, CardiacNetRecording):
            yield recording
        elif (matching_row := by_name.pop(recording.name, None)) is None:
            yield replace(recording, problem=recording.problem or f"no row in {table}")
        else:
            yield _add_table_row(recording, matching_row, numeric)
    yield from (Recording(name, "", problem=listing.MISSING_FILE_REASON) for name in by_name)


def _add_table_row(recording: CardiacNetRecording, row: Row, numeric: set[str]) -> Recording:
    columns = csv_tables.parse_cells(row, [name for name in row if name not in _RESERVED_NAMES]) | row.numbers(numeric)
    if different := [name for name, value in recording.columns.items() if columns.get(name, value) != value]:
        problem = recording.problem or f"{row.table} has another {different[0]} than the folder of the image"
        return replace(recording, problem=problem)
    times = {name: csv_tables.parse_seconds(row.get(name, ""), row.location(name)) for name in ("ED", "ES")}
    return replace(
        recording,
        patient=row["PatientID"],
        split=csv_tables.parse_split(row.get("Split", ""), row.location("Split")),
        columns={**recording.columns, **columns},
        problem=recording.problem or (None if row["PatientID"] else f"no PatientID in {row.table}"),
        evidence=PatientEvidence(row["PatientID"]),
        fps=row.number("FPS"),
        marks={name: marks for name, marks in times.items() if marks},
    )
