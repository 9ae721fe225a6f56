"""DICOM export (``format=dicom``): equal pixels, complete modules of the Ultrasound Multi-frame Image, no patient data.

The expected attributes are from DICOM PS3.3 (A.7 and the modules of C.7, C.8 and C.12), not from the tested code.
"""

import importlib.util
import json
import shutil
import subprocess
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from echodream.errors import UserError
from echodream.ingest.dicom import Dicom
from echodream.ingest.source import Limits
from echodream.stages.export import export
from echodream.store import Store
from tests.support.stores import make_video_store, row

TYPE_1 = {
    "General Study": ["StudyInstanceUID"],
    "General Series": ["Modality", "SeriesInstanceUID"],
    "Image Pixel": [
        "SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit",
        "PixelRepresentation", "PixelData",
    ],
    "Cine, because FrameIncrementPointer names it": ["FrameTime"],
    "Multi-frame": ["NumberOfFrames", "FrameIncrementPointer"],
    "SOP Common": ["SOPClassUID", "SOPInstanceUID", "SpecificCharacterSet"],
    "Patient, because PatientIdentityRemoved is YES": ["DeidentificationMethod"],
}  # fmt: skip
"""DICOM attributes that must have a value: type 1, and type 1C if the condition of the attribute is true."""
TYPE_2 = {
    "Patient": ["PatientName", "PatientID", "PatientBirthDate", "PatientSex"],
    "General Study": ["StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber"],
    "General Series": ["SeriesNumber", "Laterality"],
    "General Equipment": ["Manufacturer"],
    "General Image": ["InstanceNumber", "PatientOrientation"],
    "US Image": ["ImageType"],
}
"""DICOM attributes that must exist but may be empty: type 2, and type 2C if the condition is true."""
TYPE_3 = {
    "PatientIdentityRemoved", "SeriesDescription", "BurnedInAnnotation", "ImageComments",
    "DerivationDescription", "LossyImageCompression", "HeartRate", "SyntheticData", "ContributingEquipmentSequence",
}  # fmt: skip
"""Optional DICOM attributes (type 3) that the export also writes."""
HEIGHT, WIDTH = 5, 7


def source(root: Path, channels: int = 1, synthetic: bool = True) -> Store:
    rows = [
        row("video-000003", "S3", 11, FPS=29.97, class_id=2, class_name="Vorhof-Größe", HeartRate=71.6, Seed=9),
        row("video-000007", "S7", 8, class_id=0, class_name="", HeartRate="", Seed=9),
    ]
    return make_video_store(root, rows, channels, synthetic=synthetic)


def written(store: Store, dst: Path) -> dict[str, FileDataset]:
    settings = {"format": "dicom", "jpg_quality": 95, "crf": 18, "command": "", "code_version": "1"}
    export(src=str(store.root), dst=str(dst), **settings)  # type: ignore[arg-type]
    return {path.stem: dcmread(path) for path in sorted((dst / "Videos").iterdir())}


@pytest.mark.parametrize("channels", [1, 3])
def test_pydicom_reads_the_same_pixels_and_times(tmp_path: Path, channels: int) -> None:
    store = source(tmp_path / "videos", channels)
    files = written(store, tmp_path / "out")
    assert list(files) == ["video-000003", "video-000007"]
    for name, data in files.items():
        expected = store.frames(name)
        assert np.array_equal(data.pixel_array.reshape(expected.shape), expected)
        assert data.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
        assert data.PhotometricInterpretation == {1: "MONOCHROME2", 3: "RGB"}[channels]
        assert data.get("PlanarConfiguration") == {1: None, 3: 0}[channels]
        assert data.FrameIncrementPointer == 0x00181063
    assert 1000 / float(files["video-000003"].FrameTime) == pytest.approx(29.97, rel=1e-9)
    assert float(files["video-000007"].FrameTime) == 31.25


def test_modules_of_the_ultrasound_multi_frame_image_are_complete(tmp_path: Path) -> None:
    for data in written(source(tmp_path / "videos"), tmp_path / "out").values():
        for module, names in TYPE_1.items():
            assert [name for name in names if data.get(name) in (None, "", b"")] == [], module
        for module, names in TYPE_2.items():
            assert [name for name in names if name not in data] == [], module
        known = {name for names in (*TYPE_1.values(), *TYPE_2.values()) for name in names} | TYPE_3
        assert {element.keyword for element in data} <= known
        meta = ("FileMetaInformationVersion", "MediaStorageSOPClassUID", "MediaStorageSOPInstanceUID")
        assert all(data.file_meta.get(name) for name in (*meta, "TransferSyntaxUID", "ImplementationClassUID"))
        assert data.SOPClassUID == data.file_meta.MediaStorageSOPClassUID == UID("1.2.840.10008.5.1.4.1.1.3.1")
        assert data.SOPInstanceUID == data.file_meta.MediaStorageSOPInstanceUID
        assert data.Modality == "US"


