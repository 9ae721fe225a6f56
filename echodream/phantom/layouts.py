"""Writes recordings of the phantom in the file layouts of real studies, including irregular and truncated files."""

import csv
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from echodream.phantom.shape import LV
from echodream.store.video import encode_frames

if TYPE_CHECKING:
    from av import VideoStream

Row = Mapping[str, Any]
Chord = tuple[int, int, int]
"""Horizontal chord of a chamber in pixels: left x, right x, y."""
_SPLIT_BY_POSITION = ("TRAIN",) * 7 + ("VAL", "TEST", "TEST")
"""Splits of ten successive patients."""
TRACINGS_KEY = "Traced"
"""Key of the tracings in a row: [frame, chords] for ED, then for ES."""


def write_cardiacnet(root: Path, name: str, frames: np.ndarray, labels: np.ndarray, fps: float) -> Row:
    """Write one recording below ``root`` in the layout of CardiacNet, such as ``CardiacNet-PAH/PAH/007_image.nii.gz``.

    ``frames`` and ``labels`` are uint8, (F, H, W). Volumes are (W, H, F), with the frame time in the header. As in
    copies of the study, every third image file is in a folder ``NNN_image.nii``, and every fifth label is truncated.
    """
    import nibabel

    kind, _, number = name.rpartition("-")
    folder = root / f"CardiacNet-{kind.removeprefix('Non-')}" / kind
    for part, volume in (("image", frames), ("label", labels)):
        image = nibabel.Nifti1Image(np.ascontiguousarray(volume.transpose(2, 1, 0)), np.eye(4), dtype=np.uint8)
        image.header.set_zooms((1.0, 1.0, 1.0 / fps))
        image.header.set_xyzt_units(t="sec")
        wrapped = part == "image" and int(number) % 3 == 0
        path = folder / (f"{number}_{part}.nii/{number}_{part}.nii.gz" if wrapped else f"{number}_{part}.nii.gz")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}")  # nibabel derives the format from the suffix
        nibabel.save(image, temporary)
        if part == "label" and int(number) % 5 == 0:
            temporary.write_bytes(temporary.read_bytes()[:-200])
        temporary.replace(path)
    return {}


def write_cardiacnet_table(root: Path, rows: Sequence[Row]) -> None:
    """Write the patient and ground truth of each recording to ``recordings.csv``."""
    write_csv(root / "recordings.csv", list(dict.fromkeys(key for row in rows for key in row)), rows)


def write_echonet(view: str, root: Path, name: str, frames: np.ndarray, labels: np.ndarray, fps: float) -> Row:
    """Write one recording as Motion JPEG in the layout of the EchoNet studies, ``root/view/Videos/<code>.avi``.

    Returns the row of the recording, with tracings of the largest and of the smallest left ventricle.
    """
    path = root / view / "Videos" / f"{echonet_file_name(name, view)}.avi"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    _write_avi(temporary, frames, fps)
    temporary.replace(path)
    ventricle = labels == LV
    area = ventricle.sum(axis=(1, 2))
    tracings = [[int(frame), _horizontal_chords(ventricle[frame])] for frame in (area.argmax(), area.argmin())]
    header = {"FrameHeight": frames.shape[1], "FrameWidth": frames.shape[2], "FPS": fps, "NumberOfFrames": len(frames)}
    return {**header, TRACINGS_KEY: tracings}


def write_echonet_dynamic_tables(root: Path, rows: Sequence[Row]) -> None:
    """Write ``FileList.csv`` (names without .avi) and ``VolumeTracings.csv`` (chords, names with .avi).

    Of ten patients, seven are in TRAIN, one in VAL and two in TEST. As in the study, the tables do not name patients.
    Every fifth recording has no tracing.
    """
    listed, traced = [], []
    for index, (row, position) in enumerate(zip(rows, _patient_positions(rows), strict=True)):
        name = echonet_file_name(row["FileName"], "")
        volume = 0.85 * row["LVArea_ED"] ** 1.5  # approximate volume in ml for this area
        volumes = {"EF": row["EF"], "ESV": round(volume * (1 - row["EF"] / 100), 3), "EDV": round(volume, 3)}
        header = {key: row[key] for key in ("FrameHeight", "FrameWidth", "FPS", "NumberOfFrames")}
        listed.append({"FileName": name, **volumes, **header, "Split": _SPLIT_BY_POSITION[position]})
        for frame, chords in row[TRACINGS_KEY] if index % 5 else ():
            traced += [
                {"FileName": f"{name}.avi", "X1": a, "Y1": y, "X2": b, "Y2": y, "Frame": frame} for a, b, y in chords
            ]
    write_csv(root / "FileList.csv", list(listed[0]), listed)
    write_csv(root / "VolumeTracings.csv", ["FileName", "X1", "Y1", "X2", "Y2", "Frame"], traced)


