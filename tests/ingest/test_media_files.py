"""Video files, GIFs and image sequences."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from echodream.errors import Rejected
from echodream.ingest.media_files import read_gif, read_image_sequence, read_video_file
from echodream.ingest.source import Limits, Video
from tests.support.raw_files import cut, moving, write_video

LIMITS = Limits()


def _reason(read: Callable[[], Video]) -> str:
    """Why a damaged file is rejected; empty where it still gives a video."""
    try:
        assert isinstance(read(), Video)
    except Rejected as rejected:
        return str(rejected)
    return ""


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("a.mp4", "libx264", "yuv420p"),
        ("a.mov", "libx264", "yuv420p"),
        ("a.mkv", "ffv1", "gray"),
        ("a.mkv", "libx264", "gray"),
        ("a.avi", "mjpeg", "yuvj420p"),
        ("a.avi", "mpeg4", "yuv420p"),
        ("a.mpeg", "mpeg2video", "yuv420p"),
        ("a.wmv", "wmv2", "yuv420p"),
        ("a.webm", "libvpx", "yuv420p"),
        ("a.m4v", "mpeg4", "yuv420p"),
    ],
)
def test_containers_and_codecs(tmp_path: Path, name: str, codec: str, pix_fmt: str) -> None:
    frames = moving(frames=9)
    video = read_video_file(write_video(tmp_path / name, frames, codec=codec, pix_fmt=pix_fmt), LIMITS)
    assert video.frames.shape[:3] == (9, 48, 64)
    assert video.frames.dtype == np.uint8
    np.testing.assert_allclose(video.times, np.arange(9) / 25, atol=1e-3)
    assert video.fps == pytest.approx(25, rel=0.01)
    error = video.frames.mean(axis=-1) - frames
    assert np.sqrt((error**2).mean()) < (0.01 if codec == "ffv1" else 12)


def test_grey_comes_back_as_one_channel_and_colour_as_three(tmp_path: Path) -> None:
    grey = read_video_file(write_video(tmp_path / "g.mkv", moving(), codec="ffv1", pix_fmt="gray"), LIMITS)
    assert grey.frames.shape == (8, 48, 64, 1)
    rgb = np.stack([moving(), moving()[::-1], moving() // 2], axis=-1)
    colour = read_video_file(write_video(tmp_path / "c.mp4", rgb), LIMITS)
    assert colour.frames.shape == (8, 48, 64, 3)


def test_grey_h264_keeps_its_range(tmp_path: Path) -> None:
    frames = np.repeat(np.linspace(0, 255, 64, dtype=np.uint8)[None, None], 48, axis=1).repeat(4, axis=0)
    video = read_video_file(write_video(tmp_path / "a.mp4", frames, pix_fmt="gray"), LIMITS)
    assert np.abs(video.frames[..., 0].astype(int) - frames).max() < 20


def test_uneven_time_stamps_are_kept(tmp_path: Path) -> None:
    times = [0.0, 0.04, 0.1, 0.3, 0.32, 0.5, 0.54, 0.6]
    video = read_video_file(
        write_video(tmp_path / "a.mkv", moving(), codec="ffv1", pix_fmt="gray", times=times), LIMITS
    )
    np.testing.assert_allclose(video.times, times, atol=1e-3)


def test_a_stated_rate_replaces_the_time_stamps(tmp_path: Path) -> None:
    video = read_video_file(write_video(tmp_path / "a.mp4", moving()), LIMITS, fps=50)
    np.testing.assert_allclose(video.times, np.arange(8) / 50)
    assert video.fps == 50


def test_an_absurd_gap_is_rejected(tmp_path: Path) -> None:
    times = [0.0, 0.04, 0.08, 5000.0]
    path = write_video(tmp_path / "a.mkv", moving(4), codec="ffv1", pix_fmt="gray", times=times)
    with pytest.raises(Rejected, match="implausible times"):
        read_video_file(path, LIMITS)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(max_frames=7), "too long"),
        (Limits(min_frames=9), "too short"),
        (Limits(max_side=60), "too large|unreadable"),
        (Limits(min_side=50), "too small"),
        (Limits(max_bytes=1000), "too large"),
    ],
)
def test_limits_hold_before_decoding(
    tmp_path: Path, limits: Limits, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_video(tmp_path / "a.mp4", moving())
    for name in ("decord_frames", "_pyav_frames"):
        monkeypatch.setattr(f"echodream.ingest.media_files.{name}", lambda *_: pytest.fail("a frame was decoded"))
    with pytest.raises(Rejected, match=reason):
        read_video_file(path, limits)


@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "a.mkv", "a.mpeg"])
def test_damage_gives_a_video_or_one_reason_without_a_path(tmp_path: Path, name: str) -> None:
    codec, pix_fmt = {"a.avi": ("mjpeg", "yuvj420p"), "a.mpeg": ("mpeg2video", "yuv420p")}.get(
        name, ("libx264", "yuv420p")
    )
    whole = write_video(tmp_path / name, moving(16), codec=codec, pix_fmt=pix_fmt).read_bytes()
    random = np.random.default_rng(5)
    for trial in range(12):
        data = bytearray(whole)
        if trial % 2:
            data = data[: int(random.integers(1, len(whole)))]
        else:
            for place in random.integers(0, len(data), 20):
                data[place] ^= 1 << int(random.integers(8))
        path = tmp_path / f"damaged{trial}{Path(name).suffix}"
        path.write_bytes(data)
        reason = _reason(partial(read_video_file, path, LIMITS))
        assert str(tmp_path) not in reason
        assert "\n" not in reason


def test_a_cut_mp4_is_not_taken_for_a_shorter_one(tmp_path: Path) -> None:
    import av

    path = tmp_path / "a.mp4"
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height = 64, 48
        for pixels in np.random.default_rng(0).integers(0, 256, (30, 48, 64, 3), dtype=np.uint8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    with pytest.raises(Rejected, match=r"\d+ of 30 frames|unreadable"):
        read_video_file(cut(path, 0.6), LIMITS)


@pytest.mark.parametrize(
    "text", ["", "hello", "#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "ffconcat version 1.0\nfile a.mp4\n"]
)
def test_no_video_at_all(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.mp4"
    path.write_text(text)
    with pytest.raises(Rejected, match="unreadable"):
        read_video_file(path, LIMITS)


def _gif(path: Path, durations: list[int] | int) -> Path:
    images = [Image.fromarray(frame) for frame in moving(5)]
    images[0].save(path, save_all=True, append_images=images[1:], duration=durations, loop=0)
    return path


def test_gif_frames_last_as_long_as_it_says(tmp_path: Path) -> None:
    video = read_gif(_gif(tmp_path / "a.gif", [40, 40, 80, 40, 40]), LIMITS)
    assert video.frames.shape == (5, 48, 64, 1)
    np.testing.assert_allclose(video.times, [0, 0.04, 0.08, 0.16, 0.2])
    assert video.fps == pytest.approx(5 / 0.24)
    np.testing.assert_array_equal(read_gif(_gif(tmp_path / "b.gif", 0), LIMITS).times, np.arange(5) * 0.1)
    with pytest.raises(Rejected, match="too long"):
        read_gif(tmp_path / "a.gif", Limits(max_frames=4))
    for share in (0.02, 0.3, 0.7):
        path = cut(_gif(tmp_path / "c.gif", 40), share)
        assert str(tmp_path) not in _reason(partial(read_gif, path, LIMITS))


def test_image_sequences(tmp_path: Path) -> None:
    frames = moving(4)
    paths = [tmp_path / f"{index}.png" for index in range(4)]
    for path, frame in zip(paths, frames, strict=True):
        Image.fromarray(frame).save(path)
    video = read_image_sequence(paths, LIMITS, 20)
    np.testing.assert_array_equal(video.frames[..., 0], frames)
    np.testing.assert_allclose(video.times, np.arange(4) / 20)
    Image.fromarray(np.stack([frames[0]] * 3, axis=-1)).save(paths[0])
    assert read_image_sequence(paths, LIMITS, 20).frames.shape == (4, 48, 64, 1)
    Image.fromarray(frames[0][:40]).save(paths[0])
    with pytest.raises(Rejected, match="another size"):
        read_image_sequence(paths, LIMITS, 20)
    paths[0].write_bytes(b"no image")
    with pytest.raises(Rejected, match="image 1 of 4"):
        read_image_sequence(paths, LIMITS, 20)


def test_deep_images_are_scaled_over_the_whole_sequence(tmp_path: Path) -> None:
    deep = moving(3).astype(np.uint16) * 200 + 100
    paths = [tmp_path / f"{index}.png" for index in range(3)]
    for path, frame in zip(paths, deep, strict=True):
        Image.fromarray(frame).save(path)
    frames = read_image_sequence(paths, LIMITS, 20).frames[..., 0]
    span = deep.max() - deep.min()
    np.testing.assert_array_equal(frames, np.rint((deep - deep.min()) * (255 / span)).astype(np.uint8))
