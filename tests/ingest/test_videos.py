"""Ingest of a folder of videos, with and without a csv table."""

import pickle
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from echodream.errors import UserError
from echodream.ingest.source import Limits, Recording
from echodream.ingest.videos import Videos
from echodream.store.schema import is_valid_name
from tests.support.raw_files import moving, write_csv, write_video

COLUMNS = {"FileName": "file", "PatientID": "patient", "class_name": "label", "Split": "part", "Probe": "probe"}
ROW = {"file": "a.mp4", "patient": "7", "label": "sick", "part": "train", "probe": "convex", "secret": "Jane Doe"}


def _touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return root


def _by_name(source: Videos, root: Path) -> dict[str, Recording]:
    listed = source.recordings(root)
    assert all(is_valid_name(recording.name) for recording in listed)
    found = {recording.name: recording for recording in listed}
    assert len(found) == len(listed)
    return found


def test_every_file_is_a_recording_or_has_its_reason(tmp_path: Path) -> None:
    root = _touch(tmp_path, "a.mp4", "sub/b.AVI", "c.gif", "notes.txt", "labels.csv", ".DS_Store", "one1.png", "x.png")
    _touch(tmp_path, "README", "s.dcm", ".b.mp4", "._b.mp4", ".thumbs/a.txt", ".lost/a.mp4", "Table.XLSX")
    (tmp_path / "volume.bin").write_bytes(bytes(range(256)))
    found = _by_name(Videos(), root)
    assert [name for name, recording in found.items() if recording.problem is None] == ["a", "c", "b"]
    problems = {(r.path.name, r.problem, r.counted) for r in found.values() if r.problem and r.path}
    alone = "an image outside a numbered sequence: number the frames, or use data=images"
    assert problems == {
        ("notes.txt", "not a recording: .txt", False),
        ("labels.csv", "not a recording: .csv", False),
        ("Table.XLSX", "not a recording: .xlsx", False),
        ("README", "not a recording: no suffix", False),
        (".DS_Store", "not a recording: a hidden file", False),
        ("._b.mp4", "not a recording: a hidden file", False),
        (".thumbs", "not a recording: a hidden folder", False),
        (".b.mp4", "a hidden file", True),
        (".lost", "a hidden folder", True),
        ("s.dcm", "not read by this study: .dcm", True),
        ("volume.bin", "not read by this study: .bin", True),
        ("one1.png", alone, True),
        ("x.png", alone, True),
    }
    assert _by_name(Videos(), root) == found


@pytest.mark.parametrize(
    "names",
    [
        "frame ({}).png",
        "frame_{}.png",
        "{}-img.png",
        "IMG_{}.PNG",
        "{}.png",
        "p7_{}_v3.png",
        "2024-01-31 frame {} of 12.png",
        "frame ({}) - copy.png",
        "scan_{:03d}_640x480.png",
        "ü [{}] #2.png",
    ],
)
def test_images_whose_names_differ_in_one_number_are_a_recording(tmp_path: Path, names: str) -> None:
    for index, frame in enumerate(moving(12), 1):
        Image.fromarray(frame).save(tmp_path / names.format(index))
    (recording,) = Videos().recordings(tmp_path)
    np.testing.assert_array_equal(Videos().read(recording, Limits()).frames[..., 0], moving(12))


def test_the_last_number_that_differs_counts_the_frames(tmp_path: Path) -> None:
    for patient in (1, 2):
        for index, frame in enumerate(moving(4)):
            Image.fromarray(np.roll(frame, patient)).save(tmp_path / f"p{patient} ({index}) x2.png")
    Image.fromarray(moving()[0]).save(tmp_path / "p3 (9) x2.png")
    found = _by_name(Videos(), tmp_path)
    read = {name: r for name, r in found.items() if r.problem is None}
    assert [r.counted for r in found.values()] == [True] * 3
    assert len(read) == 2
    for patient, recording in enumerate(read.values(), 1):
        frames = Videos().read(recording, Limits()).frames[..., 0]
        np.testing.assert_array_equal(frames, np.stack([np.roll(frame, patient) for frame in moving(4)]))


def test_names_keep_their_folder_where_two_files_share_one(tmp_path: Path) -> None:
    root = _touch(tmp_path, "p1/a.mp4", "p2/a.mp4", "p2/a.avi", "p2/b.mp4")
    assert list(_by_name(Videos(), root)) == ["p1-a.mp4", "p2-a.avi", "p2-a.mp4", "b"]


@pytest.mark.parametrize(
    ("patient_from", "patients"),
    [(None, ["a", "b", "c"]), ("file", ["a", "b", "c"]), ("folder", ["p1", "p1", "p2"]), ("all", ["all"] * 3)],
)
def test_what_a_patient_is(tmp_path: Path, patient_from: str | None, patients: list[str]) -> None:
    root = _touch(tmp_path, "p1/a.mp4", "p1/b.mp4", "p2/c.mp4")
    assert [recording.patient for recording in Videos(patient_from=patient_from).recordings(root)] == patients


