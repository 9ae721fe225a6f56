"""Runs started by Hydra launchers, sweeps and hyperparameter searches. Tests on a real SLURM are in tests/slurm."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from echodream import cli, engine
from echodream.config import launchers as launching
from echodream.config.launchers import launcher_error_message
from echodream.config.paths import CONF_DIR
from echodream.diffusion.model import load_diffusion_model
from echodream.errors import UserError
from echodream.runs import trainer as trainers
from echodream.training import fit as training
from tests.support.tiny_diffusion import latent_store, train_cfg
from tests.support.tiny_vae import moving_disc_store

ROOT = Path(__file__).resolve().parents[2]
TINY = [
    *("model=vae", "data=phantom", "vae.widths=[4,4]", "vae.layers=1", "vae.groups=2", "datamodule.batch_size=2"),
    *("datamodule.workers=0", "trainer.accelerator=cpu", "trainer.limit_train_batches=1", "trainer.max_epochs=1"),
]


def composed(program: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose(program, list(overrides), return_hydra_config=True)


def asked(folder: Path, program: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    around = {**os.environ, **environment}
    command = [sys.executable, str(ROOT / f"{program}.py"), *arguments]
    return subprocess.run(command, cwd=folder, env=around, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize(
    ("start", "launcher", "kind"),
    [
        (("train", "model=vae"), "slurm", "SlurmLauncher"),
        (("sample", "stage=image"), "local_jobs", "LocalLauncher"),
    ],
)
def test_a_launcher_needs_no_option(start: Sequence[str], launcher: str, kind: str) -> None:
    found = composed(*start, "data=phantom", f"launcher={launcher}").hydra
    assert found.launcher._target_.rpartition(".")[2] == kind
    assert found.mode.name == "MULTIRUN"
    assert composed(*start, "data=phantom").hydra.mode is None


def test_a_job_takes_its_processes_from_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Number of devices and nodes of ``trainer=ddp``: from SLURM, or without SLURM all devices of one machine."""
    for name in ("SLURM_NTASKS_PER_NODE", "SLURM_NNODES"):
        monkeypatch.delenv(name, raising=False)
    for start in (("train", "model=vae"), ("sample", "stage=image")):
        found = composed(*start, "data=phantom", "trainer=ddp").trainer
        assert (found.devices, found.num_nodes, found.strategy) == ("auto", 1, "ddp")
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "4")
    monkeypatch.setenv("SLURM_NNODES", "3")
    found = composed("train", "model=vae", "data=phantom", "trainer=ddp").trainer
    assert (found.devices, found.num_nodes) == (4, 3)


def test_lightning_does_not_queue_a_job_again_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning's automatic requeue must be off: later runs in the folder would load its mid-epoch checkpoint."""
    slurm = {"NTASKS": "2", "NTASKS_PER_NODE": "1", "NNODES": "2", "PROCID": "1", "LOCALID": "0", "NODEID": "1"}
    for name, value in slurm.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.delenv("SLURM_JOB_NAME", raising=False)
    (environment,) = trainers._slurm_environment()
    assert not environment.auto_requeue
    assert (environment.world_size(), environment.global_rank(), environment.node_rank()) == (2, 1, 1)
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE")
    with pytest.raises(UserError, match="--ntasks-per-node=2"):
        trainers.make_trainer(lambda **_: pytest.fail("not so far"), [])
    monkeypatch.delenv("SLURM_NTASKS")
    assert trainers._slurm_environment() == []


@pytest.mark.slow
def test_a_sweep_of_local_jobs_goes_on_after_a_failure_and_says_it(tmp_path: Path) -> None:
    moving_disc_store(tmp_path / "good", lengths=(3, 3))
    done = asked(tmp_path, "sample", "stage=verify", "src=absent,good", "launcher=local_jobs")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: absent does not exist: check src=")
    assert "#1 : stage=verify src=good" in done.stdout
    logs = [path.read_text() for path in tmp_path.glob("runs/store/sweep_verify/*/.submitit/*/*.out")]
    assert sorted(("good is a valid store" in log, "error: absent" in log) for log in logs) == [
        (False, True),
        (True, False),
    ]


