"""Ingest of the EchoNet-Dynamic and EchoNet-Pediatric datasets."""

from pathlib import Path

import numpy as np
import pytest

from echodream.errors import UserError
from echodream.ingest.echonet import EchoNetDynamic, EchoNetPediatric
from echodream.ingest.source import Limits
from tests.support.raw_files import moving, write_csv, write_video


def _chords(name: str, frame: int, half: float) -> list[dict[str, object]]:
    return [
        {"FileName": name, "X1": 30 - half, "Y1": y, "X2": 30 + half, "Y2": y, "Frame": frame} for y in range(10, 30, 4)
    ]


@pytest.fixture
def dynamic(tmp_path: Path) -> Path:
    root = tmp_path / "EchoNet-Dynamic"
    for name in ("0XA", "0XB", "0XC"):
        write_video(root / "Videos" / f"{name}.avi", moving(12), rate=50, codec="mjpeg", pix_fmt="yuvj420p")
    rows = [
        {"FileName": "0XA", "EF": 55.5, "ESV": 40, "EDV": 90, "FPS": 50, "NumberOfFrames": 12, "Split": "TRAIN"},
        {"FileName": "0XB", "EF": "", "ESV": 40, "EDV": "nan", "FPS": 50, "NumberOfFrames": 12, "Split": "VAL"},
        {"FileName": "0XD", "EF": 50, "ESV": 40, "EDV": 90, "FPS": 50, "NumberOfFrames": 12, "Split": "TEST"},
        {"FileName": "0XA", "EF": 55.5, "ESV": 40, "EDV": 90, "FPS": 50, "NumberOfFrames": 12, "Split": "TRAIN"},
        {"FileName": "../0XC", "EF": 55.5, "ESV": 40, "EDV": 90, "FPS": 50, "NumberOfFrames": 12, "Split": "TRAIN"},
    ]
    write_csv(root / "FileList.csv", rows)
    tracings = _chords("0XA.avi", 3, 5) + _chords("0XA.avi", 10, 12) + _chords("0XB.avi", 3, 5)
    write_csv(root / "VolumeTracings.csv", tracings)
    return tmp_path


@pytest.mark.parametrize("below", ["", "EchoNet-Dynamic"])
def test_dynamic(dynamic: Path, below: str) -> None:
    source = EchoNetDynamic()
    found = {recording.name: recording for recording in source.recordings(dynamic / below)}
    first, second = found["0XA"], found["0XB"]
    assert (first.patient, first.split, first.problem) == ("0XA", "TRAIN", None)
    assert first.columns == {"EF": 55.5, "ESV": 40, "EDV": 90, "View": "A4C"}
    assert second.columns == {"ESV": 40, "View": "A4C"}
    assert found["0XD"].problem == "no such file in the raw folder"
    problems = sorted(recording.problem or "" for recording in found.values())
    assert problems.count("no row in FileList.csv") == 1
    again = found["0XA-line-5"]
    assert (again.problem, again.counted) == ("a second row for the same file", False)
    video = source.read(first, Limits())
    assert len(video.frames) == 12
    assert video.marks == {"ED": (pytest.approx(0.2),), "ES": (pytest.approx(0.06),)}
    assert source.read(second, Limits()).marks == {}


def test_dynamic_refuses_other_folders(tmp_path: Path, dynamic: Path) -> None:
    with pytest.raises(UserError, match="raw="):
        EchoNetDynamic().recordings(None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"FileList\.csv"):
        EchoNetDynamic().recordings(tmp_path / "empty")
    path = dynamic / "EchoNet-Dynamic" / "FileList.csv"
    path.write_text(path.read_text().replace("VAL", "dog"))
    with pytest.raises(UserError, match="'dog'"):
        EchoNetDynamic().recordings(dynamic)


@pytest.fixture
def pediatric(tmp_path: Path) -> Path:
    for view in ("A4C", "PSAX"):
        home = tmp_path / "pediatric_echo_avi" / view
        for name in ("CR1-1-000001", "CR1-2-000002"):
            write_video(home / "Videos" / f"{name}.avi", moving(8), rate=30, codec="mjpeg", pix_fmt="yuvj420p")
        rows: list[dict[str, object]] = [
            {"FileName": f"{name}.avi", "EF": 61, "Sex": "F", "Age": 12, "Weight": 40, "Height": "150.5", "Split": fold}
            for name, fold in (("CR1-1-000001", 7), ("CR1-2-000002", 9))
        ]
        write_csv(home / "FileList.csv", rows)
        square = [(10, 10), (30, 10), (30, 30), (10, 30)]
        tracings = [{"FileName": "CR1-1-000001.avi", "X": x, "Y": y, "Frame": 5} for x, y in square]
        tracings += [{"FileName": "CR1-1-000001.avi", "X": x / 2, "Y": y / 2, "Frame": 1} for x, y in square]
        tracings += [{"FileName": "CR1-2-000002.avi", "X": 1, "Y": 1, "Frame": "No Systolic"}]
        write_csv(home / "VolumeTracings.csv", tracings)
    return tmp_path


