"""Ingest of the CAMUS dataset: listing, reading, views and refused folders."""

from pathlib import Path

import numpy as np
import pytest

from echodream.errors import UserError
from echodream.ingest.camus import Camus
from echodream.ingest.source import Limits
from tests.support.raw_files import moving, write_nifti

FRAMES = moving(10, 40, 32)
INFO = "ED: 1\nES: 10\nNbFrame: 10\nSex: F\nAge: 56\nImageQuality: Good\nEF: 54\nFrameRate: 50.0\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for patient in ("patient0001", "patient0002"):
        for view in ("2CH", "4CH"):
            folder = tmp_path / "database_nifti" / patient
            write_nifti(folder / f"{patient}_{view}_half_sequence.nii.gz", FRAMES.transpose(2, 1, 0))
            write_nifti(folder / f"{patient}_{view}_ED_gt.nii.gz", FRAMES[0].T, axis=1)
            (folder / f"Info_{view}.cfg").write_text(INFO)
    lists = tmp_path / "database_split"
    lists.mkdir()
    (lists / "subgroup_training.txt").write_text("patient0001\n")
    (lists / "subgroup_testing.txt").write_text("patient0002\n")
    return tmp_path


def test_listing_and_reading(tree: Path) -> None:
    source = Camus()
    found = {recording.name: recording for recording in source.recordings(tree)}
    assert list(found) == [f"patient000{number}_{view}" for number in (1, 2) for view in ("2CH", "4CH")]
    first = found["patient0001_4CH"]
    assert (first.patient, first.split, first.problem) == ("patient0001", "TRAIN", None)
    assert first.columns == {"View": "A4C", "EF": 54, "Sex": "F", "Age": 56, "ImageQuality": "Good"}
    assert found["patient0002_2CH"].split == "TEST"
    assert found["patient0002_2CH"].columns["View"] == "A2C"
    video = source.read(first, Limits())
    np.testing.assert_array_equal(video.frames[..., 0], FRAMES)
    assert video.fps == 50
    assert video.marks == {"ED": (0.0,), "ES": (pytest.approx(0.18),)}


def test_views(tree: Path) -> None:
    assert {recording.columns["View"] for recording in Camus(views=("A4C",)).recordings(tree)} == {"A4C"}
    for fields in ({"views": ("PLAX",)}, {"views": ()}, {"fps": 0}):
        with pytest.raises(UserError):
            Camus(**fields)


def test_a_flat_layout_without_lists_or_text_files(tmp_path: Path) -> None:
    write_nifti(tmp_path / "patient0007_4CH_half_sequence.nii", FRAMES.transpose(2, 1, 0), step=0.02)
    (tmp_path / "patient0007_Info_4CH.cfg").write_text("EF: 40\nnonsense\n")
    (tmp_path / "readme.txt").write_text("x")
    first, other = Camus().recordings(tmp_path)
    assert (first.split, dict(first.columns)) == (None, {"View": "A4C", "EF": 40})
    assert Camus(fps=30).read(first, Limits()).fps == 50
    assert (other.problem, other.counted) == ("not a recording: .txt", False)


def test_what_is_refused(tree: Path, tmp_path: Path) -> None:
    (tree / "database_split" / "subgroup_validation.txt").write_text("patient0001\n")
    with pytest.raises(UserError, match="patient0001"):
        Camus().recordings(tree)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="half_sequence"):
        Camus().recordings(tmp_path / "empty")
