"""``stage=export``: write a Store as files of a common format, such as mp4 or NIfTI."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from echodream import validation
from echodream.config.stage_signature import InputPath, OutputPath
from echodream.errors import UserError
from echodream.progress import progress_bar
from echodream.runs.atomic_folder import atomic_folder, require_same_settings, start_or_resume_folder, write_record
from echodream.runs.summary import Summary
from echodream.store import Store
from echodream.store.export_formats import FORMATS, ExportSettings, Row, export_recording, store_rows
from echodream.store.schema import FILE_LIST
from echodream.store.table import write_table

RECORD = "export.json"
_FOLDER_KIND = "an export"


def export(
    *, src: InputPath, dst: OutputPath, format: str | None, jpg_quality: int, crf: int, command: str, code_version: str
) -> Summary:
    """Write the recordings of the store ``src`` to the folder ``dst`` in one of ``export_formats.FORMATS``.

    The exported FileList.csv has the sizes and frame rates of the exported files. After an interruption, the same
    command resumes. Raises ``UserError`` for an unknown format, for latents in a format other than pt, and if ``dst``
    has other settings or is being written. Raises ``StoreError`` if a recording cannot be read.
    """
    if format is None:
        raise UserError(f"format= is needed: choose one of {', '.join(FORMATS)}")
    validation.one_of("format", format, FORMATS)
    store, target = Store(src), Path(dst)
    _check_exportable(store, target, format)
    quality = jpg_quality if format == "jpg" else None
    settings = ExportSettings(format, store.checksum, quality, crf if format == "mp4" else None)
    rows = store_rows(store)
    tables = FORMATS[format].tables(rows)
    with atomic_folder(target) as work:
        if work is None:
            require_same_settings(target / RECORD, asdict(settings), _FOLDER_KIND)
            return _summary(target, rows, settings, "already complete, nothing to do")
        start_or_resume_folder(work / RECORD, asdict(settings), _FOLDER_KIND)
        written = 0
        for row in progress_bar(rows, "export", unit="rec"):
            written += export_recording(store, row, work / FORMATS[format].path.format(row["FileName"]), settings)
        for name, (first, content) in tables.items():
            write_table(work / name, content, first)
        write_record(work / RECORD, {**asdict(settings), "command": command, "code_version": code_version})
    resumed = len(rows) - written
    return _summary(target, rows, settings, f"done, {resumed} recordings were already there" if resumed else "done")


def _check_exportable(store: Store, target: Path, format: str) -> None:
    """Raise ``UserError`` if ``store`` cannot be exported to ``target`` in ``format``."""
    if store.dataset.kind == "latent" and format != "pt":
        raise UserError(f"{store.root} holds latents, which can only be exported as pt: decode them with stage=decode")
    if store.root.resolve() in (target.resolve(), *target.resolve().parents):
        raise UserError(f"{target} lies in the store {store.root}: choose another dst=")
    reserved = {FILE_LIST.casefold(), RECORD}
    if clash := [name for name in store.table["FileName"] if FORMATS[format].path.format(name).casefold() in reserved]:
        raise UserError(f"{store.root}: a recording called {clash[0]!r} would replace {FILE_LIST} or {RECORD}")
    FORMATS[format].check(store)


def _summary(target: Path, rows: Sequence[Row], settings: ExportSettings, state: str) -> Summary:
    export_format = FORMATS[settings.format]
    facts: dict[str, object] = {
        "recordings": f"{len(rows)}, {sum(int(float(row['NumberOfFrames'])) for row in rows)} frames",
        "format": f"{settings.format}, {export_format.path.format('<FileName>')}",
        **export_format.notes(rows),
    }
    return Summary(f"export: {target} {state}", facts)
