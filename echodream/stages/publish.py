"""``stage=publish``: a synthetic set or a generator becomes a folder ready for the Hugging Face hub, or is refused."""

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from echodream import validation
from echodream.artifact import CONFIG, FACTS
from echodream.config.stage_signature import InputPath, OutputPath
from echodream.errors import UserError
from echodream.filtering.record import SCORES
from echodream.publishing.cards import TEMPLATES, check_card, data_card, model_card, valid_license
from echodream.publishing.checks import (
    GENERATORS,
    STORES,
    Cleared,
    check_known,
    check_study,
    clear_model,
    clear_store,
    metrics_of,
)
from echodream.publishing.hub import check_push, upload
from echodream.report.sources import FILES, Sources, load_sources
from echodream.runs.atomic_folder import begin, made_whole, read_record, require_same, write_record
from echodream.runs.redaction import find_patient_name, redact_absolute_paths, redact_paths_in_command
from echodream.runs.summary import Summary
from echodream.store import Dataset, Store, StoreWriter, verify
from echodream.store.checksums import file_sha256
from echodream.store.schema import CHECKSUMS, REQUIRED_COLUMNS

CARD, STORE, RECORD = "README.md", "store", "publish.json"
_KIND = "a folder for the hub"
_MODEL_FILES = ("config.json", "diffusion.json", "conditioner.safetensors", "diffusion_pytorch_model.safetensors")
_MEANING = {
    "FileName": "name of the recording, drawn by lot",
    "Split": "TRAIN, VAL or TEST: a proposal",
    "PatientID": "a number of its own for each recording",
    "NumberOfFrames": "frames",
    "FPS": "frames per second",
    "FrameHeight": "pixels",
    "FrameWidth": "pixels",
    "class_id": "class that was asked for",
    "class_name": "its name",
    "EF": "ejection fraction that was asked for, to the next whole number",
    "View": "view that was asked for",
    "HeartRate": "beats per minute that were asked for, to the next whole number",
    "ED": "frames of end diastole",
    "ES": "frames of end systole",
}
"""Of the columns that may be published: no other says anything but how a sample came about, and whom it is near."""


def publish(
    *,
    what: str,
    license: str | None,
    push: str | None,
    public: bool,
    accept_findings: bool,
    study: str,
    src: InputPath | None,
    real: InputPath,
    latents: InputPath,
    artifact: InputPath | None,
    passed: Mapping[str, InputPath],
    records: Mapping[str, InputPath],
    folders: Mapping[str, InputPath],
    columns: Sequence[str],
    dst: OutputPath,
    command: str,
    code_version: str,
) -> Summary:
    """Write ``dst``: README.md, and the store ``src`` or the generator ``artifact``; upload it if ``push`` is given.

    ``what`` says which. The filter's record and that of the audit, in ``records``, and what the filter let through,
    ``passed``, must allow it: see ``publishing.checks``. Nobody of the store ``real`` is named, whose ``latents``
    filter and audit compared with. ``push`` is <namespace>/<name> on the hub. Commands are recorded
    below ``folders``. The folder is made as ``<dst>.partial``, checked, and renamed.
    Raises ``UserError`` where it is refused.
    """
    check_known(what)
    check_push(push)
    license = _check(license, columns, public, accept_findings)
    told = {name: records.get(name, f"{dst}/no {name}") for name in FILES}  # a card tells of the usual ones
    stores: dict[str, str | None] = {"real": real, "src": src}
    sources = load_sources(study, True, {"real": real, "videos": src}, passed, told, folders)
    cleared = _cleared(what, stores, artifact, sources, accept_findings)
    check_study(cleared, latents)
    target = Path(dst)
    asked = {"what": what, "license": license, "columns": [*columns], "of": _of(what, sources, artifact)}
    facts = {"command": redact_paths_in_command(command), "code_version": code_version}
    with made_whole(target) as work:
        if work is not None:
            _write(work, what, license, cleared, artifact, columns, asked, facts)
    if work is None:
        require_same(target / RECORD, asked, _KIND)
        _verified(target, what, cleared)
    state = "already complete" if work is None else "done"
    address = upload(target, push, "dataset" if what in STORES else "model", public) if push else ""
    return _summary(target, state, cleared, license, address)


