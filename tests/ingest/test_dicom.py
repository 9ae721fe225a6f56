"""DICOM: the sector comes out, and nothing that names a patient or a site."""

import os
import pickle
import stat
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.examples import get_path
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
    generate_uid,
)

from echodream.errors import Rejected, UserError
from echodream.ingest.dicom import Dicom
from echodream.ingest.preprocessing import Preprocessing
from echodream.ingest.source import Limits, Recording
from echodream.ingest.split import SplitRatios
from echodream.stages.ingest import ingest
from echodream.store.schema import is_valid_name
from tests.support.fakes import tree

HEIGHT, WIDTH, COUNT = 150, 200, 12
SECRETS = ("Planted^Patient", "PID4711", "Planted Hospital", "Dr^Planted", "SN0815")


def sector() -> np.ndarray:
    """A fan with its apex on top, as bool (H, W)."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    down, across = rows - 10, columns - WIDTH / 2
    return np.asarray((down > 0) & (np.hypot(down, across) < 125) & (np.abs(across) < 0.8 * down))


def text() -> np.ndarray:
    """Where letters are burned in: corners, a line at the bottom, beside the fan."""
    where = np.zeros((HEIGHT, WIDTH), dtype=bool)
    for top, left in ((2, 2), (2, 150), (60, 4), (142, 20), (100, 188), (20, 125)):
        for letter in range(0, 40, 8):
            where[top : top + 7, left + letter : left + letter + 2] = True
            where[top + 3, left + letter : left + letter + 6] = True
    return np.asarray(where & ~sector())


def picture(colour: bool = False) -> np.ndarray:
    """Speckle in the fan, bright text outside: (F, H, W) or (F, H, W, 3)."""
    speckle = np.random.default_rng(0).integers(20, 160, (COUNT, HEIGHT, WIDTH))
    frames = np.where(sector(), speckle, np.where(text(), 230, 0)).astype(np.uint8)
    return np.stack([frames, frames // 2, frames], axis=-1) if colour else frames


def write(path: Path, frames: np.ndarray, *drop: str, syntax: str = ExplicitVRLittleEndian, **tags: object) -> Path:
    """An ultrasound file of ``frames`` with planted names; ``tags`` replace and ``drop`` removes elements."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.3.1")
    meta.MediaStorageSOPInstanceUID = generate_uid()
    data = FileDataset(str(path), Dataset(), file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.PatientName, data.PatientID, data.InstitutionName, data.ReferringPhysicianName, data.DeviceSerialNumber = (
        SECRETS
    )
    data.Modality, data.StudyInstanceUID, data.FrameTime = "US", "1.2.3.4", "40"
    data.NumberOfFrames, data.Rows, data.Columns = frames.shape[:3]
    data.SamplesPerPixel = 3 if frames.ndim == 4 else 1
    data.PhotometricInterpretation = "RGB" if frames.ndim == 4 else "MONOCHROME2"
    if frames.ndim == 4:
        data.PlanarConfiguration = 0
    data.BitsAllocated = data.BitsStored = 8 * frames.itemsize
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, 0
    data.PixelData = frames.tobytes()
    for name, value in tags.items():
        setattr(data, name, value)
    for name in drop:
        delattr(data, name)
    if syntax == RLELossless:
        data.compress(RLELossless)
    meta.TransferSyntaxUID = UID(syntax)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path)
    return path


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
    write(tmp_path / "raw" / "c.dcm", picture(), SOPInstanceUID="1.2.4")
    write(tmp_path / "raw" / "d.dcm", picture(), SOPInstanceUID="1.2.5", PatientID="other")
    first, second, copy, other = sorted(source.recordings(tmp_path / "raw"), key=lambda entry: str(entry.path))
    assert first.patient == second.patient != other.patient
    assert len({first.name, second.name, copy.name, other.name}) == 4
    assert copy.problem == f"a second copy of {second.name}"
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
    _check_sector(frames, np.rint(picture().astype(np.float64) * (255 / 230)).astype(np.uint8))


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
    write(tmp_path / "a.dcm", picture()[:1], NumberOfFrames=1)
    write(tmp_path / "b.dcm", picture(), Modality="MR")
    write(tmp_path / "c.dcm", picture(), "NumberOfFrames")
    (tmp_path / ".hidden").write_text("x")
    write(tmp_path / "d.dcm", picture()).write_bytes(b"DICM")
    problems = {recording.problem: recording.counted for recording in source.recordings(tmp_path)}
    assert problems == {
        "not a recording: a still image": False,
        "not a recording: not ultrasound": False,
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
    data = dcmread(write(tmp_path / "raw" / "a.dcm", picture()))
    data.PixelData = encapsulate([packed.getvalue()] * COUNT)
    data["PixelData"].is_undefined_length = True
    data.file_meta.TransferSyntaxUID = JPEGBaseline8Bit if kind == "JPEG" else JPEG2000Lossless
    data.save_as(tmp_path / "raw" / "a.dcm")
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


def test_nothing_of_raw_folder_key_or_patient_is_in_a_dicom_store(tmp_path: Path) -> None:
    raw, key = tmp_path / "ward_DOE_JANE", tmp_path / "private_folder" / "secret.key"
    raw.mkdir()
    key.parent.mkdir()
    write(raw / "scan_of_jane.dcm", picture())
    (raw / "note_on_jane.txt").write_text("x")
    ingest(
        source=Dicom(str(key)),
        prepare=Preprocessing(),
        split=SplitRatios(),
        limits=Limits(),
        raw=str(raw),
        dst=str(tmp_path / "store"),
        max_rejected=0.0,
        workers=0,
        timeout=60.0,
        command="",
        code_version="1",
    )
    kept = {name: content for name, content in tree(tmp_path / "store").items() if not name.endswith(".mkv")}
    assert {"dataset.json", "FileList.csv", "rejected.csv"} <= kept.keys()
    words = [str(tmp_path), raw.name, key.parent.name, key.name, "key_file", "jane", *SECRETS, "1.2.3.4"]
    for name, content in kept.items():
        for word in words:
            assert word.lower() not in (name + content.decode()).lower(), (name, word)