def write_echonet_pediatric_tables(view: str, root: Path, rows: Sequence[Row]) -> None:
    """Write ``FileList.csv`` (names with .avi, folds instead of splits) and ``VolumeTracings.csv`` (outlines).

    Every fifth recording has text instead of the number of its systolic frame.
    """
    listed, traced = [], []
    for index, (row, position) in enumerate(zip(rows, _patient_positions(rows), strict=True)):
        name = f"{echonet_file_name(row['FileName'], view)}.avi"
        age = 1 + position
        child = {"Sex": "FM"[index % 2], "Age": age, "Weight": 8 + 3 * age, "Height": 75 + 6 * age}
        listed.append({"FileName": name, "EF": row["EF"], **child, "Split": position})
        for phase, (frame, chords) in zip(("Diastolic", "Systolic"), row[TRACINGS_KEY], strict=True):
            outline = [(a, y) for a, _, y in chords] + [(b, y) for _, b, y in reversed(chords)]
            if index % 5 == 0 and phase == "Systolic":
                frame, outline = "No Systolic", outline[:1]
            traced += [{"FileName": name, "X": x, "Y": y, "Frame": frame} for x, y in outline]
    write_csv(root / view / "FileList.csv", list(listed[0]), listed)
    write_csv(root / view / "VolumeTracings.csv", ["FileName", "X", "Y", "Frame"], traced)


def echonet_file_name(name: str, view: str) -> str:
    """Return a file name without suffix in the style of EchoNet-Pediatric, or of EchoNet-Dynamic if ``view`` is ""."""
    digits = hashlib.sha256(name.encode()).hexdigest()
    if not view:
        return f"0X{digits[:16].upper()}"
    return f"CR{digits[:7]}-CR{digits[7:14]}-{int(digits[14:18], 16):06d}"


def _patient_positions(rows: Iterable[Row]) -> list[int]:
    """Number the patients of ``rows`` in order of appearance, modulo 10."""
    positions: dict[str, int] = {}
    return [positions.setdefault(row["PatientID"], len(positions)) % 10 for row in rows]


def _horizontal_chords(mask: np.ndarray) -> list[Chord]:
    """Find the chord of ``mask``, bool (H, W), in each pixel row of the mask, from top to bottom."""
    rows = ((int(y), np.flatnonzero(mask[y])) for y in np.flatnonzero(mask.any(axis=1)))
    return [(int(columns[0]), int(columns[-1]) + 1, y) for y, columns in rows]


def _write_avi(path: Path, frames: np.ndarray, fps: float) -> None:
    import av

    with av.open(str(path), "w", format="avi", options={"fflags": "+bitexact"}) as container:
        stream = cast("VideoStream", container.add_stream("mjpeg", rate=Fraction(fps).limit_denominator(1001)))
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuvj420p"
        stream.codec_context.thread_count = 1
        stream.bit_rate = 4_000_000
        encode_frames(container, stream, frames, "gray")


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    """Write ``rows`` to a csv file with the header ``columns``."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


RecordingWriter = Callable[[Path, str, np.ndarray, np.ndarray, float], Row]
LAYOUTS: dict[str, tuple[RecordingWriter, Callable[[Path, Sequence[Row]], None]]] = {
    "cardiacnet": (write_cardiacnet, write_cardiacnet_table),
    "echonet_dynamic": (partial(write_echonet, ""), write_echonet_dynamic_tables),
    "echonet_pediatric_a4c": (partial(write_echonet, "A4C"), partial(write_echonet_pediatric_tables, "A4C")),
    "echonet_pediatric_psax": (partial(write_echonet, "PSAX"), partial(write_echonet_pediatric_tables, "PSAX")),
}
"""Layout -> (function that writes a recording and returns its row, function that writes the tables of all recordings).

The layout of the parasternal view (PSAX) contains apical images, because the phantom has no other view.
"""