def _cleared(
    what: str, stores: Mapping[str, str | None], artifact: str | None, sources: Sources, accept_findings: bool
) -> Cleared:
    if sources.real is None:
        raise UserError(f"real={stores['real']} does not exist: it is needed, to make sure that nobody in it is named")
    if what in GENERATORS:
        return clear_model(what, str(artifact), sources, accept_findings)
    if sources.synthetic is None:
        raise UserError(f"src={stores['src']} does not exist: run stage=decode, or give src=")
    return clear_store(what, sources)


def _check(license: str | None, columns: Sequence[str], public: bool, accept_findings: bool) -> str:
    """The licence. Raises ``UserError`` where it or another setting cannot be."""
    if license is None:
        raise UserError("license= is needed, as the hub names it (cc-by-nc-4.0, mit, other, ...): nobody else knows it")
    if not valid_license(license):
        raise UserError(f"license={license} is no licence as the hub names them: give cc-by-nc-4.0, mit, other, ...")
    validation.true_or_false("public", public)
    validation.true_or_false("accept_findings", accept_findings)
    if private := [name for name in columns if name not in _MEANING]:
        raise UserError(f"columns=[{private[0]}] is not published: choose of {', '.join(_MEANING)}")
    return license


def _of(what: str, sources: Sources, artifact: str | None) -> str:
    """A digest of what is published and of all that its card tells; nothing can be told from it."""
    if what in GENERATORS:
        parts = [str(metrics_of(str(artifact)).get("fingerprint"))]
    else:
        assert sources.synthetic is not None
        parts = [sources.synthetic.checksum]
    parts += [f"{name} {file_sha256(path)}" for name, path in sorted(sources.paths.items()) if path.is_file()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _write(
    work: Path,
    what: str,
    license: str,
    cleared: Cleared,
    artifact: str | None,
    columns: Sequence[str],
    asked: Mapping[str, Any],
    facts: Mapping[str, str],
) -> None:
    """Write and check the folder ``work``; what a killed run left is gone on with."""
    begin(work / RECORD, asked, _KIND)
    if what in GENERATORS:
        card = _model(work, what, license, cleared, Path(str(artifact)), facts)
    else:
        card = _store(work / STORE, what, license, cleared, columns, facts)
    (work / CARD).write_text(card, encoding="utf-8")
    write_record(work / RECORD, {**asked, **facts, "findings": cleared.findings, "sums": _sums(work)})
    _verified(work, what, cleared)


def _store(
    root: Path, what: str, license: str, cleared: Cleared, columns: Sequence[str], facts: Mapping[str, str]
) -> str:
    """The recordings under names of no meaning, in an order of no meaning; returns the card."""
    source = cleared.sources.synthetic
    assert source is not None
    verify(source.root)
    kept = [name for name in _MEANING if name in REQUIRED_COLUMNS or (name in columns and name in source.table)]
    names = _lots(source, cleared.sources.paths[f"filter_{cleared.on}"].with_name(SCORES))
    made = source.dataset
    dataset = Dataset(
        kind="video",
        channels=made.channels,
        height=made.height,
        width=made.width,
        synthetic=True,
        settings={"filter": cleared.decision["statement"], "generators": dict(cleared.generators)},
        command=facts["command"],
        code_version=facts["code_version"],
    )
    digits = max(4, len(str(len(names))))
    fresh = {name: f"{cleared.sources.study}-{number:0{digits}}" for number, name in enumerate(names, 1)}
    with StoreWriter(root, dataset) as writer:
        for row in sorted(source.table.to_dict("records"), key=lambda row: fresh[row["FileName"]]):
            if not writer.complete and fresh[row["FileName"]] not in writer.done:
                media = writer.scratch_path(fresh[row["FileName"]])
                shutil.copyfile(source.path(row["FileName"]), media)
                writer.commit(_row(row, kept, fresh[row["FileName"]]), media)
        if not writer.complete:
            writer.finish(sorted(fresh.values()))
    told = {
        "recordings": len(names),
        "frames": int(source.table["NumberOfFrames"].sum()),
        "columns": [(name, _MEANING[name]) for name in kept],
        "pixels": "gray" if made.channels == 1 else "rgb24",
    }
    return data_card(cleared, what, license, told)


def _lots(source: Store, private: Path) -> list[str]:
    """The names of ``source`` in an order that is the same each time, and that takes the file ``private`` to tell."""
    secret = file_sha256(private if private.is_file() else source.root / CHECKSUMS)
    names = [str(name) for name in source.table["FileName"]]
    return sorted(names, key=lambda name: hashlib.sha256(f"{secret} {name}".encode()).hexdigest())


def _row(row: Mapping[Any, Any], kept: Sequence[str], name: str) -> dict[str, Any]:
    """``row`` with the columns ``kept``, under its new ``name``."""
    found = {column: None if row[column] != row[column] else row[column] for column in kept}  # NaN is no value
    for column in ("HeartRate", "EF"):  # their digits may be those of one patient
        if (value := found.get(column)) is not None:
            found[column] = round(float(value))
    return {**found, "FileName": name, "PatientID": name.rpartition("-")[2]}


def _model(work: Path, what: str, license: str, cleared: Cleared, artifact: Path, facts: Mapping[str, str]) -> str:
    """Weights and settings, byte for byte; its record and recipe without places. Returns the card."""
    for name in _MODEL_FILES:
        if (artifact / name).is_file():
            shutil.copyfile(artifact / name, work / name)
    told = metrics_of(str(artifact))
    write_record(work / FACTS, {**told, "command": redact_paths_in_command(str(told.get("command", "")))})
    recipe = (artifact / CONFIG).read_text(encoding="utf-8")
    (work / CONFIG).write_text(redact_absolute_paths(recipe), encoding="utf-8")
    return model_card(cleared, what, license, told)


def _sums(folder: Path) -> dict[str, str]:
    """Digests of what ``folder`` holds besides its card and its record; a store's own list stands for the store."""
    names = (f"{STORE}/{CHECKSUMS}", FACTS, CONFIG, *_MODEL_FILES)
    return {name: file_sha256(folder / name) for name in names if (folder / name).is_file()}


def _verified(folder: Path, what: str, cleared: Cleared) -> None:
    """Raise ``UserError`` where ``folder`` holds what does not belong there, or names a patient or a place."""
    real = cleared.sources.real
    assert real is not None
    known = {CARD, RECORD, STORE} if (folder / STORE).is_dir() else {CARD, RECORD, FACTS, CONFIG, *_MODEL_FILES}
    if strange := sorted(path.name for path in folder.iterdir() if path.name not in known):
        raise UserError(f"{folder / strange[0]} does not belong there: remove {folder}, and run the same command again")
    if (folder / STORE).is_dir():
        verify(folder / STORE)
    if (read_record(folder / RECORD) or {}).get("sums") != _sums(folder):
        raise UserError(f"{folder} was changed since it was checked: remove it, and run the same command again")
    check_card(folder / CARD, what, cleared)
    plain = " ".join([*(path.read_text(encoding="utf-8") for path in TEMPLATES.glob("*.md")), *_MEANING])
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".md", ".json", ".yaml", ".csv"):
            text = path.read_text(encoding="utf-8")
            if name := find_patient_name(real, text, plain):
                raise UserError(f"{path} would name {name} of {real.root}: make that without it; remove {folder}")
            if place := next(
                (place for place in (str(Path.home()), str(Path.cwd())) if len(place) > 1 and place in text), None
            ):
                raise UserError(f"{path} would say {place}, a folder of this machine; remove {folder}")


def _summary(target: Path, state: str, cleared: Cleared, license: str, address: str) -> Summary:
    decision = cleared.decision
    facts: dict[str, object] = {
        "filter": f"{decision['drawn']} drawn, {decision['rejected']} rejected, {decision['kept']} kept",
        "statement": decision["statement"],
        "audit": "; ".join(cleared.findings) or "no measure stands out; no proof",
        "licence": license,
        "sent": address or "nothing: push=<namespace>/<name> sends it",
    }
    others = [
        name for name in (*STORES, *GENERATORS) if name != target.name and (target.parent / name / CARD).is_file()
    ]
    if others:
        facts["beside"] = f"{', '.join(others)}: publish samples or their generators, not both; see docs/privacy.md"
    return Summary(f"publish: {target} {state}", facts)
