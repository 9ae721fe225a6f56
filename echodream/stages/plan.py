"""``stage=plan``: before training, compute the bounds that a study's patients can certify, and each model's cost."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate

from echodream import validation
from echodream.config.composition import composed_command, study_arguments, user_config_folders
from echodream.config.stage_signature import InputPath, OutputPath
from echodream.errors import UserError
from echodream.ingest.source import Limits, Source
from echodream.ingest.split import SplitRatios
from echodream.planning.experiment import planned_batch, planned_commands, planned_rule, write_experiment
from echodream.planning.fingerprint import Fingerprint, fingerprint_raw, fingerprint_store
from echodream.planning.timing import ModelTiming, RandomStudy, time_model
from echodream.privacy.certifiable_bounds import CertifiableBounds, certifiable_bounds
from echodream.privacy.rules import Calibrated
from echodream.runs.atomic_folder import write_record, write_text
from echodream.runs.summary import Summary

RECORD, TEXT_FILE, CONF_FOLDER = "plan.json", "plan.txt", "conf"
_MODELS = ("vae", "lidm", "reid", "lvdm", "classifier")
_NEW_LINE = "\n    "


def plan(
    *,
    source: Source,
    split: SplitRatios,
    limits: Limits,
    prepared: Mapping[str, Any],
    rule: Calibrated,
    calibration: Sequence[str],
    target: float,
    models: Sequence[str],
    steps: int,
    gpus: int | None,
    memory: float | None,
    probes: int,
    raw: InputPath | None,
    videos: InputPath,
    dst: OutputPath,
    seed: int,
    command: str,
    code_version: str,
) -> Summary:
    """Describe the raw files ``raw`` read by ``source``, or the store ``videos``, and write the folder ``dst``.

    ``rule`` and ``calibration`` are settings of stage=filter, which the experiment can replace. The plan has the number
    of further patients for an alpha and beta of ``target``. Each of the ``models`` is trained for a few ``steps`` on
    random data of the study's size; ``steps=0``: no timing. ``gpus`` and ``memory`` (gigabytes per GPU) describe the
    machine of the training. ``probes`` raw recordings are read. Writes plan.json, plan.txt, and an experiment to the
    folder conf of ``dst``, for --config-dir.
    """
    validation.number("target", target, above=0, below=1)
    for name, value, minimum in (("steps", steps, 0), ("probes", probes, 1), ("seed", seed, 0)):
        validation.whole_number(name, value, minimum)
    for name in validation.list_of_names("models", models):
        validation.one_of("models", name, _MODELS)
    if gpus is not None:
        validation.whole_number("gpus", gpus)
    if memory is not None:
        validation.positive_number("memory", memory, note=", in gigabytes")
    if not isinstance(rule, Calibrated):
        raise UserError("stage=plan is about the guarantee of rule=calibrated: leave rule= out")
    arguments = study_arguments()
    is_raw = raw is not None or not Path(videos).is_dir()
    if is_raw:
        study = fingerprint_raw(source, None if raw is None else Path(raw), split, limits, prepared, probes, seed)
    else:
        study = fingerprint_store(Path(videos))
    channels = 1 if prepared["grey"] else 3
    rule, calibration = _filter_settings(arguments)
    rule, bounds = _rule_and_bounds(rule, study, calibration, target)
    timings, failures = _time_models(study, channels, arguments, models, steps)
    clip = _clip_length(arguments) if "lvdm" in models else None
    settings = planned_rule(rule, bounds, target)
    sections: dict[str, dict[str, Any]] = {"sample/filter": {"rule": settings}}
    batches = {timing.model: planned_batch(timing, memory) for timing in timings}
    for timing in timings:
        if 0 < batches[timing.model] < timing.batch:
            sections[f"train/{timing.model}"] = {"datamodule": {"batch_size": batches[timing.model]}}
    folder = Path(dst) / CONF_FOLDER
    write_experiment(folder, arguments, sections)
    command_lines = planned_commands(
        [str(folder), *user_config_folders()], arguments, raw if is_raw else None, models, gpus
    )
    record = {
        "study": study.as_json(),
        "privacy": {**asdict(bounds), "delta": rule.delta, "target": target, "settings": settings},
        "models": {timing.model: {**asdict(timing), "planned batch": batches[timing.model]} for timing in timings},
        "not timed": failures,
        "unwise": [*study.problems(clip), *_memory_problems(timings, batches, memory)],
        "commands": command_lines if is_raw else command_lines[1:],
        "machine": {"gpus": gpus, "memory": memory},
    }
    write_record(Path(dst) / RECORD, {**record, "command": command, "code_version": code_version})
    summary = Summary(f"plan: {dst} done", _summary_lines(record, folder), files=(RECORD, TEXT_FILE))
    write_text(Path(dst) / TEXT_FILE, f"{summary}\n")
    return summary


def _filter_settings(arguments: Sequence[str]) -> tuple[Calibrated, list[str]]:
    """Rule and calibration splits of stage=filter with ``arguments`` and the overrides of the current command."""
    overrides = [text for text in HydraConfig.get().overrides.task if text.startswith(("rule.", "calibration="))]
    with composed_command("sample", ["stage=filter", *arguments, *overrides]) as cfg:
        return instantiate(cfg.rule), [str(split) for split in cfg.calibration]


def _rule_and_bounds(
    rule: Calibrated, study: Fingerprint, calibration: Sequence[str], target: float
) -> tuple[Calibrated, CertifiableBounds]:
    """The rule, with choose=0 if a beta of ``target`` needs it, and the bounds that the patients can certify."""
    training, new = study.patients("TRAIN"), sum(len(study.patients(split)) for split in calibration)
    bounds = certifiable_bounds(rule, training, new, target)
    if bounds.more_training and rule.choose:
        rule = replace(rule, choose=0.0)
        bounds = certifiable_bounds(rule, training, new, target)
    return rule, bounds


def _time_models(
    study: Fingerprint, channels: int, arguments: Sequence[str], models: Sequence[str], steps: int
) -> tuple[list[ModelTiming], dict[str, str]]:
    """Timings of ``models``, and by model the reason why the model has no timing."""
    if not steps:
        return [], dict.fromkeys(models, "steps=0")
    timings, failures = list[ModelTiming](), dict[str, str]()
    with tempfile.TemporaryDirectory(prefix="echodream-plan-") as folder:
        try:
            random_study = RandomStudy(Path(folder), study.table, channels, arguments)
        except UserError as error:
            return [], dict.fromkeys(models, str(error))
        for name in models:
            try:
                timings.append(time_model(name, random_study, steps))
            except UserError as error:
                failures[name] = str(error).replace(folder, "...")
    return timings, failures


def _clip_length(arguments: Sequence[str]) -> int | None:
    with composed_command("train", ["model=lvdm", *arguments]) as cfg:
        return int(cfg.view.frames) * int(cfg.view.stride)


def _memory_problems(timings: Sequence[ModelTiming], batches: Mapping[str, int], memory: float | None) -> list[str]:
    """Models that do not fit into ``memory`` gigabytes with their batch size."""
    problems = []
    for timing in timings:
        size = f"{timing.model} needs about {timing.gigabytes:.1f} GB with batches of {timing.batch}"
        if not batches[timing.model]:
            problems.append(f"{size}, and does not fit into {memory:g} GB with any batch: choose a smaller preset=")
        elif batches[timing.model] < timing.batch:
            problems.append(f"{size}: the experiment has datamodule.batch_size={batches[timing.model]}")
    return problems


def _summary_lines(record: Mapping[str, Any], folder: Path) -> dict[str, object]:
    """Lines of the summary, which fit on one screen."""
    study, privacy, models = record["study"], record["privacy"], record["models"]
    counts = [f"{name} {count}" for name, count in study["patients"].items()]
    facts: dict[str, object] = {"patients": f"{sum(study['patients'].values())}: {', '.join(counts)}"}
    for name, splits in study["patients by class"].items():
        facts[f"class {name}"] = f"{sum(splits.values())} patients: {', '.join(f'{s} {n}' for s, n in splits.items())}"
    low, middle, high = study["recordings per patient"]
    facts["recordings"] = f"{study['recordings']}; per patient {low:g} to {high:g}, median {middle:g}"
    low, middle, high = study["frames"]
    rates = study["frames per second"]
    speed = f"{rates[0]:g}" if len(rates) == 1 else f"{rates[0]:g} to {rates[-1]:g}"
    sizes, prepared = (
        texts[0] if len(texts) == 1 else f"{len(texts)} sizes"
        for texts in (study["sizes"], study["sizes after preprocessing"])
    )
    sizes = sizes if sizes == prepared else f"{sizes}, resized to {prepared}"
    facts["frames"] = f"{low:g} to {high:g}, median {middle:g}; {speed} per second; {sizes}"
    for name, kind, key in (("alpha", "calibration", "calibration"), ("beta", "training", "certifying")):
        more = privacy[f"more_{kind}"]
        needed = f"{more} more {kind} patients are needed for {100 * privacy['target']:g} %" if more else "enough"
        facts[name] = f"at least {100 * privacy[name]:.3g} % with {privacy[key]} {key} patients; {needed}"
    for name, timing in models.items():
        facts[name] = (
            f"{timing['parameters'] / 1e6:.3g} M parameters, {timing['steps']} steps of {timing['batch']} samples, "
            f"{timing['seconds_per_step']:.3g} s each: {timing['hours']:.3g} h, {timing['gigabytes']:.2g} GB memory, "
            f"{timing['disk'] / 1e9:.2g} GB disk"
        )
    if models:
        device = next(iter(models.values()))["device"]
        total = sum(timing["hours"] for timing in models.values())
        facts["measured on"] = (
            f"this machine, {device}: {total:.3g} h for all models; another machine needs its own plan"
        )
    facts |= {f"{name} not timed": reason for name, reason in record["not timed"].items()}
    facts["unwise"] = _NEW_LINE.join(["", *record["unwise"]]) if record["unwise"] else "nothing found"
    facts["experiment"] = f"{folder}, for --config-dir, with experiment=plan"
    facts["commands"] = _NEW_LINE.join(["", *record["commands"]])
    return facts