@pytest.mark.slow
def test_a_search_seeks_what_it_is_told_among_validation_patients_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    moving_disc_store(tmp_path / "data/phantom/videos")
    monkeypatch.chdir(tmp_path)
    for trials in (1, 2):  # the second search finds the first trial already trained
        search = [*TINY, "hparams_search=vae", f"hydra.sweeper.n_trials={trials}", f"hydra.sweep.dir={trials}"]
        monkeypatch.setattr(sys, "argv", ["train.py", *search])
        GlobalHydra.instance().clear()
        cli.train()
        assert ("search_vae/0 done" in capfd.readouterr().out) == (trials == 1)
    best = OmegaConf.load("2/optimization_results.yaml")
    records = [json.loads((tmp_path / f"models/phantom/search_vae/{n}/artifact.json").read_text()) for n in (0, 1)]
    assert best.best_value == max(record["metrics"]["val/psnr"] for record in records)
    assert all(record["metrics"]["val/psnr"] != record["metrics"]["psnr"] for record in records)


@pytest.mark.slow
@pytest.mark.parametrize("allowed", [None, 0.5])
def test_a_trial_that_fails_ends_the_search_unless_that_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], allowed: float | None
) -> None:
    """An error in one of two parallel trials is printed. The search fails unless ``max_failure_rate`` allows errors."""

    def trained(cfg: DictConfig) -> dict[str, float]:
        if cfg.dst.endswith("/1"):
            raise UserError("the loss is not finite")
        return {"val/psnr": 20.0}

    monkeypatch.setattr(engine, "train", trained)
    monkeypatch.chdir(tmp_path)
    more = [] if allowed is None else [f"hydra.sweeper.max_failure_rate={allowed}"]
    search = [*TINY, "hparams_search=vae", "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=2", "hydra.sweep.dir=at"]
    monkeypatch.setattr(sys, "argv", ["train.py", *search, *more])
    GlobalHydra.instance().clear()
    if allowed is None:
        with pytest.raises(SystemExit) as stopped:
            cli.train()
        assert stopped.value.code == 1
    else:
        cli.train()
    said = capfd.readouterr()
    assert "error: the loss is not finite" in said.err.splitlines()
    assert "Failed experiment: the loss is not finite" in said.out
    assert (tmp_path / "at/optimization_results.yaml").is_file() == (allowed is not None)


@pytest.mark.slow
@pytest.mark.parametrize("model", sorted(path.stem for path in (CONF_DIR / "hparams_search").glob("[!b]*.yaml")))
def test_what_a_search_asks_for_is_there(model: str) -> None:
    asked_for = [f"model={model}", "data=phantom", f"hparams_search={model}"]
    found = composed("train", *asked_for)
    assert found.objective.startswith("val/")
    assert len(found.hydra.sweeper.params) >= 2
    trial = composed("train", *asked_for, *(f"{key}=0.25" for key in found.hydra.sweeper.params))
    assert all(OmegaConf.select(trial, key) == 0.25 for key in found.hydra.sweeper.params)


def test_an_objective_must_be_among_what_is_measured() -> None:
    assert launching.objective_value(None, {}) is None
    assert launching.objective_value("val/loss", {"val/loss": 2}) == 2.0
    with pytest.raises(UserError, match="objective=val/los was not measured: choose one of val/loss"):
        launching.objective_value("val/los", {"val/loss": 2})
    with pytest.raises(UserError, match="objective=auc is not measured on the validation patients"):
        launching.objective_value("auc", {"auc": 0.9})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plugin", "overrides", "says"),
    [
        ("hydra_submitit_launcher", ["launcher=slurm"], r"launcher= .*hydra-submitit-launcher.*'echodream\[cluster\]'"),
        (
            "hydra_optuna_sweeper",
            ["hparams_search=vae"],
            r"hparams_search= .*hydra-optuna-sweeper.*'echodream\[search\]'",
        ),
    ],
)
def test_a_package_that_is_not_installed_is_named(tmp_path: Path, plugin: str, overrides: list[str], says: str) -> None:
    code = f"import sys; sys.modules['hydra_plugins.{plugin}'] = None; from echodream.cli import train; train()"
    command = [sys.executable, "-c", code, "model=vae", "data=phantom", *overrides]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.fullmatch(f"error: {says}\n", done.stderr), done.stderr


