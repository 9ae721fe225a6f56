"""DICOM pixel values are compared with the formulas of the DICOM standard and with values from pydicom and PyAV."""

from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import pydicom.data
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import generate_frames
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, get_decoder, pixel_array
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    RLELossless,
)

from echodream.errors import Rejected
from echodream.ingest.dicom_pixels import decoder_plugin, is_dicom, read_pixels
from echodream.ingest.source import Limits
from tests.support.dicom_files import encapsulated, lossless_jpeg, write

LIMITS = Limits(min_frames=1, min_side=1)
RAMP = np.linspace(0, 4095, 3 * 20 * 24).reshape(3, 20, 24).round().astype(np.uint16)
"""Test frames with 12-bit values in 16-bit pixels, (F, H, W)."""
TWELVE = {"BitsStored": 12, "HighBit": 11}
SHIPPED = Path(pydicom.data.__file__).parent / "test_files"


def read(path: Path) -> np.ndarray:
    return read_pixels(path, LIMITS)[1]


def gray(path: Path, frames: np.ndarray = RAMP, **tags: Any) -> np.ndarray:
    return read(write(path / "a.dcm", frames, **({**TWELVE, **tags} if frames.itemsize == 2 else tags)))


def close(found: np.ndarray, expected: np.ndarray, most: float = 0.51) -> None:
    """Check that uint8 gray levels differ from the expected real values by at most ``most`` (default: rounding)."""
    assert found.dtype == np.uint8
    assert found.shape == expected.shape
    assert np.abs(found - expected.astype(np.float64)).max() <= most


def window(values: np.ndarray, center: float, width: float, function: str = "LINEAR") -> np.ndarray:
    """Gray levels 0..255 after the DICOM window (VOI LUT function), PS3.3 C.11.2.1.2 and C.11.2.1.3."""
    if function == "SIGMOID":
        return 255 / (1 + np.exp(-4 * (values - center) / width))
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    return 255 * np.clip((values - center) / width + 0.5, 0, 1)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (-1, 4095), (0.5, -1024), (-10, 4095)])
def test_windows_apply_to_rescaled_values(tmp_path: Path, function: str, slope: float, intercept: float) -> None:
    center, width = 2000 * slope + intercept, abs(1500 * slope)
    tags = {"WindowCenter": center, "WindowWidth": width, "VOILUTFunction": function}
    found = gray(tmp_path, RescaleSlope=slope, RescaleIntercept=intercept, **tags)
    close(found, window(RAMP * float(slope) + intercept, center, width, function))
    if slope > 0:
        data = dcmread(tmp_path / "a.dcm")
        values = apply_voi_lut(apply_modality_lut(data.pixel_array, data), data)
        low, high = intercept, 4095 * slope + intercept
        close(found, (values - low) / (high - low) * 255)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({}, RAMP / 4095 * 255),
        ({"RescaleSlope": "-10", "RescaleIntercept": "4095"}, 255 - RAMP / 4095 * 255),
        ({"RescaleSlope": "-1"}, 255 - RAMP / 4095 * 255),
        ({"PhotometricInterpretation": "MONOCHROME1"}, 255 - RAMP / 4095 * 255),
        ({"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"}, 255 - RAMP / 4095 * 255),
        ({"PresentationLUTShape": "INVERSE"}, 255 - RAMP / 4095 * 255),
        (
            {"PhotometricInterpretation": "MONOCHROME1", "RescaleSlope": "-1", "RescaleIntercept": "0"},
            RAMP / 4095 * 255,
        ),
        ({"WindowCenter": ["2000", "100"], "WindowWidth": ["2000", "10"]}, window(RAMP, 2000, 2000)),
        ({"WindowCenter": "2000", "WindowWidth": "0"}, RAMP / 4095 * 255),
        ({"WindowCenter": "2000", "WindowWidth": ""}, RAMP / 4095 * 255),
        ({"SmallestImagePixelValue": 1000, "LargestImagePixelValue": 3000}, np.clip(RAMP / 2000 - 0.5, 0, 1) * 255),
        ({"BitsStored": 14, "HighBit": 13}, RAMP / 16383 * 255),
    ],
)
def test_the_range_is_the_one_of_the_header(tmp_path: Path, tags: dict[str, Any], expected: np.ndarray) -> None:
    close(gray(tmp_path, **tags), expected)


