"""Records that were made of other stores than those of the page: each has the digest of what it looked at."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from echodream.report.sources import Sources
from echodream.store.checksums import file_sha256
from echodream.store.schema import CHECKSUMS

_WHAT = {
    "evaluation": "Fidelity was measured",
    "utility": "Usefulness was measured",
    "audit_image": "The audit of images was made",
    "audit_video": "The audit of videos was made",
    "anonymity": "Anonymity was measured",
    "linkability": "Linkability was measured",
    "filter_image": "The filter of images looked",
    "filter_video": "The filter of videos looked",
}


def stale(sources: Sources) -> list[str]:
    """A sentence for each record and each store that it does not belong to; a record that says nothing is believed."""
    found = []
    for name, told, current, whose in _pairs(sources):
        if current and isinstance(told, str) and told not in current:
            verb = "at" if name.startswith("filter") else "on"
            again = sources.missing(name, "").command
            found.append(f"{_WHAT[name]} {verb} other {whose} than those of this page: run {again} again.")
    return found


def _pairs(sources: Sources) -> Iterator[tuple[str, Any, set[str], str]]:
    """A record, the digest that it tells, those that it may tell, and of what."""
    records, real, videos = sources.records, _of(sources.real), _of(sources.synthetic)
    about = records.get("evaluation", {})
    yield "evaluation", _get(about, "videos", "store", "sha256"), videos, "synthetic videos"
    yield "evaluation", _get(about, "protocol", "real", "sha256"), real, "real recordings"
    about = records.get("utility", {})
    yield "utility", _get(about, "protocol", "real"), real, "real recordings"
    for model in _get(about, "protocol", "models", "synthetic") or []:
        yield "utility", _get(model, "stores", "synthetic"), videos, "synthetic videos"
    data = sources.folders.get("data")
    studies = {file_sha256(path) for path in data.glob(f"*/{CHECKSUMS}")} if data is not None else set()
    for name in ("anonymity", "linkability"):
        yield name, _get(records.get(name), "real"), studies, "originals"
    for on in ("image", "video"):
        sums = sources.passed[on] / CHECKSUMS
        passed = {file_sha256(sums)} if sums.is_file() else set()
        yield f"audit_{on}", _get(records.get(f"audit_{on}"), "source"), passed, "samples"
        for name in (f"audit_{on}", f"filter_{on}"):
            yield name, _get(records.get(name), "real"), studies, "patients"


def _of(store: Any) -> set[str]:
    return set() if store is None else {file_sha256(Path(store.root) / CHECKSUMS)}


def _get(node: Any, *keys: str) -> Any:
    for key in keys:
        node = node.get(key) if isinstance(node, Mapping) else None
    return node
