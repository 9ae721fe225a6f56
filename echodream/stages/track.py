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
    """Log the numbers of the existing ``records``, and all stores and artifacts in ``folders``, to W&B.

    The same ``study`` and ``folders`` give the same W&B run. Raises ``UserError`` without records, or if W&B fails.
    """
    existing = {name: record for name, path in records.items() if (record := read_record(Path(path))) is not None}
    numbers = {key: value for name, record in existing.items() for key, value in _record_numbers(name, record)}
    if not numbers:
        raise UserError(f"{study} has no results to track: run stage=filter, audit, evaluate or utility")
    location = " ".join(str(Path(path).absolute()) for path in folders.values())
    config = {"study": study, "run": {"command": redact_absolute_paths(command), "code_version": code_version}}
    logger.set_run(hashlib.sha256(f"figures {study} {location}".encode()).hexdigest()[:16], config)
    inputs = 0
    try:
        for folder in (path for parent in folders.values() for path in sorted(Path(parent).glob("*/"))):
            if (folder / CHECKSUMS).is_file():
                log_store_input(logger, folder, study)
                inputs += 1
            elif (metadata := read_record(folder / METADATA_FILE)) is not None and metadata.get("fingerprint"):
                logger.log_input(model_name(metadata), "model", redact_values(metadata))
                inputs += 1
        logger.log_metrics(numbers, 0)
    finally:
        not_sent = finish_run()
    if (error := logger.first_error or not_sent) is not None:
        remedy = f", or send the run from disk: wandb sync {logger.folder}" if logger.folder else ""
        raise UserError(f"W&B did not accept all results of {study} ({error}): run the same command again{remedy}")
    facts: dict[str, object] = {"figures": f"{len(numbers)} of {', '.join(existing)}", "stores and models": inputs}
    return Summary(f"track: {study} done, {logger.mode}", facts)


def _record_numbers(name: str, record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Key and value of each number in ``record``, and of the bounds of its interval; keys begin with ``name``."""
    if name.startswith("filter"):
        decision = record.get("decision") or {}
        values = {key: {"value": decision.get(key)} for key in ("drawn", "kept", "rejected", "passed")}
    elif name.startswith("audit"):
        values = {measure["name"]: measure["value"] for measure in record.get("measures") or []}
    else:
        tasks = record.get("tasks") or {}
        parts = {f"{task}/{role}": tasks[task].get(role) for task in tasks for role in ("real", "synthetic", "both")}
        parts |= {part: record.get(part) for part in ("images", "videos", "beat")}
        values = {f"{part}/{metric}": value for part in parts for metric, value in (parts[part] or {}).items()}
    for key, interval in values.items():
        if isinstance(interval, Mapping) and "value" in interval:
            for end, suffix in (("value", ""), ("low", " low"), ("high", " high")):
                if isinstance(bound := interval.get(end), int | float):
                    yield f"{name}/{key}{suffix}", float(bound)