def test_a_file_with_16_stored_bits_and_no_range_is_stretched_without_its_padding(tmp_path: Path) -> None:
    frames = RAMP + np.uint16(1000)
    frames[:, :3] = 65535
    found = gray(tmp_path, frames, BitsStored=16, HighBit=15, PixelPaddingValue=65535)
    low, high = frames[:, 3:].min(), frames[:, 3:].max()
    assert not found[:, :3].any()
    close(found[:, 3:], (frames[:, 3:] - float(low)) / (high - low) * 255)


def test_eight_bits_without_a_window_stay_as_they_are(tmp_path: Path) -> None:
    frames = (RAMP >> 4).astype(np.uint8)
    np.testing.assert_array_equal(gray(tmp_path, frames), frames)
    np.testing.assert_array_equal(gray(tmp_path, frames, WindowCenter=128, WindowWidth=256), frames)
    np.testing.assert_array_equal(gray(tmp_path, frames, RescaleSlope=-1, RescaleIntercept=255), 255 - frames)
    np.testing.assert_array_equal(gray(tmp_path, frames, RescaleSlope=3, RescaleIntercept=-90), frames)
    few = (RAMP >> 6).astype(np.uint8)
    close(gray(tmp_path, few, BitsStored=6, HighBit=5), few / 63 * 255)


def _lut(values: np.ndarray, first: int, bits: int, vr: str = "OW") -> Dataset:
    item = Dataset()
    item.LUTDescriptor = [len(values), first, bits]
    item.add_new("LUTData", vr, values.astype("<u2").tobytes() if vr == "OW" else values.tolist())
    return item


@pytest.mark.parametrize("function", ["modality", "voi"])
@pytest.mark.parametrize("vr", ["OW", "US"])
def test_lookup_tables(tmp_path: Path, function: str, vr: str) -> None:
    curve = np.rint(1023 * np.sqrt(np.linspace(0, 1, 3000))).astype(np.uint16)
    curve = curve[::-1] if function == "modality" else curve
    name = {"modality": "ModalityLUTSequence", "voi": "VOILUTSequence"}[function]
    tags: dict[str, Any] = {name: [_lut(curve, 500, 10, vr)], "WindowCenter": "9", "WindowWidth": "9"}
    if function == "modality":
        tags |= {"ModalityLUTSequence": tags[name], "WindowCenter": "512", "WindowWidth": "1024"}
        tags[name][0].LUTDescriptor = [len(curve), 500, 16]  # the standard allows 8 or 16 bits per LUT entry
        tags[name][0].ModalityLUTType = "US"
    found = gray(tmp_path, **tags)
    data = dcmread(tmp_path / "a.dcm")
    values = curve[np.clip(RAMP.astype(int) - 500, 0, 2999)]
    np.testing.assert_array_equal(
        apply_modality_lut(apply_voi_lut(RAMP, data), data) if function == "voi" else apply_modality_lut(RAMP, data),
        values,
    )
    close(found, values / 1023 * 255, 1)


def test_a_lookup_table_of_12_bits_that_is_declared_as_16(tmp_path: Path) -> None:
    close(gray(tmp_path, VOILUTSequence=[_lut(np.arange(4096)[::-1], 0, 16)]), 255 - RAMP / 4095 * 255)


