"""Playable copies of a published store: videos or images for the Hugging Face hub and the library ``datasets``."""

from pathlib import Path

from echodream.progress import progress_bar
from echodream.store import Store
from echodream.store.export_formats import FORMATS, ExportSettings, export_recording, store_rows
from echodream.store.table import write_table

FOLDERS = {"videos": "videofolder", "images": "imagefolder"}
"""Published content -> folder, named after the loader of the library ``datasets`` that opens it."""
METADATA = "metadata.csv"
SPLIT = "train"
"""Folder of all files; the loaders use its name as the split. There is one folder, because loaders refuse a csv column
that is empty in only one of several splits. The column Split has the split of the store."""
_CRF = 18


def write_media_folder(root: Path, what: str, store: Store) -> None:
    """Write the recordings of ``store`` and metadata.csv to ``root``; existing files are not written again.

    ``what`` is "videos" (H.264, one file each) or "images" (PNG, one file for each frame).
    """
    is_video = what == "videos"
    settings = ExportSettings("mp4" if is_video else "png", store.checksum, None, _CRF if is_video else None)
    folder, content = root / SPLIT, []
    ((_, rows),) = FORMATS[settings.format].tables(store_rows(store)).values()  # frames of mp4 files have even sizes
    for row in progress_bar(rows, what, unit="rec"):
        path = folder / (f"{row['FileName']}.mp4" if is_video else row["FileName"])
        export_recording(store, row, path, settings)
        columns = {name: text for name, text in row.items() if name != "PatientID"}
        files = [path] if is_video else sorted(path.iterdir())
        content += [{"file_name": file.relative_to(folder).as_posix(), **columns} for file in files]
    write_table(folder / METADATA, content)
