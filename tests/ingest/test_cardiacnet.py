"""Ingest of the CardiacNet dataset, including the differing file layouts and damaged files of its copies."""

import gzip
import pickle
from pathlib import Path

import numpy as np
import pytest

from echodream.errors import Rejected, UserError
from echodream.ingest.cardiacnet import CardiacNet
from echodream.ingest.source import Limits, Recording
from tests.support.raw_files import cut, moving, write_csv, write_nifti

FRAMES = moving(6, 32, 48)
VOLUME = FRAMES.transpose(2, 1, 0)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """CardiacNet folder in which the files have the different layouts that copies of the dataset have."""
    asd, pah = tmp_path / "CardiacNet-ASD", tmp_path / "CardiacNet-PAH"
    write_nifti(asd / "ASD" / "001_image.nii.gz", VOLUME, step=0.025)
    write_nifti(asd / "ASD" / "001_label.nii.gz", VOLUME)
    write_nifti(asd / "ASD" / "002_image.nii" / "anything.nii", VOLUME)
    cut(write_nifti(asd / "ASD" / "002_label.nii" / "002_label.nii", VOLUME), 0.5)
    write_nifti(asd / "Non-ASD" / "001_image.nii", VOLUME)
    write_nifti(pah / "PAH" / "001_image.nii.gz", VOLUME.astype(np.float32) * 3)
    cut(write_nifti(pah / "PAH" / "001_label.nii.gz", VOLUME), 0.5)
    write_nifti(pah / "Non-PAH" / "017_image.nii.gz", VOLUME)
    return tmp_path


def _by_name(root: Path, source: CardiacNet | None = None) -> dict[str, Recording]:
    return {recording.name: recording for recording in (source or CardiacNet()).recordings(root)}


def test_classes_are_fixed_by_name(tree: Path) -> None:
    found = _by_name(tree)
    ids = {name: (recording.columns["class_id"], recording.columns["class_name"]) for name, recording in found.items()}
    assert ids == {
        "ASD-001": (0, "ASD"),
        "ASD-002": (0, "ASD"),
        "Non-ASD-001": (1, "Non-ASD"),
        "Non-PAH-017": (2, "Non-PAH"),
        "PAH-001": (3, "PAH"),
    }
    assert all(recording.patient == name and recording.problem is None for name, recording in found.items())
    assert found["PAH-001"].columns["Cohort"] == "PAH"


def test_reading(tree: Path) -> None:
    source, found = CardiacNet(), _by_name(tree)
    videos = {name: source.read(pickle.loads(pickle.dumps(entry)), Limits()) for name, entry in found.items()}  # noqa: S301
    assert {name: video.columns["Label"] for name, video in videos.items()} == {
        "ASD-001": "complete",
        "ASD-002": "truncated",
        "Non-ASD-001": "missing",
        "Non-PAH-017": "missing",
        "PAH-001": "truncated",
    }
    assert videos["ASD-001"].fps == 40
    assert videos["ASD-002"].fps == 32
    for name in ("ASD-001", "ASD-002", "Non-ASD-001"):
        np.testing.assert_array_equal(videos[name].frames[..., 0], FRAMES)
        assert videos[name].frames.shape == (6, 32, 48, 1)
    np.testing.assert_allclose(videos["ASD-001"].times, np.arange(6) / 40)
    turned = CardiacNet(rotate=90, flip="horizontal").read(found["ASD-001"], Limits())
    np.testing.assert_array_equal(turned.frames[..., 0], FRAMES.transpose(0, 2, 1)[:, ::-1, ::-1])


@pytest.mark.parametrize("depth", ["", "download", "download/CardiacNet"])
def test_the_tree_is_found_below_and_in_any_letter_case(tmp_path: Path, depth: str) -> None:
    write_nifti(tmp_path / depth / "cardiacnet_asd" / "NON_ASD" / "001_IMAGE.NII.gz", VOLUME)
    assert list(_by_name(tmp_path)) == ["Non-ASD-001"]


def test_raw_may_be_one_cohort(tree: Path) -> None:
    assert list(_by_name(tree / "CardiacNet-PAH")) == ["Non-PAH-017", "PAH-001"]


def test_a_cut_image_is_rejected_with_its_reason(tree: Path) -> None:
    recording = _by_name(tree)["PAH-001"]
    assert recording.path is not None
    cut(recording.path, 0.5)
    with pytest.raises(Rejected, match="truncated"):
        CardiacNet().read(recording, Limits())


