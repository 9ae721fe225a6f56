from pathlib import Path

import av
import numpy as np
import pytest

from echodream.store import StoreError
from echodream.store.video import probe_video, read_video, write_video
from tests.support.fakes import noise

SIZES = [(1, 1), (2, 3), (16, 16), (17, 23), (19, 24), (33, 48), (20, 72), (112, 111)]


def with_pyav(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        grey = container.streams.video[0].pix_fmt == "gray"
        frames = [frame.to_ndarray(format="gray" if grey else "rgb24") for frame in container.decode(video=0)]
    return np.stack([frame[..., None] if grey else frame for frame in frames])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("size", "frames"), [*((size, 2) for size in SIZES), ((17, 23), 1), ((17, 23), 7)], ids=lambda value: str(value)
)
def test_every_pixel_comes_back_through_both_readers(
    tmp_path: Path, channels: int, size: tuple[int, int], frames: int
) -> None:
    path, given = tmp_path / "a.mkv", noise(frames, *size, channels)
    write_video(path, given, 29.97)
    assert np.array_equal(read_video(path, channels), given)
    assert np.array_equal(with_pyav(path), given)
    assert probe_video(path, channels) == (frames, *size)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("width", [23, 24])
def test_frames_are_read_by_index_in_the_order_asked_for(tmp_path: Path, channels: int, width: int) -> None:
    path, given = tmp_path / "a.mkv", noise(9, 18, width, channels)
    write_video(path, given, 50)
    for indices in ([4], [8, 0, 3, 3], [2, 4, 6], range(3, 7)):
        assert np.array_equal(read_video(path, channels, indices, 9), given[list(indices)])


@pytest.mark.parametrize("fps", [0.5, 23.976, 29.97, 32, 59.94, 47.321, 1000])
def test_the_frame_rate_is_in_the_file(tmp_path: Path, fps: float) -> None:
    path = tmp_path / "a.mkv"
    write_video(path, noise(), fps)
    with av.open(str(path)) as container:
        times = [packet.pts * packet.time_base for packet in container.demux(video=0) if packet.size]
        assert float(container.streams.video[0].average_rate) == pytest.approx(fps, rel=1e-3)
    assert [float(time) for time in times] == pytest.approx([k / fps for k in range(5)], abs=0.00051)


@pytest.mark.parametrize("channels", [1, 3])
def test_equal_frames_give_equal_bytes(tmp_path: Path, channels: int) -> None:
    for name in "ab":
        write_video(tmp_path / f"{name}.mkv", noise(channels=channels), 32)
    assert (tmp_path / "a.mkv").read_bytes() == (tmp_path / "b.mkv").read_bytes()


def test_other_frames_give_other_bytes(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_video(tmp_path / f"{seed}.mkv", noise(seed=seed), 32)
    assert (tmp_path / "0.mkv").read_bytes() != (tmp_path / "1.mkv").read_bytes()


def test_a_view_that_is_not_contiguous_is_written_as_it_reads(tmp_path: Path) -> None:
    given = noise(6, 20, 25, 3)[::-1, :, ::-1]
    write_video(tmp_path / "a.mkv", given, 32)
    assert np.array_equal(read_video(tmp_path / "a.mkv", 3), given)


@pytest.mark.parametrize(
    "frames",
    [
        noise().astype(np.float32),
        noise().astype(np.uint16),
        noise()[..., 0],
        noise(channels=2),
        noise(channels=4),
        noise(0),
        noise(2, 0, 9),
        noise(1, 1, 16_385),
    ],
    ids=lambda frames: f"{frames.dtype}{frames.shape}",
)
def test_other_frames_are_refused(tmp_path: Path, frames: np.ndarray) -> None:
    with pytest.raises(StoreError, match="frames are"):
        write_video(tmp_path / "a.mkv", frames, 32)
    assert not (tmp_path / "a.mkv").exists()


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf"), 1e-9, 1000.1])
def test_other_rates_are_refused(tmp_path: Path, fps: float) -> None:
    with pytest.raises(StoreError, match="frames per second"):
        write_video(tmp_path / "a.mkv", noise(), fps)


def test_pixels_that_change_on_the_way_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("echodream.store.video.read_video", lambda path, channels: noise(seed=9))
    with pytest.raises(StoreError, match="differ"):
        write_video(tmp_path / "a.mkv", noise(), 32)


@pytest.mark.parametrize("width", [23, 24])
def test_another_number_of_frames_than_expected_is_refused(tmp_path: Path, width: int) -> None:
    write_video(tmp_path / "a.mkv", noise(5, 17, width), 32)
    with pytest.raises(StoreError, match=r"has 5 frames, FileList\.csv states 6"):
        read_video(tmp_path / "a.mkv", 1, frames=6)


def test_a_frame_beyond_the_end_is_refused(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mkv", noise(5), 32)
    with pytest.raises(StoreError, match="has no frame 5, it has 5"):
        read_video(tmp_path / "a.mkv", 1, [0, 5])


def test_a_machine_without_decord_reads_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = noise(6, 18, 25, 3)
    write_video(tmp_path / "a.mkv", given, 32)
    monkeypatch.setitem(__import__("sys").modules, "decord", None)
    assert np.array_equal(read_video(tmp_path / "a.mkv", 3, [5, 1], 6), given[[5, 1]])


@pytest.mark.parametrize("content", [b"", b"no video", b"\x1aE\xdf\xa3" + bytes(200)])
def test_what_is_no_video_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.mkv").write_bytes(content)
    with pytest.raises(StoreError, match="cannot be decoded"):
        read_video(tmp_path / "a.mkv", 1)
    with pytest.raises(StoreError, match="not a readable video"):
        probe_video(tmp_path / "a.mkv", 1)


def test_a_codec_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    write_video(path, noise(), 32)
    path.write_bytes(path.read_bytes().replace(b"V_FFV1", b"V_FFVX"))
    for read in (probe_video, read_video):
        with pytest.raises(StoreError, match="create the store again"):
            read(path, 1)


def test_a_play_list_does_not_make_the_reader_open_other_files(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mkv", noise(), 32)
    (tmp_path / "b.mkv").write_text("#EXTM3U\n#EXTINF:1,\na.mkv\n#EXT-X-ENDLIST\n")
    with pytest.raises(StoreError):
        probe_video(tmp_path / "b.mkv", 1)


def test_another_codec_or_pixel_format_is_refused(tmp_path: Path) -> None:
    write_video(tmp_path / "grey.mkv", noise(), 32)
    with pytest.raises(StoreError, match="ffv1 gray, but a store holds ffv1 bgr0"):
        probe_video(tmp_path / "grey.mkv", 3)
    with av.open(str(tmp_path / "lossy.mkv"), "w", format="matroska") as container:
        stream = container.add_stream("mpeg4", rate=32)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for frame in noise(3, 32, 32, 3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    with pytest.raises(StoreError, match="mpeg4 yuv420p, but a store holds ffv1 gray"):
        probe_video(tmp_path / "lossy.mkv", 1)
