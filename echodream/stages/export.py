"""``stage=export``: a Store as the files that other tools expect."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import numpy as np
from tqdm import tqdm

from echodream import validation
from echodream.config.stage_signature import InputPath, OutputPath
from echodream.errors import UserError
from echodream.runs.atomic_folder import FRESH, begin, made_whole, require_same, write_record
from echodream.runs.summary import Summary
from echodream.store import Store
from echodream.store.schema import CHECKSUMS, FILE_LIST
from echodream.store.table import read_text_table, write_table

RECORD = "export.json"
_KIND = "an export"
_MOST_GIF_FPS = 50.0  # players take shorter frames for slow ones


@dataclass(frozen=True)
class Request:
    """What decides the content of an export. Raises ``UserError`` for a quality that is none."""

    format: str
    source: str
    """SHA-256 of the store's SHA256SUMS."""
    jpg_quality: int | None
    """1 to 100, for jpg; None for other formats."""
    crf: int | None
    """x264's constant rate factor, 0 (best) to 51, for mp4; None for other formats."""

    def __post_init__(self) -> None:
        for name, low, high in (("jpg_quality", 1, 100), ("crf", 0, 51)):
            if (value := getattr(self, name)) is not None:
                validation.whole_number(name, value, low, high)


@dataclass(frozen=True)
class Format:
    """How one format names and writes a recording."""

    path: str
    """Where a recording lies in the export; {} stands for its FileName."""
    write: Callable[[Path, np.ndarray, float, Request], None]
    """Writes pixels, uint8 (F, H, W, C), at frames per second, to a path that is not there."""


def export(
    *, src: InputPath, dst: OutputPath, format: str | None, jpg_quality: int, crf: int, command: str, code_version: str
) -> Summary:
    """Write the recordings of the store ``src`` to the folder ``dst`` in a ``format`` of ``FORMATS``.

    FileList.csv goes along, with the sizes and rates of what was written. The folder is made as ``<dst>.partial`` and
    renamed at the end; after a kill the same command goes on with the recordings that are not finished. Latents can
    be exported as pt alone. Raises ``UserError`` when that is asked otherwise, when ``dst`` is there and holds
    anything else, or when another process writes it; ``StoreError`` when a recording cannot be read.
    """
    if format is None:
        raise UserError(f"format= is needed: choose one of {', '.join(FORMATS)}")
    validation.one_of("format", format, FORMATS)
    store, target = Store(src), Path(dst)
    _check(store, target, format)
    source = store.checksum
    request = Request(format, source, jpg_quality if format == "jpg" else None, crf if format == "mp4" else None)
    with made_whole(target) as work:
        if work is None:
            return _already(target, request, store)
        begin(work / RECORD, asdict(request), _KIND)
        names = store.table["FileName"].tolist()
        written = 0
        for name in tqdm(names, "export", unit="rec", disable=None):
            written += _one(store, name, work, request)
        rows = read_text_table(store.root / FILE_LIST).to_dict("records")
        write_table(work / FILE_LIST, [_row(row, request) for row in rows])
        write_record(work / RECORD, {**asdict(request), "command": command, "code_version": code_version})
    there = len(names) - written
    return _summary(target, store, request, f"done{f', {there} recordings were already there' if there else ''}")


def _check(store: Store, target: Path, format: str) -> None:
    if store.dataset.kind == "latent" and format != "pt":
        raise UserError(f"{store.root} holds latents, which can be exported as pt alone: decode first (stage=decode)")
    if store.root.resolve() in (target.resolve(), *target.resolve().parents):
        raise UserError(f"{target} lies in the store {store.root}: choose another dst=")
    if not (store.root / CHECKSUMS).is_file():
        raise UserError(f"{store.root / CHECKSUMS} is missing: {store.root} is not a complete store")
    reserved = {FILE_LIST.casefold(), RECORD}
    if clash := [name for name in store.table["FileName"] if FORMATS[format].path.format(name).casefold() in reserved]:
        raise UserError(f"{store.root}: a recording called {clash[0]!r} cannot be a folder beside the {FILE_LIST}")
    if format == "mp4":
        import av

        if "libx264" not in av.codecs_available:
            raise UserError("this build of PyAV has no libx264: install PyAV's own wheel, or export as avi")


def _already(target: Path, request: Request, store: Store) -> Summary:
    """What to say when ``target`` is there."""
    require_same(target / RECORD, asdict(request), _KIND)
    return _summary(target, store, request, "already complete, nothing to do")


def _one(store: Store, name: str, work: Path, request: Request) -> bool:
    """Write one recording under a name of no meaning, then rename it. False when it was there."""
    path = work / FORMATS[request.format].path.format(name)
    if path.exists():
        return False
    path.parent.mkdir(exist_ok=True)
    fresh = path.with_name(f"{FRESH}{path.name}")
    if store.dataset.kind == "latent":
        mean, std = store.latents(name)
        _save_pt(fresh, {"mean": mean, "std": std})
    else:
        fps = float(store.table["FPS"][store.table["FileName"] == name].iloc[0])
        FORMATS[request.format].write(fresh, store.frames(name), fps, request)
    fresh.rename(path)
    return True


