"""Recordings of several splits together."""

from pathlib import Path

import numpy as np
import pytest

from echodream.datamodules.recordings import select_recordings
from echodream.errors import UserError
from tests.support.audit_study import study


def test_recordings_of_several_splits_are_sorted_by_name(tmp_path: Path) -> None:
    real = study(tmp_path / "real", train=9, held=4)
    rows = select_recordings(real, ["VAL", "TEST"], "held_out")
    held_out = real.table[real.table["Split"] != "TRAIN"]
    assert rows.names == sorted(held_out["FileName"])
    assert sorted(set(rows.table["PatientID"])) == sorted(set(held_out["PatientID"]))
    assert len(np.unique(rows.patient_numbers)) == 4
    with pytest.raises(UserError, match=r"src: .* has no recording in PROOF"):
        select_recordings(real, ["PROOF"], "src")
