"""Reading of NIfTI volumes: axis layouts, data types, scaling, frame rates and damaged files."""

import gzip
import struct
import tracemalloc
from pathlib import Path

import nibabel
import numpy as np
import pytest

from echodream.errors import Rejected
from echodream.ingest.nifti import read_nifti, segmentation_state
from echodream.ingest.pixels import rotate_and_flip, to_uint8
from echodream.ingest.source import Limits
from tests.support.raw_files import cut, cut_gzip, moving, write_nifti

LIMITS = Limits()
FRAMES = moving(5, 32, 48)
VOLUME = FRAMES.transpose(2, 1, 0)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64, np.uint16, np.int8])
def test_width_height_frames(tmp_path: Path, name: str, dtype: type) -> None:
    volume = VOLUME // 2 if dtype is np.int8 else VOLUME
    read = read_nifti(write_nifti(tmp_path / name, volume.astype(dtype), step=0.04), LIMITS)
    np.testing.assert_array_equal(read.frames, volume.transpose(2, 1, 0))
    assert read.frame_rate == pytest.approx(25)


def test_other_ranges_are_stretched_over_the_recording(tmp_path: Path) -> None:
    volume = VOLUME.astype(np.int16) * 20 - 1000
    frames = read_nifti(write_nifti(tmp_path / "a.nii", volume), LIMITS).frames
    assert (frames.min(), frames.max()) == (0, 255)
    assert np.corrcoef(frames.ravel(), FRAMES.ravel())[0, 1] > 0.999


def test_not_a_number_becomes_the_minimum(tmp_path: Path) -> None:
    volume = VOLUME.astype(np.float32)
    volume[0, 0, 0] = np.nan
    volume[1, 0, 0] = np.inf
    frames = read_nifti(write_nifti(tmp_path / "a.nii", volume), LIMITS).frames
    assert frames[0, 0, 0] == frames[0, 0, 1] == FRAMES.min()
    with pytest.raises(Rejected, match="no pixel"):
        read_nifti(write_nifti(tmp_path / "b.nii", np.full((32, 32, 4), np.nan, np.float32)), LIMITS)


