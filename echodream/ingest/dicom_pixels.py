"""Decodes the pixels of DICOM files to uint8. Damaged and truncated files raise ``Rejected``."""

import logging
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from echodream.errors import Rejected
from echodream.ingest import lossless_jpeg
from echodream.ingest.pixels import scale_to_uint8, to_uint8
from echodream.ingest.source import Limits

if TYPE_CHECKING:
    from pydicom.dataset import Dataset, FileDataset
    from pydicom.pixels.decoders.base import Decoder
    from pydicom.uid import UID

_DEFLATED_SYNTAX = "1.2.840.10008.1.2.1.99"
_VIDEO_CONTAINERS = "mpeg,mpegts,mpegvideo,h264,hevc,mov"
_RLE_SYNTAX = "1.2.840.10008.1.2.5"
_BASELINE_JPEG = "1.2.840.10008.1.2.4.50"
_EXTENDED_JPEG = "1.2.840.10008.1.2.4.51"
_JPEG_LS = ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81")


@contextmanager
def reject_pydicom_errors(reason: str) -> Iterator[None]:
    """Convert errors of pydicom to ``Rejected`` with ``reason``, without messages that may name the patient."""
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (Rejected, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - pydicom and its plugins raise many error types for damaged files
        raise Rejected(f"{reason} ({type(error).__name__})") from None


def is_dicom(path: Path) -> bool:
    """Whether the first bytes of a file are DICOM; preamble and file meta information may be missing."""
    try:
        with path.open("rb") as file:
            head = file.read(132)
    except OSError:
        return False
    if head[128:] == b"DICM" or len(head) < 132:
        return len(head) == 132
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    if head[:2] in (b"\x02\0", b"\x08\0"):  # group number of the first element
        return explicit or int.from_bytes(head[4:8], "little") <= 1024
    return explicit and head[:2] == b"\0\x08"


def open_header(path: Path, limits: Limits, tags: list[str] | None = None) -> "FileDataset":
    """Read all elements before the pixels, or only ``tags``; add a missing transfer syntax. Raises ``Rejected``."""
    from pydicom import dcmread

    if not is_dicom(path):
        raise Rejected("not a DICOM file")
    with reject_pydicom_errors("unreadable: the DICOM header is damaged"):
        _check_deflated(path, limits)
        header = dcmread(path, stop_before_pixels=True, force=True, specific_tags=tags)
        _add_transfer_syntax(header)
    return header


def read_pixels(path: Path, limits: Limits) -> tuple["Dataset", np.ndarray]:
    """Read the data set of a file and its frames, uint8, gray (F, H, W) or RGB (F, H, W, 3).

    Gray values are converted by DICOM PS3.3 C.11: modality LUT or rescale, VOI LUT or window, inversion of MONOCHROME1.
    Without a window, ``_declared_range`` is scaled to 0..255. Raises ``Rejected``.
    """
    from pydicom import dcmread
    from pydicom.pixels import get_decoder

    header = open_header(path, limits)
    syntax = header.file_meta.TransferSyntaxUID
    if "Rows" not in header:
        raise Rejected("not an image: the DICOM file has no pixels")
    with reject_pydicom_errors("unreadable: the DICOM file does not decode"):
        sample_bytes = int(header.SamplesPerPixel) * max(1, int(header.BitsAllocated) // 8)
        limits.check(frame_count(header), int(header.Rows), int(header.Columns), sample_bytes)
        if path.stat().st_size > limits.max_bytes:
            raise Rejected(f"too large: {path.stat().st_size} bytes, the limit is {limits.max_bytes}")
        dataset = dcmread(path, force=True)
        _add_transfer_syntax(dataset)
    with reject_pydicom_errors(f"unreadable: the pixels do not decode, {_syntax_name(syntax)}"):
        if not {"PixelData", "FloatPixelData", "DoubleFloatPixelData"} & {*dir(dataset)}:
            raise Rejected("unreadable: cut short, the file ends before or inside its pixels")
        if _syntax_name(syntax).startswith(("MPEG", "HEVC")):
            return dataset, _decode_video(dataset, limits)
        try:
            decoder = get_decoder(syntax)
        except NotImplementedError:
            raise Rejected(f"unreadable: no decoder for {_syntax_name(syntax)}") from None
        _check_encoded_frames(dataset)
        return dataset, _decode_frames(dataset, decoder)


def frame_count(dataset: "Dataset") -> int:
    """Return the number of frames by the header; 1 if the header states no number."""
    return int(dataset.get("NumberOfFrames") or 1)


def _check_deflated(path: Path, limits: Limits) -> None:
    """Reject a deflated file that exceeds ``max_bytes`` when inflated; pydicom inflates the whole file at once."""
    from pydicom.filereader import read_file_meta_info

    with path.open("rb") as file:
        if file.read(132)[128:] != b"DICM":
            return
    if str(read_file_meta_info(path).get("TransferSyntaxUID", "")) != _DEFLATED_SYNTAX:
        return
    with path.open("rb") as file:
        file.seek(140)  # element (0002,0000) is the size of the file meta information after this element
        file.seek(int.from_bytes(file.read(4), "little"), 1)
        decompressor, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while (chunk := decompressor.unconsumed_tail or file.read(1 << 16)) and not decompressor.eof:
            size += len(decompressor.decompress(chunk, 1 << 20))
            if size > limits.max_bytes:
                raise Rejected(f"too large: more than {limits.max_bytes} bytes when inflated")


def _add_transfer_syntax(dataset: "FileDataset") -> None:
    """Set the transfer syntax of uncompressed pixels without file meta information. Raises ``Rejected``."""
    from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if stated := dataset.file_meta.get("TransferSyntaxUID"):
        if not isinstance(stated, UID):
            raise Rejected("unreadable: the DICOM header states several transfer syntaxes")
        return
    if "PixelData" in dataset and dataset["PixelData"].is_undefined_length:
        raise Rejected("unreadable: compressed pixels without file meta information, which names the compression")
    implicit, little = dataset.original_encoding
    explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit


def _syntax_name(syntax: "UID") -> str:
    """Return the standard name of a transfer syntax, such as "JPEG Baseline (Process 1)"."""
    return syntax.name if syntax.name != str(syntax) else "an unknown transfer syntax"


def _check_encoded_frames(dataset: "Dataset") -> None:
    """Raise ``Rejected`` if frames are missing, or if a compressed frame is much larger than the header states."""
    from pydicom.encaps import generate_frames, parse_fragments
    from pydicom.pixels.utils import get_expected_length

    count, syntax = frame_count(dataset), dataset.file_meta.TransferSyntaxUID
    if not syntax.is_compressed:
        if "PixelData" in dataset and len(dataset.PixelData) < (expected := get_expected_length(dataset)):
            raise Rejected(_truncation_message(len(dataset.PixelData) * count // expected, count))
        return
    tables = [dataset.get(name) for name in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")]
    offsets = (tables[0], tables[1]) if all(tables) else None
    try:
        frames = list(generate_frames(dataset.PixelData, number_of_frames=count, extended_offsets=offsets))
    except ValueError:  # the file has fewer fragments than frames
        raise Rejected(_truncation_message(min(count, parse_fragments(dataset.PixelData)[0]), count)) from None
    present_count = sum(len(frame) > 0 for frame in frames)
    if present_count < count:
        raise Rejected(_truncation_message(present_count, count))
    if present_count > count:
        raise Rejected(f"unreadable: the file has {present_count} frames, the header states {count}")
    max_pixels = 4 * int(dataset.Rows) * int(dataset.Columns)
    accepts_truncated = syntax == _EXTENDED_JPEG or lossless_jpeg.is_available(syntax)
    for frame in frames:
        if accepts_truncated and b"\xff\xd9" not in frame[-16:]:
            raise Rejected("unreadable: cut short, a frame has no end marker")
        height, width = _encoded_frame_size(frame)
        if height * width > max_pixels:
            raise Rejected(f"unreadable: a frame is {width}x{height} instead of {dataset.Columns}x{dataset.Rows}")


def _truncation_message(present_count: int, count: int) -> str:
    return f"unreadable: cut short, {present_count} of {count} frames are present"


def _encoded_frame_size(frame: bytes) -> tuple[int, int]:
    """Read height and width in the header of a JPEG, JPEG-LS or JPEG 2000 frame; zeros for other codecs."""
    start = frame[:1024].find(b"\xff\x4f\xff\x51")
    if start >= 0:
        right, bottom, left, top = struct.unpack_from(">4I", frame, start + 8)
        return max(0, bottom - top), max(0, right - left)
    return lossless_jpeg.frame_header(frame)[1:]


def _decode_video(dataset: "Dataset", limits: Limits) -> np.ndarray:
    """Decode all frames of an MPEG-2, H.264 or HEVC stream. Returns uint8, RGB (F, H, W, 3). Raises ``Rejected``."""
    import av
    from pydicom.encaps import generate_fragments, parse_basic_offsets

    av.logging.set_level(av.logging.PANIC)
    data = BytesIO(dataset.PixelData)
    parse_basic_offsets(data)  # moves the stream position to the first fragment
    stream = BytesIO(b"".join(generate_fragments(data)))
    size, count = (int(dataset.Rows), int(dataset.Columns)), frame_count(dataset)
    options = {"format_whitelist": _VIDEO_CONTAINERS, "max_pixels": str(limits.max_side**2)}
    frames: list[np.ndarray] = []
    # a damaged stream gives fewer frames, which are counted below
    with suppress(av.error.FFmpegError, IndexError), av.open(stream, "r", options=options) as container:
        for frame in container.decode(video=0):
            if (frame.height, frame.width) != size:
                raise Rejected(f"unreadable: a frame is {frame.width}x{frame.height} instead of {size[1]}x{size[0]}")
            frames.append(frame.to_ndarray(format="rgb24"))
            limits.check(max(len(frames), limits.min_frames), *size)
    if len(frames) < count:
        raise Rejected(_truncation_message(len(frames), count))
    return np.stack(frames)


def _decode_frames(dataset: "FileDataset", decoder: "Decoder") -> np.ndarray:
    """Decode all frames of a file that is not a video. Returns uint8, gray (F, H, W) or RGB (F, H, W, 3)."""
    syntax, count = dataset.file_meta.TransferSyntaxUID, frame_count(dataset)
    plugin = decoder_plugin(syntax, int(dataset.get("BitsStored") or 0))
    if plugin and plugin not in decoder.available_plugins:
        extra = ": install the extra libjpeg (GPL)" if syntax == _EXTENDED_JPEG else f": install {plugin}"
        raise Rejected(f"unreadable: no decoder for {_syntax_name(syntax)} is installed{extra}")
    options: dict[str, Any] = {"correct_unused_bits": False}
    is_rgb = plugin == "pillow" and dataset.SamplesPerPixel == 3 and _has_adobe_marker(dataset)
    if is_rgb:  # Pillow has converted the colors to RGB
        options["raw"] = True
    if not syntax.is_compressed:
        frames, properties = decoder.as_array(dataset, **options)
        frames, color = frames[None] if count == 1 else frames, properties["photometric_interpretation"]
    else:
        frames, color, decoded = np.empty(0), "", 0
        try:
            # an empty fragment may follow the last frame
            for frame, properties in islice(decoder.iter_array(dataset, decoding_plugin=plugin, **options), count):
                color = "RGB" if is_rgb else properties["photometric_interpretation"]
                frames = frames if decoded else np.empty((count, *frame.shape), frame.dtype)
                frames[decoded] = frame
                decoded += 1
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - see reject_pydicom_errors
            problem = f"frame {decoded + 1} of {count} is damaged or cut short"
            raise Rejected(f"unreadable: {_syntax_name(syntax)}, {problem} ({type(error).__name__})") from None
    if frames.dtype.kind != "f":
        dataset.BitsStored = _stored_bit_count(frames, dataset)
    if color == "RGB":
        bits = dataset.BitsStored
        return frames if frames.dtype == np.uint8 and bits == 8 else scale_to_uint8(frames, 0, (1 << bits) - 1)
    if color not in ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR"):
        raise Rejected(f"unreadable: the color space {color} is not supported")
    if frames.dtype.kind == "f" or frames.dtype.itemsize > 2:
        values, index = np.unique(frames, return_inverse=True)
        return _to_gray(frames, values, index.reshape(frames.shape), dataset)
    values, index = _stored_values(dataset), _extract_stored_bits(frames, dataset)
    if color == "PALETTE COLOR":
        return _palette_colors(values, dataset)[index]
    return _to_gray(frames, values, index, dataset)


def _has_adobe_marker(dataset: "Dataset") -> bool:
    """Whether the first JPEG frame has the Adobe marker APP14, for which Pillow converts the colors to RGB."""
    from PIL import Image
    from pydicom.encaps import generate_frames

    frame = next(generate_frames(dataset.PixelData, number_of_frames=frame_count(dataset)))
    with Image.open(BytesIO(frame), formats=("JPEG",)) as image:
        return "adobe_transform" in image.info


def decoder_plugin(syntax: str, bits: int) -> str:
    """Choose the pydicom plugin for a transfer syntax; "" if pydicom has only one plugin.

    The choice does not depend on the installed plugins, so pixels are reproducible. For truncated frames,
    pylibjpeg-libjpeg returns noise instead of an error. For damaged frames, GDCM may end the process.
    """
    from pydicom.pixels import get_decoder

    if syntax == _BASELINE_JPEG or (syntax == _EXTENDED_JPEG and bits == 8):
        return "pillow"
    if syntax in _JPEG_LS:
        return "pyjpegls"
    if lossless_jpeg.is_available(syntax):
        if "pyav" not in get_decoder(syntax).available_plugins:
            get_decoder(syntax).add_plugin("pyav", (lossless_jpeg.__name__, lossless_jpeg.decode_frame.__name__))
        return "pyav"
    return "pylibjpeg" if syntax.startswith(("1.2.840.10008.1.2.4.9", "1.2.840.10008.1.2.4.2", _EXTENDED_JPEG)) else ""


def _stored_bit_count(frames: np.ndarray, dataset: "Dataset") -> int:
    """Return BitsStored, at most the bits of the decoded type; all its bits if values of a JPEG exceed BitsStored."""
    decoded, stored = 8 * frames.dtype.itemsize, int(dataset.BitsStored)
    if not _has_unused_bits(dataset):
        lowest = -(1 << stored - 1) if frames.dtype.kind == "i" else 0
        if frames.min() < lowest or frames.max() >= lowest + (1 << stored):
            return decoded
    return min(stored, decoded)


def _has_unused_bits(dataset: "Dataset") -> bool:
    """Whether decoded values keep bits outside BitsStored, which is true for uncompressed and RLE files only."""
    syntax = dataset.file_meta.TransferSyntaxUID
    return not syntax.is_compressed or syntax == _RLE_SYNTAX


def _extract_stored_bits(frames: np.ndarray, dataset: "Dataset") -> np.ndarray:
    """Extract the BitsStored bits up to HighBit as an unsigned integer; all other bits of a value may be overlays."""
    stored = int(dataset.BitsStored)
    bits = frames.astype(frames.dtype.newbyteorder("="), copy=False).view(f"u{frames.dtype.itemsize}")
    if 8 * bits.itemsize == stored:
        return bits
    highest = 8 * bits.itemsize - stored
    shift = min(max(0, int(dataset.HighBit) + 1 - stored), highest) if _has_unused_bits(dataset) else 0
    return (bits >> bits.dtype.type(shift)) & bits.dtype.type((1 << stored) - 1)


def _stored_values(dataset: "Dataset") -> np.ndarray:
    """Compute the signed or unsigned value of each pattern of BitsStored bits, int32, (2 ** BitsStored,)."""
    values = np.arange(1 << int(dataset.BitsStored), dtype=np.int32)
    return np.where(values >= len(values) // 2, values - len(values), values) if dataset.PixelRepresentation else values


def _palette_colors(values: np.ndarray, dataset: "FileDataset") -> np.ndarray:
    """Look up the red, green and blue of the stored ``values`` in the palette of the file, uint8, (N, 3)."""
    from pydicom.pixels import apply_color_lut
    from pydicom.uid import ExplicitVRBigEndian

    for color in ("Red", "Green", "Blue"):
        data = dataset.get(name := f"{color}PaletteColorLookupTableData", b"")
        count = dataset[f"{color}PaletteColorLookupTableDescriptor"].value[0] or 1 << 16
        if 256 < count == len(data):  # pydicom counts 8-bit entries modulo 256
            dataset[name].value = np.frombuffer(data, np.uint8).astype(np.uint16).tobytes()
        elif len(data) == 2 * count and dataset.file_meta.TransferSyntaxUID == ExplicitVRBigEndian:
            dataset[name].value = np.frombuffer(data, np.uint16).byteswap().tobytes()
    table = apply_color_lut(values, dataset)[:, :3]
    # 16-bit entries such as 0x7878 or 0x7800 become 0x78; some files declare 16 bits for 8-bit entries
    return (table >> 8 if table.max() > 255 else table).astype(np.uint8)


def _to_gray(frames: np.ndarray, values: np.ndarray, index: np.ndarray, dataset: "FileDataset") -> np.ndarray:
    """Convert decoded ``frames`` to gray uint8, (F, H, W), by one lookup table for all frames; padding becomes 0.

    ``values[index]`` are the stored values of the pixels; ``values`` is (N,), ``index`` (F, H, W). Raises ``Rejected``.
    """
    padding = _padding_mask(frames, values, index, dataset)
    used = np.zeros(len(values), dtype=bool)
    used[index if padding is None else index[~padding]] = True
    if not used.any():
        raise Rejected("unreadable: every pixel is padding or not a number")
    _merge_functional_groups(dataset)
    modality = _apply_modality(values, dataset)
    levels = _apply_window(modality, dataset)
    if levels is not None:
        table = scale_to_uint8(levels[None], 0, 255)[0]
    elif (declared := _declared_range(modality, values, dataset, 8 * frames.dtype.itemsize)) is not None:
        table = scale_to_uint8(modality[None], *declared)[0]
    else:
        table = to_uint8(np.where(used, modality, modality[used].min())[None])[0]
    if np.ptp(table[used]) == 0 < np.ptp(modality[used]):
        raise Rejected("no contrast: all pixels have the same gray level in the window or range of the header")
    if "MONOCHROME1" in str(dataset.PhotometricInterpretation) or dataset.get("PresentationLUTShape") == "INVERSE":
        table = 255 - table
    pixels = table[index]
    if padding is not None:
        pixels[padding] = 0
    return pixels


def _padding_mask(frames: np.ndarray, values: np.ndarray, index: np.ndarray, dataset: "Dataset") -> np.ndarray | None:
    """Compute the mask of padding and NaN pixels, bool (F, H, W); None if the header declares no padding."""
    if frames.dtype.kind == "f":
        value = dataset.get("FloatPixelPaddingValue", dataset.get("DoubleFloatPixelPaddingValue"))
        return ~np.isfinite(frames) | (frames == value)
    tags = ("PixelPaddingValue", "PixelPaddingRangeLimit")
    limits = [number for tag in tags for number in tag_numbers(dataset.get(tag))[:1]]
    if dataset.get("PixelPaddingValue") is None or not limits:
        return None
    numbers = 1 << 8 * frames.dtype.itemsize  # some files state -2000 as 63536
    top = numbers // 2 if frames.dtype.kind == "i" else numbers
    limits = [(limit - top) % numbers + top - numbers for limit in limits]
    low, high = min(limits), max(limits)
    padded = (values >= low) & (values <= high)
    return np.asarray(padded[index] | (frames >= low) & (frames <= high))  # padding can use bits above BitsStored


def _merge_functional_groups(dataset: "Dataset") -> None:
    """Copy rescale and window of a multi-frame file to the top level. Raises ``Rejected`` if they vary by frame."""
    names = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
    groups = [group for name in names for group in dataset.get(name) or []]
    for name in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
        items = [group[name].value[0] for group in groups if group.get(name)]
        if any(item != items[0] for item in items):
            raise Rejected("the frames have different rescale slopes or windows, and no common gray scale")
        if items:
            dataset.update(items[0])


def _apply_modality(values: np.ndarray, dataset: "Dataset") -> np.ndarray:
    """Apply the modality LUT, or rescale slope and intercept, to the stored ``values``."""
    from pydicom.pixels import apply_modality_lut

    slope, intercept = (tag_numbers(dataset.get(name))[:1] for name in ("RescaleSlope", "RescaleIntercept"))
    if slope or intercept:  # pydicom requires both tags
        dataset.RescaleSlope, dataset.RescaleIntercept = (slope or [1])[0] or 1, (intercept or [0])[0]
    return np.asarray(apply_modality_lut(values, dataset))


def _apply_window(values: np.ndarray, dataset: "Dataset") -> np.ndarray | None:
    """Convert ``values`` to gray levels 0..255 by the first VOI LUT or window; None if the header has neither."""
    from pydicom.dataset import Dataset
    from pydicom.pixels import apply_voi, apply_windowing

    if dataset.get("VOILUTSequence"):
        count, first, bits = dataset.VOILUTSequence[0].LUTDescriptor
        lut = np.asarray(apply_voi(np.arange(first, first + (count or 1 << 16)), dataset))
        highest = int(lut.max())
        if not highest >> (bits - 4):  # some files declare 16 bits for tables of 12 bits
            bits = max(1, highest.bit_length())
        position = np.clip(np.rint(values), first, first + len(lut) - 1).astype(np.int64) - first
        return np.asarray(lut[position] * (255 / ((1 << bits) - 1)))
    center, width = (tag_numbers(dataset.get(name))[:1] for name in ("WindowCenter", "WindowWidth"))
    if not center or not width or width[0] <= 0:
        return None
    function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
    window = Dataset()
    window.PhotometricInterpretation, window.BitsStored, window.PixelRepresentation = "MONOCHROME2", 8, 0
    window.WindowCenter, window.WindowWidth = dataset.WindowCenter, dataset.WindowWidth
    window.VOILUTFunction = "LINEAR_EXACT" if function == "LINEAR" and width[0] < 1 else function
    return np.asarray(apply_windowing(values, window))


def _declared_range(
    modality: np.ndarray, values: np.ndarray, dataset: "Dataset", allocated: int
) -> tuple[float, float] | None:
    """Return the value range by modality LUT, Smallest/LargestImagePixelValue or BitsStored; None without these."""
    if values.dtype.kind == "f":
        return None
    bits = int(dataset.BitsStored)
    limits = [tag_numbers(dataset.get(f"{name}ImagePixelValue"))[:1] for name in ("Smallest", "Largest")]
    if dataset.get("ModalityLUTSequence"):
        extremes = modality
    elif bits > 8 and all(limits) and limits[0] < limits[1]:
        extremes = _apply_modality(np.concatenate(limits), dataset)
    elif bits <= 8 or bits < allocated:
        lowest = -(1 << bits - 1) if dataset.PixelRepresentation else 0
        extremes = _apply_modality(np.array([lowest, lowest + (1 << bits) - 1]), dataset)
    else:
        return None
    return float(extremes.min()), float(extremes.max())


def tag_numbers(value: Any) -> list[float]:
    """Convert the value of a DICOM element (a list, a number, None or "") to a list of numbers."""
    if value is None or value == "":
        return []
    return [float(item) for item in (value if hasattr(value, "__iter__") and not isinstance(value, str) else [value])]
