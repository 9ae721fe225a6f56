import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from echodream.errors import Rejected, UserError
from echodream.ingest.preprocessing import (
    Preprocessing,
    check_video,
    convert_color,
    motion_bounding_box,
    preprocess,
    resample_indices,
    resize,
)
from echodream.ingest.source import Video

KEEP = Preprocessing(fps=None, size=None)


def frames(count: int = 8, height: int = 18, width: int = 26, channels: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, channels), dtype=np.uint8)


def video(pixels: np.ndarray, fps: float = 25.0, **rest: object) -> Video:
    return Video(pixels, np.arange(len(pixels)) / fps, fps, **rest)  # type: ignore[arg-type]


# --- resampling ---


def by_brute_force(times: np.ndarray, fps: float, count: int) -> list[int]:
    """Index of the frame nearest to each time k / fps; of two frames within 1 ns equally near, the earlier frame."""
    best = []
    for k in range(count):
        distance = [abs(time - k / fps) for time in times]
        best.append(next(index for index, d in enumerate(distance) if d <= min(distance) + 1e-9))
    return best


@pytest.mark.slow
@settings(deadline=None, max_examples=200, derandomize=True)
@given(
    gaps=st.lists(st.floats(0.002, 0.3), min_size=0, max_size=40),
    fps=st.sampled_from([8.0, 25.0, 29.97, 32.0, 50.0, 100.0]),
)
def test_the_nearest_frame_in_time_is_taken_at_any_rate(gaps: list[float], fps: float) -> None:
    times = np.concatenate([[0.0], np.cumsum(gaps)])
    source = len(times) / (times[-1] + 0.03)
    index = resample_indices(times, source, fps)
    assert index.tolist() == by_brute_force(times, fps, len(index))
    duration = times[-1] + 1 / source
    assert abs(len(index) / fps - duration) <= 0.5 / fps + 1e-9 or len(index) == 1


@pytest.mark.parametrize(("source", "fps"), [(25, 32), (60, 32), (32, 32), (50, 25), (30, 60), (29.97, 32), (100, 32)])
@pytest.mark.parametrize("count", [1, 2, 3, 50, 101])
def test_common_rates(source: float, fps: float, count: int) -> None:
    times = np.arange(count) / source
    index = resample_indices(times, source, fps)
    assert abs(len(index) / fps - count / source) <= 0.5 / fps + 1e-9 or len(index) == 1
    assert index.tolist() == by_brute_force(times, fps, len(index))
    assert (np.diff(index) >= 0).all()


@pytest.mark.parametrize("fps", [25, 29.97, 32, 50, 59.94, 1000 / 33])
def test_the_same_rate_keeps_every_frame(fps: float) -> None:
    assert resample_indices(np.arange(500) / fps, fps, fps).tolist() == list(range(500))


@pytest.mark.parametrize("fps", [25.0, 29.97, 50.0])
def test_time_stamps_rounded_to_milliseconds_keep_every_frame(fps: float) -> None:
    times = np.round(np.arange(300) / fps, 3)
    assert resample_indices(times, fps, fps).tolist() == list(range(300))


def test_a_pause_is_filled_with_the_frames_around_it() -> None:
    times = np.array([0.0, 0.1, 0.9, 1.0])
    assert resample_indices(times, 10, 10).tolist() == [0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 3][:11]


def test_frames_and_rate_after_preparing() -> None:
    pixels = frames(25)
    ready = preprocess(video(pixels), Preprocessing(fps=50, size=None))
    assert ready.fps == 50
    assert np.array_equal(ready.frames, np.repeat(pixels, 2, axis=0))
    assert np.array_equal(preprocess(video(pixels), KEEP).frames, pixels)
    assert preprocess(video(pixels, 23.5), KEEP).fps == 23.5


# --- marks (key frames such as ED and ES) ---


@pytest.mark.parametrize(("source", "fps"), [(25, 32), (60, 32), (100, 32), (32, 32), (25, 50), (50, None)])
def test_a_mark_is_the_frame_nearest_to_its_moment(source: float, fps: float | None) -> None:
    pixels = frames(57)
    for moment in range(57):
        ready = preprocess(video(pixels, source, marks={"ED": (moment / source,)}), Preprocessing(fps=fps, size=None))
        found = int(str(ready.columns["ED"]))
        distance = np.abs(np.arange(len(ready.frames)) / (fps or source) - moment / source)
        assert distance[found] == pytest.approx(distance.min())


