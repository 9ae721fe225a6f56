"""Detection of records that were made from other stores than those of the page, by the store checksums in them."""

from collections.abc import Iterator, Mapping
from typing import Any

from echodream.report.sources import Sources
from echodream.store.checksums import file_sha256
from echodream.store.schema import CHECKSUMS

_MESSAGE_STARTS = {
    "evaluation": "Fidelity was measured",
    "utility": "Usefulness was measured",
    "audit_image": "The audit of images was made",
    "audit_video": "The audit of videos was made",
    "anonymity": "Anonymity was measured",
    "linkability": "Linkability was measured",
    "canaries_image": "The bound by canaries of the lidm was measured",
    "canaries_video": "The bound by canaries of the lvdm was measured",
    "filter_image": "The filter of images was run",
    "filter_video": "The filter of videos was run",
}


def find_mismatches(sources: Sources, part: str = "videos") -> Iterator[tuple[str, str]]:
    """Name of each record that was made from other stores than those of the page, and a sentence with the remedy.

    ``part``: content of the synthetic store, "videos" or "images". A record without a checksum is not checked.
    """
    for name, recorded, current, contents in _recorded_digests(sources, part):
        if current and isinstance(recorded, str) and recorded not in current:
            subject, command = _MESSAGE_STARTS[name], sources.command(name)
            yield name, f"{subject} on other {contents} than those of this page: run {command} again."


def _recorded_digests(sources: Sources, part: str) -> Iterator[tuple[str, Any, set[str], str]]:
    """Yield for each record: name, store checksum in it, checksums of the current stores, and content of the store."""
    records = sources.records
    real, videos = (set() if store is None else {store.checksum} for store in (sources.real, sources.synthetic))
    evaluation, utility = records.get("evaluation"), records.get("utility")
    yield "evaluation", _nested_value(evaluation, part, "store", "sha256"), videos, f"synthetic {part}"
    yield "evaluation", _nested_value(evaluation, "protocol", "real", "sha256"), real, "real recordings"
    yield "utility", _nested_value(utility, "protocol", "real"), real, "real recordings"
    for model in _nested_value(utility, "protocol", "models", "synthetic") or []:
        yield "utility", _nested_value(model, "stores", "synthetic"), videos, "synthetic videos"
    data = sources.folders.get("data")
    study_stores = {file_sha256(path) for path in data.glob(f"*/{CHECKSUMS}")} if data is not None else set()
    for name in ("anonymity", "linkability"):
        yield name, _nested_value(records.get(name), "real"), study_stores, "originals"
    for kind in ("image", "video"):
        checksums = sources.passed_stores[kind] / CHECKSUMS
        passed = {file_sha256(checksums)} if checksums.is_file() else set()
        yield f"audit_{kind}", _nested_value(records.get(f"audit_{kind}"), "source"), passed, "samples"
        for name in (f"audit_{kind}", f"filter_{kind}", f"canaries_{kind}"):
            yield name, _nested_value(records.get(name), "real"), study_stores, "patients"


def _nested_value(record: Any, *keys: str) -> Any:
    """The value at the path ``keys`` of nested mappings; None if absent."""
    for key in keys:
        record = record.get(key) if isinstance(record, Mapping) else None
    return record
