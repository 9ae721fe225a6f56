"""Plugin of pydicom that decodes JPEG lossless (process 14) frames with PyAV."""

import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydicom.pixels.decoders.base import DecodeRunner

DECODER_DEPENDENCIES = {"1.2.840.10008.1.2.4.57": ("av",), "1.2.840.10008.1.2.4.70": ("av",)}


def is_available(syntax: str) -> bool:
    """Whether the plugin decodes the transfer syntax; pydicom calls this function."""
    return syntax in DECODER_DEPENDENCIES


def decode_frame(data: bytes, runner: "DecodeRunner") -> bytes:
    """Decode a frame to samples of 8 or 16 bits, and set their order in ``runner``. Raises ``ValueError``."""
    import av

    av.logging.set_level(av.logging.PANIC)
    context: Any = av.CodecContext.create("mjpeg", "r")
    context.options, context.thread_count = {"err_detect": "explode"}, 1
    images = context.decode(av.Packet(data)) or context.decode(None)
    if len(images) != 1 or (images[0].height, images[0].width) != (runner.rows, runner.columns):
        raise ValueError("the frame is not one image of the size that the header states")
    name = images[0].format.name
    if runner.samples_per_pixel == 1 and not name.startswith("gray"):
        raise ValueError("the frame has colors, but the header states gray pixels")
    if runner.samples_per_pixel == 1 or name.startswith("yuv"):  # yuv frames have three planes
        pixels = images[0].to_ndarray()
    else:
        pixels = images[0].to_ndarray(format="rgb24" if runner.bits_stored <= 8 else "rgb48le")
    pixels = pixels >> (8 * pixels.itemsize - frame_header(data)[0])  # FFmpeg stores samples in the upper bits
    runner.set_option("planar_configuration", int(name.startswith("yuv")))
    runner.set_option("bits_allocated", 8 * pixels.itemsize)
    return pixels.tobytes()


def frame_header(data: bytes) -> tuple[int, int, int]:
    """Read bits per sample, height and width in the header of a JPEG or JPEG-LS frame; zeros for other codecs."""
    offset = 2
    while data[:2] == b"\xff\xd8" and offset + 9 <= len(data):
        marker = data[offset + 1]
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            return struct.unpack_from(">BHH", data, offset + 4)
        offset += 1 if marker == 0xFF else 2 + int.from_bytes(data[offset + 2 : offset + 4], "big")
    return 0, 0, 0
