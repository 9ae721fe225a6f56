"""``stage=publish``: check a synthetic set or a generator, and write it as a folder for the Hugging Face hub."""

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from echodream import validation
from echodream.artifact import METADATA_FILE, TRAINING_FILE
from echodream.config.stage_signature import InputPath, OutputPath
from echodream.errors import UserError, shortened_list
from echodream.filtering.record import SCORES
from echodream.ingest import burned_in_text
from echodream.progress import progress_bar
from echodream.publishing import checks
from echodream.publishing.cards import TEMPLATES, check_card, dataset_card, is_license, model_card
from echodream.publishing.checks import PUBLISHABLE_MODELS, PUBLISHABLE_STORES, Approval
from echodream.publishing.croissant import CONTEXT_FILE, croissant
from echodream.publishing.hub import check_push, upload
from echodream.publishing.media_folder import FOLDERS, write_media_folder
from echodream.report.seven_cs import CARD, SCHEMA, SCHEMA_FILE, CardEntry, card_record, seven_cs, write_card
from echodream.report.sources import RECORD_FILES, Sources, load_sources
from echodream.runs.atomic_folder import (
    atomic_folder,
    read_record,
    require_same_settings,
    start_or_resume_folder,
    write_record,
)
from echodream.runs.redaction import find_patient_name, redact_absolute_paths, redact_paths_in_command
from echodream.runs.summary import Summary
from echodream.store import Dataset, Store, StoreWriter, verify
from echodream.store.checksums import file_sha256
from echodream.store.schema import CHECKSUMS, REQUIRED_COLUMNS

README, STORE, RECORD, CROISSANT = "README.md", "store", "publish.json", "croissant.json"
_FOLDER_KIND = "a folder for the hub"
_NO_TEXT_FOUND = "none found in the frames"
_MODEL_FILES = (
    *("config.json", "diffusion.json"),
    *("conditioner.safetensors", "few_steps.safetensors", "diffusion_pytorch_model.safetensors"),
)
_COLUMNS = {
    "FileName": "name of the recording, in random order",
    "Split": "TRAIN, VAL or TEST: a proposal",
    "PatientID": "a different number for each recording",
    "NumberOfFrames": "number of frames",
    "FPS": "frames per second",
    "FrameHeight": "pixels",
    "FrameWidth": "pixels",
    "class_id": "requested class",
    "class_name": "name of the class",
    "EF": "requested ejection fraction, rounded to a whole number",
    "View": "requested view",
    "HeartRate": "requested heart rate in beats per minute, rounded to a whole number",
    "ED": "end-diastolic frames",
    "ES": "end-systolic frames",
}
"""Columns that may be published, with descriptions. Further columns may reveal which patient a sample resembles."""


@dataclass(frozen=True)
class _Publication:
    """The store or generator to publish, with its settings and the result of the checks."""

    what: str
    license: str
    columns: Sequence[str]
    artifact: str | None
    approval: Approval
    command: str
    code_version: str

    @property
    def sources(self) -> Sources:
        return self.approval.sources

    @property
    def store(self) -> Store:
        assert self.sources.synthetic is not None
        return self.sources.synthetic

    def as_json(self) -> dict[str, Any]:
        """Settings for publish.json, with a SHA-256 of the published content and of all records of the study."""
        if self.what in PUBLISHABLE_MODELS:
            hashes = [str((read_record(Path(str(self.artifact)) / METADATA_FILE) or {}).get("fingerprint"))]
        else:
            hashes = [self.store.checksum]
        paths = sorted(self.sources.paths.items())
        hashes += [f"{name} {file_sha256(path)}" for name, path in paths if path.is_file()]
        digest = hashlib.sha256("\n".join(hashes).encode()).hexdigest()
        return {"what": self.what, "license": self.license, "columns": [*self.columns], "of": digest}


