"""Section "How it was made": the recorded commands of stores, artifacts and records, in the order of the pipeline."""

import fnmatch
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from echodream.artifact import METADATA_FILE, TRAINING_FILE
from echodream.errors import UserError
from echodream.report.section import PageContext, Section, SectionContent
from echodream.report.sources import Sources
from echodream.runs.atomic_folder import read_record
from echodream.runs.redaction import redact_absolute_paths
from echodream.store.schema import DATASET, read_dataset

PIPELINE_ORDER = (
    *("data/videos", "models/vae", "data/latents", "models/lidm", "models/reid", "samples/images", "filter_image"),
    *("samples/private", "audit_image", "models/lvdm", "samples/video_latents", "filter_video"),
    *("samples/private_videos", "audit_video", "samples/videos", "samples/*", "models/*", "evaluation", "utility"),
    *("anonymity", "linkability", "curve", "*"),
)
"""Stores, artifacts and records in the order of the pipeline; * matches all that are not listed."""
REPORTED_PACKAGES = ("torch", "pytorch-lightning", "diffusers", "monai", "numpy", "av")


@dataclass(frozen=True)
class LineageEntry:
    """A store, artifact or record, with the command that made it."""

    name: str
    command: str
    code_version: str
    fingerprint: str = ""
    config: str = ""
    """The resolved configuration of a training."""


def build(context: PageContext) -> SectionContent:
    """The recorded commands, the command of the page, and the package versions."""
    data = {"entries": lineage(context.sources), "packages": package_versions()}
    return SectionContent({**data, "command": context.command, "code_version": context.code_version})


def lineage(sources: Sources) -> list[LineageEntry]:
    """One store, artifact or record of each command, an artifact if there is one, in the order of the pipeline."""
    entries = dict(read_entries(sources))
    keys = [key for pattern in PIPELINE_ORDER for key in fnmatch.filter(sorted(entries), pattern)]
    by_command: dict[str, LineageEntry] = {}
    for key in dict.fromkeys(keys):
        entry = entries[key]
        if entry.command not in by_command or entry.fingerprint:
            by_command[entry.command] = entry
    return list(by_command.values())


def read_entries(sources: Sources) -> Iterator[tuple[str, LineageEntry]]:
    """Yield name and entry of all stores, artifacts and records of the study."""
    for kind, folder in sources.folders.items():
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            key = f"{kind}/{path.name}"
            if path.name.endswith(".partial"):
                continue
            if (path / DATASET).is_file():
                dataset = read_dataset(path)
                yield key, _make_entry(key, dataset.command, dataset.code_version, sources)
            elif (path / METADATA_FILE).is_file():
                yield key, _artifact_entry(key, path, sources)
    for name, record in sources.records.items():
        yield name, _make_entry(name.replace("_", " of "), record.get("command"), record.get("code_version"), sources)


def _artifact_entry(key: str, folder: Path, sources: Sources) -> LineageEntry:
    if (record := read_record(folder / METADATA_FILE)) is None:
        raise UserError(f"{folder / METADATA_FILE} cannot be read: train {folder} again")
    config = (folder / TRAINING_FILE).read_text(encoding="utf-8") if (folder / TRAINING_FILE).is_file() else ""
    config = redact_absolute_paths(config) if sources.share else config
    fingerprint = str(record.get("fingerprint", ""))[:12]
    return _make_entry(key, record.get("command"), record.get("code_version"), sources, fingerprint, config)


def _make_entry(
    name: str, command: Any, code_version: Any, sources: Sources, fingerprint: str = "", config: str = ""
) -> LineageEntry:
    text = str(command or "")
    text = redact_absolute_paths(text) if sources.share else text
    return LineageEntry(name, text, str(code_version or ""), fingerprint, config)


def package_versions() -> list[tuple[str, str]]:
    """Names and versions of the installed packages that influence results."""
    versions = []
    for name in REPORTED_PACKAGES:
        with suppress(PackageNotFoundError):
            versions.append((name, version(name)))
    return versions


SECTION = Section("lineage", "How it was made", build)