@pytest.mark.parametrize(
    ("dtype", "value", "tags"),
    [
        (np.uint16, 65535, {"BitsStored": 16, "HighBit": 15, "PixelPaddingValue": 65535}),
        (np.uint16, 65535, {"PixelPaddingValue": 65535}),  # padding value uses bits above BitsStored
        (np.uint16, 0, {"PixelPaddingValue": 0, "PhotometricInterpretation": "MONOCHROME1"}),
        (np.int16, -2000, {"BitsStored": 16, "HighBit": 15, "PixelPaddingValue": -2000}),
        (
            np.int16,
            -32000,
            {"BitsStored": 16, "HighBit": 15, "PixelPaddingValue": -32010, "PixelPaddingRangeLimit": -31990},
        ),
        (np.uint16, 4090, {"PixelPaddingValue": 4095, "PixelPaddingRangeLimit": 4080}),
    ],
)
def test_padding_is_background(tmp_path: Path, dtype: type, value: int, tags: dict[str, Any]) -> None:
    frames = np.clip(RAMP, 600, 3400).astype(dtype)
    frames[:, :4] = value
    found = gray(tmp_path, frames, **{"WindowCenter": "2000", "WindowWidth": "2000", **tags})
    assert not found[:, :4].any()
    shown = window(frames[:, 4:].astype(float), 2000, 2000)
    close(found[:, 4:], 255 - shown if "PhotometricInterpretation" in tags else shown)


def test_a_negative_padding_value_that_is_stated_as_unsigned(tmp_path: Path) -> None:
    frames = RAMP.astype(np.int16)
    frames[:, :4] = -2000
    path = write(tmp_path / "a.dcm", frames, WindowCenter=2000, WindowWidth=2000)
    data = dcmread(path)
    data.add_new("PixelPaddingValue", "US", 63536)
    data.save_as(path)
    assert b"\x28\x00\x20\x01US\x02\x00\x30\xf8" in path.read_bytes()
    assert not read(path)[:, :4].any()


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless])
def test_only_the_stored_bits_count(tmp_path: Path, syntax: str) -> None:
    overlay = (np.arange(RAMP.size).reshape(RAMP.shape) % 16).astype(np.uint16)
    frames = RAMP | overlay << np.uint16(12)
    close(read(write(tmp_path / "a.dcm", frames, syntax=syntax, **TWELVE)), RAMP / 4095 * 255)
    frames = RAMP << np.uint16(4) | overlay
    close(read(write(tmp_path / "b.dcm", frames, syntax=syntax, BitsStored=12, HighBit=15)), RAMP / 4095 * 255)


def test_compressed_values_with_other_bits_than_the_header_states(tmp_path: Path) -> None:
    eight = (RAMP >> 4).astype(np.uint8)
    path = encapsulated(write(tmp_path / "a.dcm", RAMP, **TWELVE), _compress(eight, "JPEG2000"), JPEG2000Lossless)
    np.testing.assert_array_equal(read(path), eight)
    deep = RAMP * np.uint16(16)
    path = encapsulated(write(tmp_path / "b.dcm", RAMP, **TWELVE), _compress(deep, "JPEG2000"), JPEG2000Lossless)
    close(read(path), RAMP / 4095 * 255)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_signed_values(tmp_path: Path, syntax: str) -> None:
    values = RAMP.astype(np.int16) - np.int16(2048)
    stored = (values & np.int16(0x0FFF)).astype(np.int16) | np.int16(0x5000)  # sets the 4 bits above BitsStored
    close(read(write(tmp_path / "a.dcm", stored, syntax=syntax, **TWELVE)), RAMP / 4095 * 255)
    path = write(
        tmp_path / "b.dcm", values, syntax=syntax, RescaleSlope=2, RescaleIntercept=-10, WindowCenter=0, WindowWidth=900
    )
    close(read(path), window(values * 2.0 - 10, 0, 900))


def test_wide_and_floating_point_pixels(tmp_path: Path) -> None:
    values = RAMP.astype(np.float32) / 1000 - 1
    path = write(tmp_path / "a.dcm", RAMP)
    data = dcmread(path)
    del data.PixelData, data.BitsStored, data.HighBit, data.PixelRepresentation
    values[:, :3] = data.FloatPixelPaddingValue = -999.0
    data.BitsAllocated, data.FloatPixelData = 32, values.tobytes()
    data.save_as(path)
    found, rest = read(path), values[:, 3:].astype(float)
    close(found[:, 3:], (rest - rest.min()) / (rest.max() - rest.min()) * 255)
    assert not found[:, :3].any()
    data.WindowCenter, data.WindowWidth, data.VOILUTFunction = "1", "0.5", "LINEAR_EXACT"
    data.save_as(path)
    close(read(path)[:, 3:], window(rest, 1, 0.5, "LINEAR_EXACT"))
    wide = write(tmp_path / "b.dcm", RAMP.astype(np.uint32) * 1000, BitsStored=24, HighBit=23)
    close(read(wide), RAMP * 1000.0 / (2**24 - 1) * 255)


