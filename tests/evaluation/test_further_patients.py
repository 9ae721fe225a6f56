"""Further test patients: those of another store who are not in the study."""

from pathlib import Path

import pytest

from echodream.errors import UserError
from echodream.evaluation.further_patients import open_test_store
from tests.support.tiny_vae import moving_disc_store


def test_patients_of_the_study_are_left_out_whatever_their_split(tmp_path: Path) -> None:
    real = moving_disc_store(tmp_path / "real", lengths=(5, 4, 6, 4))
    moving_disc_store(tmp_path / "further")
    found = open_test_store(real, str(tmp_path / "further"))
    assert found.table["PatientID"].tolist() == ["p4", "p5", "p6"]
    assert set(found.table["Split"]) == {"TEST"}
    assert found.frames("r5").shape[0] == 9


def test_without_such_a_store_the_study_itself_is_tested(tmp_path: Path) -> None:
    real = moving_disc_store(tmp_path / "real")
    assert open_test_store(real, None) is real
    assert open_test_store(real, str(tmp_path / "absent")) is real


def test_a_store_of_the_same_patients_is_refused(tmp_path: Path) -> None:
    real = moving_disc_store(tmp_path / "real")
    with pytest.raises(UserError, match="has only patients who are in .*real: give a store of other patients"):
        open_test_store(real, str(moving_disc_store(tmp_path / "same", lengths=(5, 4)).root))