def publish(
    *,
    what: str,
    license: str | None,
    push: str | None,
    public: bool,
    accept_findings: bool,
    accept_text: bool,
    accept_unknown: bool,
    study: str,
    src: InputPath | None,
    real: InputPath,
    latents: InputPath,
    artifact: InputPath | None,
    passed_stores: Mapping[str, InputPath],
    records: Mapping[str, InputPath],
    folders: Mapping[str, InputPath],
    columns: Sequence[str],
    dst: OutputPath,
    command: str,
    code_version: str,
) -> Summary:
    """Write README.md and the store ``src`` or the generator ``artifact`` to ``dst``; upload ``dst`` to ``push``.

    A store is written twice, lossless and as mp4 or png, with Croissant metadata.

    ``what``: a publishable store or model. The ``records`` of filter and audit, and the stores of samples that passed
    the filter, ``passed_stores``, must allow publication (``publishing.checks``); ``accept_findings`` allows
    generators with findings, ``accept_text`` readable text in frames, ``accept_unknown`` samples of an unknown
    generator. No file may name a patient of the store ``real``. Filter and audit used the store ``latents``. ``push``
    is <namespace>/<name> on the hub, or None. ``folders`` contain stores and artifacts with recorded commands. Raises
    ``UserError`` if publication is not allowed.
    """
    checks.check_publishable(what)
    check_push(push)
    license = _check_settings(license, columns, public, accept_findings)
    validation.true_or_false("accept_text", accept_text)
    validation.true_or_false("accept_unknown", accept_unknown)
    all_records = {name: records.get(name, f"{dst}/no {name}") for name in RECORD_FILES}
    sources = load_sources(study, True, {"real": real, "videos": src}, passed_stores, all_records, folders)
    if sources.real is None:
        raise UserError(f"real={real} does not exist: give the real store, whose patients must not be named")
    if what in PUBLISHABLE_MODELS:
        approval = checks.approve_model(what, str(artifact), sources, accept_findings)
    elif sources.synthetic is None:
        raise UserError(f"src={src} does not exist: run stage=decode, or give src=")
    else:
        approval = checks.approve_store(what, sources, accept_unknown)
    checks.check_reference_patients(approval, latents)
    command = redact_paths_in_command(command)
    request = _Publication(what, license, columns, artifact, approval, command, code_version)
    target, settings = Path(dst), request.as_json()
    text = _check_readable_text(target, request, accept_text)
    with atomic_folder(target) as work:
        if work is not None:
            start_or_resume_folder(work / RECORD, settings, _FOLDER_KIND)
            card = _write_model(work, request) if what in PUBLISHABLE_MODELS else _write_store(work, request, text)
            (work / README).write_text(card, encoding="utf-8")
            run = {"command": command, "code_version": code_version, "findings": approval.findings, "text": text}
            write_record(work / RECORD, {**settings, **run, "sums": _list_checksums(work)})
            _check_folder(work, request)
    if work is None:
        require_same_settings(target / RECORD, settings, _FOLDER_KIND)
        _check_folder(target, request)
    url = upload(target, push, "dataset" if what in PUBLISHABLE_STORES else "model", public) if push else ""
    return _summary(target, "already complete" if work is None else "done", request, url, text)


def _check_settings(license: str | None, columns: Sequence[str], public: bool, accept_findings: bool) -> str:
    """Return the valid ``license``. Raises ``UserError`` for invalid settings."""
    if license is None or not is_license(license):
        given = "license= is needed" if license is None else f"license={license} is not a license identifier of the hub"
        raise UserError(f"{given}: give a license identifier of the hub, such as cc-by-nc-4.0, mit or other")
    validation.true_or_false("public", public)
    validation.true_or_false("accept_findings", accept_findings)
    if private := [name for name in columns if name not in _COLUMNS]:
        raise UserError(f"columns=[{private[0]}] is not published: choose from {', '.join(_COLUMNS)}")
    return license


