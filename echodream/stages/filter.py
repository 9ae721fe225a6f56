"""``stage=filter``: reject synthetic samples that resemble training patients; copy the others to a store."""

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
from echodream.filtering import record as filter_record
from echodream.filtering.copy_generation import CopyGenerator
from echodream.filtering.embedding import (
    FrameEmbedder,
    check_not_selected_on,
    check_training_store,
    sampling_settings,
)
from echodream.filtering.ledger import LedgerEntry, check_ledger, find_ledger, register_decision
from echodream.filtering.positive_controls import Control, select_controls
from echodream.filtering.record import RECORD, is_complete, summary_lines
from echodream.filtering.scoring import ScoringConfig, frames_per_sample, score_samples
from echodream.privacy.rules import Calibrated, Rule
from echodream.runs.atomic_folder import lock, read_record, unlock
from echodream.runs.redaction import redact_paths_in_command
from echodream.runs.summary import Summary
from echodream.store import Store
from echodream.store.schema import partial_path, read_dataset

GENERATORS = {"image": "lidm", "video": "lvdm"}
"""Model name of the generator for ``on=image`` and ``on=video``."""


def filter_(
    *,
    src: InputPath,
    dst: OutputPath,
    private: OutputPath,
    ledger: OutputPath | None,
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
    """Reject samples of ``src`` that ``rule`` finds too close to a TRAIN patient of ``real``; both are latent stores.

    ``artifact``: the identity network. ``controls``, except ``leave_out``, generate copies of TRAIN patients with the
    ``autoencoder`` and the ``generator`` of ``src``; controls in ``report_only`` are not part of the guarantee. ``on``
    to ``seed``: see ``ScoringConfig``. Writes samples that pass to ``dst``, with the decision in dataset.json, and the
    scores and nearest patients of all samples to ``private``. The decision is entered in the folder ``ledger``, by
    default next to ``real``. Without the rule's guarantee no sample passes, and the summary has a problem.
    """
    config = ScoringConfig(on, check_every, reference, reference_every, calibration, views, patients, steps, seed)
    store, study = Store(src, kind="latent"), Store(real, kind="latent")
    _check_stores(store, study)
    _check_private_folder(Path(private), Path(dst), store.root)
    decisions = find_ledger(ledger, study.root, (Path(private), Path(dst), store.root))
    selected = select_controls(controls, leave_out, report_only, config.views)
    needing = [name for name, control in selected.items() if control.needs_generator]
    model_fingerprint = _check_generator(generator, needing, on, store, study)
    for key, folder in (("artifact", artifact), ("generator", generator), ("autoencoder", autoencoder)):
        check_not_selected_on(folder, key, config.calibration)
    settings = {
        "source": store.checksum,
        "real": study.checksum,
        "reid": read_artifact(artifact, "reid").fingerprint,
        "generator": model_fingerprint if needing else None,
        "rule": {"name": rule.name, **asdict(rule)},  # type: ignore[call-overload]
        "controls": {name: control.settings() for name, control in selected.items()},
        "report_only": sorted(set(report_only) & set(selected)),
        **asdict(config),
    }
    private_lock = lock(Path(private), key="private=")
    try:
        if is_complete(Path(dst), Path(private), settings):
            record = read_dataset(Path(dst)).settings
            return Summary(f"filter: {dst} already complete, nothing to do", summary_lines(record))
        check_ledger(decisions)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        embedder = _load_embedder(artifact, autoencoder, device, (store, study), rule)
        model = load_diffusion_model(str(generator), GENERATORS[on]) if needing else None
        recordings, guidance = Recordings(study, "TRAIN"), _recorded_guidance(store, model)
        copy_generator = CopyGenerator(recordings, autoencoder, model, guidance, steps, seed, device)
        scores = score_samples(store, study, embedder, copy_generator, rule, selected, report_only, config)
        decision = rule.decide(scores.evidence)
        entry = _ledger_entry(settings, store, scores.frames, model_fingerprint)
        tries = register_decision(decisions, entry, decision.passed, code_version)
        before = filter_record.tries_before_the_ledger(read_record(Path(private) / RECORD), settings)
        tries = replace(tries, same=max(tries.same, before))
        known = model_fingerprint is not None
        record = {**settings, "decision": filter_record.public_decision(decision, scores, rule, tries, known)}
        record["evidence"] = entry.evidence_digest
        command = redact_paths_in_command(command)
        origin: dict[str, Any] = {"command": command, "code_version": code_version}
        filter_record.write_private_folder(Path(private), scores, decision, {**record, **origin})
        if decision.rejected(scores.samples.score).all():
            count = len(scores.names)
            problem = f"none of the {count} samples is below the threshold: all resemble a training patient"
            problem = (problem if decision.passed else decision.statement) + _withdraw_passed_store(Path(dst))
            return Summary(f"filter: nothing passes, {dst} was not made", summary_lines(record), problem)
        settings_of_samples = {**record, "samples": store.dataset.settings}
        dataset = replace(store.dataset, settings=settings_of_samples, statistics=None, **origin)
        filter_record.write_passed_samples(store, Path(dst), dataset, decision, scores)
        return Summary(f"filter: {dst} done", summary_lines(record))
    finally:
        unlock(private_lock)


def _check_stores(store: Store, study: Store) -> None:
    """Raise ``UserError`` unless ``store`` has synthetic samples, and ``study`` real recordings of the same encoder."""
    frames_per_sample(store)
    if not store.dataset.synthetic:
        raise UserError(f"src={store.root} holds recordings of people, not samples of a generator: give samples")
    if study.dataset.synthetic:
        raise UserError(f"real={study.root} holds samples of a generator: give the latents of the real study")
    if store.dataset.encoder != study.dataset.encoder:
        raise UserError(
            f"src={store.root} and real={study.root} are latents of different encoders, which cannot be compared: "
            "generate the samples again with models of this study"
        )
    sources = store.table["Source"].astype(str).tolist() if "Source" in store.table else []
    if "real" in sources or sampling_settings(store).get("source") == study.checksum:
        raise UserError(
            f"src={store.root} began from real recordings, such as those of {study.root}: videos of real hearts are "
            "not synthetic; generate videos from the images of stage=image"
        )
    people = {"FileName": set(study.table["FileName"]), "PatientID": set(study.table["PatientID"].astype(str))}
    for column, known in (("FileName", "FileName"), ("Source", "FileName"), ("PatientID", "PatientID")):
        if column in store.table and people[known] & set(store.table[column].astype(str)):
            raise UserError(
                f"src={store.root} names people of {study.root} in its column {column}: samples that began from their "
                "recordings are not synthetic; generate samples from the images of stage=image"
            )


def _check_private_folder(private: Path, dst: Path, src: Path) -> None:
    """Raise ``UserError`` if ``private`` lies in a folder that may be shared."""
    folder = private.resolve()
    for shared in (dst, partial_path(dst), src):
        if shared.resolve() in (folder, *folder.parents):
            raise UserError(f"private={private} lies in {shared}, which may be shared: choose a folder elsewhere")


def _check_generator(folder: str | None, needing: Sequence[str], on: str, store: Store, study: Store) -> str | None:
    """Fingerprint of the generator; None if there is none. Raises ``UserError`` if the controls ``needing`` it lack it,
    if it was trained on another split, or if ``store`` is of another generator.
    """
    if folder is None and needing:
        raise UserError(
            f"controls.{needing[0]} needs generator=, the model that sampled src; or set the control to null"
        )
    if folder is None or not (needing or Path(folder).exists()):
        return None
    check_training_store(folder, GENERATORS[on], study, "generator")
    fingerprint, recorded = read_artifact(folder, GENERATORS[on]).fingerprint, sampling_settings(store).get("model")
    if recorded is not None and recorded != fingerprint:
        raise UserError(f"generator={folder} did not sample src={store.root}: give the folder of the model that did")
    return fingerprint


def _ledger_entry(settings: Mapping[str, Any], store: Store, frames: int, generator: str | None) -> LedgerEntry:
    """The decision with ``settings`` about the samples of ``store``, of which ``frames`` are compared."""
    sampling = sampling_settings(store)
    networks = {"reid": settings["reid"], "generator": sampling.get("model", generator)}
    rule = settings["rule"]
    excluded = ["real", "reid", *([] if rule.get("benjamini_hochberg") else ["source"])]
    decision = {name: value for name, value in settings.items() if name not in excluded}
    decision["frames"] = frames
    if settings["generator"] is not None:
        decision["guidance"] = sampling.get("guidance")
    return LedgerEntry({"real": settings["real"], **networks}, decision, settings["on"])


def _load_embedder(artifact: str, vae: str, device: str, stores: Sequence[Store], rule: Rule) -> FrameEmbedder:
    """The identity network. Raises ``UserError`` if it was not trained on the latents of ``stores``, (src, real)."""
    embedder = FrameEmbedder(artifact, vae, device)
    for store in stores:
        embedder.check(store)
    check_training_store(artifact, "reid", stores[-1], "artifact", decoded=embedder.input_spec.on == "pixels")
    similarity = embedder.input_spec.similarity
    if isinstance(rule, Calibrated) and rule.similarity != similarity:
        raise UserError(
            f"rule.similarity={rule.similarity}, and this reid was trained for {similarity} similarity: set "
            f"rule.similarity={similarity}"
        )
    return embedder


def _recorded_guidance(store: Store, model: DiffusionModel | None) -> Guidance:
    """The guidance that the samples of ``store`` were generated with, without autoguidance."""
    recorded = sampling_settings(store).get("guidance")
    return Guidance() if model is None else Guidance.from_record(recorded, model.conditioner.names)


def _withdraw_passed_store(dst: Path) -> str:
    """Rename the store of an earlier run at ``dst``, if any; returns a sentence for the summary."""
    if not dst.exists():
        return ""
    withdrawn = dst.with_name(f"{dst.name}.withdrawn")
    shutil.rmtree(withdrawn, ignore_errors=True)
    dst.rename(withdrawn)
    return f" What was there before is now {withdrawn}: do not share it."
