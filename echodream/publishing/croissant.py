"""Metadata of a published set in the format Croissant 1.0 (JSON-LD), for mlcroissant and dataset search engines."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from echodream.publishing.media_folder import METADATA, SPLIT
from echodream.store import Store
from echodream.store.checksums import file_sha256
from echodream.store.schema import CHECKSUMS

CONTEXT_FILE = Path(__file__).with_name("croissant_context.json")
"""File with the JSON-LD ``@context`` of Croissant 1.0."""
_MEDIA_TYPES = {"videos": ("video/mp4", "*.mp4"), "images": ("image/png", "*/*.png")}


def croissant(
    folder: Path, what: str, media: str, texts: Mapping[str, str], columns: Mapping[str, str]
) -> dict[str, Any]:
    """Croissant metadata of the published ``folder`` with the subfolders store/ and ``media``.

    ``texts``: name, description and license of the set. ``columns``: names of columns with descriptions. The metadata
    has the checksums of the tables; the checksums of the videos are in store/SHA256SUMS.
    """
    store = Store(folder / "store")
    table, (media_type, pattern) = f"{media}/{SPLIT}/{METADATA}", _MEDIA_TYPES[what]
    fields = [_column_field("file_name", "sc:Text", f"file below {media}/{SPLIT}")]
    types = {"i": "sc:Integer", "f": "sc:Float"}
    kinds = {name: store.table[name].dtype.kind for name in columns if name != "PatientID"}
    fields += [_column_field(name, types.get(kind, "sc:Text"), columns[name]) for name, kind in kinds.items()]
    return {
        "@context": json.loads(CONTEXT_FILE.read_text(encoding="utf-8")),
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        **texts,
        "version": "1.0.0",
        "distribution": [
            _file_object(folder, METADATA, table, "text/csv"),
            _file_object(folder, CHECKSUMS, f"store/{CHECKSUMS}", "text/plain"),
            _file_set(what, f"{media}/{SPLIT}/{pattern}", media_type),
            _file_set("lossless", "store/Videos/*.mkv", "video/x-matroska"),
        ],
        "recordSet": [{"@type": "cr:RecordSet", "@id": "recordings", "name": "recordings", "field": fields}],
    }


def _file_object(folder: Path, name: str, path: str, media_type: str) -> dict[str, Any]:
    """Croissant FileObject: the file ``path`` in ``folder``, with its SHA-256."""
    checksum = file_sha256(folder / path)
    node = {"@type": "cr:FileObject", "@id": name, "name": name, "contentUrl": path}
    return {**node, "encodingFormat": media_type, "sha256": checksum}


def _file_set(name: str, pattern: str, media_type: str) -> dict[str, Any]:
    """Croissant FileSet: all files that match ``pattern``."""
    return {"@type": "cr:FileSet", "@id": name, "name": name, "encodingFormat": media_type, "includes": pattern}


def _column_field(name: str, data_type: str, description: str) -> dict[str, Any]:
    """Croissant Field: the column ``name`` of metadata.csv."""
    source = {"fileObject": {"@id": METADATA}, "extract": {"column": name}}
    node = {"@type": "cr:Field", "@id": f"recordings/{name}", "name": name, "description": description}
    return {**node, "dataType": data_type, "source": source}