def test_marks_are_sorted_and_stand_there_once() -> None:
    marks = {"ED": (0.9, 0.0, 0.001, 0.4), "ES": ()}
    assert preprocess(video(frames(25), marks=marks), Preprocessing(fps=25, size=None)).columns == {
        "ED": "0 10 22",
        "ES": "",
    }


# --- geometry ---


@pytest.mark.parametrize("rotate", [0, 90, 180, 270])
@pytest.mark.parametrize("flip", ["none", "horizontal", "vertical"])
def test_turning_is_anticlockwise_then_flipped(rotate: int, flip: str) -> None:
    pixels = frames()
    expected = np.stack([np.rot90(frame, rotate // 90) for frame in pixels])
    if flip != "none":
        expected = np.stack([{"horizontal": np.fliplr, "vertical": np.flipud}[flip](frame) for frame in expected])
    ready = preprocess(video(pixels), Preprocessing(fps=None, size=None, rotate=rotate, flip=flip))
    assert np.array_equal(ready.frames, expected)
    assert ready.frames.flags.c_contiguous


def test_a_marker_at_the_top_left_goes_to_the_bottom_left_by_a_quarter_turn() -> None:
    pixels = frames(3, 16, 20) // 8
    pixels[:, 0, 0] = 255
    assert (preprocess(video(pixels), Preprocessing(fps=None, size=None, rotate=90)).frames[:, -1, 0] == 255).all()


@pytest.mark.parametrize("size", [(31, 40), (16, 100), (112, 112), (18, 26)])
@pytest.mark.parametrize("channels", [1, 3])
def test_stretching_is_pillows_bicubic(size: tuple[int, int], channels: int) -> None:
    pixels = frames(3, channels=channels)
    for frame, small in zip(pixels, resize(pixels, size), strict=True):
        picture = Image.fromarray(frame[..., 0] if channels == 1 else frame)
        expected = np.asarray(picture.resize(size[::-1], Image.Resampling.BICUBIC))
        assert np.array_equal(small[..., 0] if channels == 1 else small, expected)


@pytest.mark.parametrize(("height", "width"), [(40, 80), (80, 40), (30, 31), (64, 64), (600, 800)])
@pytest.mark.parametrize("size", [(32, 32), (48, 30), (112, 112)])
def test_padding_keeps_the_aspect_ratio_and_the_whole_picture(height: int, width: int, size: tuple[int, int]) -> None:
    small = resize(np.full((1, height, width, 1), 200, np.uint8), size, "pad")[0, :, :, 0]
    rows, columns = np.flatnonzero(small.max(axis=1)), np.flatnonzero(small.max(axis=0))
    inner = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    scale = min(size[0] / height, size[1] / width)
    assert abs(inner[0] - height * scale) <= 0.5
    assert abs(inner[1] - width * scale) <= 0.5
    assert inner[0] == size[0] or inner[1] == size[1]
    assert (small[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] == 200).all()
    for side, length in ((rows, size[0]), (columns, size[1])):
        assert abs(side[0] - (length - 1 - side[-1])) <= 1


@pytest.mark.parametrize(("height", "width"), [(40, 80), (80, 40), (600, 800)])
def test_cutting_keeps_the_middle_and_fills_the_frame(height: int, width: int) -> None:
    rows, columns = np.mgrid[:height, :width]
    disc = ((rows - (height - 1) / 2) ** 2 + (columns - (width - 1) / 2) ** 2) < (min(height, width) / 4) ** 2
    small = resize((disc * 255).astype(np.uint8)[None, ..., None], (32, 32), "centre")[0, :, :, 0] > 127
    assert abs(small.sum() - np.pi * 8**2) < 12  # the disc keeps its shape and a radius of 8 pixels
    assert np.argwhere(small).mean(axis=0) == pytest.approx([15.5, 15.5], abs=0.3)
    assert resize(np.full((1, height, width, 1), 9, np.uint8), (32, 32), "centre").min() == 9


@pytest.mark.parametrize("fit", ["stretch", "pad", "centre"])
@pytest.mark.parametrize(("height", "width"), [(16, 4096), (4096, 16), (17, 1000)])
def test_extreme_shapes_are_taken(fit: str, height: int, width: int) -> None:
    small = resize(np.full((1, height, width, 1), 200, np.uint8), (112, 100), fit)
    assert small.shape == (1, 112, 100, 1)
    assert small.max() == 200


def test_every_shape_has_a_size() -> None:
    ready = preprocess(video(frames(5, 20, 30, 3)), Preprocessing(fps=None, size=(24, 40), grey=False))
    assert ready.frames.shape == (5, 24, 40, 3)


def test_grey_is_luma_and_colour_is_three_times_grey() -> None:
    pixels = frames(2, channels=3)
    red, green, blue = np.moveaxis(pixels.astype(int), -1, 0)
    luma = (299 * red + 587 * green + 114 * blue) / 1000
    assert np.abs(convert_color(pixels, True)[..., 0] - luma).max() <= 0.5 + 1e-9
    assert np.array_equal(convert_color(pixels, False), pixels)
    assert np.array_equal(convert_color(pixels[..., :1], False), np.repeat(pixels[..., :1], 3, axis=3))
    assert np.array_equal(convert_color(pixels[..., :1], True), pixels[..., :1])
    white = np.full((1, 2, 2, 3), 255, np.uint8)
    assert (convert_color(white, True) == 255).all()


# --- cropping to the ultrasound sector ---


def planted() -> np.ndarray:
    """Frames with a moving block, static text and a blinking marker, (F, H, W, 1). Only the block must be kept."""
    pixels = np.zeros((9, 90, 120, 1), np.uint8)
    pixels[:, 20:70, 30:95] = frames(9, 50, 65)
    pixels[:, 3:9, 5:60] = 220
    pixels[::2, 84, 110] = 255
    return pixels


def test_the_box_of_what_moves_is_found() -> None:
    assert motion_bounding_box(planted()) == (20, 70, 30, 95)
    ready = preprocess(video(planted()), Preprocessing(fps=None, size=None, crop="sector"))
    assert np.array_equal(ready.frames, planted()[:, 20:70, 30:95])


def test_where_nothing_or_little_moves_the_frame_is_kept() -> None:
    pixels = np.zeros((5, 40, 50, 1), np.uint8)
    pixels[:, 10:20, 10:20] = frames(5, 10, 10)
    assert motion_bounding_box(pixels) == (0, 40, 0, 50)


# --- rejected recordings and invalid settings ---


def test_black_recordings_are_refused() -> None:
    pixels = frames(10)
    pixels[:6] = 12
    with pytest.raises(Rejected, match="black: 60% of the frames"):
        preprocess(video(pixels), KEEP)
    pixels[5] = 200
    assert len(preprocess(video(pixels), KEEP).frames) == 10


def test_frozen_recordings_are_refused() -> None:
    pixels = np.repeat(frames(1), 12, axis=0)
    with pytest.raises(Rejected, match="frozen: 100% of the frames"):
        preprocess(video(pixels), KEEP)
    pixels[::2, 0, 0] ^= 1
    with pytest.raises(Rejected, match="frozen"):
        preprocess(video(pixels), KEEP)


def test_a_still_but_noisy_recording_is_taken() -> None:
    still = np.repeat(frames(1) // 2 + 40, 12, axis=0)
    noisy = still + np.random.default_rng(1).integers(0, 4, still.shape, dtype=np.uint8)
    assert len(preprocess(video(noisy), KEEP).frames) == 12


def test_a_single_frame_is_neither_frozen_nor_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    assert len(preprocess(video(frames(1)), KEEP).frames) == 1
    assert not recwarn.list


def test_a_recording_that_resampling_would_blow_up_is_refused() -> None:
    slow = Video(frames(3), np.array([0.0, 1e6, 2e6]), 1.0)
    with pytest.raises(Rejected, match="too large: 64000032 frames after resampling"):
        preprocess(slow, Preprocessing(fps=32, size=112))


@pytest.mark.parametrize(
    ("pixels", "times", "fps"),
    [
        (frames().astype(float), np.arange(8), 25.0),
        (frames()[..., 0], np.arange(8), 25.0),
        (frames(channels=2), np.arange(8), 25.0),
        (frames(0), np.arange(0), 25.0),
        (frames(), np.arange(7), 25.0),
        (frames(), np.arange(8) + 1, 25.0),
        (frames(), np.zeros(8), 25.0),
        (frames(), np.arange(8) * np.nan, 25.0),
        (frames(), np.arange(8), 0.0),
        (frames(), np.arange(8), float("nan")),
        (frames(), np.arange(8), 1e9),
    ],
)
def test_what_no_reader_may_give_is_refused(pixels: np.ndarray, times: np.ndarray, fps: float) -> None:
    with pytest.raises(Rejected):
        check_video(Video(pixels, times, fps))


@pytest.mark.parametrize(
    "wrong",
    [
        {"fps": 0},
        {"fps": -1},
        {"fps": 1001},
        {"fps": float("nan")},
        {"fps": "fast"},
        {"fps": True},
        {"size": "big"},
        {"size": 64.0},
        {"size": True},
        {"size": (True, 64)},
        {"grey": "yes"},
        {"max_black": "half"},
        {"max_frozen": True},
        {"size": 8},
        {"size": 5000},
        {"size": (16,)},
        {"size": (16, 17, 18)},
        {"size": (16, 17.5)},
        {"crop": "box"},
        {"fit": "cover"},
        {"rotate": 45},
        {"flip": True},
        {"max_black": 1.1},
        {"max_frozen": -0.1},
        {"max_black": float("nan")},
    ],
    ids=str,
)
def test_settings_are_refused_by_name(wrong: dict[str, object]) -> None:
    with pytest.raises(UserError, match=rf"data\.{next(iter(wrong))} is"):
        Preprocessing(**wrong)  # type: ignore[arg-type]


def test_one_number_is_a_square() -> None:
    assert Preprocessing(size=64).size == (64, 64)
    assert Preprocessing(size=[64, 48]).size == (64, 48)  # type: ignore[arg-type]


def _circle(aspect: float) -> Video:
    """Video of a disc of radius 24, stored with pixels that are ``aspect`` times as wide as high."""
    rows, columns = np.mgrid[:64, : round(96 / aspect)]
    disc = np.hypot(rows - 31.5, (columns + 0.5) * aspect - 48) < 24
    frames = np.stack([np.where(disc, 200, 20 + 4 * index).astype(np.uint8) for index in range(3)])[..., None]
    return Video(frames, np.arange(3) / 25, 25.0, pixel_aspect=aspect)


@pytest.mark.parametrize("aspect", [4 / 3, 0.75, 16 / 11, 1.0])
@pytest.mark.parametrize(
    "settings",
    [
        Preprocessing(fps=None, size=None),
        Preprocessing(fps=None, size=None, rotate=90),
        Preprocessing(fps=None, size=(80, 80), fit="pad"),
        Preprocessing(fps=None, size=(80, 80), fit="centre", rotate=270),
    ],
    ids=str,
)
def test_a_circle_stays_a_circle_whatever_the_shape_of_a_pixel(aspect: float, settings: Preprocessing) -> None:
    frames = preprocess(_circle(aspect), settings).frames
    disc = frames[0, ..., 0] > 110
    height, width = np.ptp(np.flatnonzero(disc.any(axis=1))) + 1, np.ptp(np.flatnonzero(disc.any(axis=0))) + 1
    assert abs(height - width) <= 3
    if settings.size is None:
        long, short = (max(frames.shape[1:3]), min(frames.shape[1:3]))
        assert long / short == pytest.approx(1.5, rel=0.02)
        assert min(frames.shape[1:3]) >= 64


def test_a_variable_frame_rate_keeps_its_duration_without_a_rate_of_the_study() -> None:
    times = np.concatenate([np.arange(12) / 25, 12 / 25 + np.arange(12) * 2 / 25])  # 25, then 12.5 frames per second
    frames = np.arange(24, dtype=np.uint8)[:, None, None, None] * np.full((1, 16, 16, 1), 10, np.uint8)
    ready = preprocess(Video(frames, times, 25.0), Preprocessing(fps=None, size=None))
    assert ready.fps == 25
    np.testing.assert_array_equal(ready.frames[:, 0, 0, 0] // 10, [*range(12), *np.arange(12, 24).repeat(2)[:-1]])
    even = preprocess(Video(frames, np.arange(24) / 24.7, 25.0), Preprocessing(fps=None, size=None))
    np.testing.assert_array_equal(even.frames, frames)