def test_a_range_that_shows_nothing_is_a_reason(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="no contrast"):
        gray(tmp_path, WindowCenter="20000", WindowWidth="100")
    with pytest.raises(Rejected, match="every pixel is padding"):
        gray(tmp_path, np.full_like(RAMP, 7), PixelPaddingValue=7)


def _functional_group(**tags: Any) -> Dataset:
    group, transformation, voi = Dataset(), Dataset(), Dataset()
    transformation.RescaleSlope, transformation.RescaleIntercept = tags["slope"], 0
    voi.WindowCenter, voi.WindowWidth = tags["center"], 1000
    group.PixelValueTransformationSequence, group.FrameVOILUTSequence = [transformation], [voi]
    return group


def test_functional_groups(tmp_path: Path) -> None:
    group = _functional_group(slope=2, center=4000)
    close(gray(tmp_path, SharedFunctionalGroupsSequence=[group]), window(RAMP * 2.0, 4000, 1000))
    frames = [_functional_group(slope=2, center=4000) for _ in RAMP]
    close(gray(tmp_path, PerFrameFunctionalGroupsSequence=frames), window(RAMP * 2.0, 4000, 1000))
    frames[1] = _functional_group(slope=1, center=4000)
    with pytest.raises(Rejected, match="different rescale slopes"):
        gray(tmp_path, PerFrameFunctionalGroupsSequence=frames)


COLORS = np.stack([np.arange(300) * 7 % 251, np.arange(300) * 3 % 247, 250 - np.arange(300) % 250], axis=1)
INDEX = (np.arange(2 * 20 * 24).reshape(2, 20, 24) % 256).astype(np.uint8)


def _palette(entries: np.ndarray, bits: int, first: int = 0) -> dict[str, Any]:
    tags: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for channel, name in enumerate(("Red", "Green", "Blue")):
        tags[f"{name}PaletteColorLookupTableDescriptor"] = [len(entries), first, bits]
        tags[f"{name}PaletteColorLookupTableData"] = np.ascontiguousarray(entries[:, channel]).tobytes()
    return tags


