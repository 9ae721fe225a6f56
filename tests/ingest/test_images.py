"""Ingest of a folder of image files: each file becomes a recording of one frame."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from echodream.errors import Rejected, UserError
from echodream.ingest.images import Images
from echodream.ingest.preprocessing import Preprocessing
from echodream.ingest.source import Limits, Recording
from echodream.runs.summary import Summary
from echodream.stages.verify import verify
from echodream.store import Store
from tests.support.ingesting import run_ingest
from tests.support.raw_files import cut, write_csv

STILL = Limits(min_frames=1, max_frames=1)
COLUMNS = {"FileName": "image", "PatientID": "patient", "Sex": "sex"}
ROW = {"image": "a", "patient": "7", "sex": "f", "finding": "1", "secret": "Jane Doe"}


def ramp(height: int = 19, width: int = 23, dtype: type = np.uint8, scale: int = 4) -> np.ndarray:
    """Gray image (H, W) whose values increase to the right and downwards, so that each corner has another value."""
    rows, columns = np.mgrid[:height, :width]
    return np.asarray((rows * 2 + columns) * scale, dtype)


def colours() -> np.ndarray:
    """Color image with three different channels, uint8 (H, W, 3)."""
    grey = ramp()
    return np.stack([grey, grey.T[: grey.shape[0]].repeat(2, axis=1)[:, : grey.shape[1]], 255 - grey], axis=-1)


def save(path: Path, pixels: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)  # type: ignore[arg-type]
    return path


def folder(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        save(root / name, ramp(scale=2 + number % 3))
    return root


def read(path: Path, limits: Limits = STILL) -> np.ndarray:
    """Read an image file and return its only frame, (H, W, C)."""
    video = Images().read(Recording("x", "x", path), limits)
    assert len(video.frames) == 1
    assert video.fps == 1
    return np.asarray(video.frames[0])


def by_name(source: Images, root: Path) -> dict[str, Recording]:
    listed = source.recordings(root)
    found = {recording.name: recording for recording in listed}
    assert len(found) == len(listed)
    return found


def run(dst: Path, source: object, raw: Path, fps: float | None = None, max_rejected: float = 0.0) -> Summary:
    prepare = Preprocessing(fps=fps, size=None)
    return run_ingest(dst, source, raw, prepare=prepare, limits=STILL, max_rejected=max_rejected)


def test_each_image_is_a_recording_also_where_names_differ_in_a_number_alone(tmp_path: Path) -> None:
    root = folder(tmp_path, "x1.png", "x2.png", "x3.png", "p/y.JPG", "q/y.tif", ".hidden.png")
    (root / "notes.txt").write_text("x")
    found = by_name(Images(), root)
    assert [name for name, recording in found.items() if recording.problem is None] == [
        *("p-y.JPG", "q-y.tif", "x1", "x2", "x3")
    ]
    problems = {recording.problem for recording in found.values() if recording.problem}
    assert problems == {"not a recording: .txt", "a hidden file"}
    assert [r.counted for r in found.values() if r.problem] == [True, False]


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_eight_bits_come_in_as_they_are(tmp_path: Path, suffix: str) -> None:
    np.testing.assert_array_equal(read(save(tmp_path / f"g.{suffix}", ramp()))[..., 0], ramp())
    np.testing.assert_array_equal(read(save(tmp_path / f"c.{suffix}", colours())), colours())


def test_a_jpg_is_near(tmp_path: Path) -> None:
    grey = read(save(tmp_path / "g.jpg", ramp(), quality=95))
    assert grey.shape == (19, 23, 1)
    assert np.abs(grey[..., 0].astype(int) - ramp()).max() <= 4
    flat = np.full((16, 24, 3), (200, 100, 50), np.uint8)
    assert np.abs(read(save(tmp_path / "c.jpg", flat, quality=95)).astype(int) - flat).max() <= 4


@pytest.mark.parametrize("name", ["g.webp", "g.jp2", "g.PNG", "g.gif", "g.pgm", "g.dib"])
def test_other_formats_without_loss(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    Image.fromarray(ramp()).save(path, **({"lossless": True} if name == "g.webp" else {}))
    np.testing.assert_array_equal(read(path)[..., 0], ramp())


def test_jpg_under_other_suffixes(tmp_path: Path) -> None:
    for name in ("a.jfif", "a.jpe"):
        Image.fromarray(ramp()).save(tmp_path / name, "JPEG", quality=95)
        assert np.abs(read(tmp_path / name)[..., 0].astype(int) - ramp()).max() <= 4
    assert {r.problem for r in Images().recordings(tmp_path)} == {None}


@pytest.mark.parametrize(
    ("suffix", "mode"),
    [
        *(("png", mode) for mode in ("LA", "RGBA", "P", "L", "RGB", "I;16")),
        *(("tif", "LA"), ("tif", "RGBA"), ("webp", "RGBA"), ("gif", "P")),
    ],
)
def test_what_is_transparent_is_hidden(tmp_path: Path, mode: str, suffix: str) -> None:
    """Pixels of gray level 230 (such as a burned-in name) under a transparent area must not be in the frame."""
    plain = ramp(dtype=np.uint16 if mode == "I;16" else np.uint8)
    plain[plain == 230] = 231
    named = plain.copy()
    named[4:9, 2:12] = 230
    image = Image.fromarray(named)
    options: dict[str, object] = {"lossless": True} if suffix == "webp" else {}
    if mode in ("LA", "RGBA"):
        image = image.convert(mode)
        image.putalpha(Image.fromarray(np.where(named == 230, 0, 255).astype(np.uint8)))
    else:
        image = image if mode == "I;16" else image.convert(mode)
        options["transparency"] = (230, 230, 230) if mode == "RGB" else 230
    image.save(tmp_path / f"a.{suffix}", **options)  # type: ignore[arg-type]
    found = read(tmp_path / f"a.{suffix}")[..., 0].astype(int)
    assert found[4:9, 2:12].max() == 0
    rest = np.ones(plain.shape, bool)
    rest[4:9, 2:12] = False
    assert np.abs(found - plain)[rest].max() <= 1


def test_half_transparent_pixels_lie_on_black(tmp_path: Path) -> None:
    pixels = np.dstack(
        [np.full((20, 20, 3), 200, np.uint8), np.repeat(np.arange(0, 200, 10, dtype=np.uint8)[None], 20, 0)]
    )
    found = read(save(tmp_path / "a.png", pixels))
    np.testing.assert_array_equal(found[..., 0], np.rint(200 * (pixels[..., 3] / 255)))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_stretched_over_the_image(tmp_path: Path, suffix: str) -> None:
    deep = ramp(dtype=np.uint16, scale=701) + np.uint16(1000)
    low, high = int(deep.min()), int(deep.max())
    expected = np.rint((deep.astype(float) - low) / (high - low) * 255).astype(np.uint8)
    np.testing.assert_array_equal(read(save(tmp_path / f"d.{suffix}", deep))[..., 0], expected)


@pytest.mark.parametrize(("suffix", "turned"), [("jpg", 6), ("png", 6), ("png", 3), ("png", 2), ("tif", 3), ("tif", 2)])
def test_an_image_is_turned_as_its_exif_tag_says(tmp_path: Path, suffix: str, turned: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = turned  # EXIF orientation 6: rotate by 90 degrees clockwise, 3: by 180 degrees, 2: mirror
    corner = np.zeros((16, 32), np.uint8)
    corner[:8, :16] = 240
    found = read(save(tmp_path / f"e.{suffix}", corner, exif=exif))[..., 0]
    expected = {6: np.rot90(corner, -1), 3: np.rot90(corner, 2), 2: np.fliplr(corner)}[turned]
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() < 20


@pytest.mark.parametrize("compression", [None, "tiff_deflate"])
def test_a_tif_on_its_side_is_refused_rather_than_garbled(tmp_path: Path, compression: str | None) -> None:
    path = save(tmp_path / "e.tif", ramp(), tiffinfo={0x0112: 6}, compression=compression)
    with pytest.raises(Rejected, match="rotated by 90 degrees"):
        read(path)


def test_damaged_exif_costs_no_image(tmp_path: Path) -> None:
    path = save(tmp_path / "e.jpg", ramp(), exif=b"Exif\0\0not a tag at all")
    assert read(path).shape == (19, 23, 1)


def test_a_file_of_several_images_is_refused(tmp_path: Path) -> None:
    pages = [Image.fromarray(ramp(scale=scale)) for scale in (2, 3, 4)]
    pages[0].save(tmp_path / "m.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(Rejected, match="is a file with 3 images"):
        read(tmp_path / "m.tif")


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9])
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_a_corrupt_file_is_one_rejection(tmp_path: Path, suffix: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 48), dtype=np.uint8)
    path = cut(save(tmp_path / f"a.{suffix}", noise), share)
    with pytest.raises(Rejected, match="unreadable"):
        read(path)


@pytest.mark.parametrize(
    ("size", "limits", "reason"),
    [((9, 40), STILL, "too small: 40x9"), ((40, 20), replace(STILL, max_side=32), "too large: 20x40")],
)
def test_sizes_are_held_to_the_limits(tmp_path: Path, size: tuple[int, int], limits: Limits, reason: str) -> None:
    with pytest.raises(Rejected, match=reason):
        read(save(tmp_path / "a.png", ramp(*size)), limits)


def dicom(path: Path, pixels: np.ndarray, **tags: object) -> Path:
    """Write a DICOM chest X-ray with a patient name. ``tags`` replaces header elements; None removes the element."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPInstanceUID = ExplicitVRLittleEndian, generate_uid()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    data = FileDataset(str(path), Dataset(), file_meta=meta, preamble=b"\0" * 128)
    data.PatientName, data.PatientID, data.Modality = "Planted^Patient", "PID4711", "DX"
    data.Rows, data.Columns = pixels.shape[:2]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    if pixels.ndim == 3:
        data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "RGB", 0
    data.BitsAllocated = data.BitsStored = 8 * pixels.itemsize
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, 0
    data.PixelData = pixels.tobytes()
    for name, value in tags.items():
        setattr(data, name, value)
    data.save_as(path)
    assert dcmread(path).Rows == pixels.shape[0]
    return path


