"""``stage=audit``: measure the information that a synthetic set contains about its training patients."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from echodream import validation
from echodream.auditing.attributes import read_attributes
from echodream.auditing.canaries import CanaryConfig, canary_record, summarize_canaries
from echodream.auditing.embedding_sets import EmbeddingSetConfig, build_audit_sets
from echodream.auditing.inputs import open_inputs
from echodream.auditing.membership_inference import MembershipConfig, denoising_errors, membership_measures
from echodream.auditing.planted_copies import PlantedCopies, make_copies, measure_power, power_record
from echodream.auditing.plots import audit_plots
from echodream.auditing.record import UNKNOWN_GENERATOR, build_record, measure_all, summarize
from echodream.config.stage_signature import InputPath, OutputPath
from echodream.errors import UserError
from echodream.runs.atomic_folder import atomic_folder, read_record, require_same_settings, write_record
from echodream.runs.summary import Summary

RECORD = "audit.json"


def audit(
    *,
    on: str,
    src: InputPath | None,
    real: InputPath,
    artifact: InputPath | None,
    autoencoder: InputPath,
    generator: InputPath | None,
    dst: OutputPath,
    held_out: Sequence[str],
    frames: int,
    per_patient: int,
    every: int,
    seed: int,
    cells: int | None,
    far: float,
    pairs: int,
    plant: int,
    attributes: Sequence[str] | None,
    membership: Mapping[str, int],
    canaries: bool,
    canary: Mapping[str, Any],
    command: str,
    code_version: str,
) -> Summary:
    """Compare the synthetic latents ``src`` with the patients of the store ``real``; write the folder ``dst``.

    ``src`` can also be pixels from another program. ``on``, "image" or "video", selects the default folders.
    ``artifact`` is the identity network. ``held_out`` are splits on which the generator was not trained. Membership
    inference needs ``generator``. ``plant`` is the number of times that copies replace random samples, to measure the
    power of the audit. ``attributes`` are columns of both stores; None: all columns. With ``canaries``, only the bound
    on epsilon is measured, for a ``generator`` trained with canaries. Raises ``UserError`` for unsuitable inputs.
    """
    from PIL import Image

    if validation.true_or_false("canaries", canaries):
        origin = {"command": command, "code_version": code_version}
        return _audit_canaries(
            generator, real, dst, CanaryConfig(**canary), MembershipConfig(**membership), seed, origin
        )
    if src is None or artifact is None:
        raise UserError(f"{'src' if src is None else 'artifact'}=null is possible with canaries=true only: give it")
    validation.one_of("on", on, ("image", "video"))
    if cells is not None:
        validation.whole_number("cells", cells, note=", or null")
    validation.number("far", far, above=0, below=1, note=", for example 0.01")
    validation.whole_number("pairs", pairs, 0)
    validation.whole_number("plant", plant, 0)
    config = EmbeddingSetConfig(frames=frames, per_patient=per_patient, every=every, seed=seed)
    membership_config = MembershipConfig(**membership)
    inputs = open_inputs(src, real, held_out, artifact, autoencoder, generator, decode=pairs > 0)
    settings = {
        **inputs.fingerprints(),
        "held_out": sorted(held_out),
        **asdict(config),
        "cells": cells,
        "far": far,
        "pairs": pairs,
        "plant": plant,
        "attributes": None if attributes is None else list(attributes),
        "membership": membership_config.settings() if inputs.generator else None,
    }
    recordings = (inputs.samples, inputs.train, inputs.held_out)
    read_attributes(*recordings, [], attributes)  # raises UserError before anything is written
    target = Path(dst)
    with atomic_folder(target) as folder:
        if folder is None:
            require_same_settings(target / RECORD, settings, "an audit")
            return summarize(target / RECORD, "already complete, nothing to do", read_record(target / RECORD) or {})
        for leftover in folder.iterdir():
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        frame_count = min(frames, int(inputs.samples.frames.min()))
        copies = make_copies(inputs, autoencoder, frame_count, seed) if plant else PlantedCopies()
        values = read_attributes(*recordings, copies.copied_patients(), attributes)
        audit_sets = build_audit_sets(inputs.embedder, *recordings, config, far, cells, copies.latents, values)
        spaces = [sets.with_samples(range(len(inputs.samples))) for sets in audit_sets]
        measures, not_measured = measure_all(spaces)
        power: dict[str, Any] = {}
        if plant:
            counts = {kind: len(latents) for kind, latents in copies.latents.items()}
            measures, power = measure_power(audit_sets, counts, measures, plant)
        errors = None
        if inputs.generator is None:
            reason = "generator=null: no network to attack" if inputs.generator_known else UNKNOWN_GENERATOR
            not_measured["membership inference"] = reason
        else:
            model, view = inputs.generator
            try:
                errors = denoising_errors(model, view, inputs.train, inputs.held_out, membership_config, config.seed)
                measures += membership_measures(errors, model, config.seed)
            except UserError as error:
                not_measured["membership inference"] = str(error)
        if not pairs:
            not_measured["picture of the nearest samples"] = "pairs=0"
        for name, pixels in audit_plots(inputs, spaces[0], measures, errors, pairs):
            Image.fromarray(pixels).save(folder / f"{name}.png")
        record = {**settings, **build_record(inputs, spaces[0], measures, not_measured)}
        record |= {"power": power_record(copies, plant, power), "command": command, "code_version": code_version}
        write_record(folder / RECORD, record)
    return summarize(target / RECORD, "done", read_record(target / RECORD) or {})


def _audit_canaries(
    generator: str | None,
    real: str,
    dst: str,
    config: CanaryConfig,
    membership: MembershipConfig,
    seed: int,
    origin: Mapping[str, str],
) -> Summary:
    """Write the audit of a ``generator`` with canaries to the folder ``dst``."""
    if generator is None:
        raise UserError("canaries=true needs generator=, a model that was trained with canaries=: give it")
    settings, measure = canary_record(generator, real, config, membership, seed)
    target, state = Path(dst), "done"
    with atomic_folder(target) as folder:
        if folder is None:
            require_same_settings(target / RECORD, settings, "an audit")
            state = "already complete, nothing to do"
        else:
            write_record(folder / RECORD, {**settings, **measure(), **origin})
    return summarize_canaries(target / RECORD, state, read_record(target / RECORD) or {})
