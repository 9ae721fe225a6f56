"""Recordings of one split: rows chosen from them."""

from pathlib import Path

from echodream.datamodules.recordings import Recordings
from tests.support.tiny_vae import blob_store


def test_selected_rows_have_their_own_totals_and_patients(tmp_path: Path) -> None:
    """Also where those of all rows were read before, and are cached."""
    rows = Recordings(blob_store(tmp_path / "videos"), "TRAIN")
    assert rows.cumulative_frames.tolist() == [5, 16, 19, 28]
    assert rows.patient_numbers.tolist() == [0, 1, 2, 3]
    chosen = rows.select([3, 1])
    assert chosen.names == ["r5", "r1"]
    assert chosen.cumulative_frames.tolist() == [9, 20]
    assert chosen.patient_numbers.tolist() == [1, 0]