def test_a_still_dicom_with_and_without_a_number_of_frames(tmp_path: Path) -> None:
    grey, colour = np.ascontiguousarray(ramp()[:, :22]), np.ascontiguousarray(colours()[:, :22])
    np.testing.assert_array_equal(read(dicom(tmp_path / "g.dcm", grey))[..., 0], grey)
    np.testing.assert_array_equal(read(dicom(tmp_path / "n.dcm", grey, NumberOfFrames=1))[..., 0], grey)
    np.testing.assert_array_equal(read(dicom(tmp_path / "c.dicom", colour)), colour)
    inverse = read(dicom(tmp_path / "i.dcm", grey, PhotometricInterpretation="MONOCHROME1"))[..., 0]
    np.testing.assert_array_equal(inverse, 255 - grey)
    with pytest.raises(Rejected, match="BurnedInAnnotation"):
        read(dicom(tmp_path / "b.dcm", grey, BurnedInAnnotation="YES"))
    with pytest.raises(Rejected, match="cut short, 0 of 1 frames"):
        read(cut(dicom(tmp_path / "d.dcm", grey), 0.7))


def test_a_csv_says_what_an_image_is(tmp_path: Path) -> None:
    folder(tmp_path, "i/a.png", "i/b.png", "i/c.png", "i/d.png")
    rows = [
        ROW,
        {**ROW, "image": "b.png", "sex": "m", "finding": "-1"},
        {**ROW, "image": "i/c.png", "patient": "8", "sex": "", "finding": "0.0"},
        {**ROW, "image": "d", "patient": "8", "sex": "m", "finding": ""},
    ]
    write_csv(tmp_path / "l.csv", rows)
    labels = {"Male": "sex=m", "Finding": "finding"}
    source = Images(csv="l.csv", columns=COLUMNS, labels=labels)
    found = {name: item for name, item in by_name(source, tmp_path).items() if item.problem is None}
    assert {name: item.patient for name, item in found.items()} == {"a": "7", "b": "7", "c": "8", "d": "8"}
    assert {name: dict(item.columns) for name, item in found.items()} == {
        "a": {"Sex": "f", "Male": 0, "Finding": 1},
        "b": {"Sex": "m", "Male": 1},
        "c": {"Finding": 0},
        "d": {"Sex": "m", "Male": 1},
    }
    assert "Jane" not in repr(found)
    found = by_name(replace(source, uncertain=0.5, missing=0), tmp_path)
    assert [found[name].columns["Finding"] for name in "abcd"] == [1, 0.5, 0, 0]
    assert [found[name].columns["Male"] for name in "abcd"] == [0, 1, 0, 1]


