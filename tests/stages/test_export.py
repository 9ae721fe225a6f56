"""Tests of ``stage=export``: each exported format is read back with a library independent of echodream."""

import csv
import fcntl
import json
import os
import shutil
from pathlib import Path
from typing import Any

import av
import nibabel
import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from echodream.errors import UserError
from echodream.ingest.echonet import EchoNetDynamic
from echodream.ingest.source import Limits
from echodream.ingest.videos import Videos
from echodream.runs import atomic_folder as folder
from echodream.runs.summary import Summary
from echodream.stages import export as module
from echodream.stages.export import FORMATS, export
from echodream.store import Dataset, Store, StoreWriter
from echodream.store.video import write_video
from tests.support import echonet_class
from tests.support.stores import make_latent_store, make_video_store, posterior_mean, row

HEIGHT, WIDTH = 18, 22
LENGTHS = {"a.1": 9, "b": 12}


def picture(frames: int, height: int, width: int, channels: int) -> np.ndarray:
    """uint8 (F, H, W, C): a smooth pattern that moves, from black to white."""
    t, y, x, c = np.ogrid[:frames, :height, :width, :channels]
    wave = np.sin(x / 4 + t / 3 + c) * np.cos(y / 5 - t / 4)
    return np.rint(127.5 + 127.5 * wave).astype(np.uint8)


def store(root: Path, channels: int = 1, size: tuple[int, int] = (HEIGHT, WIDTH), fps: float = 29.97) -> Store:
    with StoreWriter(root, Dataset(kind="video", channels=channels)) as writer:
        for name, frames in LENGTHS.items():
            entry = {**row(name, name, frames, EF=55.5), "FrameHeight": size[0], "FrameWidth": size[1], "FPS": fps}
            write_video(writer.scratch_path(name), picture(frames, *size, channels), fps)
            writer.commit(entry, writer.scratch_path(name))
        return writer.finish(list(LENGTHS))