def test_files_are_marked_as_synthetic_and_have_no_patient(tmp_path: Path) -> None:
    data = written(source(tmp_path / "videos"), tmp_path / "out")["video-000003"]
    assert data.SyntheticData == "YES"
    assert list(data.ImageType) == ["DERIVED", "SECONDARY"]
    assert (data.PatientIdentityRemoved, data.BurnedInAnnotation) == ("YES", "NO")
    assert (str(data.PatientName), data.PatientID) == ("Synthetic^Patient", "video-000003")
    assert "not acquired from a patient" in data.DerivationDescription
    (equipment,) = data.ContributingEquipmentSequence
    (purpose,) = equipment.PurposeOfReferenceCodeSequence
    assert (purpose.CodeValue, purpose.CodingSchemeDesignator) == ("109102", "DCM")
    assert equipment.Manufacturer
    assert data.ImageComments == "Synthetic data; class_id=2; class_name=Vorhof-Größe"
    assert data.HeartRate == 72
    dates = [element for element in data.iterall() if element.VR in ("DA", "TM", "DT")]
    assert dates
    assert not any(element.value for element in dates)


def test_uids_are_uuids_of_the_recording_and_the_store(tmp_path: Path) -> None:
    def uids(data: Dataset) -> list[str]:
        return [data.StudyInstanceUID, data.SeriesInstanceUID, data.SOPInstanceUID]

    store = source(tmp_path / "videos")
    first = written(store, tmp_path / "one")
    again = written(store, tmp_path / "two")
    found = [uid for data in first.values() for uid in uids(data)]
    assert len(set(found)) == 6
    for uid in found:
        assert UID(uid).is_valid
        assert uid.startswith("2.25.")
        assert uuid.UUID(int=int(uid.removeprefix("2.25."))).version == 5
    assert [uid for data in again.values() for uid in uids(data)] == found
    other = written(source(tmp_path / "colors", 3), tmp_path / "three")
    assert not set(found) & {uid for data in other.values() for uid in uids(data)}


def test_same_bytes_again(tmp_path: Path) -> None:
    store = source(tmp_path / "videos")
    contents: list[dict[str, bytes]] = []
    for name in ("one", "two"):
        written(store, tmp_path / name)
        root = tmp_path / name
        contents.append({str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()})
    assert contents[0] == contents[1]
    assert len(contents[0]) == 4


def test_table_has_the_content_without_columns_about_sampling(tmp_path: Path) -> None:
    written(source(tmp_path / "videos"), tmp_path / "out")
    head = (tmp_path / "out/FileList.csv").read_text().splitlines()[0].split(",")
    assert head[:4] == ["FileName", "EF", "ESV", "EDV"]
    assert {"class_id", "class_name", "HeartRate"} <= set(head)
    assert not {"PatientID", "Seed"} & set(head)


def test_ingest_reads_the_export(tmp_path: Path) -> None:
    store = source(tmp_path / "videos")
    written(store, tmp_path / "out")
    reader = Dicom(key_file=str(tmp_path / "key"), keep="all")
    found = [one for one in reader.recordings(tmp_path / "out/Videos") if one.problem is None]
    videos = [reader.read(one, Limits(min_side=1)) for one in found]
    frames = {video.frames.tobytes() for video in videos}
    assert frames == {store.frames(name).tobytes() for name in store.table["FileName"]}
    assert sorted(video.fps for video in videos) == pytest.approx([29.97, 32])


def test_recordings_of_patients_and_long_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not a synthetic store, and format=dicom marks every file as synthetic"):
        written(source(tmp_path / "real", synthetic=False), tmp_path / "out")
    rows: list[dict[str, Any]] = [row("v" * 65, "S1", 3)]
    with pytest.raises(UserError, match=r"has more than 64 characters"):
        written(make_video_store(tmp_path / "long", rows, synthetic=True), tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("channels", [1, 3])
def test_dciodvfy_finds_no_error(tmp_path: Path, channels: int) -> None:
    """The validator dciodvfy may report only the attribute Synthetic Data, which the 2022 version does not support."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is not installed")
    written(source(tmp_path / "videos", channels), tmp_path / "out")
    for path in (tmp_path / "out/Videos").iterdir():
        printed = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False).stderr
        assert "USMultiFrameImage" in printed
        errors = [line for line in printed.splitlines() if line.startswith("Error")]
        assert [line for line in errors if "(0x0008,0x001c)" not in line] == []


@pytest.mark.parametrize("channels", [1, 3])
def test_tables_of_highdicom_agree(tmp_path: Path, channels: int) -> None:
    """Exported files have all attributes that the DICOM tables of highdicom require, and no undefined attributes."""
    if (spec := importlib.util.find_spec("highdicom")) is None:
        pytest.skip("highdicom is not installed")
    tables = Path(str(spec.origin)).parent / "_standard"
    modules = json.loads((tables / "iod_module_map.json").read_text())["ultrasound-multi-frame-image"]
    attributes = json.loads((tables / "module_attribute_map.json").read_text())
    top = [(part["usage"], each) for part in modules for each in attributes[part["key"]] if not each["path"]]
    for data in written(source(tmp_path / "videos", channels), tmp_path / "out").values():
        empty = {element.keyword for element in data if element.VM == 0 or element.value in ("", b"")}
        names = {element.keyword for element in data}
        assert names <= {each["keyword"] for _, each in top}
        needed = {name: {e["keyword"] for usage, e in top if (usage, e["type"]) == ("M", name)} for name in ("1", "2")}
        assert needed["1"] <= names - empty
        assert needed["2"] <= names
