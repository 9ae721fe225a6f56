"""Ingest of DICOM files keeps the ultrasound sector and removes all names of patients and hospitals."""

import csv
import os
import pickle
import stat
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.examples import get_path
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from echodream.errors import Rejected, UserError
from echodream.ingest.dicom import Dicom
from echodream.ingest.preprocessing import Preprocessing
from echodream.ingest.source import Limits, Recording
from echodream.runs.summary import Summary
from echodream.store.schema import is_valid_name
from tests.support.dicom_files import SECRETS, encapsulated, write
from tests.support.fakes import tree
from tests.support.ingesting import run_ingest

HEIGHT, WIDTH, COUNT = 150, 200, 12


def sector() -> np.ndarray:
    """Mask of a fan-shaped ultrasound sector with the apex at the top, bool (H, W)."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    down, across = rows - 10, columns - WIDTH / 2
    return np.asarray((down > 0) & (np.hypot(down, across) < 125) & (np.abs(across) < 0.8 * down))


def text() -> np.ndarray:
    """Mask of burned-in letters outside the sector: in corners, beside the sector and at the bottom, bool (H, W)."""
    where = np.zeros((HEIGHT, WIDTH), dtype=bool)
    for top, left in ((2, 2), (2, 150), (60, 4), (142, 20), (100, 188), (20, 125)):
        for letter in range(0, 40, 8):
            where[top : top + 7, left + letter : left + letter + 2] = True
            where[top + 3, left + letter : left + letter + 6] = True
    return np.asarray(where & ~sector())


def picture(colour: bool = False) -> np.ndarray:
    """Frames with speckle in the ultrasound sector and bright text outside: (F, H, W), in color (F, H, W, 3)."""
    speckle = np.random.default_rng(0).integers(20, 160, (COUNT, HEIGHT, WIDTH))
    frames = np.where(sector(), speckle, np.where(text(), 230, 0)).astype(np.uint8)
    return np.stack([frames, frames // 2, frames], axis=-1) if colour else frames


@pytest.fixture
def source(tmp_path: Path) -> Dicom:
    return Dicom(key_file=str(tmp_path / "keys" / "key"))


def _only(source: Dicom, raw: Path) -> Recording:
    (recording,) = source.recordings(raw)
    assert recording.problem is None
    return recording


def _check_sector(frames: np.ndarray, planted: np.ndarray) -> None:
    bright = frames.max(axis=-1)
    assert bright[:, text()].max() == 0
    kept = (bright > 0).any(axis=0) & sector()
    assert kept.sum() >= 0.95 * sector().sum()
    inside = np.broadcast_to(kept, bright.shape)
    np.testing.assert_array_equal(bright[inside], planted[inside])


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, DeflatedExplicitVRLittleEndian])
@pytest.mark.parametrize("colour", [False, True])
def test_the_sector_survives_and_the_text_does_not(tmp_path: Path, source: Dicom, syntax: str, colour: bool) -> None:
    write(tmp_path / "raw" / "Planted^Patient.dcm", picture(colour), syntax=syntax)
    video = source.read(_only(source, tmp_path / "raw"), Limits())
    assert video.frames.shape == (COUNT, HEIGHT, WIDTH, 3 if colour else 1)
    _check_sector(video.frames, picture())
    np.testing.assert_allclose(video.times, np.arange(COUNT) * 0.04)
    assert video.fps == 25


def test_nothing_of_patient_or_site_comes_out(tmp_path: Path, source: Dicom) -> None:
    write(tmp_path / "raw" / "a.dcm", picture())
    (tmp_path / "raw" / "Planted^Patient.txt").write_text("Planted^Patient")
    (tmp_path / "raw" / "PID4711.dcm").write_text("no DICOM")
    listed = source.recordings(tmp_path / "raw")
    video = source.read(next(recording for recording in listed if not recording.problem), Limits())
    shown = [replace(recording, path=None) for recording in listed]
    text_out = pickle.dumps((shown, replace(video, frames=video.frames[:0]))) + repr(shown).encode()
    for secret in (*SECRETS, "Planted", "4711", "1.2.3.4"):
        assert secret.encode() not in text_out
    assert all(is_valid_name(recording.name) for recording in listed)
    assert sorted((r.problem or "", r.counted) for r in listed) == [
        ("", True),
        ("not a DICOM file", False),
        ("not a DICOM file", True),
    ]


def test_pseudonyms_depend_on_the_key_alone(tmp_path: Path, source: Dicom) -> None:
    write(tmp_path / "raw" / "a.dcm", picture(), SOPInstanceUID="1.2.3")
    write(tmp_path / "raw" / "b.dcm", picture(), SOPInstanceUID="1.2.4")
    (tmp_path / "raw" / "c.dcm").write_bytes((tmp_path / "raw" / "b.dcm").read_bytes())
    write(tmp_path / "raw" / "d.dcm", picture(), SOPInstanceUID="1.2.5", PatientID="other")
    write(tmp_path / "raw" / "e.dcm", picture()[::-1], SOPInstanceUID="1.2.4")
    first, second, copy, other, again = sorted(source.recordings(tmp_path / "raw"), key=lambda entry: str(entry.path))
    assert first.patient == second.patient != other.patient
    assert len({first.name, second.name, copy.name, other.name, again.name}) == 5
    assert (copy.problem, copy.counted) == (f"a second copy of {second.name}", False)
    assert (again.problem, again.counted) == (f"another file with the SOPInstanceUID of {second.name}", True)
    assert (first.name[0], first.patient[0], len(first.name)) == ("r", "p", 17)
    assert source.recordings(tmp_path / "raw")[0] == first
    key = Path(source.key_file)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert len(key.read_bytes()) >= 16
    assert os.listdir(key.parent) == ["key"]  # noqa: PTH208
    again = Dicom(key_file=str(tmp_path / "other")).recordings(tmp_path / "raw")[0]
    assert (again.name, again.patient) != (first.name, first.patient)


def test_a_key_that_is_too_short(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"short")
    with pytest.raises(UserError, match="16"):
        Dicom(key_file=str(tmp_path / "key")).recordings(tmp_path)


def test_recordings_without_a_patient_are_grouped_by_study(tmp_path: Path, source: Dicom) -> None:
    for name in ("a", "b"):
        write(tmp_path / "raw" / name, picture(), PatientID="")
    write(tmp_path / "raw" / "c", picture(), "PatientID", StudyInstanceUID="")
    patients = [
        recording.patient for recording in sorted(source.recordings(tmp_path / "raw"), key=lambda r: str(r.path))
    ]
    assert patients[0] == patients[1] != patients[2]


def test_monochrome1_and_deep_pixels(tmp_path: Path, source: Dicom) -> None:
    write(tmp_path / "one" / "a.dcm", 255 - picture(), PhotometricInterpretation="MONOCHROME1")
    _check_sector(source.read(_only(source, tmp_path / "one"), Limits()).frames, picture())
    deep = picture().astype(np.uint16) * 16
    write(tmp_path / "two" / "a.dcm", deep + 0x8000, BitsStored=12, HighBit=11)
    frames = source.read(_only(source, tmp_path / "two"), Limits()).frames
    _check_sector(frames, np.rint(picture().astype(np.float64) * 16 * (255 / 4095)).astype(np.uint8))


def _region(kind: int, box: tuple[int, int, int, int]) -> Dataset:
    region = Dataset()
    region.RegionSpatialFormat = kind
    region.RegionLocationMinX0, region.RegionLocationMinY0, region.RegionLocationMaxX1, region.RegionLocationMaxY1 = box
    return region


def test_regions(tmp_path: Path, source: Dicom) -> None:
    frames = picture()
    frames[:, 140:, 100:] = np.random.default_rng(1).integers(0, 255, (COUNT, 10, 100))
    boxes = [_region(1, (0, 0, 199, 138)), _region(2, (0, 139, 199, 149))]
    write(tmp_path / "a" / "a.dcm", frames, SequenceOfUltrasoundRegions=boxes)
    out = source.read(_only(source, tmp_path / "a"), Limits()).frames
    assert out[:, 139:].max() == 0
    _check_sector(out, picture())
    write(tmp_path / "b" / "b.dcm", picture(), SequenceOfUltrasoundRegions=[_region(1, (84, 31, 595, 414))])
    _check_sector(source.read(_only(source, tmp_path / "b"), Limits()).frames, picture())
    write(tmp_path / "c" / "c.dcm", picture(), SequenceOfUltrasoundRegions=[_region(3, (0, 0, 199, 138))])
    with pytest.raises(Rejected, match="no 2-D image region"):
        source.read(_only(source, tmp_path / "c"), Limits())


def _two_fans() -> np.ndarray:
    """Frames with two different ultrasound sectors side by side: (F, H, 2 W)."""
    return np.concatenate([picture(), picture()[::-1, :, ::-1]], axis=2)


def test_two_regions_are_two_recordings_of_one_patient(tmp_path: Path, source: Dicom) -> None:
    boxes = [_region(1, (0, 8, WIDTH - 1, HEIGHT - 1)), _region(1, (WIDTH, 8, 2 * WIDTH - 1, HEIGHT - 1))]
    spectrum = _region(3, (0, 0, 2 * WIDTH - 1, 7))
    write(tmp_path / "raw/a.dcm", _two_fans(), SequenceOfUltrasoundRegions=[*boxes, spectrum])
    first, second = source.recordings(tmp_path / "raw")
    assert first.patient == second.patient
    assert first.name != second.name
    for recording, planted in ((first, picture()), (second, picture()[::-1, :, ::-1])):
        frames = source.read(recording, Limits()).frames[..., 0]
        fan = planted[:, 8:] * (sector() if recording is first else sector()[:, ::-1])[8:]
        assert frames.shape == (COUNT, HEIGHT - 8, WIDTH)
        kept = frames > 0
        np.testing.assert_array_equal(frames[kept], fan[kept])
        assert kept.sum() >= 0.95 * (fan > 0).sum()
    (whole,) = replace(source, keep="all").recordings(tmp_path / "raw")
    frames = replace(source, keep="all").read(whole, Limits()).frames
    np.testing.assert_array_equal(frames[..., 0], _two_fans())


def test_regions_that_overlap_are_one_recording(tmp_path: Path, source: Dicom) -> None:
    whole, color_box = (0, 0, WIDTH - 1, HEIGHT - 1), (80, 40, 120, 90)
    regions = [_region(1, whole), _region(1, color_box), _region(1, whole)]
    write(tmp_path / "raw/a.dcm", picture(), SequenceOfUltrasoundRegions=regions)
    _check_sector(source.read(_only(source, tmp_path / "raw"), Limits()).frames, picture())


def test_two_fans_are_never_half_an_image(tmp_path: Path, source: Dicom) -> None:
    write(tmp_path / "a/a.dcm", _two_fans())
    with pytest.raises(Rejected, match="two separate areas"):
        source.read(_only(source, tmp_path / "a"), Limits())
    boxes = [_region(1, (0, 8, WIDTH - 1, HEIGHT - 1)), _region(1, (WIDTH, 8, 3 * WIDTH, HEIGHT - 1))]
    write(tmp_path / "b/b.dcm", _two_fans(), SequenceOfUltrasoundRegions=boxes)
    first, second = source.recordings(tmp_path / "b")
    assert source.read(first, Limits()).frames.any()
    with pytest.raises(Rejected, match="outside the image"):
        source.read(second, Limits())


def test_the_sop_class_says_what_a_missing_modality_would(tmp_path: Path, source: Dicom) -> None:
    write(tmp_path / "raw/a.dcm", picture(), "Modality")
    write(tmp_path / "raw/b.dcm", picture(), Modality="")
    write(tmp_path / "raw/c.dcm", picture(), "Modality", "SOPClassUID")  # file meta has the class
    assert [recording.problem for recording in source.recordings(tmp_path / "raw")] == [None] * 3


def test_files_without_preamble_or_suffix_are_read(tmp_path: Path, source: Dicom) -> None:
    content = write(tmp_path / "raw/a.dcm", picture()).read_bytes()
    (tmp_path / "raw/a.dcm").unlink()
    (tmp_path / "raw/IM0001").write_bytes(content[content.index(b"\x08\0\x16\0") :])
    _check_sector(source.read(_only(source, tmp_path / "raw"), Limits()).frames, picture())


def test_an_ecg_line_does_not_pull_its_text_in(tmp_path: Path, source: Dicom) -> None:
    frames = picture()
    columns = np.arange(WIDTH)
    for index in range(COUNT):
        frames[index, 132 + np.round(2 * np.sin((columns + 9 * index) / 5)).astype(int), columns] = 200
    write(tmp_path / "raw" / "a.dcm", frames)
    out = source.read(_only(source, tmp_path / "raw"), Limits()).frames[..., 0]
    assert out[:, text()].max() == 0
    assert ((out > 0).any(axis=0) & sector()).sum() >= 0.95 * sector().sum()


def test_frame_times(tmp_path: Path, source: Dicom) -> None:
    steps = [0, *[20, 40] * 5, 20]
    write(tmp_path / "a" / "a", picture(), FrameTimeVector=steps)
    video = source.read(_only(source, tmp_path / "a"), Limits())
    np.testing.assert_allclose(video.times, np.cumsum(steps) / 1000)
    both = {"FrameTimeVector": steps, "FrameTime": "25"}
    for name, pointer, end in (("vector", 0x00181065, sum(steps) / 1000), ("uniform", 0x00181063, 11 * 0.025)):
        write(tmp_path / name / "a", picture(), FrameIncrementPointer=pointer, **both)
        assert source.read(_only(source, tmp_path / name), Limits()).times[-1] == pytest.approx(end)
    write(tmp_path / "b" / "b", picture(), "FrameTime", CineRate=50)
    assert source.read(_only(source, tmp_path / "b"), Limits()).fps == 50
    write(tmp_path / "c" / "c", picture(), FrameTime="0", RecommendedDisplayFrameRate=20)
    assert source.read(_only(source, tmp_path / "c"), Limits()).fps == 20
    write(tmp_path / "d" / "d", picture(), "FrameTime")
    recording = _only(source, tmp_path / "d")
    with pytest.raises(Rejected, match="no frame time"):
        source.read(recording, Limits())
    assert replace(source, fps=30).read(recording, Limits()).fps == 30


def test_what_is_no_recording(tmp_path: Path, source: Dicom) -> None:
    raw = tmp_path / "raw"  # the key file of pseudonyms is outside the raw folder
    raw.mkdir()
    write(raw / "a.dcm", picture()[:1], NumberOfFrames=1)
    write(raw / "b.dcm", picture(), Modality="MR")
    write(raw / "c.dcm", picture(), "NumberOfFrames")
    (raw / ".hidden").write_text("x")
    write(raw / "d.dcm", picture()).write_bytes(b"DICM")
    write(raw / "e.dcm", picture(), "Modality", SOPClassUID="1.2.840.10008.5.1.4.1.1.7")
    problems = {recording.problem: recording.counted for recording in source.recordings(raw)}
    assert problems == {
        "not a recording: a still image": False,
        "not a recording: not ultrasound": False,
        "a multi-frame file without NumberOfFrames": True,
        "neither Modality nor SOPClassUID is that of ultrasound": True,
        "not a DICOM file": True,
        "not a recording: a hidden file": False,
    }


def test_damage_and_bounds(tmp_path: Path, source: Dicom) -> None:
    path = write(tmp_path / "raw" / "a.dcm", picture())
    recording = _only(source, tmp_path / "raw")
    with pytest.raises(Rejected, match="too long"):
        source.read(recording, Limits(max_frames=5))
    with pytest.raises(Rejected, match="bytes"):
        source.read(recording, Limits(max_bytes=1000))
    whole = path.read_bytes()
    random = np.random.default_rng(2)
    for _ in range(40):
        data = bytearray(whole[: int(random.integers(200, len(whole)))])
        for place in random.integers(132, 1200, 6):
            data[min(place, len(data) - 1)] ^= 1 << int(random.integers(8))
        path.write_bytes(data)
        for entry in source.recordings(tmp_path / "raw"):
            if entry.problem is None:
                reason = _reason(source, entry)
                assert not any(secret in reason for secret in (*SECRETS, str(tmp_path), "\n"))


@pytest.mark.parametrize("kind", ["JPEG", "JPEG2000"])
def test_a_frame_that_is_larger_than_the_header_says(tmp_path: Path, source: Dicom, kind: str) -> None:
    packed = BytesIO()
    Image.new("L", (1500, 1000)).save(packed, kind)
    syntax = JPEGBaseline8Bit if kind == "JPEG" else JPEG2000Lossless
    encapsulated(write(tmp_path / "raw" / "a.dcm", picture()), [packed.getvalue()] * COUNT, syntax)
    with pytest.raises(Rejected, match="1500x1000 instead of 200x150"):
        source.read(_only(source, tmp_path / "raw"), Limits())


def _reason(source: Dicom, recording: Recording) -> str:
    try:
        source.read(recording, Limits())
    except Rejected as rejected:
        return str(rejected)
    return ""


def test_a_still_picture_has_no_sector(tmp_path: Path, source: Dicom) -> None:
    write(tmp_path / "raw" / "a.dcm", np.repeat(picture()[:1], COUNT, axis=0))
    recording = _only(source, tmp_path / "raw")
    with pytest.raises(Rejected, match="no sector"):
        source.read(recording, Limits())
    assert replace(source, keep="all").read(recording, Limits()).frames.max() > 0


def test_a_real_apical_four_chamber(tmp_path: Path, source: Dicom) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.dcm").write_bytes(Path(get_path("ybr_color")).read_bytes())
    recording = _only(source, tmp_path / "raw")
    video = source.read(recording, Limits())
    assert video.frames.shape == (30, 240, 320, 3)
    assert video.fps == pytest.approx(30, abs=0.01)
    for rows, columns in (
        (slice(0, 32), slice(0, 130)),
        (slice(0, 240), slice(301, 320)),
        (slice(210, 240), slice(0, 320)),
    ):
        assert video.frames[:, rows, columns].max() == 0
    everything = replace(source, keep="all").read(recording, Limits()).frames
    bright = np.zeros((240, 320), dtype=bool)
    bright[22:200, 60:280] = everything.max(axis=(0, 3))[22:200, 60:280] > 60
    assert video.frames.max(axis=(0, 3))[bright].astype(bool).mean() > 0.95


def test_fields() -> None:
    for fields in ({"key_file": ""}, {"key_file": "k", "keep": "most"}, {"key_file": "k", "fps": 0}):
        with pytest.raises(UserError):
            Dicom(**fields)


def test_a_region_may_end_at_the_border_of_the_image(tmp_path: Path, source: Dicom) -> None:
    whole = (50, 0, WIDTH, HEIGHT)
    write(tmp_path / "raw/a.dcm", picture(), SequenceOfUltrasoundRegions=[_region(1, whole)])
    frames = source.read(_only(source, tmp_path / "raw"), Limits()).frames
    assert not frames[:, :, :50].any()
    assert frames[:, :, 50:].any()


def _ingest(source: Dicom, raw: Path, dst: Path, max_rejected: float = 0.0) -> Summary:
    return run_ingest(dst, source, raw, prepare=Preprocessing(), max_rejected=max_rejected)


def test_a_private_list_names_the_file_of_each_pseudonym(tmp_path: Path, source: Dicom) -> None:
    raw = tmp_path / "raw"
    write(raw / "good.dcm", picture())
    path = write(raw / 'of, "Jane" Müller.dcm', picture())
    path.write_bytes(path.read_bytes()[:-40_000])
    write(raw / "mr.dcm", picture(), Modality="MR")
    summary = _ingest(source, raw, tmp_path / "store", max_rejected=0.5)
    private = Path(source.key_file).with_name("key.files.csv")
    assert str(private) in str(summary)
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    with private.open(newline="", encoding="utf-8") as file:
        rows = {Path(row["File"]).name: row for row in csv.DictReader(file)}
    assert set(rows) == {path.name for path in raw.iterdir()}
    assert rows["good.dcm"]["Reason"] == ""
    assert rows["mr.dcm"]["Reason"] == "not a recording: not ultrasound"
    assert "cut short" in rows[path.name]["Reason"]
    with (tmp_path / "store/rejected.csv").open(newline="") as file:
        assert {row["FileName"]: row["Reason"] for row in csv.DictReader(file)} == {
            row["FileName"]: row["Reason"] for row in rows.values() if row["Reason"]
        }
    for content in tree(tmp_path / "store").values():
        assert str(private).encode() not in content


def test_the_private_list_is_written_if_nothing_can_be_read(tmp_path: Path, source: Dicom) -> None:
    write(tmp_path / "raw/mr.dcm", picture(), Modality="MR")
    with pytest.raises(UserError, match="no recording that can be read"):
        _ingest(source, tmp_path / "raw", tmp_path / "store")
    assert "mr.dcm" in Path(source.key_file).with_name("key.files.csv").read_text()


def test_nothing_of_raw_folder_key_or_patient_is_in_a_dicom_store(tmp_path: Path) -> None:
    raw, key = tmp_path / "ward_DOE_JANE", tmp_path / "private_folder" / "secret.key"
    raw.mkdir()
    key.parent.mkdir()
    write(raw / "scan_of_jane.dcm", picture())
    (raw / "note_on_jane.txt").write_text("x")
    _ingest(Dicom(str(key)), raw, tmp_path / "store")
    kept = {name: content for name, content in tree(tmp_path / "store").items() if not name.endswith(".mkv")}
    assert {"dataset.json", "FileList.csv", "rejected.csv"} <= kept.keys()
    words = [str(tmp_path), raw.name, key.parent.name, key.name, "key_file", "jane", *SECRETS, "1.2.3.4"]
    for name, content in kept.items():
        for word in words:
            assert word.lower() not in (name + content.decode()).lower(), (name, word)
