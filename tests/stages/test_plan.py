"""Tests of stage=plan: the filter accepts the planned alpha and beta; planned experiment and commands compose."""

import json
import math
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import echodream
from echodream import engine
from echodream.config.composition import composed_command
from echodream.errors import UserError
from echodream.planning.experiment import planned_batch, planned_rule
from echodream.planning.fingerprint import Fingerprint
from echodream.planning.timing import ModelTiming
from echodream.privacy.rules import Calibrated
from echodream.stages.plan import _rule_and_bounds
from echodream.store import Store
from tests.support import tiny_filter


def planned(folder: Path, *arguments: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Plan a study of the phantom without timing; returns the summary and the content of plan.json."""
    fixed = [
        "stage=plan",
        "data=phantom",
        "steps=0",
        "probes=2",
        f"paths.reports={folder}",
        f"paths.data={folder}/data",
    ]
    summary = echodream.run("sample", [*fixed, *arguments])
    return summary, json.loads(Path(summary["dst"], "plan.json").read_text())


@pytest.mark.slow
def test_a_plan_counts_and_its_commands_compose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    summary, record = planned(tmp_path, "experiment=smoke", "data.source.patients=40", "gpus=2", "rule.delta=0.05")
    patients = record["study"]["patients"]
    assert (patients["TRAIN"], patients["VAL"] + patients["TEST"]) == (20, 20)
    assert patients["TEST"] == sum(counts["TEST"] for counts in record["study"]["patients by class"].values())
    privacy, new = record["privacy"], patients["TEST"]
    assert privacy["alpha"] == 1 / (new + 1)
    assert privacy["certifying"] == 20  # rule.choose=0: copies of all 20 training patients certify
    assert privacy["beta"] == pytest.approx(1 - 0.05 ** (1 / 20))
    alpha = math.ceil(10_000 / (new + 1)) / 10_000
    rule = {"alpha": alpha, "alpha_max": 0.9, "beta": 0.1392, "delta": 0.05, "choose": 0.0}
    assert privacy["settings"] == rule
    assert (privacy["more_calibration"], privacy["more_training"]) == (19 - new, 39)
    assert f"{19 - new} more calibration patients are needed for 5 %" in summary["alpha"]
    assert "39 more training patients are needed for 5 %" in summary["beta"]
    assert "112x112, resized to 64x64" in summary["frames"]
    screen = Path(summary["dst"], "plan.txt").read_text()
    assert len(screen.splitlines()) <= 45
    assert record["commands"][0].startswith("python sample.py stage=ingest data=phantom data.source.patients=40")
    seen = []
    for line in record["commands"]:
        _, program, *arguments = shlex.split(line)
        with composed_command(program.removesuffix(".py"), arguments) as cfg:
            engine.check_and_resolve(cfg)
            seen.append((program, cfg))
    assert len(seen) == 15
    rules = [cfg.rule for _, cfg in seen if "rule" in cfg]
    assert [{name: each[name] for name in rule} for each in rules] == [rule] * 2
    image = next(cfg for _, cfg in seen if str(cfg.get("stage", {}).get("_target_")).endswith("image.image"))
    assert (image.n, image.steps) == (48, 2)  # the values of experiment=smoke
    trainings = [cfg for program, cfg in seen if program == "train.py"]
    assert {cfg.model.name for cfg in trainings} == {"vae", "lidm", "reid", "lvdm", "classifier"}
    assert {cfg.trainer.devices for cfg in trainings} == {2}
    assert {tuple(cfg.vae.widths) for cfg in trainings if "vae" in cfg} == {(8, 16, 16, 16)}


@pytest.mark.slow
def test_the_rule_is_that_of_the_filter_with_the_same_experiment(tmp_path: Path) -> None:
    """experiment=demo certifies with all 120 training patients of the phantom, and allows alpha up to 0.25."""
    _, record = planned(tmp_path, "experiment=demo")
    privacy = record["privacy"]
    assert (privacy["certifying"], privacy["settings"]["choose"], privacy["settings"]["alpha_max"]) == (120, 0, 0.25)
    assert privacy["beta"] == pytest.approx(1 - 0.05 ** (1 / 120))
    _, record = planned(tmp_path / "default")
    assert (record["privacy"]["certifying"], record["privacy"]["settings"]["choose"]) == (60, 0.5)


@pytest.mark.slow
def test_an_own_study_is_planned_from_its_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "mine" / "data" / "hearts.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("defaults: [phantom]\nname: hearts\nsize: 32\n")
    study = ["--config-dir", "mine", "data=hearts", "data.source.patients=6"]
    echodream.run("sample", ["stage=ingest", *study, "workers=0"])
    (tmp_path / "reports").mkdir()
    summary = echodream.run("sample", ["stage=plan", *study, "steps=0", "models=[vae,lvdm]"])
    record = json.loads(Path(summary["dst"], "plan.json").read_text())
    store = echodream.open_store("data/hearts/videos")
    assert record["study"]["recordings"] == len(store)
    assert record["study"]["sizes"] == ["32x32"]
    assert any(re.match(r"class \S+ has \d patients: with fewer than 10", text) for text in record["unwise"])
    assert record["commands"][0].startswith("python train.py model=vae data=hearts data.source.patients=6")
    for line in record["commands"]:
        _, program, *arguments = shlex.split(line)
        with composed_command(program.removesuffix(".py"), arguments) as cfg:
            engine.check_and_resolve(cfg)
            assert cfg.data.name == "hearts"


def test_the_filter_allows_the_planned_alpha_and_beta_and_nothing_below(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A filter decision with the planned settings: 14 training patients, 5 new patients, all copies recognized."""
    tiny_filter.plant(monkeypatch, tmp_path)
    study = tiny_filter.study(tmp_path / "latents")
    tiny_filter.samples(tmp_path / "images", tiny_filter.drawn())
    rule, bounds = _rule_and_bounds(Calibrated(), Fingerprint(study.table, [], []), ["TEST"], 0.05)
    settings = planned_rule(rule, bounds, 0.05)
    assert settings["alpha"] == pytest.approx(1 / 6, abs=1e-4)
    assert settings["beta"] == pytest.approx(1 - 0.05 ** (1 / 14), abs=1e-4)
    fixed = ["rule.delta=0.05", "rule.alpha_max=0.4", "rule.choose=0"]

    def decide(name: str, alpha: float, beta: float) -> Any:
        own = [f"dst={tmp_path}/{name}", f"private={tmp_path}/report_{name}", f"ledger={tmp_path}/ledger_{name}"]
        changes = [f"rule.alpha={alpha}", f"rule.beta={beta}", *fixed, *own]
        return engine.sample(tiny_filter.cfg(tmp_path, *changes))

    decide("planned", settings["alpha"], settings["beta"])
    passed = Store(tmp_path / "planned").table["FileName"].tolist()
    assert passed
    assert not any(name.startswith("copy") for name in passed)
    with pytest.raises(UserError, match="needs 6 calibration patients and there are 5"):
        decide("lower_alpha", settings["alpha"] - 0.002, settings["beta"])
    with pytest.raises(UserError, match="14"):
        decide("lower_beta", settings["alpha"], settings["beta"] - 0.002)


def timing(**changes: Any) -> ModelTiming:
    """Timing of a model that needs 2 GB of memory, and 0.5 GB for each of 16 samples of a batch."""
    given = {
        "model": "lidm",
        "parameters": 1,
        "batch": 16,
        "steps": 1,
        "epochs": 1,
        "seconds_per_step": 1.0,
        "hours": 1.0,
    }
    given |= {"gigabytes": 10.0, "gigabytes_per_sample": 0.5, "disk": 1, "device": "CPU"}
    return ModelTiming(**{**given, **changes})


@pytest.mark.parametrize(("memory", "batch"), [(None, 16), (12.0, 16), (11.0, 15), (8.0, 10), (3.0, 1), (2.0, 0)])
def test_the_batch_is_limited_by_the_memory(memory: float | None, batch: int) -> None:
    assert planned_batch(timing(), memory) == batch
    if memory is not None and 0 < batch < 16:
        assert 2 + 0.5 * batch <= 0.9 * memory < 2 + 0.5 * (batch + 1)


def test_alpha_and_beta_are_rounded_up_and_never_below_the_target() -> None:
    rule = Calibrated()
    few = _rule_and_bounds(rule, Fingerprint(_patients(9, 2), [], []), ["TEST"], 0.05)
    assert planned_rule(*few, 0.05) == {
        "alpha": 0.3334,
        "alpha_max": 0.3334,
        "beta": 0.2832,
        "delta": 0.05,
        "choose": 0.0,
    }
    many = _rule_and_bounds(rule, Fingerprint(_patients(400, 90), [], []), ["TEST"], 0.05)
    assert planned_rule(*many, 0.05) == {"alpha": 0.05, "alpha_max": 0.2, "beta": 0.05, "delta": 0.05, "choose": 0.5}
    assert math.isclose(many[1].alpha, 1 / 91)


def _patients(training: int, test: int) -> Any:
    import pandas as pd

    splits = ["TRAIN"] * training + ["TEST"] * test
    return pd.DataFrame({"PatientID": [str(number) for number in range(len(splits))], "Split": splits})


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("target=1", "target is 1"),
        ("models=[vae,unet]", "models is 'unet': choose one of vae, lidm"),
        ("steps=-1", "steps is -1"),
        ("gpus=0", "gpus is 0"),
        ("memory=0", "memory is 0.*in gigabytes"),
        ("rule=percentile", "leave rule= out"),
        ("raw=/nowhere", "raw=/nowhere is set"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path: Path, argument: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        planned(tmp_path, "data.source.patients=6", argument)


@pytest.mark.slow
def test_a_model_is_timed_and_one_that_cannot_be_is_named(tmp_path: Path) -> None:
    fixed = [
        "stage=plan",
        "data=phantom",
        "steps=2",
        "probes=2",
        f"paths.reports={tmp_path}",
        f"paths.data={tmp_path}/x",
    ]
    summary = echodream.run(
        "sample",
        [*fixed, "preset=tiny", "data.size=36", "data.source.patients=10", "models=[vae,lidm]", "memory=0.001"],
    )
    record = json.loads((tmp_path / "phantom" / "plan" / "plan.json").read_text())
    assert "not divisible by 8" in record["not timed"]["vae"]
    assert record["models"]["lidm"]["seconds_per_step"] > 0
    assert record["models"]["lidm"]["planned batch"] == 0
    assert any("does not fit into 0.001 GB" in text for text in record["unwise"])
    assert "M parameters" in summary["lidm"]
