"""Ingest of samples from other programs: the store is marked as synthetic and has no generator model in its record."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from echodream.config.aliases import replace_aliases
from echodream.errors import UserError
from echodream.filtering.embedding import has_known_generator
from echodream.ingest.images import Images
from echodream.ingest.phantom import Phantom
from echodream.ingest.preprocessing import Preprocessing
from echodream.ingest.source import Limits
from echodream.ingest.videos import Videos
from echodream.store import Store
from tests.support.ingesting import run_ingest
from tests.support.raw_files import moving, write_csv, write_video
from tests.support.tiny_vae import HEIGHT, WIDTH, moving_disc_store

SIZE = Preprocessing(fps=None, size=(HEIGHT, WIDTH))


def pictures(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (HEIGHT, WIDTH), np.uint8)).save(path)
    return folder


def ingest_images(folder: Path, source: Any = None, **changes: Any) -> Store:
    given = {"prepare": SIZE, "limits": Limits(min_frames=1, max_frames=1), "synthetic": True, **changes}
    run_ingest(folder / "set", source or Images(), folder / "raw", **given)
    return Store(folder / "set", kind="video")


def test_each_file_is_a_sample_without_its_name(tmp_path: Path) -> None:
    """Ingest gives the samples new names, because file names may contain patient names and may not be unique."""
    raw = pictures(tmp_path / "raw", "a/Jane_Doe.png", "b/Jane_Doe.png", "c.png")
    (raw / "notes.txt").write_text("x")
    store = ingest_images(tmp_path)
    assert store.dataset.synthetic
    assert store.dataset.settings["model"] is None
    assert not has_known_generator(store)
    table = store.table
    assert table["FileName"].tolist() == ["sample-000000", "sample-000001", "sample-000002"]
    assert table["PatientID"].tolist() == ["S000000", "S000001", "S000002"]
    assert set(table["Split"]) == {"TRAIN"}
    assert table["RawFile"].tolist() == ["a/Jane_Doe.png", "b/Jane_Doe.png", "c.png"]
    for name, file in zip(table["FileName"], table["RawFile"], strict=True):
        assert np.array_equal(store.frames(name)[0, ..., 0], np.asarray(Image.open(raw / file)))
    assert "notes.txt" in (tmp_path / "set/rejected.csv").read_text()


def test_a_csv_gives_labels_but_neither_persons_nor_splits(tmp_path: Path) -> None:
    raw = pictures(tmp_path / "raw", "0001.png", "0002.png", "0003.png")
    rows = [{"f": f"000{k}.png", "who": "same", "part": "TEST", "what": "ab"[k % 2]} for k in (1, 2, 3)]
    write_csv(raw / "t.csv", rows)
    columns = {"FileName": "f", "PatientID": "who", "Split": "part", "class_name": "what"}
    store = ingest_images(tmp_path, Images(csv="t.csv", columns=columns, classes=("a", "b")))
    assert store.table["PatientID"].nunique() == 3
    assert set(store.table["Split"]) == {"TRAIN"}
    assert store.table["class_id"].tolist() == [1, 0, 1]
    assert store.table["RawFile"].tolist() == ["0001.png", "0002.png", "0003.png"]


def test_a_file_that_cannot_be_read_is_named_in_its_reason(tmp_path: Path) -> None:
    raw = pictures(tmp_path / "raw", "a.png", "z.png")
    (raw / "b.png").write_bytes(b"no image")
    store = ingest_images(tmp_path, max_rejected=0.5)
    assert store.table["FileName"].tolist() == ["sample-000000", "sample-000002"]
    assert "(b.png)" in (tmp_path / "set/rejected.csv").read_text()


def test_a_killed_ingest_ends_with_the_same_bytes(tmp_path: Path) -> None:
    pictures(tmp_path / "raw", "a.png", "b.png")
    ingest_images(tmp_path)
    first = (tmp_path / "set/SHA256SUMS").read_bytes()
    (tmp_path / "set").rename(tmp_path / "set.partial")
    ingest_images(tmp_path)
    assert (tmp_path / "set/SHA256SUMS").read_bytes() == first


def test_videos_keep_their_frames(tmp_path: Path) -> None:
    write_video(tmp_path / "raw/x.mp4", moving(8))
    write_video(tmp_path / "raw/y.mp4", moving(9))
    run_ingest(tmp_path / "set", Videos(), tmp_path / "raw", synthetic=True)
    assert Store(tmp_path / "set").table["NumberOfFrames"].tolist() == [8, 9]


def test_recordings_of_a_study_are_no_samples(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="synthetic=true reads a folder of videos or images"):
        run_ingest(tmp_path / "set", Phantom(patients=12), None, synthetic=True)


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (Preprocessing(fps=32, size=64), rf"have frames of {WIDTH}x{HEIGHT}: set data.size=\[{HEIGHT}, {WIDTH}\]"),
        (
            Preprocessing(fps=32, size=(HEIGHT, WIDTH), grey=False),
            "data.grey=false.* have 1 channels: set data.grey=true",
        ),
        (Preprocessing(fps=25, size=(HEIGHT, WIDTH)), "data.fps=25.* have 32 frames per second: set data.fps=32"),
    ],
)
def test_a_set_that_cannot_be_compared_with_the_study_is_refused(
    tmp_path: Path, prepare: Preprocessing, words: str
) -> None:
    write_video(tmp_path / "raw/x.mp4", moving(8))
    moving_disc_store(tmp_path / "real")
    where = {"synthetic": True, "real": str(tmp_path / "real")}
    with pytest.raises(UserError, match=words):
        run_ingest(tmp_path / "set", Videos(), tmp_path / "raw", prepare=prepare, **where)
    assert not (tmp_path / "set").exists()
    run_ingest(tmp_path / "set", Videos(), tmp_path / "raw", prepare=SIZE, **where)  # files keep their own frame rates


def test_the_flag_is_no_path() -> None:
    assert replace_aliases(["synthetic=true", "synthetic=samples/x"]) == ["synthetic=true", "synthetic=samples/x"]
    assert replace_aliases(["synthetic=2024"]) == ['synthetic="2024"']