@pytest.mark.parametrize(
    ("below", "view"), [("", "A4C"), ("pediatric_echo_avi", "PSAX"), ("pediatric_echo_avi/PSAX", "PSAX")]
)
def test_pediatric(pediatric: Path, below: str, view: str) -> None:
    source = EchoNetPediatric(view=view)
    first, second = source.recordings(pediatric / below)
    assert (first.name, first.patient, first.split, first.problem) == ("CR1-1-000001", "CR1-1-000001", "TRAIN", None)
    assert first.columns == {"EF": 61, "Sex": "F", "Age": 12, "Weight": 40, "Height": 150.5, "View": view}
    assert second.split == "TEST"
    assert first.path is not None
    assert f"/{view}/" in str(first.path)
    video = source.read(first, Limits())
    np.testing.assert_allclose(video.marks["ED"], [5 / 30], atol=1e-6)
    np.testing.assert_allclose(video.marks["ES"], [1 / 30], atol=1e-6)
    assert source.read(second, Limits()).marks == {}


def test_pediatric_folds(pediatric: Path) -> None:
    splits = [r.split for r in EchoNetPediatric(val_folds=(9,), test_folds=(7,)).recordings(pediatric)]
    assert splits == ["TEST", "VAL"]
    for fields in ({"view": "PLAX"}, {"val_folds": (9,)}, {"val_folds": (10,)}, {"val_folds": 8}):
        with pytest.raises(UserError):
            EchoNetPediatric(**fields)
    path = pediatric / "pediatric_echo_avi" / "A4C" / "FileList.csv"
    path.write_text(path.read_text().replace(",7\n", ",dog\n"))
    with pytest.raises(UserError, match="'dog'"):
        EchoNetPediatric().recordings(pediatric)


@pytest.mark.parametrize("name", ["FileList.csv", "VolumeTracings.csv"])
def test_tables_that_leave_the_raw_folder_are_not_read(
    dynamic: Path, tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    table = next(dynamic.rglob(name))
    outside = tmp_path_factory.mktemp("outside") / name
    table.rename(outside)
    table.symlink_to(outside)
    with pytest.raises(UserError, match=f"^{name} is outside the raw folder: copy it into this folder$"):
        EchoNetDynamic().recordings(dynamic)


def test_names_in_another_case_and_rows_that_contradict(tmp_path: Path) -> None:
    for name in ("0X1.AVI", "0X2.avi", "0Xa.avi", "0XA.avi"):
        (tmp_path / "Videos").mkdir(exist_ok=True)
        (tmp_path / "Videos" / name).write_bytes(b"x")
    head, row = "FileName;EF;ESV;EDV;Split\n\n", ";55,5;40;90;TRAIN\n"
    rows = "".join(f"{name}{row}" for name in ("0X1", "0x2.AVI", "0Xa", "0XA.avi"))
    (tmp_path / "FileList.csv").write_text(head + rows)
    (tmp_path / "VolumeTracings.csv").write_text("FileName,X1,Y1,X2,Y2,Frame\n0x2,1,1,5,1,3\n0x2,1,1,9,1,7\n")
    found = EchoNetDynamic().recordings(tmp_path)
    assert [(r.file.name, r.problem, r.columns["EF"]) for r in found] == [
        (name, None, 55.5) for name in ("0X1.AVI", "0X2.avi", "0Xa.avi", "0XA.avi")
    ]
    assert [r.name for r in found][:2] == ["0X1", "0X2"]
    assert found[1].mark_frames == {"ED": (7,), "ES": (3,)}  # type: ignore[attr-defined]
    (tmp_path / "FileList.csv").write_text(head + f"0X1{row}0x1.avi{row.replace('55,5', '56,5')}")
    with pytest.raises(UserError, match=r"^FileList.csv, lines 3 and 4: two rows of 0X1 have different values"):
        EchoNetDynamic().recordings(tmp_path)


@pytest.mark.parametrize(
    ("table", "old", "new", "message"),
    [
        ("FileList.csv", "55.5", "55 %", r"^FileList.csv, line 2, column EF: '55 %' is not a number"),
        ("VolumeTracings.csv", ",3\n", ",3.5\n", r"^VolumeTracings.csv, line 2, column Frame has the frame '3.5'"),
        ("VolumeTracings.csv", ",3\n", ",x\n", r"^VolumeTracings.csv, line 2, column Frame: 'x' is not a number"),
        ("VolumeTracings.csv", "25,10", "y,10", r"^VolumeTracings.csv, line 2, column X1: 'y' is not a number"),
    ],
)
def test_a_cell_that_is_no_number(dynamic: Path, table: str, old: str, new: str, message: str) -> None:
    path = dynamic / "EchoNet-Dynamic" / table
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(UserError, match=message):
        EchoNetDynamic().recordings(dynamic)