def test_a_csv_says_what_a_file_is(tmp_path: Path) -> None:
    root = _touch(tmp_path, "clips/a.mp4", "clips/b.mp4")
    write_csv(root / "labels.csv", [ROW, {**ROW, "file": "clips/b.mp4", "patient": "8", "label": "well", "part": ""}])
    found = _by_name(Videos(csv="labels.csv", columns=COLUMNS, classes=("well", "sick")), root)
    a, b = found["a"], found["b"]
    assert (a.patient, a.split, dict(a.columns)) == (
        "7",
        "TRAIN",
        {"class_name": "sick", "Probe": "convex", "class_id": 1},
    )
    assert (b.patient, b.split, b.columns["class_id"]) == ("8", None, 0)
    assert "Jane" not in repr(found)


@pytest.mark.parametrize("name", ["a", "a.mp4", "clips/a", "clips/a.mp4", "clips\\a.mp4"])
def test_a_row_finds_its_file_by_path_or_name_with_or_without_suffix(tmp_path: Path, name: str) -> None:
    write_csv(_touch(tmp_path, "clips/a.mp4") / "l.csv", [{**ROW, "file": name}])
    assert _by_name(Videos(csv="l.csv", columns=COLUMNS), tmp_path)["a"].problem is None


def test_accents_of_macos_and_of_other_systems_are_the_same(tmp_path: Path) -> None:
    names = [unicodedata.normalize(form, "Müller") for form in ("NFC", "NFD")]
    _touch(tmp_path, *(f"{name}_{number}.avi" for number, name in enumerate(names)))
    rows = [{"FileName": f"{name}_{1 - number}.avi", "Site": name} for number, name in enumerate(names)]
    write_csv(tmp_path / "t.csv", rows)
    found = Videos(csv="t.csv", columns={"FileName": "FileName", "Site": "Site"}).recordings(tmp_path)
    videos = [recording for recording in found if recording.file and recording.file.suffix == ".avi"]
    assert [recording.problem for recording in videos] == [None, None]
    assert {recording.columns["Site"] for recording in videos} == {names[0]}


def test_rows_and_files_that_do_not_pair(tmp_path: Path) -> None:
    root = _touch(tmp_path, "a.mp4", "b.mp4", "c.mp4", "d/x.mp4", "e/x.mp4", "f.mp4")
    rows = [ROW, ROW, {**ROW, "file": "gone.mp4"}]
    rows += [{**ROW, "file": "x.mp4"}, {**ROW, "file": ""}, {**ROW, "file": "f.mp4", "patient": ""}]
    write_csv(root / "l.csv", rows)
    found = _by_name(Videos(csv="l.csv", columns=COLUMNS), root)
    problems = {name: recording.problem for name, recording in found.items() if recording.counted}
    assert found["a.mp4-line-3"].problem == "a second row for the same file: the first row is used"
    assert not found["a.mp4-line-3"].counted
    assert problems.pop("a") is None
    assert problems.pop("gone.mp4") == "no such file in the raw folder"
    assert (
        problems.pop("b")
        == problems.pop("c")
        == problems.pop("d-x.mp4")
        == problems.pop("e-x.mp4")
        == "no row in l.csv"
    )
    assert problems.pop("x.mp4") == "2 files have this name: give the path"
    assert problems.pop("row-6") == "the row names no file"
    assert problems.pop("f") == "no PatientID in the csv"
    assert not problems


def test_two_rows_of_one_file_with_different_values_are_refused(tmp_path: Path) -> None:
    write_csv(_touch(tmp_path, "a.mp4", "b.mp4") / "l.csv", [ROW, {**ROW, "file": "b"}, {**ROW, "patient": "other"}])
    with pytest.raises(UserError, match=r"^l.csv, lines 2 and 4: two rows of one file have different values") as error:
        Videos(csv="l.csv", columns=COLUMNS).recordings(tmp_path)
    assert "other" not in str(error.value)


@pytest.mark.parametrize("name", ["../out.mp4", "/etc/passwd", "clips/../../out.mp4", "C:\\out.mp4", "..\\out.mp4"])
def test_paths_that_leave_the_raw_folder(tmp_path: Path, name: str) -> None:
    _touch(tmp_path, "out.mp4", "raw/a.mp4")
    write_csv(tmp_path / "raw" / "l.csv", [ROW, {**ROW, "file": name}])
    found = Videos(csv="l.csv", columns=COLUMNS).recordings(tmp_path / "raw")
    assert [recording.problem for recording in found if recording.path is None] == ["is outside the raw folder"]