def test_every_file_is_accounted_for(tree: Path) -> None:
    folder = tree / "CardiacNet-ASD" / "ASD"
    write_nifti(folder / "003_label.nii.gz", VOLUME)
    (folder / "004_image.nii").mkdir()
    write_nifti(folder / "005_image.nii" / "a.nii", VOLUME)
    write_nifti(folder / "005_image.nii" / "b.nii", VOLUME)
    write_nifti(folder / "001_image.nii", VOLUME[::-1])
    write_nifti(folder / "007_image.nii", VOLUME)
    (folder / "007_image.nii.gz").write_bytes(gzip.compress((folder / "007_image.nii").read_bytes()))
    (folder / "readme.txt").write_text("x")
    (folder / "006_image.nii").symlink_to("/etc/passwd")
    problems = {name: (entry.problem, entry.counted) for name, entry in _by_name(tree).items() if entry.problem}
    assert problems == {
        "ASD-003": ("a label without its image", True),
        "ASD-004": ("0 NIfTI files where one is expected", True),
        "ASD-005": ("2 NIfTI files where one is expected", True),
        "ASD-006": ("is outside the raw folder", True),
        "ASD-001-001_image.nii.gz": ("another file for ASD-001: not read", True),
        "ASD-007-007_image.nii.gz": ("a second copy of ASD-007: not read", False),
        "CardiacNet-ASD-ASD-readme.txt": ("not a recording: .txt", False),
    }


def test_a_table_names_patients_and_moments(tree: Path) -> None:
    rows = [
        {
            "FileName": "ASD-001",
            "PatientID": "A",
            "Split": "TEST",
            "EF": 55.5,
            "ED": "0.0 0.05",
            "ES": "0.1 9.0",
            "FPS": "",
        },
        {"FileName": "ASD-002", "PatientID": "A", "Split": "TEST", "EF": "", "ED": "", "ES": "", "FPS": 50},
        {"FileName": "Non-ASD-001", "PatientID": "", "Split": "", "EF": 60, "ED": "", "ES": "", "FPS": ""},
        {"FileName": "PAH-099", "PatientID": "B", "Split": "", "EF": 60, "ED": "", "ES": "", "FPS": ""},
    ]
    write_csv(tree / "recordings.csv", rows)
    found = _by_name(tree)
    first = found["ASD-001"]
    assert (first.patient, first.split, first.columns["EF"]) == ("A", "TEST", 55.5)
    assert CardiacNet().read(first, Limits()).marks == {"ED": (0.0, 0.05), "ES": (0.1,)}
    assert "EF" not in found["ASD-002"].columns
    assert CardiacNet().read(found["ASD-002"], Limits()).fps == 50
    assert found["Non-ASD-001"].problem == "no PatientID in recordings.csv"
    assert found["PAH-099"].problem == "no such file in the raw folder"
    assert found["PAH-001"].problem == found["Non-PAH-017"].problem == "no row in recordings.csv"
    assert "recordings.csv" not in found
    assert _by_name(tree, CardiacNet(table=None))["ASD-001"].patient == "ASD-001"


def test_a_table_that_disagrees_with_the_folders(tree: Path) -> None:
    write_csv(tree / "t.csv", [{"FileName": "ASD-001", "PatientID": "A", "class_id": 3}])
    problem = _by_name(tree, CardiacNet(table="t.csv"))["ASD-001"].problem
    assert problem == "t.csv has another class_id than the folder of the image"


def test_what_is_refused(tree: Path, tmp_path: Path) -> None:
    for fields in ({"rotate": 45}, {"flip": "up"}, {"fps": 0}):
        with pytest.raises(UserError):
            CardiacNet(**fields)
    with pytest.raises(UserError, match=r"gone\.csv"):
        CardiacNet(table="gone.csv").recordings(tree)
    write_csv(tree / "recordings.csv", [{"FileName": "ASD-001", "PatientID": "A"}])
    with pytest.raises(UserError, match=rf"is a part of .*use raw={tree}$"):
        CardiacNet().recordings(next(tree.glob("*ASD*")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"CardiacNet-\{ASD"):
        CardiacNet().recordings(tmp_path / "empty")
    write_nifti(tree / "copy" / "CardiacNet-ASD" / "ASD" / "001_image.nii", VOLUME)
    with pytest.raises(UserError, match="folders of class ASD"):
        CardiacNet().recordings(tree)
