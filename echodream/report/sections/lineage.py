"""How a set was made: the commands that its stores, models and records remember, in the order of the pipeline."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from echodream.artifact import CONFIG, FACTS
from echodream.errors import UserError
from echodream.report.sources import Sources
from echodream.runs.redaction import without_places
from echodream.store.schema import DATASET, read_dataset

ORDER = (
    *("data/videos", "models/vae", "data/latents", "models/lidm", "models/reid", "samples/images", "filter_image"),
    *("samples/private", "audit_image", "models/lvdm", "samples/video_latents", "filter_video"),
    *("samples/private_videos", "audit_video", "samples/videos", "samples/*", "models/*", "evaluation", "utility"),
    *("anonymity", "linkability", "curve"),
)
PACKAGES = ("torch", "pytorch-lightning", "diffusers", "monai", "numpy", "av")


@dataclass(frozen=True)
class Made:
    """One thing that was made, and how."""

    what: str
    command: str
    code_version: str
    fingerprint: str = ""
    config: str = ""
    """The resolved configuration of a training."""


def lineage(sources: Sources) -> list[Made]:
    """All that is there and remembers how it was made; a command that made two things is said once."""
    found = dict(_all(sources))
    keys = [key for wanted in ORDER for key in sorted(found) if _is(key, wanted)]
    made: dict[str, Made] = {}
    for key in dict.fromkeys(keys):
        one = found[key]
        before = made.get(one.command)
        if before is not None and not one.fingerprint:
            continue
        made[one.command] = one
    return list(made.values())


def _is(key: str, wanted: str) -> bool:
    return key == wanted or (wanted.endswith("*") and key.startswith(wanted[:-1]) and key not in ORDER)


def _all(sources: Sources) -> Iterator[tuple[str, Made]]:
    for kind, folder in sources.folders.items():
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            key = f"{kind}/{path.name}"
            if path.name.endswith(".partial"):
                continue
            if (path / DATASET).is_file():
                dataset = read_dataset(path)
                yield key, _made(key, dataset.command, dataset.code_version, sources)
            elif (path / FACTS).is_file():
                yield key, _trained(key, path, sources)
    for name, record in sources.records.items():
        yield name, _made(name.replace("_", " of "), record.get("command"), record.get("code_version"), sources)


def _trained(key: str, folder: Path, sources: Sources) -> Made:
    import json

    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        config = (folder / CONFIG).read_text(encoding="utf-8") if (folder / CONFIG).is_file() else ""
        fingerprint = str(facts.get("fingerprint", ""))[:12]
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{folder / FACTS} cannot be read: {folder} is not an artifact, train it again") from error
    config = without_places(config) if sources.share else config
    return _made(key, facts.get("command"), facts.get("code_version"), sources, fingerprint, config)


def _made(what: str, command: Any, code: Any, sources: Sources, fingerprint: str = "", config: str = "") -> Made:
    text = str(command or "")
    return Made(what, without_places(text) if sources.share else text, str(code or ""), fingerprint, config)


def versions() -> list[tuple[str, str]]:
    """Of the packages that decide what comes out."""
    found = []
    for name in PACKAGES:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return found