def test_links_that_leave_the_raw_folder_are_never_opened(tmp_path: Path) -> None:
    _touch(tmp_path, "out/o.mp4", "raw/a.mp4")
    raw = tmp_path / "raw"
    (raw / "link.mp4").symlink_to(tmp_path / "out" / "o.mp4")
    (raw / "linked").symlink_to(tmp_path / "out")
    (raw / "again.mp4").symlink_to(raw / "a.mp4")
    (raw / "nowhere.mp4").symlink_to(raw / "gone")
    (raw / "loop.mp4").symlink_to(raw / "loop.mp4")
    problems = {name: recording.problem for name, recording in _by_name(Videos(), raw).items()}
    assert problems["link"] == problems["linked"] == "is outside the raw folder"
    assert problems["again"] is problems["a"] is None
    assert problems["nowhere"] == "a link to a missing file"
    assert problems["loop"]


def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    import os

    _touch(tmp_path, "a.mp4")
    os.mkfifo(tmp_path / "pipe.mp4")
    assert _by_name(Videos(), tmp_path)["pipe"].problem == "not a regular file"


def test_image_sequences_are_one_recording_each(tmp_path: Path) -> None:
    for folder, suffix in (("p/frames", "png"), ("q", "jpg"), (".", "bmp")):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for index, frame in enumerate(moving(11)):
            Image.fromarray(frame).save(tmp_path / folder / f"frame_{index}.{suffix}")
    Image.fromarray(moving()[0]).save(tmp_path / "q" / "other_1.png")
    Image.fromarray(moving()[0]).save(tmp_path / "q" / "other_2.png")
    source = Videos(image_fps=20, patient_from="folder")
    found = {name: recording for name, recording in _by_name(source, tmp_path).items() if recording.problem is None}
    assert set(found) == {tmp_path.name, "frames", "frame_", "other_"}
    video = source.read(found["frames"], Limits())
    np.testing.assert_array_equal(video.frames[..., 0], moving(11))
    assert video.fps == 20
    assert found["frames"].patient == "p"


def test_reading_by_kind_and_a_rate_from_the_csv(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", moving())
    frames = [Image.fromarray(frame) for frame in moving(5)]
    frames[0].save(tmp_path / "b.gif", save_all=True, append_images=frames[1:], duration=40)
    write_csv(tmp_path / "l.csv", [{"f": "a.mp4", "rate": "50"}, {"f": "b.gif", "rate": ""}])
    source = Videos(csv="l.csv", columns={"FileName": "f", "FPS": "rate"})
    a, b, _ = pickle.loads(pickle.dumps(source.recordings(tmp_path)))  # noqa: S301
    assert source.read(a, Limits()).fps == 50
    assert source.read(b, Limits()).fps == pytest.approx(25)
    assert "FPS" not in a.columns


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"columns": {}}, "FileName"),
        ({"columns": {"FileName": "f", "bad name": "x"}}, "'bad name'"),
        ({"columns": {"FileName": "f", "FrameWidth": "x"}}, "'FrameWidth'"),
        ({"patient_from": "dog"}, "'dog'"),
        ({"patient_from": "csv"}, "csv="),
        ({"classes": ("a", "a"), "csv": "l.csv"}, "twice"),
        ({"classes": ("a",)}, "class_name"),
        ({"image_fps": 0}, "image_fps"),
        ({"image_fps": "fast"}, "image_fps"),
        ({"classes": "abc", "csv": "l.csv"}, "list"),
        ({"columns": ["FileName"]}, "mapping"),
    ],
)
def test_bad_fields_are_refused_at_birth(fields: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Videos(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("row", "source", "message"),
    [
        ({"label": "odd"}, Videos(csv="l.csv", columns=COLUMNS, classes=("sick",)), "'odd'.*sick"),
        ({"part": "fold"}, Videos(csv="l.csv", columns=COLUMNS), "'fold'"),
        ({}, Videos(csv="gone.csv", columns=COLUMNS), "gone.csv"),
        ({}, Videos(csv="../l.csv", columns=COLUMNS), "outside"),
        ({}, Videos(csv="l.csv", columns={**COLUMNS, "EF": "ejection"}), "'ejection'"),
        ({"probe": "fast"}, Videos(csv="l.csv", columns={"FileName": "file", "FPS": "probe"}), "'fast'"),
    ],
)
def test_a_csv_that_is_not_as_asked(tmp_path: Path, row: dict[str, str], source: Videos, message: str) -> None:
    write_csv(_touch(tmp_path, "a.mp4") / "l.csv", [{**ROW, **row}])
    with pytest.raises(UserError, match=message):
        source.recordings(tmp_path)


def test_no_study_at_all(tmp_path: Path) -> None:
    for raw in (None, tmp_path / "gone", tmp_path):
        with pytest.raises(UserError):
            Videos().recordings(raw)


def test_semicolons_and_a_byte_order_mark(tmp_path: Path) -> None:
    _touch(tmp_path, "a.mp4")
    (tmp_path / "l.csv").write_text("\ufefffile;EF\na;55,5\n", encoding="utf-8")
    assert _by_name(Videos(csv="l.csv", columns={"FileName": "file", "EF": "EF"}), tmp_path)["a"].columns == {
        "EF": 55.5
    }
