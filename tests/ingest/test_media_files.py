"""Reading of video files, GIFs and image sequences."""

import io
import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from echodream.errors import Rejected
from echodream.ingest.media_files import read_gif, read_image_sequence, read_video_file
from echodream.ingest.source import Limits, Video
from tests.support.decoding_matrix import CODECS, decode_with_pyav, largest_difference, turned, write_cell
from tests.support.raw_files import cut, moving, write_video

LIMITS = Limits()


def _reason(read: Callable[[], Video]) -> str:
    """Return the reason why ``read`` rejects a damaged file, or an empty text if ``read`` returns a video."""
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
    monkeypatch.setattr("echodream.ingest.media_files._decode_frames", lambda *_: pytest.fail("a frame was decoded"))
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


H264 = next(codec for codec in CODECS if (codec.suffix, codec.name) == ("mp4", "libx264"))


def _write_rgba(path: Path, frames: np.ndarray, codec: str, pix_fmt: str) -> Path:
    """Write RGBA frames (F, H, W, 4) as a video file."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], pix_fmt
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgba")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def _with_edit_list(path: Path, frames: int, first: int) -> Path:
    """Change the edit list of an mp4 file (25 frames per second): players show ``frames`` frames from ``first`` on."""
    data = bytearray(path.read_bytes())
    start = data.find(b"elst") + 12
    data[start : start + 8] = struct.pack(">Ii", 40 * frames, 512 * (first + 2))  # x264 starts at time 1024, two frames
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("variant", ["90 degrees", "180 degrees", "270 degrees", "mirrored"])
def test_a_clip_of_a_phone_is_upright_whether_trimmed_or_not(tmp_path: Path, variant: str) -> None:
    whole = write_cell(tmp_path / "a.mp4", H264, variant)
    trimmed = _with_edit_list(write_cell(tmp_path / "b.mp4", H264, variant), frames=10, first=8)
    for path in (whole, trimmed):
        video = read_video_file(path, LIMITS)
        assert largest_difference(video.frames, turned(decode_with_pyav(path), variant)) == 0


def test_an_edit_list_is_not_taken_for_a_cut_file(tmp_path: Path) -> None:
    path = _with_edit_list(write_cell(tmp_path / "a.mp4", H264, "GOP of 6, B-frames"), frames=10, first=8)
    video, reference = read_video_file(path, LIMITS), decode_with_pyav(path)
    assert len(video.frames) == len(reference) == 10
    assert largest_difference(video.frames, reference) == 0
    np.testing.assert_allclose(video.times, np.arange(10) / 25, atol=1e-3)


def _with_empty_chunks(path: Path, dropped: Sequence[int], index: bool = True) -> Path:
    """Empty the chunks of the frames ``dropped`` in an AVI file. Frame grabbers write such chunks for lost frames."""
    data = path.read_bytes()
    movi, end = data.index(b"movi"), data.index(b"idx1")
    chunks, entries, place, number = b"", b"", movi + 4, 0
    while place < end:
        tag, size = struct.unpack("<4sI", data[place : place + 8])
        chunk = data[place : place + 8 + size + size % 2]
        place += len(chunk)
        if tag == b"00dc":
            chunk = tag + bytes(4) if number in dropped else chunk
            number += 1
        entries += tag + struct.pack("<III", 16, 4 + len(chunks), len(chunk) - 8)
        chunks += chunk
    body = data[8 : movi - 4] + struct.pack("<I", len(chunks) + 4) + b"movi" + chunks
    body += (b"idx1" + struct.pack("<I", len(entries)) + entries) * index
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    return path


@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize(("codec", "pix_fmt"), [("mjpeg", "yuvj422p"), ("rawvideo", "bgr24")])
def test_an_empty_chunk_of_an_avi_repeats_the_frame_before(
    tmp_path: Path, codec: str, pix_fmt: str, index: bool
) -> None:
    whole = read_video_file(write_video(tmp_path / "a.avi", moving(24), codec=codec, pix_fmt=pix_fmt), LIMITS)
    path = write_video(tmp_path / "b.avi", moving(24), codec=codec, pix_fmt=pix_fmt)
    dropped = [5, 6, 13, 19]
    video = read_video_file(_with_empty_chunks(path, dropped, index), LIMITS)
    order = np.array([number if number not in dropped else -1 for number in range(24)])
    np.testing.assert_array_equal(video.frames, whole.frames[np.maximum.accumulate(order)])
    np.testing.assert_allclose(video.times, np.arange(24) / 25)
    assert video.fps == 25


def test_a_stream_that_begins_between_key_frames_gives_the_frames_that_can_be_decoded(tmp_path: Path) -> None:
    codec = next(codec for codec in CODECS if (codec.suffix, codec.name) == ("ts", "mpeg2video"))
    path = write_cell(tmp_path / "a.ts", codec, "GOP of 6, B-frames")
    whole = decode_with_pyav(path)
    data = path.read_bytes()
    path.write_bytes(data[188 * (len(data) // 188 // 3) :])
    video, reference = read_video_file(path, LIMITS), decode_with_pyav(path)
    assert 6 < len(video.frames) < 22
    assert largest_difference(video.frames, reference) == 0
    assert largest_difference(video.frames[-1:], whole[-1:]) == 0


def test_several_videos_in_one_file_are_refused_and_covers_ignored(tmp_path: Path) -> None:
    def write(name: str, cover: bool) -> Path:
        with av.open(str(tmp_path / name), "w") as container:
            streams: list[Any] = [container.add_stream("mjpeg" if cover else "libx264", rate=25)]
            streams.append(container.add_stream("libx264", rate=25))
            for stream in streams:
                stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
            if cover:
                streams[0].pix_fmt = "yuvj420p"
                streams[0].disposition = 1 << 10
            for index, pixels in enumerate(moving(6)):
                for stream in streams[cover and index > 0 :]:
                    frame = av.VideoFrame.from_ndarray(pixels, format="gray")
                    frame.pts = index
                    container.mux(stream.encode(frame))
            for stream in streams:
                container.mux(stream.encode())
        return tmp_path / name

    assert len(read_video_file(write("cover.mp4", cover=True), LIMITS).frames) == 6
    with pytest.raises(Rejected, match="2 videos in one file"):
        read_video_file(write("two.mp4", cover=False), LIMITS)


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("a.mov", "png", "rgba"),
        ("a.mov", "qtrle", "argb"),
        ("a.mkv", "ffv1", "yuva420p"),
        ("a.avi", "rawvideo", "bgra"),
    ],
)
def test_what_is_transparent_is_hidden(tmp_path: Path, name: str, codec: str, pix_fmt: str) -> None:
    pixels = np.repeat(moving(5)[..., None], 4, axis=3)
    pixels[..., 3] = 255
    pixels[:, 10:20, 5:30, :3], pixels[:, 10:20, 5:30, 3] = 230, 0  # text under transparent pixels
    video = read_video_file(_write_rgba(tmp_path / name, pixels, codec, pix_fmt), LIMITS)
    assert video.frames[:, 12:18, 7:28].max() == 0
    assert np.abs(video.frames[:, 24:].mean(axis=-1) - moving(5)[:, 24:]).max() <= 2


def test_an_alpha_channel_of_zeros_is_unused(tmp_path: Path) -> None:
    pixels = np.repeat(moving(5)[..., None], 4, axis=3)
    pixels[..., 3] = 0
    video = read_video_file(_write_rgba(tmp_path / "a.avi", pixels, "rawvideo", "bgra"), LIMITS)
    np.testing.assert_array_equal(video.frames[..., 0], moving(5))


def test_transparency_that_ffmpeg_does_not_read_is_refused(tmp_path: Path) -> None:
    pixels = np.repeat(moving(5)[..., None], 4, axis=3)
    with pytest.raises(Rejected, match="transparent pixels in WebM"):
        read_video_file(_write_rgba(tmp_path / "a.webm", pixels, "libvpx-vp9", "yuva420p"), LIMITS)


def test_a_motion_jpeg_with_exif_tags_is_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "a.mov"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mjpeg", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuvj420p"
        for index, pixels in enumerate(moving(4)):
            data = io.BytesIO()
            Image.fromarray(pixels).convert("RGB").save(data, "JPEG", quality=95, exif=exif)
            packet = av.Packet(data.getvalue())
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, index, index, Fraction(1, 25)
            container.mux(packet)
    frames = read_video_file(path, LIMITS).frames
    assert np.abs(frames.mean(axis=-1) - np.rot90(moving(4), -1, axes=(1, 2))).max() < 25


@pytest.mark.parametrize("disposal", [0, 1, 2])
def test_a_transparent_gif_equals_pyav(tmp_path: Path, disposal: int) -> None:
    images = []
    for index, frame in enumerate(moving(6)):
        pixels = np.dstack([frame, frame, frame, np.full_like(frame, 255)])
        pixels[:, :20, 3] = 0
        pixels[30:40, 40:50, 3] = 255 * (index % 2)
        images.append(Image.fromarray(pixels))
    path = tmp_path / "a.gif"
    images[0].save(path, save_all=True, append_images=images[1:], duration=40, disposal=disposal)
    with av.open(str(path)) as container:
        reference = np.stack([frame.to_ndarray(format="rgba") for frame in container.decode(video=0)])
    shown = np.where(reference[..., 3:] > 0, reference[..., :3], 0)
    assert largest_difference(read_gif(path, LIMITS).frames, shown) == 0
    assert shown[:, :, :20].max() == 0


def test_pixels_of_an_implausible_shape_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(9, 2)
        for index, pixels in enumerate(moving(4)):
            frame = av.VideoFrame.from_ndarray(pixels, format="gray")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(Rejected, match=r"4\.5 times as wide as high"):
        read_video_file(path, LIMITS)
