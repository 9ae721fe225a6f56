"""The ingest stage refuses a rerun with other raw files, and refuses a store inside the raw folder."""

from pathlib import Path

import numpy as np
import pytest

from echodream.errors import UserError
from echodream.ingest.videos import Videos
from echodream.store import StoreError
from tests.support.fakes import noise, tree
from tests.support.ingesting import run_ingest
from tests.support.raw_files import moving, write_csv, write_video


def raw_videos(root: Path, shift: int = 0) -> Path:
    for index in range(3):
        write_video(root / f"v{index}.avi", np.roll(moving(), shift, axis=2), codec="ffv1", pix_fmt="gray")
    write_csv(root / "labels.csv", [{"FileName": f"v{index}", "FPS": 25} for index in range(3)])
    return root


def test_other_raw_files_of_the_same_names_are_another_study(tmp_path: Path) -> None:
    one, other = raw_videos(tmp_path / "one"), raw_videos(tmp_path / "other", shift=5)
    run_ingest(tmp_path / "store", Videos(), raw=str(one))
    said = r"already exists with other settings \(the recordings, their files or their splits differ\)"
    with pytest.raises(StoreError, match=said):
        run_ingest(tmp_path / "store", Videos(), raw=str(other))
    one.rename(tmp_path / "moved")
    assert "already complete" in run_ingest(tmp_path / "store", Videos(), raw=str(tmp_path / "moved")).title


def test_a_half_written_store_is_not_continued_from_other_files(tmp_path: Path) -> None:
    one, other = raw_videos(tmp_path / "one"), raw_videos(tmp_path / "other", shift=5)
    (one / "v3.avi").write_bytes(b"cut")
    (other / "v3.avi").write_bytes(b"cut")
    assert run_ingest(tmp_path / "store", Videos(), raw=str(one)).problem is not None
    with pytest.raises(StoreError, match=r"begun with other settings \(the recordings, their files"):
        run_ingest(tmp_path / "store", Videos(), raw=str(other), max_rejected=1.0)
    assert run_ingest(tmp_path / "store", Videos(), raw=str(one), max_rejected=1.0).problem is None


def test_a_rate_in_a_csv_and_the_later_images_of_a_series_count_too(tmp_path: Path) -> None:
    from PIL import Image

    raw = raw_videos(tmp_path / "raw")
    source = Videos(csv="labels.csv", columns={"FileName": "FileName", "FPS": "FPS"})
    run_ingest(tmp_path / "rate", source, raw=str(raw))
    write_csv(raw / "labels.csv", [{"FileName": f"v{index}", "FPS": 30} for index in range(3)])
    with pytest.raises(StoreError, match="the recordings, their files"):
        run_ingest(tmp_path / "rate", source, raw=str(raw))
    (tmp_path / "images").mkdir()
    for index, frame in enumerate(moving()):
        Image.fromarray(frame).save(tmp_path / f"images/{index}.png")
    run_ingest(tmp_path / "series", Videos(), raw=str(tmp_path / "images"))
    Image.fromarray(noise(1, 48, 64)[0, ..., 0]).save(tmp_path / "images/5.png")
    with pytest.raises(StoreError, match="the recordings, their files"):
        run_ingest(tmp_path / "series", Videos(), raw=str(tmp_path / "images"))


@pytest.mark.parametrize("below", [".", "store", "a/../b/store"])
def test_a_store_inside_the_raw_folder_is_refused(tmp_path: Path, below: str) -> None:
    raw = raw_videos(tmp_path / "raw")
    (tmp_path / "link").symlink_to(raw)
    before = tree(raw)
    with pytest.raises(UserError, match=r"^dst=.* lies inside raw=.*: choose another dst="):
        run_ingest(tmp_path / "link" / below, Videos(), raw=str(raw))
    assert tree(raw) == before
