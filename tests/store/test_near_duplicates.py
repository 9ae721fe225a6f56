"""The search for near-duplicates finds the recordings that were copied under a second name, and no others."""

import io
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from echodream.errors import UserError
from echodream.ingest.phantom import Phantom
from echodream.ingest.source import Limits
from echodream.stages.verify import verify
from echodream.store import Dataset, Store, StoreWriter
from echodream.store.near_duplicates import find_shared_frames, hashed_frames, small_frames
from echodream.store.video import write_video


def recoded(frames: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """Frames (F, H, W, 1) after lossy H.264 compression, resized by the factor ``scale``."""
    size = [round(side * scale / 2) * 2 for side in frames.shape[1:3]]
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        stream: Any = container.add_stream("libx264", rate=25, options={"crf": "30"})
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        for frame in frames[..., 0]:
            pixels = np.asarray(Image.fromarray(frame).resize((size[1], size[0]), Image.Resampling.BICUBIC))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="gray")))
        container.mux(stream.encode())
    file.seek(0)
    with av.open(file) as container:
        return np.stack([frame.to_ndarray(format="gray") for frame in container.decode(video=0)])[..., None]


@cache
def hearts() -> dict[str, tuple[str, np.ndarray]]:
    """Recordings of twelve phantom patients: a dictionary from FileName to (PatientID, frames)."""
    source = Phantom(patients=12, size=64, fps=24, seconds=(2.0, 2.4), per_patient=(1, 2))
    listed = source.recordings(None)
    return {r.name: (r.patient, source.read(r, Limits()).frames) for r in listed}


def make(root: Path, recordings: dict[str, tuple[str, np.ndarray]], split: Callable[[str], str]) -> Store:
    with StoreWriter(root, Dataset(kind="video", channels=1)) as writer:
        for name, (patient, frames) in recordings.items():
            write_video(writer.scratch_path(name), frames, 24.0)
            row = {"FileName": name, "Split": split(patient), "PatientID": patient, "NumberOfFrames": len(frames)}
            row |= {"FPS": 24.0, "FrameHeight": frames.shape[1], "FrameWidth": frames.shape[2]}
            writer.commit(row, writer.scratch_path(name))
        return writer.finish([*recordings])


def train(patient: str) -> str:
    return "TEST" if patient.startswith("planted") else "TRAIN"


PLANTED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "exact": lambda frames: frames,
    "lossy": recoded,
    "trimmed": lambda frames: frames[9:-11],
    "larger": lambda frames: recoded(frames, 1.5),
    "darker": lambda frames: (frames * 0.6 + 15).astype(np.uint8),
    "extended": lambda frames: np.concatenate([frames[20:], np.zeros_like(frames[:5]), frames[:3] // 3]),
}


def planted() -> dict[str, tuple[str, np.ndarray]]:
    names = list(hearts())[:: len(hearts()) // len(PLANTED)]
    copies = {
        f"{name}-{kind}": (f"planted-{kind}", make_copy(hearts()[name][1]))
        for (kind, make_copy), name in zip(PLANTED.items(), names, strict=False)
    }
    return {**hearts(), **copies}


@pytest.mark.slow
def test_planted_copies_are_found_and_no_others(tmp_path: Path) -> None:
    recordings = planted()
    store = make(tmp_path / "store", recordings, train)
    found = find_shared_frames(store)
    assert {(pair.first_name, pair.second_name) for pair in found} == {
        (name.rpartition("-")[0], name) for name, (patient, _) in recordings.items() if patient.startswith("planted")
    }
    assert all(pair.splits == ("TRAIN", "TEST") for pair in found)
    shared = {pair.second_name.rpartition("-")[2]: (pair.shared_frames, pair.shorter_length) for pair in found}
    assert all(count == of for kind, (count, of) in shared.items() if kind in ("exact", "trimmed", "darker"))
    assert shared["extended"][0] >= shared["extended"][1] - 8
    known = {name: hashed_frames(frames) for name, (_, frames) in recordings.items()}
    assert find_shared_frames(store, known) == found


@pytest.mark.slow
def test_copies_in_two_splits_are_an_error_and_others_are_not(tmp_path: Path) -> None:
    recordings = planted()
    make(tmp_path / "two", recordings, train)
    make(tmp_path / "one", recordings, lambda _: "TRAIN")
    make(tmp_path / "none", hearts(), lambda _: "TRAIN")
    said = {
        name: verify(src=str(tmp_path / name), deep=True, command="", code_version="")
        for name in ("two", "one", "none")
    }
    assert "6 pairs of patients in two splits share frames" in str(said["two"].problem)
    assert said["one"].problem is said["none"].problem is None
    assert "6 pairs of recordings of two patients" in str(said["one"])
    assert "none between patients" in str(said["none"])
    assert verify(src=str(tmp_path / "two"), command="", code_version="").problem is None


@pytest.mark.slow
def test_recordings_of_one_patient_may_share_frames(tmp_path: Path) -> None:
    (name, (_, frames)), *_ = hearts().items()
    recordings = {"a": ("P", frames), "b": ("P", frames[5:]), **hearts()}
    del recordings[name]
    assert find_shared_frames(make(tmp_path / "store", recordings, train)) == []


@pytest.mark.slow
def test_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = {f"i{n}": (f"p{n}", frames[:1]) for n, (_, frames) in enumerate(hearts().values())}
    noisy = images["i3"][1].astype(int) + rng.integers(-3, 4, images["i3"][1].shape)
    images["again"] = ("planted", noisy.clip(0, 255).astype(np.uint8))
    pairs = find_shared_frames(make(tmp_path / "s", images, train))
    assert [(pair.first_name, pair.second_name) for pair in pairs] == [("i3", "again")]


@pytest.mark.slow
def test_frames_that_show_nothing_are_not_compared(tmp_path: Path) -> None:
    flat = {f"f{level}": (f"p{level}", np.full((9, 20, 24, 1), level, np.uint8)) for level in (0, 1, 90, 91)}
    text = np.zeros((9, 64, 64, 1), np.uint8)
    text[:, 4:9, 4:40] = 255
    static = {name: (name, np.maximum(hearts()[name][1][:9], text)) for name in [*hearts()][:3]}
    assert find_shared_frames(make(tmp_path / "s", {**flat, **static}, train)) == []


def test_small_frames_are_means_of_areas() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 96, 144, 1), dtype=np.uint8)
    expected = frames[..., 0].reshape(3, 48, 2, 48, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(small_frames(frames), expected, rtol=1e-6)
    assert small_frames(frames[:, :5, :7]).shape == (3, 48, 48)


def test_latents_have_no_frames(tmp_path: Path) -> None:
    from tests.support.stores import make_latent_store

    make_latent_store(tmp_path / "latents")
    with pytest.raises(UserError, match="deep=true compares frames"):
        verify(src=str(tmp_path / "latents"), deep=True, command="", code_version="")