def run(src: Store | Path, dst: Path, format: str | None, **settings: int) -> Summary:
    root = src.root if isinstance(src, Store) else src
    quality = {"jpg_quality": 95, "crf": 18, **settings}
    return export(src=str(root), dst=str(dst), format=format, command="python sample.py", code_version="1", **quality)


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    error = np.mean((one.astype(float) - other.astype(float)) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "FileList.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def decoded(path: Path) -> tuple[np.ndarray, float, str, str]:
    """Pixels (F, H, W, 3), frames per second, codec and pixel format of a video file, as decoded by FFmpeg."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
        return frames, float(stream.average_rate), stream.codec_context.name, stream.pix_fmt


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("format", "least"), [("jpg", 38.0), ("png", float("inf"))])
def test_a_folder_of_images_for_each_recording(tmp_path: Path, channels: int, format: str, least: float) -> None:
    src, dst = store(tmp_path / "videos", channels), tmp_path / "out"
    assert run(src, dst, format).problem is None
    assert {path.name for path in dst.iterdir()} == {"a.1", "b", "FileList.csv", "export.json"}
    for name, frames in LENGTHS.items():
        assert sorted(path.name for path in (dst / name).iterdir()) == [
            f"frame_{i:04d}.{format}" for i in range(frames)
        ]
        found = [np.array(Image.open(dst / name / f"frame_{i:04d}.{format}")) for i in range(frames)]
        expected = src.frames(name)
        assert psnr(np.stack(found).reshape(expected.shape), expected) >= least
    assert (dst / "FileList.csv").read_bytes() == (src.root / "FileList.csv").read_bytes()


def test_the_quality_of_jpg_counts(tmp_path: Path) -> None:
    src = store(tmp_path / "videos")
    sizes = []
    for quality in (50, 95):
        run(src, tmp_path / str(quality), "jpg", jpg_quality=quality)
        sizes.append((tmp_path / str(quality) / "b" / "frame_0003.jpg").stat().st_size)
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize(("channels", "least"), [(1, float("inf")), (3, 28.0)])
def test_gif(tmp_path: Path, channels: int, least: float) -> None:
    src, dst = store(tmp_path / "videos", channels, fps=32.0), tmp_path / "out"
    run(src, dst, "gif")
    for name, frames in LENGTHS.items():
        with Image.open(dst / "Videos" / f"{name}.gif") as image:
            assert image.info["loop"] == 0
            times = [frame.info["duration"] for frame in ImageSequence.Iterator(image)]
            found = np.stack([np.array(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)])
        assert found.shape == (frames, HEIGHT, WIDTH, 3)
        assert set(times) <= {30, 40}  # 31.25 ms, rounded to 30 or 40 ms
        assert sum(times) == round(frames * 100 / 32) * 10
        assert psnr(found, np.broadcast_to(src.frames(name), found.shape)) >= least


def test_a_gif_faster_than_players_show_is_slowed_and_says_so(tmp_path: Path) -> None:
    src, dst = store(tmp_path / "videos", fps=80.0), tmp_path / "out"
    assert (
        run(src, dst, "gif").facts["slowed"]
        == "2 recordings to 50 frames/s, the highest frame rate of a GIF in players"
    )
    with Image.open(dst / "Videos" / "b.gif") as image:
        assert {frame.info["duration"] for frame in ImageSequence.Iterator(image)} == {20}
    assert [float(entry["FPS"]) for entry in table(dst)] == [50, 50]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(HEIGHT, WIDTH), (17, 21)])
def test_avi_is_as_echonet_has_it(tmp_path: Path, channels: int, size: tuple[int, int]) -> None:
    src, dst = store(tmp_path / "videos", channels, size), tmp_path / "out"
    run(src, dst, "avi")
    assert sorted(path.name for path in (dst / "Videos").iterdir()) == ["a.1.avi", "b.avi"]
    assert [entry["FileName"] for entry in table(dst)] == ["a.1", "b"]
    for name, frames in LENGTHS.items():
        found, fps, codec, _ = decoded(dst / "Videos" / f"{name}.avi")
        assert (found.shape, codec) == ((frames, *size, 3), "mjpeg")
        assert fps == pytest.approx(29.97, abs=1e-3)
        assert psnr(found, np.broadcast_to(src.frames(name), found.shape)) >= 40


def test_our_own_reader_takes_the_avi_back(tmp_path: Path) -> None:
    src, dst = store(tmp_path / "videos"), tmp_path / "out"
    run(src, dst, "avi")
    source = Videos()
    found = {r.name: source.read(r, Limits()) for r in source.recordings(dst) if r.problem is None}
    assert {video.frames.shape[0] for video in found.values()} == set(LENGTHS.values())


def synthetic_rows() -> list[dict[str, Any]]:
    """Rows with key frames of several beats, with ES before ED, without ES, and with ED and ES in the same frame."""
    kept = {"FrameHeight": HEIGHT, "FrameWidth": WIDTH}
    return [
        row("s-1", "Doe-1", 9, **kept, EF=55.5, View="A4C", ED="0 6", ES="3 8", Seed=4),
        row("s-2", "Doe-2", 12, "VAL", **kept, EF="", View="A4C", ED="5", ES="1", Seed=5),
        row("s-3", "Doe-3", 8, **kept, EF=40, View="A4C", ED="0 4", ES="", Seed=6),
        row("s-4", "Doe-4", 7, **kept, EF=41, View="A4C", ED="2", ES="2", Seed=7),
        row("s-5", "Doe-5", 10, **kept, EF=30.25, View="A4C", ED="8 2", ES="9 4", Seed=8),
    ]


def test_echonet_dataset_class_opens_the_export(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    src, dst = make_video_store(tmp_path / "videos", synthetic_rows()), tmp_path / "out"
    summary = run(src, dst, "echonet")
    assert summary.facts["without ED and ES"] == "2 recordings, which EchoNet's class leaves out: run stage=keyframes"
    assert summary.facts["without EF"] == "1 recordings, whose target is NaN in EchoNet's class"
    train, val = (list(echonet_class.items(dst, split)) for split in ("train", "val"))
    assert [(item.file, item.large, item.small) for item in train + val] == [
        ("s-1.avi", 0, 3),
        ("s-5.avi", 2, 4),
        ("s-2.avi", 5, 1),
    ]
    assert [echonet_class.target(item, "EF") for item in train] == [55.5, 30.25]
    assert np.isnan([echonet_class.target(val[0], name) for name in ("EF", "ESV", "EDV")]).all()
    assert list(echonet_class.items(dst, "test")) == []
    for item in train + val:
        expected = src.frames(item.file.removesuffix(".avi"))
        found = echonet_class.video(dst / "Videos" / item.file)
        assert found.shape == (3, len(expected), HEIGHT, WIDTH)
        assert psnr(found.transpose(1, 2, 3, 0), np.broadcast_to(expected, (*expected.shape[:3], 3))) >= 38


def test_echonet_tables_have_its_columns_and_no_patient(tmp_path: Path) -> None:
    dst = tmp_path / "out"
    run(make_video_store(tmp_path / "videos", synthetic_rows()), dst, "echonet")
    head = "FileName,EF,ESV,EDV,FrameHeight,FrameWidth,FPS,NumberOfFrames,Split,View,ED,ES"
    assert (dst / "FileList.csv").read_text().splitlines()[:2] == [
        head,
        f"s-1,55.5,,,{HEIGHT},{WIDTH},32.0,9,TRAIN,A4C,0 6,3 8",
    ]
    assert not any(b"Doe" in path.read_bytes() for path in dst.iterdir() if path.is_file())
    assert (dst / "VolumeTracings.csv").read_text().splitlines()[:3] == [
        echonet_class.TRACED,
        "s-1.avi,nan,nan,nan,nan,3",
        "s-1.avi,nan,nan,nan,nan,0",
    ]


def test_ingest_reads_the_echonet_export_with_its_key_frames(tmp_path: Path) -> None:
    dst = tmp_path / "out"
    run(make_video_store(tmp_path / "videos", synthetic_rows()), dst, "echonet")
    source = EchoNetDynamic()
    found = {one.name: one for one in source.recordings(dst) if one.problem is None}
    assert found.keys() == {f"s-{k}" for k in range(1, 6)}
    assert (found["s-1"].columns["EF"], found["s-2"].columns.get("EF")) == (55.5, None)
    marks = {name: source.read(one, Limits()).marks for name, one in found.items()}
    assert marks["s-5"]["ED"] == pytest.approx([2 / 32])
    assert marks["s-5"]["ES"] == pytest.approx([4 / 32])
    assert not marks["s-3"]


def test_without_key_frames_only_the_header_of_the_tracings_is_written(tmp_path: Path) -> None:
    src, dst = make_video_store(tmp_path / "videos", [row("s-1", "A", 9)]), tmp_path / "out"
    assert str(run(src, dst, "echonet").facts["without ED and ES"]).startswith("1 recordings")
    assert (dst / "VolumeTracings.csv").read_text() == f"{echonet_class.TRACED}\n"
    assert list(echonet_class.items(dst, "all")) == []


@pytest.mark.parametrize("names", [["s-1", "a.1"], ["007", "008"], ["s-1", "NA"]])
def test_names_that_echonet_dataset_class_would_lose_are_refused(tmp_path: Path, names: list[str]) -> None:
    src = make_video_store(tmp_path / "videos", [row(name, name, 9) for name in names])
    with pytest.raises(UserError, match=f"leaves out or misreads a recording called '{names[names[0] == 's-1']}'"):
        run(src, tmp_path / "out", "echonet")
    assert not list(tmp_path.glob("out*"))


def test_invalid_key_frames_are_refused(tmp_path: Path) -> None:
    src = make_video_store(tmp_path / "videos", [row("s-1", "A", 9, ED="0", ES="9")])
    with pytest.raises(UserError, match=r"s-1 has ES '9', not frame numbers from 0 to 8"):
        run(src, tmp_path / "out", "echonet")
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("channels", [1, 3])
def test_mp4_plays_in_browsers(tmp_path: Path, channels: int) -> None:
    src, dst = store(tmp_path / "videos", channels), tmp_path / "out"
    assert "padded" not in run(src, dst, "mp4").facts
    for name, frames in LENGTHS.items():
        path = dst / "Videos" / f"{name}.mp4"
        found, fps, codec, pixels = decoded(path)
        assert (found.shape, codec, pixels) == ((frames, HEIGHT, WIDTH, 3), "h264", "yuv420p")
        assert fps == pytest.approx(29.97, abs=1e-3)
        assert psnr(found, np.broadcast_to(src.frames(name), found.shape)) >= (36 if channels == 1 else 24)
        assert path.read_bytes().index(b"moov") < path.read_bytes().index(b"mdat")


def test_mp4_pads_odd_sizes_and_says_so(tmp_path: Path) -> None:
    src, dst = store(tmp_path / "videos", size=(17, 22)), tmp_path / "out"
    assert str(run(src, dst, "mp4").facts["padded"]).startswith("2 recordings by one row")
    found = decoded(dst / "Videos" / "b.mp4")[0]
    assert found.shape == (12, 18, 22, 3)
    assert psnr(found[:, :17], np.broadcast_to(src.frames("b"), (12, 17, 22, 3))) >= 36
    assert psnr(found[:, 17:], found[:, 16:17]) >= 25
    assert [(e["FrameHeight"], e["FrameWidth"], e["FPS"], e["EF"]) for e in table(dst)] == [
        ("18", "22", "29.97", "55.5")
    ] * 2


def test_pt_of_pixels(tmp_path: Path) -> None:
    src, dst = store(tmp_path / "videos", 3), tmp_path / "out"
    run(src, dst, "pt")
    for name in LENGTHS:
        found = torch.load(dst / f"{name}.pt", weights_only=True)
        assert (found.dtype, found.is_contiguous()) == (torch.uint8, True)
        assert np.array_equal(found.numpy().transpose(0, 2, 3, 1), src.frames(name))


def test_pt_of_latents(tmp_path: Path) -> None:
    src, dst = make_latent_store(tmp_path / "latents"), tmp_path / "out"
    run(src, dst, "pt")
    found = torch.load(dst / "b1.pt", weights_only=True)
    assert set(found) == {"mean", "std"}
    assert found["mean"].dtype == found["std"].dtype == torch.float16
    assert np.array_equal(found["mean"].numpy(), posterior_mean(2, 13))
    assert (found["std"] == 0.25).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_nifti(tmp_path: Path, channels: int) -> None:
    src, dst = store(tmp_path / "videos", channels), tmp_path / "out"
    run(src, dst, "nifti")
    for name, frames in LENGTHS.items():
        image = nibabel.load(dst / f"{name}.nii.gz")
        assert image.shape == (WIDTH, HEIGHT, frames)
        assert image.header.get_zooms()[2] == pytest.approx(1 / 29.97)
        assert image.header.get_xyzt_units()[1] == "sec"
        voxels = np.asanyarray(image.dataobj)
        found = voxels[..., None] if channels == 1 else np.stack([voxels[c] for c in "RGB"], -1)
        assert np.array_equal(found.transpose(2, 1, 0, 3), src.frames(name))


@pytest.mark.parametrize("format", [name for name in FORMATS if name != "pt"])
def test_latents_are_decoded_first(tmp_path: Path, format: str) -> None:
    src = make_latent_store(tmp_path / "latents")
    with pytest.raises(UserError, match="decode them with stage=decode"):
        run(src, tmp_path / "out", format)
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("format", ["png", "gif", "pt"])
def test_what_was_finished_before_a_kill_is_kept_and_the_rest_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    src, dst, work = store(tmp_path / "videos"), tmp_path / "out", tmp_path / "out.partial"
    whole = tmp_path / "whole"
    run(src, whole, format)

    def stop(self: Path, target: Path) -> Path:
        if target.name.startswith("b"):
            raise KeyboardInterrupt
        return rename(self, target)

    rename = Path.rename
    monkeypatch.setattr(Path, "rename", stop)
    with pytest.raises(KeyboardInterrupt):
        run(src, dst, format)
    monkeypatch.setattr(Path, "rename", rename)
    assert not dst.exists()
    path = FORMATS[format].path
    assert (work / path.format("a.1")).exists()
    assert not (work / path.format("b")).exists()
    assert list(work.rglob(".new-*b*"))
    before = (work / path.format("a.1")).stat().st_mtime_ns
    assert "1 recordings were already there" in run(src, dst, format).title
    assert not work.exists()
    assert (dst / path.format("a.1")).stat().st_mtime_ns == before
    files = [{p.relative_to(top): p.read_bytes() for p in top.rglob("*") if p.is_file()} for top in (dst, whole)]
    assert files[0] == files[1]


def test_an_export_that_is_there_is_left_alone(tmp_path: Path) -> None:
    src, dst = store(tmp_path / "videos"), tmp_path / "out"
    run(src, dst, "png")
    before = {path: path.stat().st_mtime_ns for path in dst.rglob("*")}
    assert "already complete" in run(src, dst, "png", jpg_quality=50).title  # jpg_quality has no effect on png
    assert {path: path.stat().st_mtime_ns for path in dst.rglob("*")} == before
    with pytest.raises(UserError, match="made with format=png, now jpg"):
        run(src, dst, "jpg")
    shutil.rmtree(src.root)
    store(tmp_path / "videos", fps=30.0)
    with pytest.raises(UserError, match="made from other recordings"):
        run(tmp_path / "videos", dst, "png")


def test_another_quality_is_another_export(tmp_path: Path) -> None:
    src, dst = store(tmp_path / "videos"), tmp_path / "out"
    run(src, dst, "mp4")
    with pytest.raises(UserError, match="made with crf=18, now 30"):
        run(src, dst, "mp4", crf=30)


def test_a_half_made_export_of_another_kind_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    src, dst = store(tmp_path / "videos"), tmp_path / "out"
    monkeypatch.setattr(module, "export_recording", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(src, dst, "png")
    with pytest.raises(UserError, match=r"out\.partial already exists, made with format=png, now jpg"):
        run(src, dst, "jpg")


@pytest.mark.parametrize("there", ["out", "out.partial"])
def test_a_folder_that_is_no_export_is_left_alone(tmp_path: Path, there: str) -> None:
    src = store(tmp_path / "videos")
    (tmp_path / there).mkdir()
    (tmp_path / there / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="is not an export"):
        run(src, tmp_path / "out", "png")
    assert [path.name for path in (tmp_path / there).iterdir()] == ["thesis.txt"]


def test_two_processes_do_not_write_one_export(tmp_path: Path) -> None:
    src, work = store(tmp_path / "videos"), tmp_path / "out.partial"
    work.mkdir()
    handle = os.open(work, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(UserError, match="being written by another process"):
        run(src, tmp_path / "out", "png")
    os.close(handle)
    run(src, tmp_path / "out", "png")


def test_the_second_of_two_processes_finds_the_first_one_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    src, dst, lock = store(tmp_path / "videos"), tmp_path / "out", folder.lock_for_writing

    def late(work: Path) -> int:
        monkeypatch.setattr(folder, "lock_for_writing", lock)
        run(src, dst, "png")
        return lock(work)

    monkeypatch.setattr(folder, "lock_for_writing", late)
    assert "already complete" in run(src, dst, "png").title
    assert not list(tmp_path.glob("*.partial"))


def test_what_was_asked_is_recorded(tmp_path: Path) -> None:
    src, dst = store(tmp_path / "videos"), tmp_path / "out"
    run(src, dst, "jpg", jpg_quality=80)
    record = json.loads((dst / "export.json").read_text())
    assert record["command"] == "python sample.py"
    assert (record["format"], record["jpg_quality"], record["crf"], record["code_version"]) == ("jpg", 80, None, "1")


@pytest.mark.parametrize(
    ("format", "settings", "message"),
    [
        (None, {}, "format= is needed: choose one of jpg, png"),
        ("bmp", {}, "format is 'bmp': choose one of jpg, png, gif, avi, mp4, pt, nifti"),
        ("jpg", {"jpg_quality": 0}, "jpg_quality is 0"),
        ("mp4", {"crf": 60}, "crf is 60"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    tmp_path: Path, format: str | None, settings: dict[str, int], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run(store(tmp_path / "videos"), tmp_path / "out", format, **settings)
    assert not list(tmp_path.glob("out*"))


def test_a_store_is_not_written_into(tmp_path: Path) -> None:
    src = store(tmp_path / "videos")
    for dst in (src.root, src.root / "png"):
        with pytest.raises(UserError, match="lies in the store"):
            run(src, dst, "png")