def _check_readable_text(target: Path, request: _Publication, accept_text: bool) -> str:
    """Search the frames of the published recordings for text; returns a sentence for the summary.

    A folder whose record states that it has no text is not searched again. Raises ``UserError`` if a word, a date or a
    long number is readable, unless ``accept_text``.
    """
    if request.what in PUBLISHABLE_MODELS:
        return "a model has no frames"
    if (read_record(target / RECORD) or {}).get("text") == _NO_TEXT_FOUND:
        return _NO_TEXT_FOUND
    if not burned_in_text.is_installed():
        return f"not searched for in the frames: {burned_in_text.INSTALL_COMMAND}"
    store, places = request.store, []
    for name in progress_bar(store.table["FileName"], "text", unit="rec"):
        texts = [text for text in burned_in_text.find_text(store.frames(name), threads=0) if text.may_identify_patient]
        places += [f"{name} at column {text.box[0]}, row {text.box[1]}" for text in texts[:1]]
    if places and not accept_text:
        problem = f"{len(places)} of {len(store)} recordings of {store.root} show readable text"
        raise UserError(f"{problem} ({shortened_list(places)}): check the frames, or give accept_text=true")
    return f"accepted in {len(places)} recordings" if places else _NO_TEXT_FOUND


def _write_store(work: Path, request: _Publication, text: str) -> str:
    """Write the recordings to ``work`` in random order with new names: as a store, and as files for web browsers.

    ``text``: the result of the search for readable text. Returns the text of the card.
    """
    approval, source = request.approval, request.store
    verify(source.root)
    kept = [name for name in _COLUMNS if name in REQUIRED_COLUMNS or (name in request.columns and name in source.table)]
    order = _random_order(source, request.sources.paths[f"filter_{approval.kind}"].with_name(SCORES))
    dataset = Dataset(
        kind="video",
        channels=source.dataset.channels,
        height=source.dataset.height,
        width=source.dataset.width,
        synthetic=True,
        settings={"filter": approval.decision["statement"], "generators": dict(approval.generators)},
        command=request.command,
        code_version=request.code_version,
    )
    rows, digits = source.table.set_index("FileName", drop=False).to_dict("index"), max(4, len(str(len(order))))
    new_names = {name: f"{request.sources.study}-{number:0{digits}}" for number, name in enumerate(order, 1)}
    with StoreWriter(work / STORE, dataset) as writer:
        for name, new_name in new_names.items():
            if not writer.complete and new_name not in writer.done:
                writer.copy(source.path(name), _public_row(rows[name], kept, new_name))
        if not writer.complete:
            writer.finish(list(new_names.values()))
    media = FOLDERS[request.what]
    write_media_folder(work / media, request.what, Store(work / STORE))
    texts = {
        "name": f"Synthetic {request.what} of {request.sources.study}",
        "description": f"{len(order)} synthetic recordings. {approval.decision['statement']}",
        "license": request.license,
    }
    columns = {name: _COLUMNS[name] for name in kept}
    write_record(work / CROISSANT, croissant(work, request.what, media, texts, columns))
    contents = {
        "media": media,
        "recordings": len(order),
        "frames": int(source.table["NumberOfFrames"].sum()),
        "columns": "\n".join(f"| `{name}` | {_COLUMNS[name]} |" for name in kept),
        "pixels": "gray" if source.dataset.channels == 1 else "rgb24",
    }
    facts = {
        "License": request.license,
        "Readable text": text,
        "Names of patients": "none found in the published texts",
    }
    extra = [CardEntry(name, fact, "publish") for name, fact in facts.items()]
    criteria = seven_cs(request.sources, request.what, kept, extra)
    write_card(work, card_record(criteria, request.sources, request.command, request.code_version))
    return dataset_card(approval, request.what, request.license, contents, criteria)


def _random_order(source: Store, secret: Path) -> list[str]:
    """FileNames of ``source``, in a fixed order that cannot be reconstructed without the private file ``secret``."""
    key = file_sha256(secret if secret.is_file() else source.root / CHECKSUMS)
    names = [str(name) for name in source.table["FileName"]]
    return sorted(names, key=lambda name: hashlib.sha256(f"{key} {name}".encode()).hexdigest())


def _public_row(row: Mapping[Any, Any], columns: Sequence[str], name: str) -> dict[str, Any]:
    """The ``columns`` of ``row``, with the new ``name``."""
    public = {column: None if row[column] != row[column] else row[column] for column in columns}  # None replaces NaN
    for column in ("HeartRate", "EF"):  # decimals may identify a patient
        if (value := public.get(column)) is not None:
            public[column] = round(float(value))
    return {**public, "FileName": name, "PatientID": name.rpartition("-")[2]}


