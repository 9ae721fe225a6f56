"""Small video files of every container, codec, GOP structure, orientation, color range and sound that ingest reads.

    python -m tests.support.decoding_matrix

prints the table of docs/ingest.md: the reader of each container and codec, and the largest difference from PyAV.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from echodream.ingest.media_files import read_video_file
from echodream.ingest.source import Limits

FRAMES = 26
SIZE = (64, 96)
_STEP = 8
"""Difference in gray level between the block of one frame and that of the next."""

VARIANTS: dict[str, dict[str, Any]] = {
    "key frames": {"gop": 1},
    "GOP of 6": {"gop": 6},
    "GOP of 6, B-frames": {"gop": 6, "b_frames": 2},
    "one GOP, B-frames": {"gop": 250, "b_frames": 2},
    "90 degrees": {"rotation": (90, False)},
    "180 degrees": {"rotation": (180, False), "b_frames": 2},
    "270 degrees": {"rotation": (270, False)},
    "mirrored": {"rotation": (90, True)},
    "full range": {"color_range": 2},
    "limited range": {"color_range": 1},
    "wide pixels": {"aspect": Fraction(4, 3)},
    "sound": {"sound": True, "gop": 6},
    "size change": {"change": True, "gop": 6},
}


@dataclass(frozen=True)
class Codec:
    """A codec in a container, and the variants that this combination supports."""

    suffix: str
    name: str
    pix_fmt: str = "yuv420p"
    b_frames: bool = False
    turns: bool = False
    sound: str = ""
    ranges: bool = False
    changes: bool = False
    wide: bool = False
    still: bool = False
    """All frames are key frames."""
    lossless: bool = False
    options: tuple[tuple[str, str], ...] = ()

    def variants(self) -> Iterator[str]:
        for variant, needs in VARIANTS.items():
            possible = {
                "b_frames": self.b_frames,
                "rotation": self.turns,
                "color_range": self.ranges,
                "sound": bool(self.sound),
                "change": self.changes,
                "aspect": self.wide,
                "gop": not self.still or needs.get("gop") == 1 or len(needs) > 1,
            }
            if all(possible[need] for need in needs):
                yield variant


_QUALITY = (("qmin", "1"), ("qmax", "3"))
CODECS = [
    Codec("mp4", "libx264", b_frames=True, wide=True, turns=True, sound="aac", ranges=True, options=(("crf", "8"),)),
    Codec(
        "mov", "libx264", b_frames=True, wide=True, turns=True, sound="pcm_s16le", ranges=True, options=(("crf", "8"),)
    ),
    Codec("mkv", "libx264", b_frames=True, wide=True, turns=True, sound="aac", ranges=True, options=(("crf", "8"),)),
    Codec("avi", "libx264", b_frames=True, wide=True, sound="mp2", ranges=True, options=(("crf", "8"),)),
    Codec("ts", "libx264", b_frames=True, wide=True, sound="mp2", ranges=True, changes=True, options=(("crf", "8"),)),
    Codec("flv", "libx264", b_frames=True, wide=True, sound="aac", ranges=True, options=(("crf", "8"),)),
    Codec("mp4", "libx264", pix_fmt="gray", b_frames=True, wide=True, turns=True, options=(("crf", "8"),)),
    Codec(
        "mp4",
        "libx265",
        b_frames=True,
        wide=True,
        turns=True,
        ranges=True,
        options=(("x265-params", "crf=8:log-level=none"),),
    ),
    Codec("mp4", "mpeg4", b_frames=True, wide=True, turns=True, sound="aac", options=_QUALITY),
    Codec("avi", "mpeg4", b_frames=True, wide=True, sound="mp2", options=_QUALITY),
    Codec("mpg", "mpeg4", b_frames=True, wide=True, options=_QUALITY),
    Codec("mpg", "mpeg1video", b_frames=True, sound="mp2", changes=True, options=_QUALITY),
    Codec("mpg", "mpeg2video", b_frames=True, sound="mp2", changes=True, options=_QUALITY),
    Codec("ts", "mpeg2video", b_frames=True, sound="mp2", changes=True, options=_QUALITY),
    Codec("mkv", "mpeg2video", b_frames=True, sound="mp2", changes=True, options=_QUALITY),
    Codec("vob", "mpeg2video", b_frames=True, sound="mp2", options=_QUALITY),
    Codec("avi", "mjpeg", "yuvj422p", still=True, sound="mp2", changes=True, options=_QUALITY),
    Codec("mov", "mjpeg", "yuvj420p", still=True, turns=True, options=_QUALITY),
    Codec("wmv", "wmv2", options=_QUALITY),
    Codec("avi", "msmpeg4", sound="mp2", options=_QUALITY),
    Codec("webm", "libvpx", changes=True, options=(("crf", "4"), ("b", "4M"), ("auto-alt-ref", "1"))),
    Codec("webm", "libvpx-vp9", turns=True, sound="libopus", changes=True, options=(("crf", "4"), ("b", "4M"))),
    Codec("mkv", "ffv1", "gray", still=True, turns=True, lossless=True),
    Codec("mkv", "ffv1", "bgr0", still=True, lossless=True),
    Codec("avi", "ffv1", "yuv420p", still=True, lossless=True),
    Codec("avi", "huffyuv", "yuv422p", still=True, lossless=True),
    Codec("avi", "rawvideo", "bgr24", still=True, lossless=True),
    Codec("avi", "rawvideo", "gray", still=True, lossless=True),
    Codec("avi", "rawvideo", "pal8", still=True, lossless=True),
    Codec("avi", "msrle", "pal8", still=True, lossless=True),
    Codec("mov", "qtrle", "gray", still=True, turns=True, lossless=True),
    Codec("mov", "png", "rgb24", still=True, turns=True, lossless=True),
    Codec("mov", "prores_ks", "yuv422p10le", still=True, turns=True),
]


def planted() -> np.ndarray:
    """Gray frames, (F, H, W), of a moving texture; the gray level of the top left block encodes the frame index."""
    height, width = SIZE
    rows, columns = np.mgrid[:height, :width]
    waves = [110 + 60 * np.sin((columns + 3 * frame) / 9) * np.cos((rows - frame) / 7) for frame in range(FRAMES)]
    frames = np.stack(waves).astype(np.uint8)
    frames[:, :24, :24] = (20 + _STEP * np.arange(FRAMES))[:, None, None]
    return frames


def numbers(frames: np.ndarray) -> list[int]:
    """Frame indices that the top left blocks of ``frames``, (F, H, W, C), encode, in the orientation of ``planted``."""
    return [round((float(frame[4:20, 4:20].mean()) - 20) / _STEP) for frame in frames]


def write_cell(path: Path, codec: Codec, variant: str) -> Path:
    """Write the frames of ``planted`` as a video file with one codec and variant of the matrix."""
    settings = VARIANTS[variant]
    with av.open(str(path), "w", format={"mpg": "vob", "vob": "vob", "ts": "mpegts"}.get(codec.suffix)) as container:
        stream: Any = container.add_stream(codec.name, rate=25, options=dict(codec.options))
        _configure(stream.codec_context, codec, settings, SIZE)
        stream.height, stream.width = SIZE
        if "aspect" in settings:
            stream.codec_context.sample_aspect_ratio = settings["aspect"]
        if "rotation" in settings:
            degrees, mirrored = settings["rotation"]
            stream.set_display_rotation(degrees, hflip=mirrored)
        sound: Any = container.add_stream(codec.sound, rate=48000) if "sound" in settings else None
        for index, pixels in enumerate(planted()):
            if "change" in settings and index == FRAMES // 2:
                break
            container.mux(stream.encode(_picture(pixels, codec, settings, index)))
        container.mux(stream.encode())
        if "change" in settings:
            encoder: Any = av.CodecContext.create(codec.name, "w")
            encoder.options, encoder.time_base, encoder.framerate = dict(codec.options), Fraction(1, 25), Fraction(25)
            _configure(encoder, codec, settings, (48, 80))
            for index in range(FRAMES // 2, FRAMES):
                for packet in encoder.encode(_picture(planted()[index, :48, :80], codec, settings, index)):
                    packet.stream = stream
                    container.mux(packet)
            for packet in encoder.encode():
                packet.stream = stream
                container.mux(packet)
        if sound is not None:
            for start in range(0, 48000 * FRAMES // 25, 960):
                samples = (3000 * np.sin(np.arange(start, start + 960) / 20)).astype(np.int16)[None].repeat(2, 0)
                audio = av.AudioFrame.from_ndarray(samples.T.reshape(1, -1).copy(), format="s16", layout="stereo")
                audio.sample_rate, audio.pts, audio.time_base = 48000, start, Fraction(1, 48000)
                container.mux(sound.encode(audio))
            container.mux(sound.encode(None))
    return path


def _configure(context: Any, codec: Codec, settings: dict[str, Any], size: tuple[int, int]) -> None:
    context.height, context.width = size
    context.pix_fmt, context.thread_count = codec.pix_fmt, 1
    if not codec.still:
        context.gop_size, context.max_b_frames = settings.get("gop", 12), settings.get("b_frames", 0)
    if "color_range" in settings or (codec.name, codec.pix_fmt) == ("libx264", "gray"):
        context.color_range = settings.get("color_range", 2)  # x264 would mark gray as limited range


def _picture(pixels: np.ndarray, codec: Codec, settings: dict[str, Any], index: int) -> av.VideoFrame:
    picture = av.VideoFrame.from_ndarray(np.repeat(pixels[..., None], 3, axis=2), format="rgb24")
    if codec.pix_fmt == "pal8":
        palette = np.full((256, 4), 255, np.uint8)
        palette[:, 1:] = np.arange(256)[::-1, None]
        picture = av.VideoFrame.from_ndarray((255 - pixels, palette), format="pal8")
    elif codec.pix_fmt != "rgb24":
        picture = picture.reformat(format=codec.pix_fmt, dst_color_range=settings.get("color_range"))
    picture.pts, picture.time_base = index, Fraction(1, 25)
    return picture


def decode_with_pyav(path: Path) -> np.ndarray:
    """All frames as PyAV decodes them, in the orientation of the file: uint8 (F, H, W, 3)."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def turned(frames: np.ndarray, variant: str) -> np.ndarray:
    """``frames``, (F, H, W, C), rotated and mirrored as a player shows the variant."""
    degrees, mirrored = VARIANTS[variant].get("rotation", (0, False))
    frames = np.rot90(frames, degrees // 90, axes=(1, 2))
    return frames[:, :, ::-1] if mirrored else frames


def largest_difference(frames: np.ndarray, reference: np.ndarray) -> int:
    """Largest absolute difference of two arrays of frames; gray frames are compared with each channel."""
    return int(np.abs(frames.astype(np.int16) - reference).max())


def main() -> None:
    """Print the table of docs/ingest.md."""
    kinds = ["GOP", "rotation", "color_range", "aspect", "sound", "change"]
    print("| file | codec | reader | largest difference | GOP | rotation | range | wide pixels | sound | size change |")
    print("| --- " * (4 + len(kinds)) + "|")
    for codec in CODECS:
        variants = list(codec.variants())
        differences = []
        for variant in variants:
            if "change" in VARIANTS[variant]:
                continue
            with tempfile.TemporaryDirectory() as folder:
                path = write_cell(Path(folder, f"a.{codec.suffix}"), codec, variant)
                frames = read_video_file(path, Limits()).frames
                differences.append(largest_difference(frames, turned(decode_with_pyav(path), variant)))
        found = [next((kind for kind in kinds if kind in VARIANTS[variant]), "GOP") for variant in variants]
        counts = " | ".join(str(found.count(kind) or "") for kind in kinds)
        print(f"| .{codec.suffix} | {codec.name} {codec.pix_fmt} | PyAV | {max(differences)} | {counts} |", flush=True)


if __name__ == "__main__":
    main()