def test_rows_and_files_that_do_not_pair_and_paths_that_leave(tmp_path: Path) -> None:
    raw = folder(tmp_path / "raw", "a.png", "b.png")
    folder(tmp_path, "out.png")
    (raw / "link.png").symlink_to(tmp_path / "out.png")
    rows = [ROW, {**ROW, "image": "gone"}, {**ROW, "image": "../out.png"}, {**ROW, "image": "/etc/passwd"}]
    write_csv(raw / "l.csv", rows)
    problems = {r.name: r.problem for r in Images(csv="l.csv", columns=COLUMNS).recordings(raw)}
    assert problems == {
        "a": None,
        "b": "no row in l.csv",
        "link": "is outside the raw folder",
        "gone": "no such file in the raw folder",
        "out.png": "is outside the raw folder",
        "etc-passwd": "is outside the raw folder",
        "l.csv": "not a recording: .csv",
    }


@pytest.mark.parametrize(
    ("row", "source", "message"),
    [
        ({}, Images(csv="l.csv", columns={**COLUMNS, "Age": "age"}), "no column 'age'; it has image, patient"),
        ({}, Images(csv="l.csv", columns=COLUMNS, labels={"Oedema": "oedema"}), "no column 'oedema'"),
        (
            {},
            Images(csv="l.csv", columns=COLUMNS, labels={"Male": "sex=male"}),
            "labels.Male: no image of .* has sex=male",
        ),
        (
            {"finding": "2"},
            Images(csv="l.csv", columns=COLUMNS, labels={"F": "finding"}),
            "line 2, column finding has the label '2'",
        ),
        (
            {"finding": "no"},
            Images(csv="l.csv", columns=COLUMNS, labels={"F": "finding"}),
            "line 2, column finding has the label 'no'",
        ),
        ({}, Images(csv="../l.csv", columns=COLUMNS), "is outside the raw folder"),
        ({}, Images(csv="gone.csv", columns=COLUMNS), "gone.csv cannot be read"),
    ],
)
def test_a_csv_that_is_not_as_asked(tmp_path: Path, row: dict[str, str], source: Images, message: str) -> None:
    write_csv(folder(tmp_path, "a.png") / "l.csv", [{**ROW, **row}])
    with pytest.raises(UserError, match=message):
        source.recordings(tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"labels": {"Male": "sex"}}, "labels needs csv="),
        ({"labels": {"a b": "sex"}, "csv": "l.csv"}, "'a b'"),
        ({"labels": {"Split": "sex"}, "csv": "l.csv"}, "'Split'"),
        ({"labels": ["sex"], "csv": "l.csv"}, "mapping"),
        ({"labels": {"Sex": "sex"}, "columns": COLUMNS, "csv": "l.csv"}, "Sex is in labels and in columns"),
        ({"columns": {"FileName": "f", "FPS": "rate"}, "csv": "l.csv"}, "'FPS'"),
        ({"uncertain": 2}, "uncertain is 2"),
        ({"missing": "no"}, "missing is 'no'"),
        ({"missing": True}, "missing is true"),
        ({"key_file": ""}, "key_file"),
    ],
)
def test_bad_fields_are_refused_at_birth(fields: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Images(**fields)  # type: ignore[arg-type]


def test_a_patient_in_two_splits_is_named_by_its_lines(tmp_path: Path) -> None:
    folder(tmp_path, "a.png", "b.png", "c.png")
    rows = [{**ROW, "part": "train"}, {**ROW, "image": "b", "patient": "8"}, {**ROW, "image": "c", "part": "test"}]
    write_csv(tmp_path / "l.csv", [{"part": "", **row} for row in rows])
    with pytest.raises(UserError, match=r"l.csv, lines 2 and 4: one patient is in two splits, TRAIN and TEST"):
        Images(csv="l.csv", columns={**COLUMNS, "Split": "part"}).recordings(tmp_path)


def test_an_image_that_is_not_taken_puts_its_patient_in_no_split(tmp_path: Path) -> None:
    raw = folder(tmp_path / "raw", "a.png")
    (raw / "link.png").symlink_to(folder(tmp_path, "out.png") / "out.png")
    write_csv(raw / "l.csv", [{**ROW, "part": "train"}, {**ROW, "image": "link", "part": "test"}])
    listed = by_name(Images(csv="l.csv", columns={**COLUMNS, "Split": "part"}), raw)
    assert (listed["a"].problem, listed["link"].problem) == (None, "is outside the raw folder")


def test_names_and_patients_become_pseudonyms_with_a_key(tmp_path: Path) -> None:
    raw = folder(tmp_path / "raw", "DOE_JANE.png", "DOE_JANE_2.png", "lost.png")
    write_csv(raw / "l.csv", [{**ROW, "image": name, "patient": "DOE"} for name in ("DOE_JANE", "DOE_JANE_2", "gone")])
    source = Images(csv="l.csv", columns=COLUMNS, key_file=str(tmp_path / "key"))
    listed = source.recordings(raw)
    assert "DOE" not in repr([(r.name, r.patient, r.columns, r.problem) for r in listed])
    good = [r for r in listed if r.problem is None]
    assert len({r.name for r in good}) == 2
    assert len({r.patient for r in good}) == 1
    assert listed == source.recordings(raw)
    assert listed != replace(source, key_file=str(tmp_path / "other")).recordings(raw)


@pytest.mark.parametrize("fps", [None, 32.0])
@pytest.mark.slow
def test_a_store_of_images_holds_one_frame_each_whatever_the_rate(tmp_path: Path, fps: float | None) -> None:
    raw = folder(tmp_path / "raw", *(f"{name}.png" for name in "abcdefg"))
    cut(save(raw / "broken.jpg", ramp()), 0.6)
    done = run(tmp_path / "store", Images(), raw, fps=fps, max_rejected=0.2)
    assert done.problem is None
    assert "one per recording: images" in str(done)
    assert "1 x unreadable: OSError in image 1 of 1: broken" in str(done)
    assert verify(src=str(tmp_path / "store"), command="", code_version="").problem is None
    store = Store(tmp_path / "store", kind="video")
    assert store.table["NumberOfFrames"].tolist() == [1] * 7
    assert store.table["FPS"].tolist() == [fps or 1.0] * 7
    assert "RawSeconds" not in store.table
    for number, name in enumerate("abcdefg"):
        np.testing.assert_array_equal(store.frames(name)[0, ..., 0], ramp(scale=2 + number % 3))


def test_dicom_files_without_a_suffix_are_images(tmp_path: Path) -> None:
    grey = np.ascontiguousarray(ramp()[:, :22])
    for name in ("IM0001", "1.2.840.5", "a.ima"):
        dicom(tmp_path / name, grey)
    (tmp_path / "README").write_text("x" * 200)
    listed = by_name(Images(), tmp_path)
    assert {name for name, recording in listed.items() if not recording.problem} == {"IM0001", "1.2.840", "a"}
    assert listed["README"].problem == "not a recording: no suffix"
    np.testing.assert_array_equal(read(tmp_path / "IM0001")[..., 0], grey)
    (tmp_path / "b.dcm").write_text("no DICOM")
    with pytest.raises(Rejected, match="not a DICOM file"):
        read(tmp_path / "b.dcm")