def _write_model(work: Path, request: _Publication) -> str:
    """Copy the generator to ``work``, with redacted paths in its metadata; returns the text of the card."""
    artifact = Path(str(request.artifact))
    for name in _MODEL_FILES:
        if (artifact / name).is_file():
            shutil.copyfile(artifact / name, work / name)
    record = read_record(artifact / METADATA_FILE) or {}
    if record.get("privacy"):  # differential privacy does not cover checksums of the recordings
        record |= dict.fromkeys(("source", "origin", "settings"), "")
    write_record(work / METADATA_FILE, {**record, "command": redact_paths_in_command(str(record.get("command", "")))})
    config = (artifact / TRAINING_FILE).read_text(encoding="utf-8")
    (work / TRAINING_FILE).write_text(redact_absolute_paths(config), encoding="utf-8")
    return model_card(request.approval, request.what, request.license, record)


def _list_checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of the published files in ``folder``, with one SHA-256 for the store and one for all media files."""
    names = (f"{STORE}/{CHECKSUMS}", CROISSANT, CARD, SCHEMA, METADATA_FILE, TRAINING_FILE, *_MODEL_FILES)
    sums = {name: file_sha256(folder / name) for name in names if (folder / name).is_file()}
    for media in (name for name in FOLDERS.values() if (folder / name).is_dir()):
        files = sorted(path for path in (folder / media).rglob("*") if path.is_file())
        lines = [f"{file_sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
        sums[media] = hashlib.sha256("".join(lines).encode()).hexdigest()
    return sums


def _check_folder(folder: Path, request: _Publication) -> None:
    """Raise ``UserError`` if ``folder`` has unknown files, or if a text names a patient or a folder of this machine."""
    real = request.sources.real
    assert real is not None
    is_store = (folder / STORE).is_dir()
    store_files, model_files = (
        (STORE, CROISSANT, CARD, SCHEMA, *FOLDERS.values()),
        (METADATA_FILE, TRAINING_FILE, *_MODEL_FILES),
    )
    allowed = {README, RECORD, *(store_files if is_store else model_files)}
    if unknown := sorted(path.name for path in folder.iterdir() if path.name not in allowed):
        raise UserError(f"{folder / unknown[0]} is not a published file: remove {folder}, and run the command again")
    if is_store:
        verify(folder / STORE)
    if (read_record(folder / RECORD) or {}).get("sums") != _list_checksums(folder):
        raise UserError(f"{folder} was changed since it was checked: remove it, and run the same command again")
    check_card(folder / README, request.what, request.approval)
    templates = (path.read_text(encoding="utf-8") for path in (*TEMPLATES.glob("*.md"), CONTEXT_FILE, SCHEMA_FILE))
    public_text = " ".join([*templates, *_COLUMNS])
    local_folders = [path for path in (str(Path.home()), str(Path.cwd())) if len(path) > 1]
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".md", ".json", ".yaml", ".csv"):
            text = path.read_text(encoding="utf-8")
            if name := find_patient_name(real, text, public_text):
                remedy = f"remove the name from the setting or the record that contains it, and remove {folder}"
                raise UserError(f"{path} would name {name} of {real.root}: {remedy}")
            if local := next((local for local in local_folders if local in text), None):
                raise UserError(f"{path} would contain {local}, a folder of this machine; remove {folder}")


def _summary(target: Path, state: str, request: _Publication, url: str, text: str) -> Summary:
    decision = request.approval.decision
    facts: dict[str, object] = {
        "filter": f"{decision['drawn']} samples, {decision['rejected']} rejected, {decision['kept']} kept",
        "statement": decision["statement"],
        "audit": "; ".join(request.approval.findings) or "no measure stands out, which is no proof of privacy",
        "text": text,
        "license": request.license,
        "uploaded": url or "no: push=<namespace>/<name> uploads the folder",
    }
    names = [name for name in (*PUBLISHABLE_STORES, *PUBLISHABLE_MODELS) if name != target.name]
    if others := [name for name in names if (target.parent / name / README).is_file()]:
        facts["also published"] = f"{', '.join(others)}: publish samples or generators, not both; see docs/privacy.md"
    return Summary(f"publish: {target} {state}", facts)