def _row(row: Mapping[Any, str], request: Request) -> dict[str, Any]:
    """A row of FileList.csv, as text, made true of what was written."""
    changed: dict[str, Any] = {str(name): text for name, text in row.items()}
    if request.format == "mp4":
        sides = {name: int(float(row[name])) for name in ("FrameHeight", "FrameWidth")}
        changed |= {name: side + side % 2 for name, side in sides.items()}
    if request.format == "gif" and float(row["FPS"]) > _MOST_GIF_FPS:
        changed["FPS"] = _MOST_GIF_FPS
    return changed


def _summary(target: Path, store: Store, request: Request, state: str) -> Summary:
    table = store.table
    facts: dict[str, object] = {
        "recordings": f"{len(table)}, {table['NumberOfFrames'].sum()} frames",
        "format": f"{request.format}, {FORMATS[request.format].path.format('<FileName>')}",
    }
    odd = ((table["FrameHeight"] % 2 + table["FrameWidth"] % 2) > 0).sum()
    if request.format == "mp4" and odd:
        facts["padded"] = f"{odd} recordings of odd size by one line or column, repeated: H.264 4:2:0 needs even sizes"
    if request.format == "gif" and (fast := int((table["FPS"] > _MOST_GIF_FPS).sum())):
        facts["slowed"] = f"{fast} recordings to {_MOST_GIF_FPS:g} frames/s: no player shows a gif faster"
    return Summary(f"export: {target} {state}", facts)


def _images(path: Path, frames: np.ndarray, request: Request) -> None:
    from PIL import Image

    settings: dict[str, Any] = {"quality": request.jpg_quality, "subsampling": 0} if request.format == "jpg" else {}
    path.mkdir()
    for index, frame in enumerate(frames):
        Image.fromarray(_plain(frame)).save(path / f"frame_{index:04d}.{request.format}", **settings)


def _plain(frame: np.ndarray) -> np.ndarray:
    """(H, W) where there is one channel, else (H, W, 3)."""
    return frame[..., 0] if frame.shape[-1] == 1 else frame


def _gif(path: Path, frames: np.ndarray, fps: float) -> None:
    """Endless, with times in whole centiseconds that add up. Pillow writes frames that repeat as one longer frame."""
    from PIL import Image

    ends = np.rint(np.arange(len(frames) + 1) * 100 / min(fps, _MOST_GIF_FPS)).astype(int)
    pictures = [Image.fromarray(_plain(frame)) for frame in frames]
    if frames.shape[-1] == 3:
        pictures = [picture.quantize(256, dither=Image.Dither.NONE) for picture in pictures]
    durations = (np.diff(ends) * 10).tolist()
    pictures[0].save(
        path, "GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0, optimize=False, disposal=1
    )


def _video(path: Path, frames: np.ndarray, fps: float, request: Request) -> None:
    """MJPEG 4:4:4 at its best quality in avi, or H.264 4:2:0 in mp4, which every browser plays; mono as RGB."""
    import av

    mp4 = request.format == "mp4"
    if mp4:
        frames = np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), "edge")
    options = {"movflags": "+faststart"} if mp4 else {}
    with av.open(str(path), "w", format=request.format, options=options) as container:
        rate = Fraction(fps).limit_denominator(100_000)
        stream = cast("av.VideoStream", container.add_stream("libx264" if mp4 else "mjpeg", rate=rate))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p" if mp4 else "yuvj444p"
        if mp4:
            stream.codec_context.options = {"crf": str(request.crf)}
        else:
            stream.codec_context.qmin = stream.codec_context.qmax = 1
        for index, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(np.broadcast_to(frame, (*frame.shape[:2], 3))))
            picture.pts = index
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def _save_pt(path: Path, value: Any) -> None:
    import torch

    torch.save(value, path)


def _pt(path: Path, frames: np.ndarray) -> None:
    """A uint8 tensor, (F, C, H, W)."""
    import torch

    _save_pt(path, torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous())


def _nifti(path: Path, frames: np.ndarray, fps: float) -> None:
    """(W, H, F), uint8 or RGB voxels, the third voxel size being the time of a frame in seconds."""
    import nibabel

    volume = frames.transpose(2, 1, 0, 3)
    if volume.shape[3] == 3:
        volume = np.ascontiguousarray(volume).view([("R", "u1"), ("G", "u1"), ("B", "u1")])
    image = nibabel.Nifti1Image(volume[..., 0], np.diag([1.0, 1.0, 1 / fps, 1.0]))
    image.header.set_xyzt_units(t="sec")
    nibabel.save(image, path)


FORMATS = {
    "jpg": Format("{}", lambda path, frames, fps, request: _images(path, frames, request)),
    "png": Format("{}", lambda path, frames, fps, request: _images(path, frames, request)),
    "gif": Format("Videos/{}.gif", lambda path, frames, fps, request: _gif(path, frames, fps)),
    "avi": Format("Videos/{}.avi", _video),
    "mp4": Format("Videos/{}.mp4", _video),
    "pt": Format("{}.pt", lambda path, frames, fps, request: _pt(path, frames)),
    "nifti": Format("{}.nii.gz", lambda path, frames, fps, request: _nifti(path, frames, fps)),
}
