"""Records of other stores than those of the page: every record holds the digests of the stores it was measured on."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from echodream.report.sources import Sources
from echodream.store import Store
from echodream.store.checksums import file_sha256
from echodream.store.schema import CHECKSUMS

_SUBJECTS = {
    "evaluation": "Fidelity was measured",
    "utility": "Usefulness was measured",
    "audit_image": "The audit of images was made",
    "audit_video": "The audit of videos was made",
    "anonymity": "Anonymity was measured",
    "linkability": "Linkability was measured",
    "filter_image": "The filter of images looked",
    "filter_video": "The filter of videos looked",
}


@dataclass(frozen=True)
class Mismatch:
    """A ``record`` that was made of another store, as a sentence with the command that makes it again."""

    record: str
    message: str


def find_mismatches(sources: Sources) -> list[Mismatch]:
    """All records made of other stores than those of the page. A record without a digest is taken as it is."""
    mismatches = []
    for name, recorded, current, contents in _digests(sources):
        if current and isinstance(recorded, str) and recorded not in current:
            preposition = "at" if name.startswith("filter") else "on"
            message = (
                f"{_SUBJECTS[name]} {preposition} other {contents} than those of this page: "
                f"run {sources.command(name)} again."
            )
            mismatches.append(Mismatch(name, message))
    return mismatches


def _digests(sources: Sources) -> Iterator[tuple[str, Any, set[str], str]]:
    """Record, the digest of a store that it holds, the digests it may hold, and what the store contains."""
    records, real, videos = sources.records, _store_digest(sources.real), _store_digest(sources.synthetic)
    evaluation, utility = records.get("evaluation"), records.get("utility")
    yield "evaluation", _nested_value(evaluation, "videos", "store", "sha256"), videos, "synthetic videos"
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
        for name in (f"audit_{kind}", f"filter_{kind}"):
            yield name, _nested_value(records.get(name), "real"), study_stores, "patients"


def _store_digest(store: Store | None) -> set[str]:
    return set() if store is None else {store.checksum}


def _nested_value(record: Any, *keys: str) -> Any:
    """The value that ``keys`` lead to; None if there is none."""
    for key in keys:
        record = record.get(key) if isinstance(record, Mapping) else None
    return record
