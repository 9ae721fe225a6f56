"""``stage=track``: the figures of a study's reports, and which store and model made which, as one run of W&B."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from echodream.artifact import FACTS
from echodream.callbacks.tracking import Wandb, finish
from echodream.errors import UserError
from echodream.runs.atomic_folder import read_record
from echodream.runs.redaction import redact_absolute_paths
from echodream.runs.summary import Summary
from echodream.store.schema import CHECKSUMS
from echodream.training.wandb_lineage import named_model, shareable, store_used


def track(
    *,
    study: str,
    logger: Wandb,
    records: Mapping[str, str],
    folders: Mapping[str, str],
    command: str,
    code_version: str,
) -> Summary:
    """Log the figures of ``records`` that are there, by name, and use all stores and models below ``folders``.

    The same study in the same place is the same run. Raises ``UserError`` where there is nothing to log, and where W&B
    did not take all of it.
    """
    found = {name: record for name, path in records.items() if (record := read_record(Path(path))) is not None}
    figures = {key: value for name, record in found.items() for key, value in _figures(name, record)}
    if not figures:
        raise UserError(f"there is nothing to track of {study}: run stage=filter, audit, evaluate or utility before")
    where = " ".join(str(Path(path).absolute()) for path in folders.values())
    config = {"study": study, "run": {"command": redact_absolute_paths(command), "code_version": code_version}}
    logger.known_as(hashlib.sha256(f"figures {study} {where}".encode()).hexdigest()[:16], config)
    used = 0
    try:
        for folder in _children(folders):
            if (folder / CHECKSUMS).is_file():
                store_used(logger, folder, study)
                used += 1
            elif (facts := read_record(folder / FACTS)) is not None and facts.get("fingerprint"):
                logger.uses(named_model(facts), "model", shareable(facts))
                used += 1
        logger.log_metrics(figures, 0)
    finally:
        unsent = finish()
    if (lost := logger.lost or unsent) is not None:
        kept = f", or send what is kept: wandb sync {logger.folder}" if logger.folder else ""
        raise UserError(f"W&B did not take all figures of {study} ({lost}): give the same command again{kept}")
    told: dict[str, object] = {"figures": f"{len(figures)} of {', '.join(found)}", "stores and models": used}
    return Summary(f"track: {study} done, {logger.mode}", told)


def _children(folders: Mapping[str, str]) -> Iterator[Path]:
    for folder in map(Path, folders.values()):
        yield from sorted(path for path in (folder.iterdir() if folder.is_dir() else ()) if path.is_dir())


def _figures(name: str, record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers of a report by their place in it; of figures with an interval its ends, too."""
    if name.startswith("filter"):
        told = record.get("decision") or {}
        yield from (
            (f"{name}/{key}", float(told[key])) for key in ("drawn", "kept", "rejected", "passed") if key in told
        )
    elif name.startswith("audit"):
        for measure in record.get("measures") or []:
            yield from _ends(f"{name}/{measure['name']}", measure["value"])
    elif name == "utility":
        for task, entry in (record.get("tasks") or {}).items():
            for side in ("real", "synthetic", "both"):
                for metric, value in (entry.get(side) or {}).items():
                    yield from _ends(f"{name}/{task}/{side}/{metric}", value)
    else:
        for part in ("images", "videos", "beat"):
            for metric, value in (record.get(part) or {}).items():
                yield from _ends(f"{name}/{part}/{metric}", value)


def _ends(name: str, value: Any) -> Iterator[tuple[str, float]]:
    """Value, low and high of ``value``, those that are numbers."""
    if isinstance(value, Mapping) and "value" in value:
        for key, end in (("value", ""), ("low", " low"), ("high", " high")):
            if isinstance(value.get(key), int | float):
                yield f"{name}{end}", float(value[key])