def test_scaled_headers(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(VOLUME.astype(np.int16), np.eye(4))
    image.header.set_slope_inter(0.5, 3)
    image.to_filename(tmp_path / "a.nii")
    np.testing.assert_array_equal(read_nifti(tmp_path / "a.nii", LIMITS).frames, np.rint(FRAMES * 0.5 + 3))


def test_colour_and_singleton_axes(tmp_path: Path) -> None:
    colour = np.stack([VOLUME, VOLUME // 2, VOLUME // 4], axis=-1)
    expected = colour.transpose(2, 1, 0, 3)
    np.testing.assert_array_equal(read_nifti(write_nifti(tmp_path / "a.nii", colour), LIMITS).frames, expected)
    five = write_nifti(tmp_path / "b.nii", colour[:, :, :, None])
    np.testing.assert_array_equal(read_nifti(five, LIMITS).frames, expected)
    rgb = np.ascontiguousarray(colour).view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]
    np.testing.assert_array_equal(read_nifti(write_nifti(tmp_path / "c.nii.gz", rgb), LIMITS).frames, expected)
    timed = read_nifti(write_nifti(tmp_path / "d.nii", VOLUME[:, :, None], step=0.02, axis=3), LIMITS)
    np.testing.assert_array_equal(timed.frames, FRAMES)
    assert timed.frame_rate == pytest.approx(50)


def test_names_may_lie_about_gzip(tmp_path: Path) -> None:
    packed = write_nifti(tmp_path / "a.nii.gz", VOLUME).read_bytes()
    (tmp_path / "b.nii").write_bytes(packed)
    (tmp_path / "c.nii.gz").write_bytes(gzip.decompress(packed))
    for name in ("b.nii", "c.nii.gz"):
        np.testing.assert_array_equal(read_nifti(tmp_path / name, LIMITS).frames, FRAMES)


def test_nifti_2(tmp_path: Path) -> None:
    nibabel.Nifti2Image(VOLUME, np.eye(4)).to_filename(tmp_path / "a.nii")
    np.testing.assert_array_equal(read_nifti(tmp_path / "a.nii", LIMITS).frames, FRAMES)


@pytest.mark.parametrize("share", [0, 0.001, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_cut_files(tmp_path: Path, name: str, share: float) -> None:
    path = cut(write_nifti(tmp_path / name, VOLUME), share)
    with pytest.raises(Rejected) as caught:
        read_nifti(path, LIMITS)
    assert str(tmp_path) not in str(caught.value)


def test_flipped_bits_give_a_volume_or_one_sentence(tmp_path: Path) -> None:
    whole = write_nifti(tmp_path / "a.nii", VOLUME).read_bytes()
    random = np.random.default_rng(3)
    reasons = set()
    for _ in range(150):
        data = bytearray(whole)
        for place in random.integers(0, 352, 4):
            data[place] ^= 1 << int(random.integers(8))
        (tmp_path / "b.nii").write_bytes(data)
        try:
            assert read_nifti(tmp_path / "b.nii", LIMITS).frames.dtype == np.uint8
        except Rejected as rejected:
            reasons.add(str(rejected))
    assert reasons
    assert not any(str(tmp_path) in reason or "\n" in reason for reason in reasons)


@pytest.mark.parametrize(
    ("shape", "offset"), [((32767, 32767, 32767), 352), ((100, 100, 30000), 352), ((32, 32, 8), 1e9), ((32, 32, 8), -4)]
)
def test_an_absurd_header_costs_no_memory(tmp_path: Path, shape: tuple[int, int, int], offset: float) -> None:
    data = bytearray(write_nifti(tmp_path / "a.nii", VOLUME).read_bytes())
    data[40:48] = struct.pack("<4h", 3, *shape)
    data[108:112] = struct.pack("<f", offset)
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(bytes(data) + bytes(30_000_000)))
    read_nifti(write_nifti(tmp_path / "warm.nii", VOLUME), LIMITS)
    tracemalloc.start()
    with pytest.raises(Rejected):
        read_nifti(tmp_path / "a.nii.gz", LIMITS)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_labels(tmp_path: Path) -> None:
    image = write_nifti(tmp_path / "i.nii.gz", VOLUME)
    assert segmentation_state(write_nifti(tmp_path / "l.nii.gz", VOLUME), image) == "complete"
    assert segmentation_state(None, image) == "missing"
    assert segmentation_state(cut(tmp_path / "l.nii.gz", 0.5), image) == "truncated"
    assert segmentation_state(cut_gzip(write_nifti(tmp_path / "l.nii.gz", VOLUME), 1000), image) == "truncated"
    assert segmentation_state(cut(write_nifti(tmp_path / "l.nii", VOLUME), 0.9), image) == "truncated"
    assert segmentation_state(write_nifti(tmp_path / "l.nii", VOLUME[..., :3]), image) == "truncated"
    assert segmentation_state(write_nifti(tmp_path / "l.nii", VOLUME.astype(np.float64)), image) == "complete"
    (tmp_path / "l.nii").write_bytes(b"")
    assert segmentation_state(tmp_path / "l.nii", image) == "truncated"


@pytest.mark.parametrize(
    ("zooms", "space", "time", "rate"),
    [
        ((0.3, 0.3, 0.02), "mm", "sec", 50),
        ((1, 1, 0.03125), "unknown", "sec", 32),
        ((0.3, 0.3, 31.25), "mm", "msec", 32),
        ((0.3, 0.3, 31250), "mm", "usec", 32),
        ((0.15, 0.15, 0.15), "mm", "unknown", None),
        ((0.1, 0.1, 0.1), "mm", "sec", None),  # isotropic voxels: the third axis is space
        ((0.3, 0.1, 0.1), "mm", "sec", None),
        ((0.3, 0.3, 1), "mm", "sec", None),  # 1 s is the default value of NIfTI writers
        ((0.3, 0.3, 31.25), "mm", "sec", None),
        ((0.2, 0.2, 10), "mm", "unknown", None),
        ((0.3, 0.3, 0.02), "unknown", "unknown", None),
        ((0.3, 0.3, 0.02), "mm", "hz", None),
        ((0.3, 0.3, 5, 0.02), "mm", "sec", 50),
        ((0.3, 0.3, 5, 3), "mm", "msec", 333.3333),
        ((0.3, 0.3, 5, 0.3), "mm", "sec", 3.3333),
        ((0.02, 0.02, 0.02, 1), "mm", "sec", None),
        ((0.3, 0.3, 5, 0.02), "mm", "unknown", None),
    ],
)
@pytest.mark.parametrize("order", "<>")
def test_a_frame_rate_needs_a_unit_of_time(
    tmp_path: Path, zooms: tuple[float, ...], space: str, time: str, rate: float | None, order: str
) -> None:
    volume = VOLUME if len(zooms) == 3 else VOLUME[:, :, None]
    image = nibabel.Nifti1Image(volume, np.eye(4), nibabel.Nifti1Header(endianness=order))
    image.header.set_zooms(zooms)
    image.header.set_xyzt_units(space, time)
    image.to_filename(tmp_path / "a.nii")
    read = read_nifti(tmp_path / "a.nii", LIMITS)
    np.testing.assert_array_equal(read.frames, FRAMES)
    assert read.frame_rate == (rate and pytest.approx(rate, abs=1e-3))


def _scaled(path: Path, slope: float, intercept: float, dtype: type, cal: tuple[float, float] = (0, 0)) -> np.ndarray:
    """Write ``VOLUME`` with a slope and an intercept. Return the values that nibabel reads, (F, H, W)."""
    image = nibabel.Nifti1Image(VOLUME.astype(dtype), np.eye(4))
    image.header.set_slope_inter(slope, intercept)
    image.header["cal_min"], image.header["cal_max"] = cal
    image.to_filename(path)
    return nibabel.load(path).get_fdata().transpose(2, 1, 0)  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize(
    ("slope", "intercept", "dtype", "scale"),
    [
        (1 / 255, 0, np.uint8, 255),  # values 0..1
        (-1, 255, np.uint8, 1),  # inverted gray levels
        (2, -100, np.uint8, 0.5),  # values -100..410
        (-2, 100, np.uint8, 0.5),
        (0.5, 3, np.int16, 1),
    ],
)
def test_slope_and_intercept_are_applied_as_nibabel_does(
    tmp_path: Path, slope: float, intercept: float, dtype: type, scale: float
) -> None:
    values = _scaled(tmp_path / "a.nii", slope, intercept, dtype)
    low = min(intercept, slope * 255 + intercept) if scale == 0.5 else 0
    expected = np.rint((values - low) * scale).astype(int)
    found = read_nifti(tmp_path / "a.nii", LIMITS).frames.astype(int)
    assert np.abs(found - expected).max() <= 1
    assert np.sign(np.corrcoef(found.ravel(), FRAMES.ravel())[0, 1]) == np.sign(slope)


def test_the_display_range_of_the_header_is_the_range(tmp_path: Path) -> None:
    values = _scaled(tmp_path / "a.nii", 10, -500, np.int16, cal=(-200, 1800))
    expected = np.rint(np.clip((values + 200) / 2000, 0, 1) * 255)
    np.testing.assert_array_equal(read_nifti(tmp_path / "a.nii", LIMITS).frames, expected)


@pytest.mark.parametrize("top", [1.0, 255.0])
def test_floats_slightly_outside_their_range_are_clipped(top: float) -> None:
    volume = np.linspace(-0.06, 1.07, 60).reshape(3, 4, 5) * top
    np.testing.assert_array_equal(to_uint8(volume), np.rint(np.clip(volume / top, 0, 1) * 255))
    wide = volume - 0.2 * top  # too far below 0 for a range of 0..top
    assert (to_uint8(wide).min(), to_uint8(wide).max()) == (0, 255)


def test_orientation() -> None:
    frames = np.arange(24).reshape(2, 3, 4)
    np.testing.assert_array_equal(rotate_and_flip(frames, 0, "none"), frames)
    assert rotate_and_flip(frames, 90, "none")[0, 0, 0] == frames[0, 0, -1]
    np.testing.assert_array_equal(rotate_and_flip(frames, 180, "horizontal"), frames[:, ::-1])
    np.testing.assert_array_equal(rotate_and_flip(frames, 0, "vertical"), frames[:, ::-1])


def test_floats_from_0_to_1_fill_the_scale() -> None:
    volume = np.linspace(0, 1, 2 * 3 * 4).reshape(2, 3, 4)
    assert np.array_equal(
        to_uint8(volume.astype(np.float32)), np.rint(volume.astype(np.float32) * 255).astype(np.uint8)
    )
    assert to_uint8(volume * 2).max() == 2
    assert to_uint8((volume > 0.5).astype(np.int16)).max() == 1