@pytest.mark.slow
def test_without_slurm_its_launcher_says_so(tmp_path: Path) -> None:
    done = asked(tmp_path, "train", "model=vae", "data=phantom", "launcher=slurm", PATH="/nowhere")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: launcher=slurm needs SLURM")


def test_what_submitit_says_of_lost_jobs_becomes_a_sentence() -> None:
    from submitit.core.utils import FailedJobError, UncompletedJobError

    lost = launcher_error_message(UncompletedJobError("Job 3\nError stream produced:\n  - /runs/3/3_0_log.out\n"))
    assert lost is not None
    assert "/runs/3/3_0_log.out" in lost
    refused = launcher_error_message(
        FailedJobError("sbatch: error: invalid partition specified: x\nsbatch: error: Failed")
    )
    assert refused == (
        "SLURM refused the job (sbatch: error: invalid partition specified: x; sbatch: error: Failed): change this "
        "hydra.launcher setting"
    )
    assert launcher_error_message(ValueError("x")) is None


def test_processes_that_do_not_belong_together_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = SimpleNamespace(world_size=lambda: 2)
    connector = SimpleNamespace(cluster_environment=environment)
    made = SimpleNamespace(num_devices=2, num_nodes=1, _accelerator_connector=connector)
    trainers._check_process_count(made)  # type: ignore[arg-type]
    monkeypatch.setattr(trainers, "is_sweep_run", lambda: True)
    with pytest.raises(UserError, match=r"trainer.devices=2 is not possible in a sweep"):
        trainers._check_process_count(made)  # type: ignore[arg-type]
    monkeypatch.setattr(trainers, "SLURMEnvironment", SimpleNamespace)
    trainers._check_process_count(made)  # type: ignore[arg-type]
    made.num_nodes = 2
    with pytest.raises(UserError, match=r"has 2 tasks and trainer= is for 4: use trainer=ddp"):
        trainers._check_process_count(made)  # type: ignore[arg-type]


@pytest.mark.slow
def test_weights_in_parts_are_exported_from_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Export of the weights after sharded training. The test patches ``is_sharded``, so no GPU is necessary."""
    latent_store(tmp_path / "latents")
    monkeypatch.setattr(training, "is_sharded", lambda trainer: True)
    metrics = engine.train(train_cfg(tmp_path, "lidm", "callbacks.ema=null", "trainer.max_epochs=1"))
    (last,) = tmp_path.glob("runs/*/last.ckpt")
    weights = list(torch.load(last, weights_only=True)["state_dict"].values())
    exported = load_diffusion_model(str(tmp_path / "lidm"), "lidm").denoiser.state_dict()
    assert exported
    assert all(any(torch.equal(value, other) for other in weights) for value in exported.values())
    assert metrics["loss"] > 0


@pytest.mark.parametrize("more", [["model=vae"], ["model=lidm"], ["model=lidm", "callbacks.ema=null"]])
def test_sharded_training_says_what_it_cannot_do(tmp_path: Path, more: list[str]) -> None:
    cfg = composed("train", "data=phantom", "trainer=fsdp", *more)
    with pytest.raises(UserError, match=r"use trainer=ddp; for another model, add callbacks.ema=null"):
        training.check_settings(cfg)


def test_sharded_training_needs_a_gpu() -> None:
    settings = ["trainer.devices=2", "trainer.accelerator=cpu", "trainer.precision=32-true"]
    cfg = composed("train", "data=phantom", "trainer=fsdp", "model=lidm", *settings)
    with pytest.raises(UserError, match=r"fsdp. requires a GPU accelerator"):
        trainers.make_trainer(instantiate(cfg.trainer), [])