@pytest.mark.parametrize("kind", ["8", "16 full", "16 high byte", "16 low byte"])
def test_palettes_of_8_and_16_bits_are_the_same_colors(tmp_path: Path, kind: str) -> None:
    colors = COLORS[:256]
    entries = {
        "8": colors.astype(np.uint8),
        "16 full": (colors * 257).astype(np.uint16),
        "16 high byte": (colors * 256).astype(np.uint16),
        "16 low byte": colors.astype(np.uint16),
    }[kind]
    path = write(tmp_path / "a.dcm", INDEX, **_palette(entries, 8 if kind == "8" else 16))
    np.testing.assert_array_equal(read(path), colors[INDEX])
    data = dcmread(path)
    scale = {"8": 1, "16 full": 257, "16 high byte": 256, "16 low byte": 1}[kind]
    np.testing.assert_array_equal(read(path), apply_color_lut(data.pixel_array, data) // scale)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_palette_of_more_than_256_entries(tmp_path: Path, bits: int, syntax: str) -> None:
    index = (np.arange(2 * 20 * 24).reshape(2, 20, 24) % 400).astype(np.uint16)
    entries = COLORS.astype(np.uint8) if bits == 8 else (COLORS * 257).astype(np.uint16)
    if bits == 16 and syntax == ExplicitVRBigEndian:
        entries = entries.byteswap()
    path = write(tmp_path / "a.dcm", index, syntax=syntax, **_palette(entries, bits, first=50))
    np.testing.assert_array_equal(read(path), COLORS[np.clip(index.astype(int) - 50, 0, 299)])


def _luma_chroma(rgb: np.ndarray) -> np.ndarray:
    """Convert RGB to YBR_FULL (DICOM PS3.3 C.7.6.3.1.2), float (F, H, W, 3)."""
    matrix = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
    return rgb @ matrix.T + (0, 128, 128)


def test_color_spaces(tmp_path: Path) -> None:
    rgb = np.stack([np.clip(RAMP / 16, 20, 235), 255 - RAMP / 16, (RAMP / 8) % 200 + 20], axis=-1).astype(np.uint8)
    rgb[:, :, 1::2] = rgb[:, :, ::2]
    ybr = np.rint(np.clip(_luma_chroma(rgb), 0, 255)).astype(np.uint8)
    np.testing.assert_array_equal(read(write(tmp_path / "a.dcm", rgb)), rgb)
    planes = write(tmp_path / "b.dcm", rgb, PlanarConfiguration=1, PixelData=rgb.transpose(0, 3, 1, 2).tobytes())
    np.testing.assert_array_equal(read(planes), rgb)
    close(read(write(tmp_path / "c.dcm", ybr, PhotometricInterpretation="YBR_FULL")), rgb, 3)
    close(read(write(tmp_path / "d.dcm", ybr, syntax=RLELossless, PhotometricInterpretation="YBR_FULL")), rgb, 3)
    half = np.stack([ybr[:, :, ::2, 0], ybr[:, :, 1::2, 0], ybr[:, :, ::2, 1], ybr[:, :, ::2, 2]], axis=-1)
    path = write(tmp_path / "e.dcm", ybr, PhotometricInterpretation="YBR_FULL_422", PixelData=half.tobytes())
    close(read(path), rgb, 3)
    deep = write(tmp_path / "f.dcm", rgb.astype(np.uint16) * 16, **TWELVE)
    close(read(deep), rgb.astype(float) * 16 / 4095 * 255)
    for name in ("YBR_PARTIAL_422", "HSV"):
        path = write(tmp_path / "g.dcm", rgb, PhotometricInterpretation=name)
        with pytest.raises(Rejected, match=f"color space {name}|the pixels do not decode"):
            read(path)


def _compress(frames: np.ndarray, kind: str, **options: Any) -> list[bytes]:
    packed = []
    for frame in frames:
        Image.fromarray(frame).save(stream := BytesIO(), kind, **options)
        packed.append(stream.getvalue())
    return packed


@pytest.mark.parametrize("kind", ["JPEG", "JPEG2000"])
def test_a_file_that_is_cut_short_says_so(tmp_path: Path, kind: str) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (6, 40, 48)).astype(np.uint8)
    packed = _compress(frames, kind)
    syntax = {"JPEG": JPEGBaseline8Bit, "JPEG2000": JPEG2000Lossless}[kind]
    whole = encapsulated(write(tmp_path / "a.dcm", frames), packed, syntax)
    expected = np.stack([np.asarray(Image.open(BytesIO(data))) for data in packed])
    np.testing.assert_array_equal(read(whole), expected)
    content = whole.read_bytes()
    for stored, reason in (
        (packed[:4], "cut short, 4 of 6 frames"),
        ([*packed[:5], packed[5][:-30]], "frame 6 of 6 is damaged or cut short"),
        ([*packed, packed[0]], "the file has 7 frames, the header states 6"),
    ):
        with pytest.raises(Rejected, match=reason):
            read(encapsulated(write(tmp_path / "b.dcm", frames), stored, syntax))
    for share in (0.95, 0.6):
        whole.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(Rejected, match="cut short, the file ends"):
            read(whole)
    native = write(tmp_path / "c.dcm", frames)
    native.write_bytes(native.read_bytes()[: -2 * 40 * 48 - 100])
    with pytest.raises(Rejected, match="cut short, 3 of 6 frames"):
        read(native)


CODECS = {
    "mpeg2video": ("1.2.840.10008.1.2.4.100", "mpeg2video", "YBR_PARTIAL_420"),
    "libx264": ("1.2.840.10008.1.2.4.102", "h264", "YBR_PARTIAL_420"),
    "libx265": ("1.2.840.10008.1.2.4.107", "hevc", "YBR_PARTIAL_420"),
}


