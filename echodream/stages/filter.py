"""``stage=filter``: a Store of samples becomes a Store of those that are no copies, with a statement of what passes."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from echodream.artifact import read_artifact
from echodream.config.stage_signature import InputPath, OutputPath
from echodream.datamodules.recordings import Recordings
from echodream.diffusion.guidance import Guidance
from echodream.diffusion.model import DiffusionModel, load_diffusion_model
from echodream.errors import UserError
from echodream.filtering.copy_generation import CopyGenerator
from echodream.filtering.embedding import FrameEmbedder, check_trained, drawn_with
from echodream.filtering.positive_controls import Control, SDEdit
from echodream.filtering.record import RECORD, decided, told, tries, write_private
from echodream.filtering.scoring import Scored, ScoringConfig, length_of, score
from echodream.privacy.decision import Decision
from echodream.privacy.rules import Calibrated, Rule
from echodream.runs.atomic_folder import lock, read_record, unlock
from echodream.runs.redaction import redact_paths_in_command
from echodream.runs.summary import Summary
from echodream.store import Dataset, Store, StoreWriter
from echodream.store.schema import partial_path, read_dataset

GENERATORS = {"image": "lidm", "video": "lvdm"}


def filter_(
    *,
    src: InputPath,
    dst: OutputPath,
    private: OutputPath,
    real: InputPath,
    artifact: InputPath,
    autoencoder: InputPath,
    generator: InputPath | None,
    rule: Rule,
    controls: Mapping[str, Control | None],
    leave_out: Sequence[str],
    report_only: Sequence[str],
    on: str,
    check_every: int,
    reference: str,
    reference_every: int,
    calibration: Sequence[str],
    views: Sequence[str],
    patients: int | None,
    steps: int,
    seed: int,
    device: str | None,
    command: str,
    code_version: str,
) -> Summary:
    """Leave out of the latent store ``src`` what ``rule`` finds too close to a TRAIN patient of the store ``real``.

    Patients are told apart by the reid ``artifact``; copies of TRAIN patients are made by ``controls`` but for those to
    ``leave_out``, with the ``autoencoder`` and the ``generator`` that drew ``src``. ``on`` to ``seed`` are described by
    ``ScoringConfig``. The survivors go to ``dst``, with the decision in their dataset.json; the scores of all samples
    and whom they resemble go to the folder ``private``. Where the rule cannot keep its promise there are no survivors,
    and the summary has a problem.
    """
    command = redact_paths_in_command(command)
    looks = ScoringConfig(on, check_every, reference, reference_every, calibration, views, patients, steps, seed)
    store, study = Store(src, kind="latent"), Store(real, kind="latent")
    _check(store, study, dst, private)
    declared = _declared(controls, leave_out, report_only, looks)
    drawn_by = _generator_of(generator, declared, looks.on, store, study)
    asked = {
        "source": store.checksum,
        "real": study.checksum,
        "reid": read_artifact(artifact, "reid").fingerprint,
        "generator": drawn_by,
        "rule": {"name": rule.name, **asdict(rule)},  # type: ignore[call-overload]
        "controls": {name: control.settings() for name, control in declared.items()},
        "report_only": sorted(set(report_only) & set(declared)),
        **asdict(looks),
    }
    held = lock(Path(private), other="private=")  # so that every decision is counted
    try:
        if _is_complete(Path(dst), Path(private), asked):
            return Summary(f"filter: {dst} already complete, nothing to do", told(read_dataset(Path(dst)).settings))
        networks = (artifact, autoencoder, str(generator) if drawn_by else None)
        scored, decision = _decide(store, study, networks, rule, declared, report_only, looks, device)
        return _kept(store, Path(dst), Path(private), rule, scored, decision, asked, command, code_version)
    finally:
        unlock(held)


def _decide(
    store: Store,
    study: Store,
    networks: tuple[str, str, str | None],
    rule: Rule,
    declared: Mapping[str, Control],
    report_only: Sequence[str],
    looks: ScoringConfig,
    device: str | None,
) -> tuple[Scored, Decision]:
    """Score all sides by the ``networks`` (reid, autoencoder, generator if one is needed) and decide."""
    artifact, vae, generator = networks
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    embedder = FrameEmbedder(artifact, vae, where)
    for one in (store, study):
        embedder.check(one)
    if embedder.sees.on == "latents":  # pixels come from a store that was decoded from the study's
        check_trained(artifact, "reid", study, "artifact")
    _check_similarity(rule, embedder)
    model = load_diffusion_model(generator, GENERATORS[looks.on]) if generator else None
    rows = Recordings(study, "TRAIN")
    shop = CopyGenerator(rows, vae, model, _guidance(store, model), looks.steps, looks.seed, where)
    scored = score(store, study, embedder, shop, rule, declared, report_only, looks)
    return scored, rule.decide(scored.evidence)


def _kept(
    store: Store,
    dst: Path,
    private: Path,
    rule: Rule,
    scored: Scored,
    decision: Decision,
    asked: Mapping[str, Any],
    command: str,
    code_version: str,
) -> Summary:
    """Write the evidence, and the survivors where there may be any; what was there and passes no more is withdrawn."""
    number = tries(read_record(private / RECORD), asked)
    record = {**asked, "decision": {**decided(decision, scored, rule, number), "tries": number}}
    write_private(private, scored, decision, record, command, code_version)
    problem = None if decision.passed else decision.statement
    if decision.passed and not record["decision"]["kept"]:
        problem = f"none of the {len(scored.names)} samples is below the threshold: all resemble a training patient"
    if problem is None:
        dataset = replace(
            store.dataset,
            settings={**record, "samples": store.dataset.settings},
            command=command,
            code_version=code_version,
            statistics=None,
        )
        _write(store, dst, dataset, decision, scored)
    title = f"filter: {dst} done" if problem is None else f"filter: nothing passes, {dst} was not made"
    if problem is not None and dst.exists():
        withdrawn = dst.with_name(f"{dst.name}.withdrawn")
        shutil.rmtree(withdrawn, ignore_errors=True)
        dst.rename(withdrawn)
        problem += f" What was there before is now {withdrawn}: do not share it."
    return Summary(title, told(record), problem)


def _check(store: Store, study: Store, dst: str, private: str) -> None:
    """Raise ``UserError`` for stores that do not belong to each other, or a private folder that would be shared."""
    if not len(store):
        raise UserError(f"src={store.root} holds no sample: there is nothing to filter")
    length_of(store)
    if not store.dataset.synthetic:
        raise UserError(f"src={store.root} holds recordings of people, not samples of a generator: give those")
    if study.dataset.synthetic:
        raise UserError(f"real={study.root} holds samples of a generator: give the latents of the study it learnt from")
    if store.dataset.encoder != study.dataset.encoder:
        raise UserError(
            f"src={store.root} and real={study.root} are latents of different encoders, which cannot be compared: draw "
            "the samples again with models of this study"
        )
    began = store.table["Source"].astype(str).tolist() if "Source" in store.table else []
    if "real" in began or drawn_with(store).get("source") == study.checksum:
        raise UserError(
            f"src={store.root} began from real recordings, such as those of {study.root}: samples of real hearts are "
            "no synthetic people; draw them from stage=image"
        )
    people = {"FileName": set(study.table["FileName"]), "PatientID": set(study.table["PatientID"].astype(str))}
    for column, known in (("FileName", "FileName"), ("Source", "FileName"), ("PatientID", "PatientID")):
        if column in store.table and people[known] & set(store.table[column].astype(str)):
            raise UserError(
                f"src={store.root} names people of {study.root} in its column {column}: samples that began from their "
                "recordings are no synthetic people; draw them from stage=image"
            )
    inner = Path(private).resolve()
    for shared in (Path(dst), partial_path(Path(dst)), store.root):
        if shared.resolve() in (inner, *inner.parents):
            raise UserError(f"private={private} lies in {shared}, which may be shared: choose a folder elsewhere")


def _declared(
    controls: Mapping[str, Control | None], leave_out: Sequence[str], report_only: Sequence[str], looks: ScoringConfig
) -> dict[str, Control]:
    """The controls that are made: ``leave_out`` may name those of which nothing is promised.

    Raises ``UserError`` for one that is none, and for names of controls that are not there.
    """
    for key, names in (("leave_out", leave_out), ("report_only", report_only), ("views", looks.views)):
        if isinstance(names, str):
            raise UserError(f"{key}={names} is no list: give names in brackets, or {key}=[] for none")
    declared = {name: one for name, one in controls.items() if one is not None and name not in leave_out}
    if wrong := [name for name in sorted(declared) if not isinstance(declared[name], Control)]:
        raise UserError(
            f"controls.{wrong[0]} is no control: give one of echodream.filtering.positive_controls, or null"
        )
    asked = (("leave_out", leave_out, set(controls)), ("report_only", report_only, set(controls)))
    for key, names, known in (*asked, ("views", looks.views, set(declared))):
        if missing := [name for name in names if name not in known]:
            raise UserError(f"{key}=[{missing[0]}] is not among controls: choose of {', '.join(sorted(known))}")
    if promised := [name for name in leave_out if controls[name] is not None and name not in report_only]:
        raise UserError(
            f"leave_out=[{promised[0]}] would leave out what is promised: name it in report_only=, too, which promises "
            f"nothing of it, or take it out of leave_out="
        )
    if not set(declared) - set(report_only):
        raise UserError("controls= declares no transform outside report_only=, so nothing could be promised: add one")
    return declared


def _check_similarity(rule: Rule, embedder: FrameEmbedder) -> None:
    if isinstance(rule, Calibrated) and rule.similarity != embedder.sees.similarity:
        raise UserError(
            f"rule.similarity={rule.similarity}, and this reid was trained to be compared by "
            f"{embedder.sees.similarity}: set rule.similarity={embedder.sees.similarity}"
        )


def _generator_of(
    folder: str | None, declared: Mapping[str, Control], on: str, store: Store, study: Store
) -> str | None:
    """The fingerprint of the generator, if a copy is made with it. Raises ``UserError`` for another than drew src."""
    needing = [name for name, control in declared.items() if isinstance(control, SDEdit)]
    if not needing:
        return None
    if folder is None:
        raise UserError(f"controls.{needing[0]} needs generator=, the model that drew src: give it, or set it to null")
    check_trained(folder, GENERATORS[on], study, "generator")
    found, drew = read_artifact(folder, GENERATORS[on]).fingerprint, drawn_with(store).get("model")
    if drew is not None and drew != found:
        raise UserError(f"generator={folder} is not the model that drew src={store.root}: give the folder of that one")
    return found


def _guidance(store: Store, model: DiffusionModel | None) -> Guidance:
    """As samples were drawn; without autoguidance."""
    told = drawn_with(store).get("guidance")
    if model is None or not isinstance(told, Mapping):
        return Guidance()
    scales = {name: scale for name, scale in told["scales"].items() if name in model.conditioner.names}
    return Guidance(scales, tuple(told["interval"]), told["rescale"])


def _is_complete(dst: Path, private: Path, asked: Mapping[str, Any]) -> bool:
    """Whether all was done before. Raises ``UserError`` where it was done with other settings."""
    plain = json.loads(json.dumps(asked))
    found = {dst: read_dataset(dst).settings} if dst.exists() else {}
    before = read_record(private / RECORD)
    if before is not None and before.get("decision", {}).get("passed"):
        found[private] = before
    for folder, made in found.items():
        if wrong := [name for name, value in plain.items() if made.get(name) != value]:
            key = "private" if folder == private else "dst"
            raise UserError(
                f"{folder} is already there, made with another {wrong[0]}: choose another {key}=, or remove it"
            )
    if len(found) == 2:
        shutil.rmtree(partial_path(dst), ignore_errors=True)
    return len(found) == 2


def _write(store: Store, dst: Path, dataset: Dataset, decision: Decision, scored: Scored) -> None:
    """The survivors, in the order of ``store``, their latents byte for byte."""
    rejected = dict(zip(scored.names, decision.rejected(scored.samples.score).tolist(), strict=True))
    score_of = dict(zip(scored.names, scored.samples.score.tolist(), strict=True))
    p = decision.p_values(scored.samples.score)
    p_of = {} if p is None else dict(zip(scored.names, p.tolist(), strict=True))
    kept = {name: row for name, row in store.rows().items() if not rejected[name]}
    with StoreWriter(dst, dataset) as writer:
        if writer.complete:
            return
        for name, row in kept.items():
            if name not in writer.done:
                media = writer.scratch_path(name)
                shutil.copyfile(store.path(name), media)
                more = {"PrivacyScore": round(score_of[name], 6)}
                more |= {"PrivacyP": round(p_of[name], 6)} if p_of else {}
                writer.commit({**row, **more}, media)
        writer.finish(list(kept), store.dataset.statistics)
