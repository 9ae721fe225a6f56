"""Recordings of one split or of several splits, and selections of rows."""

from pathlib import Path

import numpy as np
import pytest

from echodream.datamodules.recordings import Recordings, remaining_number, select_recordings
from echodream.errors import UserError
from tests.support.audit_study import study
from tests.support.tiny_vae import moving_disc_store


def test_recordings_of_several_splits_are_sorted_by_name(tmp_path: Path) -> None:
    real = study(tmp_path / "real", train=9, held=4)
    rows = select_recordings(real, ["VAL", "TEST"], "held_out")
    held_out = real.table[real.table["Split"] != "TRAIN"]
    assert rows.names == sorted(held_out["FileName"])
    assert sorted(set(rows.table["PatientID"])) == sorted(set(held_out["PatientID"]))
    assert len(np.unique(rows.patient_numbers)) == 4
    with pytest.raises(UserError, match=r"src: .* has no recording in the splits PROOF"):
        select_recordings(real, ["PROOF"], "src")


def test_selected_rows_have_their_own_totals_and_patients(tmp_path: Path) -> None:
    """A selection of rows has its own totals and patients, even if the totals of all rows are already cached."""
    rows = Recordings(moving_disc_store(tmp_path / "videos"), "TRAIN")
    assert rows.cumulative_frames.tolist() == [5, 16, 19, 28]
    assert rows.patient_numbers.tolist() == [0, 1, 2, 3]
    assert rows.rows_by_name.tolist() == rows.ranks_by_name.tolist() == [0, 1, 2, 3]
    assert rows.rows_by_patient[2].tolist() == [2]
    assert rows.rows_with_two_frames["patient"].tolist() == [0, 1, 2, 3]
    chosen = rows.select([3, 1])
    assert chosen.names == ["r5", "r1"]
    assert chosen.cumulative_frames.tolist() == [9, 20]
    assert chosen.patient_numbers.tolist() == [1, 0]
    assert chosen.rows_by_name.tolist() == [1, 0]
    assert chosen.rows_by_patient[0].tolist() == [1]
    assert chosen.rows_with_two_frames["recording"].tolist() == [0, 1]


def test_rows_of_each_patient_and_of_all_others(tmp_path: Path) -> None:
    rows = Recordings(study(tmp_path / "real", train=9, held=4), "TRAIN")
    numbers = rows.patient_numbers
    assert len(numbers) > len(np.unique(numbers)) > 3
    for number in np.unique(numbers):
        own = np.flatnonzero(numbers == number)
        assert rows.rows_by_patient[number].tolist() == own.tolist()
        others = np.flatnonzero(numbers != number).tolist()
        assert [remaining_number(position, own) for position in range(len(others))] == others
    assert [rows.names[row] for row in rows.rows_by_name] == sorted(rows.names)
    assert rows.ranks_by_name[rows.rows_by_name].tolist() == list(range(len(rows)))
    assert remaining_number(3, np.array([], int)) == 3