def _video(path: Path, codec: str, count: int = 15, container: str = "") -> tuple[Path, np.ndarray]:
    """Write a DICOM file with a video stream. Return its path and the frames that PyAV decodes from the stream."""
    if codec not in av.codecs_available:
        pytest.skip(f"PyAV has no {codec}")
    syntax, form, color = CODECS[codec]
    rows, columns = np.mgrid[:64, :96]
    stream_file = path / f"v.{container or form}"
    path.mkdir(parents=True, exist_ok=True)
    with av.open(str(stream_file), "w", format=container or form) as output:
        stream: Any = output.add_stream(codec, rate=Fraction(25))
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 96, 64, "yuv420p", 5
        for number in range(count):
            pixels = np.stack([rows * 3, columns * 2, (rows + columns + 9 * number) % 200], axis=-1).astype(np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        output.mux(stream.encode())
    with av.open(str(stream_file)) as source:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in source.decode(video=0)])
    assert len(frames) == count
    blank = np.zeros((count, 64, 96, 3), np.uint8)
    file = write(path / "a.dcm", blank, PhotometricInterpretation=color)
    data = stream_file.read_bytes()
    pieces = [data[start : start + 1000] for start in range(0, len(data), 1000)]
    return encapsulated(file, [piece + bytes(len(piece) % 2) for piece in pieces], syntax), frames


@pytest.mark.parametrize("codec", CODECS)
def test_a_video_stream_has_the_frames_that_pyav_decodes(tmp_path: Path, codec: str) -> None:
    path, frames = _video(tmp_path, codec)
    np.testing.assert_array_equal(read(path), frames)
    data = dcmread(path)
    data.NumberOfFrames = 40
    data.save_as(path)
    with pytest.raises(Rejected, match="cut short, 15 of 40 frames"):
        read(path)
    data.NumberOfFrames, data.Rows = 15, 128
    data.save_as(path)
    with pytest.raises(Rejected, match="a frame is 96x64 instead of 96x128"):
        read(path)


def test_a_video_stream_in_a_container(tmp_path: Path) -> None:
    path, frames = _video(tmp_path, "libx264", container="mpegts")
    np.testing.assert_array_equal(read(path), frames)


def test_what_cannot_be_decoded_says_what_it_is(tmp_path: Path) -> None:
    frames = np.zeros((2, 20, 24), np.uint8)
    for syntax, reason in (
        ("1.2.840.10008.1.2.4.94", "no decoder for JPIP Referenced"),
        ("1.2.840.10008.1.2.4.102", r"cut short, 0 of 2 frames"),
        ("1.2.3.4.5", "no decoder for an unknown transfer syntax"),
    ):
        with pytest.raises(Rejected, match=reason):
            read(encapsulated(write(tmp_path / "a.dcm", frames), [b"junk", b"junk"], syntax))
    (tmp_path / "b.dcm").write_text("x" * 300)
    with pytest.raises(Rejected, match="not a DICOM file"):
        read(tmp_path / "b.dcm")
    with pytest.raises(Rejected, match="not an image"):
        read(write(tmp_path / "c.dcm", frames, "Rows"))


def test_a_value_that_does_not_fit_its_type_is_a_reason(tmp_path: Path) -> None:
    path = write(tmp_path / "a.dcm", np.zeros((2, 20, 24), np.uint8))
    content, rows = path.read_bytes(), b"\x28\x00\x10\x00US"
    assert content.count(rows + b"\x02\x00\x14\x00") == 1
    path.write_bytes(content.replace(rows + b"\x02\x00\x14\x00", rows + b"\x01\x00\x14"))
    with pytest.raises(Rejected, match=r"unreadable: .*BytesLengthException"):
        read(path)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("meta", [False, True])
def test_files_without_preamble(tmp_path: Path, syntax: str, meta: bool) -> None:
    content = write(tmp_path / "a.dcm", RAMP, syntax=syntax, **TWELVE).read_bytes()
    assert content[128:132] == b"DICM"
    start = content.index(b"\0\x08\0\x16" if syntax == ExplicitVRBigEndian else b"\x08\0\x16\0")  # tag of SOPClassUID
    (tmp_path / "b").write_bytes(content[132:] if meta else content[start:])
    assert is_dicom(tmp_path / "b")
    close(read(tmp_path / "b"), RAMP / 4095 * 255)


