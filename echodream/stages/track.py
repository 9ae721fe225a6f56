"""``stage=track``: log the results of a study, its stores and its models as one run of Weights & Biases."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from echodream.artifact import METADATA_FILE
from echodream.callbacks.wandb_logger import PrivateWandbLogger, finish_run
from echodream.config.stage_signature import InputPath
from echodream.errors import UserError
from echodream.runs.atomic_folder import read_record
from echodream.runs.redaction import redact_absolute_paths
from echodream.runs.summary import Summary
from echodream.store.schema import CHECKSUMS
from echodream.training.wandb_lineage import log_store_input, model_name, redact_values


def track(
    *,
    study: str,
    logger: PrivateWandbLogger,
    records: Mapping[str, InputPath],
    folders: Mapping[str, InputPath],
    command: str,
    code_version: str,
) -> Summary:
    """Log the numbers of the ``records`` that exist, by name, and all stores and artifacts in ``folders``.

    The same ``study`` and ``folders`` give the same W&B run. Raises ``UserError`` if there is nothing to log, or if W&B
    did not accept everything.
    """
    existing = {name: record for name, path in records.items() if (record := read_record(Path(path))) is not None}
    numbers = {key: value for name, record in existing.items() for key, value in _record_numbers(name, record)}
    if not numbers:
        raise UserError(f"there is nothing to track of {study}: run stage=filter, audit, evaluate or utility before")
    location = " ".join(str(Path(path).absolute()) for path in folders.values())
    config = {"study": study, "run": {"command": redact_absolute_paths(command), "code_version": code_version}}
    logger.set_run(hashlib.sha256(f"figures {study} {location}".encode()).hexdigest()[:16], config)
    inputs = 0
    try:
        for folder in _subfolders(folders):
            if (folder / CHECKSUMS).is_file():
                log_store_input(logger, folder, study)
                inputs += 1
            elif (metadata := read_record(folder / METADATA_FILE)) is not None and metadata.get("fingerprint"):
                logger.log_input(model_name(metadata), "model", redact_values(metadata))
                inputs += 1
        logger.log_metrics(numbers, 0)
    finally:
        not_sent = finish_run()
    if (error := logger.error or not_sent) is not None:
        remedy = f", or send the run from disk: wandb sync {logger.folder}" if logger.folder else ""
        raise UserError(f"W&B did not accept all results of {study} ({error}): run the same command again{remedy}")
    facts: dict[str, object] = {"figures": f"{len(numbers)} of {', '.join(existing)}", "stores and models": inputs}
    return Summary(f"track: {study} done, {logger.mode}", facts)


def _subfolders(folders: Mapping[str, str]) -> Iterator[Path]:
    for folder in map(Path, folders.values()):
        yield from sorted(path for path in (folder.iterdir() if folder.is_dir() else ()) if path.is_dir())


def _record_numbers(name: str, record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Key and value of each number in the record ``name``, including interval bounds."""
    if name.startswith("filter"):
        decision = record.get("decision") or {}
        keys = [key for key in ("drawn", "kept", "rejected", "passed") if key in decision]
        yield from ((f"{name}/{key}", float(decision[key])) for key in keys)
    elif name.startswith("audit"):
        for measure in record.get("measures") or []:
            yield from _interval_numbers(f"{name}/{measure['name']}", measure["value"])
    elif name == "utility":
        for task, entry in (record.get("tasks") or {}).items():
            for training_set in ("real", "synthetic", "both"):
                for metric, value in (entry.get(training_set) or {}).items():
                    yield from _interval_numbers(f"{name}/{task}/{training_set}/{metric}", value)
    else:
        for part in ("images", "videos", "beat"):
            for metric, value in (record.get(part) or {}).items():
                yield from _interval_numbers(f"{name}/{part}/{metric}", value)


def _interval_numbers(name: str, value: Any) -> Iterator[tuple[str, float]]:
    """The entries "value", "low" and "high" of ``value`` that are numbers."""
    if isinstance(value, Mapping) and "value" in value:
        for key, suffix in (("value", ""), ("low", " low"), ("high", " high")):
            if isinstance(value.get(key), int | float):
                yield f"{name}{suffix}", float(value[key])
