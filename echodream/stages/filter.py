"""``stage=filter``: reject synthetic samples that resemble training patients; copy the other samples to a Store."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from echodream import validation
from echodream.artifact import read_artifact
from echodream.config.stage_signature import InputPath, OutputPath
from echodream.datamodules.encoded_store import EncodedStore
from echodream.datamodules.recordings import Recordings, select_recordings
from echodream.diffusion.guidance import Guidance
from echodream.diffusion.model import load_diffusion_model
from echodream.errors import UserError
from echodream.filtering import record as filter_record
from echodream.filtering.copy_generation import CopyGenerator
from echodream.filtering.embedding import (
    FrameEmbedder,
    check_initial_model,
    check_training_store,
    check_unused_for_model_selection,
    has_known_generator,
)
from echodream.filtering.ledger import LedgerEntry, check_ledger, find_ledger, register_decision
from echodream.filtering.memorization import (
    MemorizationTestConfig,
    MemorizedSamples,
    measure_memorization,
    sample_fine_tuned_models,
)
from echodream.filtering.positive_controls import Control, select_controls
from echodream.filtering.record import RECORD, completed_batch_folder, summary_lines
from echodream.filtering.scoring import FilterScores, ScoringConfig, frames_per_sample, score_samples
from echodream.filtering.views import read_view_grids, record_view_grids
from echodream.privacy.decision import Decision
from echodream.privacy.rules import Calibrated, Rule
from echodream.runs.atomic_folder import read_record
from echodream.runs.redaction import redact_paths_in_command
from echodream.runs.summary import Summary
from echodream.store import Store
from echodream.store.checksums import file_sha256
from echodream.store.lock import lock_for_writing, unlock
from echodream.store.schema import CHECKSUMS, FILE_COLUMN, SPLITS, partial_path, read_dataset

MODEL_NAMES = {"image": "lidm", "video": "lvdm"}
"""Model name of the generator for ``on=image`` and ``on=video``."""

NETWORK_NAMES = {"artifact": "Identity", "copies": "Copies"}
"""Name of each network in scores.csv, by the setting that gives the network."""
OPTIONAL_SETTINGS = ("copies", "view_grid", "outliers", "others")
"""Settings that a ledger entry contains only if they are not None."""


def filter_(
    *,
    src: InputPath,
    dst: OutputPath,
    private: OutputPath,
    ledger: OutputPath | None,
    real: InputPath,
    artifact: InputPath,
    copies: InputPath | None,
    autoencoder: InputPath,
    videos: InputPath | None,
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
    view_grid: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None,
    outliers: float | None,
    patients: int | None,
    steps: int,
    memoriser: bool,
    memoriser_settings: Mapping[str, int],
    work: OutputPath,
    seed: int,
    device: str | None,
    command: str,
    code_version: str,
) -> Summary:
    """Reject samples of the latent store ``src`` that are too close to a TRAIN patient of the latent store ``real``.

    ``src`` can also be a store of pixels that ``stage=ingest`` wrote with ``synthetic=true``; the ``autoencoder``
    encodes its frames. Samples without a recorded generator are compared with all patients of ``real``; ``generator``
    and the controls that need a generator are then not used.

    ``rule`` sets the threshold. ``artifact`` is the identity network. The copy-detection network ``copies`` and an
    outlier test (``outliers``: fraction of variance) can also reject samples. ``controls``, except ``leave_out``,
    generate copies of TRAIN patients with the ``autoencoder`` and the ``generator`` of ``src``, from frames of
    ``videos``, if this store exists. Controls in ``report_only`` are not part of the guarantee. ``ScoringConfig``
    describes the parameters from ``on`` to ``seed``. Writes samples that pass to ``dst``, with the decision in
    dataset.json, and the scores and nearest patients of all samples to ``private``. The folder ``ledger`` records all
    decisions. If the rule gives no guarantee, no sample passes, and the command fails. With ``memoriser``, a copy of
    the generator is trained in ``work`` on a few patients, and its samples are scored without effect on the decision.
    """
    validation.true_or_false("memoriser", memoriser)
    test_config = MemorizationTestConfig(**memoriser_settings) if memoriser else None
    config = ScoringConfig(
        *(on, check_every, reference, reference_every, calibration, views, patients, steps, seed),
        view_grid=None if view_grid is None else read_view_grids(view_grid),
        outliers=outliers,
    )
    for key, value in (("copies", copies), ("outliers", outliers)):
        if value is not None and not isinstance(rule, Calibrated):
            raise UserError(f"rule={rule.name} compares samples by one network: set {key}=null, or rule=calibrated")
    store, study = Store(src), Store(real, kind="latent")
    _check_stores(store, study)
    not_tested: list[str] | None = None
    others: list[str] = []
    if not has_known_generator(store):
        if memoriser:
            raise UserError(f"memoriser=true needs the generator of src={src}, which is not known: set memoriser=false")
        not_tested = [name for name, one in controls.items() if getattr(one, "needs_generator", False)]
        controls, generator = {**controls, **dict.fromkeys(not_tested)}, None
        others = [split for split in SPLITS if split != "TRAIN" and split in set(study.table["Split"])]
    for key, path in (("private", private), ("work", work)):
        _check_private_folder(key, Path(path), Path(dst), store.root)
    decisions = find_ledger(ledger, study.root, (Path(private), Path(dst), store.root))
    selected = select_controls(controls, leave_out, report_only, config.views)
    generator_controls = [name for name, control in selected.items() if control.needs_generator]
    video_store = None if videos is None else _find_videos(Path(videos), study)
    model_fingerprint = _check_generator(generator, generator_controls, memoriser, on, store, study)
    networks = {"artifact": artifact} | ({} if copies is None else {"copies": copies})
    for key, folder in (*networks.items(), ("generator", generator), ("autoencoder", autoencoder)):
        check_unused_for_model_selection(folder, key, config.calibration)
    settings = {
        "source": store.checksum,
        "real": study.checksum,
        "reid": read_artifact(artifact, "reid").fingerprint,
        "copies": None if copies is None else read_artifact(copies, "reid").fingerprint,
        "generator": model_fingerprint if generator_controls else None,
        "videos": None if video_store is None else video_store.checksum,
        "rule": {"name": rule.name, **asdict(rule)},  # type: ignore[call-overload]
        "controls": {name: control.settings() for name, control in selected.items()},
        "report_only": sorted(set(report_only) & set(selected)),
        **asdict(config),
        "view_grid": record_view_grids(config.view_grid),
        "others": others or None,
    }
    private_lock = lock_for_writing(Path(private), key="private=")
    try:
        batch = completed_batch_folder(Path(dst), Path(private), settings)
        if batch is not None:
            measured = (read_record(batch / RECORD) or {}).get("memoriser")
            if test_config is None or (measured or {}).get("settings") == asdict(test_config):
                record = {**read_dataset(Path(dst)).settings, "memoriser": measured}
                return Summary(f"filter: {dst} already complete, nothing to do", summary_lines(record))
        check_ledger(decisions)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        embedders = {
            NETWORK_NAMES[key]: _load_embedder(key, folder, autoencoder, device, (store, study), rule)
            for key, folder in networks.items()
        }
        model = load_diffusion_model(str(generator), MODEL_NAMES[on]) if generator_controls or memoriser else None
        guidance = Guidance()
        if model is not None:
            guidance = Guidance.from_record(store.dataset.sampling_settings.get("guidance"), model.conditioner.names)
        recordings = Recordings(study, "TRAIN")
        copy_generator = CopyGenerator(recordings, autoencoder, model, guidance, steps, seed, device, video_store)
        samples = EncodedStore(store, copy_generator.vae, study) if store.dataset.kind == "video" else store
        memorised = None
        if test_config is not None:
            arguments = (str(generator), work, device, command, code_version)
            memorised = _memorised_samples(test_config, copy_generator, store, config, *arguments)
        memorized_latents = () if memorised is None else memorised.latents
        scores = score_samples(
            samples, study, embedders, copy_generator, rule, selected, report_only, config, memorized_latents,
            other_recordings=select_recordings(study, others, "real") if others else None,
        )  # fmt: skip
        decision = rule.decide(scores.evidence)
        measure = partial(_add_memoriser, memorised, scores, decision, store, study, config)
        if batch is not None:
            record = measure(batch)
            return Summary(f"filter: {dst} already complete, memoriser added to {batch}", summary_lines(record))
        entry = _ledger_entry(settings, store, scores.frames, model_fingerprint)
        tries = register_decision(decisions, entry, decision.passed, code_version)
        before = filter_record.count_decisions_without_ledger(read_record(Path(private) / RECORD), settings)
        tries = replace(tries, same_networks=max(tries.same_networks, before))
        known = model_fingerprint is not None
        described = filter_record.public_decision(decision, scores, rule, tries, known, not_tested, others)
        record = {**settings, "decision": described}
        record["evidence"] = entry.evidence_digest
        command = redact_paths_in_command(command)
        origin: dict[str, Any] = {"command": command, "code_version": code_version}
        files = {name: str(row[FILE_COLUMN]) for name, row in store.rows().items() if FILE_COLUMN in row}
        filter_record.write_private_folder(Path(private), scores, decision, {**record, **origin}, files)
        private_record = measure(Path(private))
        if decision.rejected(scores.samples.score).all():
            reason = f"all resemble a training patient{' or are outliers' if decision.outliers else ''}"
            problem = f"none of the {len(scores.names)} samples is below the threshold: {reason}"
            problem = (problem if decision.passed else decision.statement) + _withdraw_passed_store(Path(dst))
            return Summary(f"filter: no sample passes, {dst} was not written", summary_lines(private_record), problem)
        samples_record = {**record, "samples": store.dataset.settings}
        dataset = replace(store.dataset, settings=samples_record, statistics=None, **origin)
        filter_record.write_passed_samples(store, Path(dst), dataset, decision, scores)
        return Summary(f"filter: {dst} done", summary_lines(private_record))
    finally:
        unlock(private_lock)


def _find_videos(videos: Path, study: Store) -> Store | None:
    """Store that the latents ``study`` were encoded from: ``videos``, or a store in the same folder.

    With ``stage=keyframes``, the latents are encoded from ``videos_keyframes``. Returns ``videos`` if no store matches,
    and None if ``videos`` does not exist.
    """
    if not videos.exists():
        return None
    for folder in (videos, *sorted(videos.parent.iterdir())):
        if (folder / CHECKSUMS).is_file() and file_sha256(folder / CHECKSUMS) == study.dataset.settings.get("source"):
            return Store(folder, kind="video")
    return Store(videos, kind="video")  # CopyGenerator raises an error for a store that does not match


def _check_stores(store: Store, study: Store) -> None:
    """Raise ``UserError`` unless ``store`` has synthetic samples and ``study`` real recordings, of the same encoder."""
    if store.dataset.kind == "video" and "decoder" in store.dataset.settings:
        raise UserError(f"src={store.root} was decoded from latents, which record their generator: give the latents")
    frames_per_sample(store)
    if not store.dataset.synthetic:
        raise UserError(f"src={store.root} holds recordings of patients: give samples of a generator")
    if study.dataset.synthetic:
        raise UserError(f"real={study.root} holds samples of a generator: give the latents of the real study")
    if store.dataset.kind == "latent" and store.dataset.encoder != study.dataset.encoder:
        raise UserError(
            f"src={store.root} and real={study.root} are latents of different encoders: generate the "
            "samples again with models of this study"
        )
    sources = store.table["Source"].astype(str).tolist() if "Source" in store.table else []
    if "real" in sources or store.dataset.sampling_settings.get("source") == study.checksum:
        raise UserError(
            f"src={store.root} was generated from real recordings, such as those of {study.root}, and not from noise: "
            "generate videos from the images of stage=image"
        )
    for column, real_column in (("FileName", "FileName"), ("Source", "FileName"), ("PatientID", "PatientID")):
        real_names = set(study.table[real_column].astype(str))
        if column in store.table and real_names & set(store.table[column].astype(str)):
            raise UserError(
                f"src={store.root} has names of {study.root} in the column {column}, so the samples are not synthetic: "
                "generate samples from the images of stage=image"
            )


def _check_private_folder(key: str, private: Path, dst: Path, src: Path) -> None:
    """Raise ``UserError`` if ``private``, set by ``key``, lies in ``dst`` or ``src``, which may be shared."""
    folder = private.resolve()
    for shared in (dst, partial_path(dst), src):
        if shared.resolve() in (folder, *folder.parents):
            raise UserError(f"{key}={private} lies in {shared}, which may be shared: choose a folder elsewhere")


def _check_generator(
    folder: str | None, generator_controls: Sequence[str], memoriser: bool, on: str, store: Store, study: Store
) -> str | None:
    """Fingerprint of the generator in ``folder``; None for no generator.

    Raises ``UserError`` if ``generator_controls`` or ``memoriser`` need a generator and ``folder`` is None, and if the
    generator did not sample ``store``.
    """
    if folder is None and memoriser:
        raise UserError("memoriser=true trains a copy of generator=, the model that sampled src: give it")
    if folder is None and generator_controls:
        control = f"controls.{generator_controls[0]}"
        raise UserError(f"{control} needs generator=, the model that sampled src: give it, or {control}=null")
    if folder is None or not (generator_controls or memoriser or Path(folder).exists()):
        return None
    check_training_store(folder, MODEL_NAMES[on], study, "generator")
    check_initial_model(folder, MODEL_NAMES[on], "generator")
    fingerprint = read_artifact(folder, MODEL_NAMES[on]).fingerprint
    recorded = store.dataset.sampling_settings.get("model")
    if recorded is not None and recorded != fingerprint:
        raise UserError(f"generator={folder} did not sample src={store.root}: give the folder of the model that did")
    return fingerprint


def _memorised_samples(
    test_config: MemorizationTestConfig,
    copy_generator: CopyGenerator,
    store: Store,
    config: ScoringConfig,
    generator: str,
    work: str,
    device: str,
    command: str,
    code_version: str,
) -> MemorizedSamples:
    """Fine-tune the generator, and sample from it the number of frames that the filter compares per sample."""
    from echodream.training.fine_tuning import fine_tune, training_config

    cfg = training_config(generator, MODEL_NAMES[config.on])
    recordings, folders = fine_tune(
        cfg, generator, copy_generator.recordings, test_config, config.seed, Path(work), device, command, code_version
    )
    frames = len(config.compared_frame_indices(frames_per_sample(store)))
    sampling = store.dataset.sampling_settings
    models = folders, MODEL_NAMES[config.on]
    return sample_fine_tuned_models(*models, recordings, test_config, copy_generator, sampling, frames)


def _add_memoriser(
    memorised: MemorizedSamples | None,
    scores: FilterScores,
    decision: Decision,
    store: Store,
    study: Store,
    config: ScoringConfig,
    folder: Path,
) -> dict[str, Any]:
    """Measure which memorized samples pass the threshold; add the result to the record of the filter in ``folder``."""
    record = read_record(folder / RECORD) or {}
    if memorised is None:
        return record
    tau = record["decision"]["tau"]
    tau, delta = decision.tau if tau is None else float(tau), float(decision.settings.get("delta", 0.05))
    result, evidence = measure_memorization(memorised, scores.extra_scores, tau, delta, store, study, config)
    return filter_record.add_memorization_result(folder, result, evidence)


def _ledger_entry(settings: Mapping[str, Any], store: Store, frames: int, generator: str | None) -> LedgerEntry:
    """Ledger entry of the decision with ``settings`` on ``frames`` frames of the samples of ``store``."""
    sampling = store.dataset.sampling_settings
    networks = {"reid": settings["reid"], "generator": sampling.get("model", generator)}
    if settings["copies"] is not None:
        networks["copies"] = settings["copies"]
    rule = settings["rule"]
    excluded = ["real", "reid", "copies", *([] if rule.get("benjamini_hochberg") else ["source"])]
    excluded += [name for name in OPTIONAL_SETTINGS if settings[name] is None]
    decision = {name: value for name, value in settings.items() if name not in excluded}
    decision["frames"] = frames
    if settings["generator"] is not None:
        decision["guidance"] = sampling.get("guidance")
    return LedgerEntry({"real": settings["real"], **networks}, decision, settings["on"])


def _load_embedder(
    key: str, artifact: str, vae: str, device: str, stores: Sequence[Store], rule: Rule
) -> FrameEmbedder:
    """Load the network of setting ``key``. Raises ``UserError`` if the network does not fit ``stores``, (src, real)."""
    embedder = FrameEmbedder(artifact, vae, device)
    for store in (each for each in stores if each.dataset.kind == "latent"):  # pixels get the encoder of the study
        embedder.check_encoder(store)
    check_training_store(artifact, "reid", stores[-1], key, accept_videos=embedder.input_spec.on == "pixels")
    similarity = embedder.input_spec.similarity
    if isinstance(rule, Calibrated) and rule.similarity != similarity:
        raise UserError(
            f"rule.similarity={rule.similarity}, but {key}={artifact} was trained for {similarity} similarity: set "
            f"rule.similarity={similarity}"
        )
    return embedder


def _withdraw_passed_store(dst: Path) -> str:
    """Rename the store of an earlier run at ``dst``; returns a sentence for the user, or "" if there is no store."""
    if not dst.exists():
        return ""
    withdrawn = dst.with_name(f"{dst.name}.withdrawn")
    shutil.rmtree(withdrawn, ignore_errors=True)
    dst.rename(withdrawn)
    return f" The earlier {dst} is now {withdrawn}: do not share it."