def test_compressed_pixels_without_file_meta_information(tmp_path: Path) -> None:
    frames = (RAMP >> 4).astype(np.uint8)
    path = encapsulated(write(tmp_path / "a.dcm", frames), _compress(frames, "JPEG"), JPEGBaseline8Bit)
    data = dcmread(path)
    data.file_meta = FileMetaDataset()
    data.save_as(path, implicit_vr=False, little_endian=True, enforce_file_format=False)
    with pytest.raises(Rejected, match="without file meta information"):
        read(path)


@pytest.mark.parametrize("content", [b"", b"DICM", b"\x08\0" + b"x" * 300, bytes(300), b"FileName,a\n" * 40])
def test_other_files_are_not_dicom(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    assert not is_dicom(tmp_path / "a")
    assert not is_dicom(tmp_path / "b")


@pytest.mark.parametrize(
    ("names", "most"),
    [
        (("SC_rgb_rle.dcm", "SC_rgb_jpeg_gdcm.dcm", "SC_rgb_gdcm_KY.dcm", "SC_rgb_rle_16bit.dcm"), 0),
        (("SC_rgb_dcmtk_+eb+cy+s4.dcm", "SC_rgb_jpeg_dcmtk.dcm", "SC_ybr_full_422_uncompressed.dcm"), 0),
        (("SC_rgb_rle.dcm", "SC_rgb_dcmtk_+eb+cr.dcm"), 3),
        (("MR_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_small_jp2klossless.dcm"), 0),
        (("MR_small.dcm", "MR_small_jpeg_ls_lossless.dcm", "MR_small_implicit.dcm", "MR_small_padded.dcm"), 0),
        (("SC_rgb_jls_lossy_line.dcm", "SC_rgb_jls_lossy_sample.dcm"), 0),
    ],
)
def test_one_image_in_several_encodings(names: tuple[str, ...], most: int) -> None:
    """The test files of pydicom contain one image in several encodings; all must decode to nearly equal pixels."""
    first, *others = (read(SHIPPED / name).astype(int) for name in names)
    assert np.ptp(first) > 150
    for other in others:
        assert np.abs(other - first).max() <= most


@pytest.mark.parametrize(
    "name", ["MR_small.dcm", "693_J2KI.dcm", "CT_small.dcm", "examples_overlay.dcm", "image_dfl.dcm"]
)
def test_gray_files_are_as_pydicom_renders_them(name: str) -> None:
    data = dcmread(SHIPPED / name)
    values = apply_voi_lut(apply_modality_lut(data.pixel_array, data), data).astype(float)
    found = read(SHIPPED / name)[0].astype(float)
    fit = np.polyfit(values.ravel(), found.ravel(), 1)
    assert fit[0] > 0
    assert np.abs(np.polyval(fit, values) - found).max() <= 0.6


@pytest.mark.parametrize("name", ["examples_palette.dcm", "examples_rgb_color.dcm", "examples_jpeg2k.dcm"])
def test_color_files_are_as_pydicom_renders_them(name: str) -> None:
    data = dcmread(SHIPPED / name)
    expected = pixel_array(data)
    if name == "examples_palette.dcm":
        expected = apply_color_lut(expected, data) >> 8
    np.testing.assert_array_equal(read(SHIPPED / name)[0], expected)


def test_the_echo_of_pydicom_is_as_pillow_decodes_it() -> None:
    data = dcmread(SHIPPED / "examples_ybr_color.dcm")
    packed = generate_frames(data.PixelData, number_of_frames=30)
    expected = np.stack([np.asarray(Image.open(BytesIO(frame)).convert("RGB")) for frame in packed])
    np.testing.assert_array_equal(read(SHIPPED / "examples_ybr_color.dcm"), expected)


def test_no_decoder_of_a_common_encoding_is_licensed_under_the_gpl() -> None:
    """pylibjpeg may load the GPL package pylibjpeg-libjpeg, so JPEG and JPEG-LS need decoders other than pylibjpeg."""
    common = [JPEGBaseline8Bit, *(f"1.2.840.10008.1.2.4.{number}" for number in (57, 70, 80, 81))]
    for syntax in common:
        assert decoder_plugin(syntax, 8) in {*get_decoder(syntax).available_plugins} - {"pylibjpeg"}
    assert decoder_plugin(JPEG2000Lossless, 8) == "pylibjpeg"
    requirements = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert "pylibjpeg-libjpeg" not in requirements.partition("[project.optional-dependencies]")[0]


def test_an_empty_fragment_after_the_last_frame(tmp_path: Path) -> None:
    frames = (RAMP >> 4).astype(np.uint8)
    packed = _compress(frames, "JPEG", quality=98)
    for count in (3, 2):
        path = encapsulated(write(tmp_path / f"{count}.dcm", frames), packed[:count], JPEGBaseline8Bit)
        data = dcmread(path)
        data.PixelData += b"\xfe\xff\x00\xe0" + bytes(4)
        data.save_as(path)
    close(read(tmp_path / "3.dcm"), frames, 4)
    with pytest.raises(Rejected, match="2 of 3 frames"):
        read(tmp_path / "2.dcm")


@pytest.mark.parametrize("space", ["RGB", "YBR_FULL_422", "YBR_FULL"])
@pytest.mark.parametrize("marker", ["JFIF", "Adobe YCbCr", "Adobe RGB", "JFIF and Adobe YCbCr"])
def test_the_markers_of_a_jpeg_say_its_colors(tmp_path: Path, marker: str, space: str) -> None:
    """JPEG markers override PhotometricInterpretation: https://www.w3.org/Graphics/JPEG/jfif.pdf, ITU-T T.872."""
    rgb = np.zeros((3, 16, 48, 3), np.uint8)
    rgb[:, :, :16], rgb[:, :, 16:32], rgb[:, :, 32:] = 60, (200, 40, 40), (90, 120, 30)
    packed = []
    for frame in rgb:
        planes = [Image.fromarray(np.ascontiguousarray(frame[..., channel])) for channel in range(3)]
        image = Image.merge("YCbCr", planes) if marker == "Adobe RGB" else Image.fromarray(frame)
        image.save(stream := BytesIO(), "JPEG", quality=98, subsampling=0)
        jfif, tables = stream.getvalue()[2:20], stream.getvalue()[20:]
        adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\0\0\0\0" + bytes(["RGB" not in marker])
        packed.append(
            b"\xff\xd8" + (jfif if "JFIF" in marker else b"") + (adobe if "Adobe" in marker else b"") + tables
        )
    path = write(tmp_path / "a.dcm", rgb, PhotometricInterpretation=space)
    close(read(encapsulated(path, packed, JPEGBaseline8Bit)), rgb, 4)


@pytest.mark.parametrize("predictor", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_lossless_jpeg(tmp_path: Path, bits: int, predictor: int) -> None:
    frames = (
        np.random.default_rng(bits).integers(0, 1 << bits - 1, RAMP.shape).astype(np.uint8 if bits == 8 else np.uint16)
    )
    frames[:, 5:] += frames[:, 5:]
    tags = {"BitsStored": bits, "HighBit": bits - 1, "WindowCenter": 1 << bits - 1, "WindowWidth": 1 << bits}
    packed = [lossless_jpeg(frame, bits, predictor) for frame in frames]
    path = encapsulated(write(tmp_path / "a.dcm", frames, **tags), packed, JPEGLosslessSV1)
    close(read(path), frames / ((1 << bits) - 1) * 255)
    for frame in (packed[2][:-40], packed[2][:-40] + b"\xff\xd9"):
        with pytest.raises(Rejected, match="cut short"):
            read(encapsulated(path, [*packed[:2], frame], JPEGLosslessSV1))


def test_signed_lossless_jpeg(tmp_path: Path) -> None:
    frames = RAMP.astype(np.int16) - np.int16(2048)
    path = write(tmp_path / "a.dcm", frames, WindowCenter="0", WindowWidth="4096")
    path = encapsulated(path, [lossless_jpeg(frame, 16) for frame in frames], JPEGLosslessSV1)
    close(read(path), RAMP / 4095 * 255)
