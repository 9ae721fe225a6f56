"""``stage=export``: write a Store as files of a common format, such as mp4 or NIfTI."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from echodream import validation
from echodream.config.stage_signature import InputPath, OutputPath
from echodream.errors import UserError
from echodream.progress import progress_bar
from echodream.runs.atomic_folder import (
    TEMPORARY_PREFIX,
    atomic_folder,
    require_same_settings,
    start_or_resume_folder,
    write_record,
)
from echodream.runs.summary import Summary
from echodream.store import Store
from echodream.store.export_formats import FORMATS, MAX_GIF_FPS, ExportSettings
from echodream.store.schema import FILE_LIST
from echodream.store.table import read_text_table, write_table

RECORD = "export.json"
_KIND = "an export"


def export(
    *, src: InputPath, dst: OutputPath, format: str | None, jpg_quality: int, crf: int, command: str, code_version: str
) -> Summary:
    """Write the recordings of the store ``src`` to the folder ``dst`` in one of ``export_formats.FORMATS``.

    The exported FileList.csv has the sizes and frame rates of the exported files. After an interruption the same
    command continues. Raises ``UserError`` for an unknown format, for latents in a format other than pt, and if ``dst``
    is another export or is being written. Raises ``StoreError`` if a recording cannot be read.
    """
    if format is None:
        raise UserError(f"format= is needed: choose one of {', '.join(FORMATS)}")
    validation.one_of("format", format, FORMATS)
    store, target = Store(src), Path(dst)
    _check_exportable(store, target, format)
    quality = jpg_quality if format == "jpg" else None
    settings = ExportSettings(format, store.checksum, quality, crf if format == "mp4" else None)
    with atomic_folder(target) as work:
        if work is None:
            require_same_settings(target / RECORD, asdict(settings), _KIND)
            return _summary(target, store, settings, "already complete, nothing to do")
        start_or_resume_folder(work / RECORD, asdict(settings), _KIND)
        names = store.table["FileName"].tolist()
        progress = progress_bar(names, "export", unit="rec")
        written = sum(_export_recording(store, name, work, settings) for name in progress)
        rows = read_text_table(store.root / FILE_LIST).to_dict("records")
        write_table(work / FILE_LIST, [_exported_row(row, settings) for row in rows])
        write_record(work / RECORD, {**asdict(settings), "command": command, "code_version": code_version})
    resumed = len(names) - written
    return _summary(target, store, settings, f"done, {resumed} recordings were already there" if resumed else "done")


def _check_exportable(store: Store, target: Path, format: str) -> None:
    """Raise ``UserError`` if ``store`` cannot be exported to ``target`` in ``format``."""
    if store.dataset.kind == "latent" and format != "pt":
        raise UserError(f"{store.root} holds latents, which can only be exported as pt: decode them with stage=decode")
    if store.root.resolve() in (target.resolve(), *target.resolve().parents):
        raise UserError(f"{target} lies in the store {store.root}: choose another dst=")
    reserved = {FILE_LIST.casefold(), RECORD}
    if clash := [name for name in store.table["FileName"] if FORMATS[format].path.format(name).casefold() in reserved]:
        raise UserError(f"{store.root}: a recording called {clash[0]!r} would replace {FILE_LIST} or {RECORD}")
    if format == "mp4":
        import av

        if "libx264" not in av.codecs_available:
            raise UserError("this build of PyAV has no libx264: install the wheel of PyAV from PyPI, or use format=avi")


def _export_recording(store: Store, name: str, work: Path, settings: ExportSettings) -> bool:
    """Write the recording ``name`` atomically. Returns False if its file exists already."""
    path = work / FORMATS[settings.format].path.format(name)
    if path.exists():
        return False
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}")
    if store.dataset.kind == "latent":
        import torch

        mean, std = store.latents(name)
        torch.save({"mean": mean, "std": std}, temporary)
    else:
        fps = float(store.table["FPS"][store.table["FileName"] == name].iloc[0])
        FORMATS[settings.format].write(temporary, store.frames(name), fps, settings)
    temporary.rename(path)
    return True


def _exported_row(row: Mapping[Any, str], settings: ExportSettings) -> dict[str, Any]:
    """The ``row`` of FileList.csv, a mapping of texts, with the size and frame rate of the exported file."""
    changed: dict[str, Any] = {str(name): text for name, text in row.items()}
    if settings.format == "mp4":
        sides = {name: int(float(row[name])) for name in ("FrameHeight", "FrameWidth")}
        changed |= {name: side + side % 2 for name, side in sides.items()}
    if settings.format == "gif" and float(row["FPS"]) > MAX_GIF_FPS:
        changed["FPS"] = MAX_GIF_FPS
    return changed


def _summary(target: Path, store: Store, settings: ExportSettings, state: str) -> Summary:
    table = store.table
    facts: dict[str, object] = {
        "recordings": f"{len(table)}, {table['NumberOfFrames'].sum()} frames",
        "format": f"{settings.format}, {FORMATS[settings.format].path.format('<FileName>')}",
    }
    odd = ((table["FrameHeight"] % 2 + table["FrameWidth"] % 2) > 0).sum()
    if settings.format == "mp4" and odd:
        facts["padded"] = f"{odd} recordings by one row or column: H.264 4:2:0 needs an even height and width"
    if settings.format == "gif" and (fast := int((table["FPS"] > MAX_GIF_FPS).sum())):
        facts["slowed"] = f"{fast} recordings to {MAX_GIF_FPS:g} frames/s, the highest frame rate of a GIF in players"
    return Summary(f"export: {target} {state}", facts)
