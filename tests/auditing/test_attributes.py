"""Attributes: means of numeric values, most frequent class; copies have the attributes of the copied patient."""

from pathlib import Path

import numpy as np
import pytest

from echodream.auditing.attributes import read_attributes
from echodream.datamodules.recordings import Recordings, select_recordings
from echodream.errors import UserError
from tests.support.audit_study import write
from tests.support.tiny_diffusion import C, H, W


def stores(folder: Path) -> tuple[Recordings, Recordings, Recordings]:
    """12 training patients with two recordings each, 3 new patients, 4 samples."""
    frames, rows = np.zeros((2, C, H, W)), {}
    for number in range(15):
        for recording in range(2):
            columns = {
                "PatientID": f"P{number:02}",
                "Split": "TRAIN" if number < 12 else "TEST",
                "class_id": number % 2,
            }
            columns |= {"class_name": "ab"[number % 2], "EF": 50.0 + number + recording, "View": "A4C"}
            rows[f"r{number:02}-{recording}"] = (frames, columns)
    real = write(folder / "real", rows)
    made = {
        f"s{number}": (
            frames,
            {"PatientID": f"S{number}", "class_id": 1, "class_name": "b", "EF": 40.0 + number, "Seed": 0},
        )
        for number in range(4)
    }
    samples = write(folder / "samples", made, synthetic=True)
    return (
        select_recordings(samples, ["TRAIN"], "src"),
        select_recordings(real, ["TRAIN"], "real"),
        select_recordings(real, ["TEST"], "held_out"),
    )


def test_values_of_samples_copies_and_patients(tmp_path: Path) -> None:
    samples, train, held_out = stores(tmp_path)
    found = read_attributes(samples, train, held_out, ["P03", "P00"], None)
    assert [*found] == ["class_name", "EF"]  # class_id duplicates class_name; the samples have no View
    of_samples, of_patients = found["EF"]
    assert of_samples.tolist() == [40, 41, 42, 43, 53.5, 50.5]
    assert of_patients.tolist() == [50.5 + number for number in range(15)]
    assert found["class_name"][0].tolist() == ["b"] * 4 + ["b", "a"]
    assert found["class_name"][1].tolist() == ["ab"[number % 2] for number in range(15)]
    assert [*read_attributes(samples, train, held_out, [], ["class_id"])] == ["class_id"]
    with pytest.raises(UserError, match=r"attributes=\[View\] is not a column .* choose from class_id, class_name, EF"):
        read_attributes(samples, train, held_out, [], ["View"])
