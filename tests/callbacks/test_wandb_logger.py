"""Weights & Biases offline: the test reads back the written run, which has no patient data; no interactive prompts."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger

from echodream import engine
from echodream.artifact import read_artifact
from echodream.callbacks import wandb_logger
from echodream.callbacks.image_logging import log_image
from echodream.callbacks.previews import Previews
from echodream.callbacks.wandb_logger import CHARTS, PATIENTS, SAMPLES, PrivateWandbLogger
from echodream.config.paths import CONF_DIR
from echodream.errors import UserError
from echodream.store.checksums import file_sha256
from echodream.training.wandb_lineage import log_artifact, redact_values, run_id
from tests.support import tiny_report
from tests.support.tiny_vae import moving_disc_store, tiny_autoencoder, train_cfg, write_vae_artifact
from tests.support.wandb_records import offline_runs, records

WORDS = ["WANDB_API_KEY", "WANDB_MODE", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL", "NETRC"]


@pytest.fixture(autouse=True)
def _nobody_is_logged_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in WORDS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def cfg_of(folder: Path, *overrides: str) -> Any:
    loggers = ["logger=[csv,wandb,tensorboard]", f"logger.wandb.save_dir={folder}/logs"]
    return train_cfg(folder, *loggers, f"logger.tensorboard.save_dir={folder}/logs", "trainer.max_epochs=1", *overrides)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One training with all three loggers; then the same command again after its artifact was deleted."""
    folder = tmp_path_factory.mktemp("tracked")
    with pytest.MonkeyPatch.context() as patch:
        for name in WORDS:
            patch.delenv(name, raising=False)
        patch.setenv("HOME", str(folder / "home"))
        moving_disc_store(folder / "videos")
        engine.train(cfg_of(folder))
        shutil.rmtree(folder / "vae")
        engine.train(cfg_of(folder))
    return folder


@pytest.mark.slow
def test_settings_metrics_and_both_runs_of_one_command(trained: Path) -> None:
    first, again = offline_runs(trained / "logs")
    assert first.id == again.id
    assert first.id == run_id(trained / "runs" / read_artifact(trained / "vae", "vae").settings[:12], settings(trained))
    assert first.resumes
    assert first.config["vae"]["widths"] == [8, 16]
    assert first.config["trainer"]["max_epochs"] == 1
    assert len(first.values("train/loss")) == 4
    (psnr,) = first.values("test/psnr")
    assert psnr == pytest.approx(read_artifact(trained / "vae", "vae").metrics["psnr"], abs=1e-5)
    assert (trained / "logs" / "csv" / "metrics.csv").is_file()
    assert list((trained / "logs" / "tensorboard").glob("events*"))


def settings(folder: Path) -> str:
    return read_artifact(folder / "vae", "vae").settings


@pytest.mark.slow
def test_the_model_is_named_by_its_weights_and_linked_to_its_store(trained: Path) -> None:
    run, _ = offline_runs(trained / "logs")
    fingerprint, sums = (
        read_artifact(trained / "vae", "vae").fingerprint,
        file_sha256(trained / "videos" / "SHA256SUMS"),
    )
    assert run.artifacts.keys() == {f"vae-{fingerprint[:12]}", f"store-{sums[:12]}"}
    model, store = run.artifacts[f"vae-{fingerprint[:12]}"], run.artifacts[f"store-{sums[:12]}"]
    assert (model.type, store.type) == ("model", "dataset")
    assert store.use_after_commit
    assert not model.use_after_commit
    assert [(entry.ref, entry.local_path) for entry in model.manifest.contents] == [(f"sha256:{fingerprint}", "")]
    assert [entry.ref for entry in store.manifest.contents] == [f"sha256:{sums}"]
    assert json.loads(model.metadata)["source"] == sums
    assert json.loads(model.metadata)["metrics"]["psnr"] > 0


@pytest.mark.slow
def test_offline_run_has_no_patient_path_or_machine(trained: Path) -> None:
    """Images of patients stay in the folder of the run; Weights & Biases gets no image, path or machine name."""
    run, _ = offline_runs(trained / "logs")
    assert (trained / "pictures" / "reconstruction_00000.png").is_file()
    assert not run.values("reconstruction")
    assert not run.values("reconstruction._type")
    assert run.media == ["requirements.txt"]
    text = "\n".join(map(str, records(run.path)))
    assert str(trained) not in text
    assert not re.search(r"\b[pr]\d\b", text)  # patients are named p0, p1, ...; recordings r0, r1, ...
    assert run.host == "-"
    assert not run.kinds & {"output", "output_raw", "environment", "stats"}


@pytest.mark.slow
def test_images_are_logged_by_content(tmp_path: Path) -> None:
    logger = PrivateWandbLogger(str(tmp_path), "p", "n", id="pictures")
    trainer = SimpleNamespace(is_global_zero=True, current_epoch=3, global_step=9, loggers=[logger])
    for kind in (CHARTS, SAMPLES, PATIENTS):
        log_image(trainer, tmp_path / "p", kind, np.zeros((6, 8, 3), np.uint8), kind)  # type: ignore[arg-type]
    wandb_logger.finish_run()
    (run,) = offline_runs(tmp_path)
    assert [bool(run.values(f"{kind}._type")) for kind in (CHARTS, SAMPLES, PATIENTS)] == [True, True, False]
    assert len(list((tmp_path / "p").glob("*.png"))) == 3


class Drawing:
    """Model that generates clips of twelve frames, with or without a patient's frame as a condition."""

    def __init__(self, *names: str) -> None:
        self.conditioner = SimpleNamespace(names=names)

    def preview(self, batch: Any, count: int, steps: int) -> torch.Tensor:
        return torch.linspace(-3, 3, count * 3 * 12 * 5 * 7).reshape(count, 3, 12, 5, 7)


@pytest.mark.parametrize(
    ("names", "pictures", "there"),
    [
        (("class_id",), "samples", True),
        (("reference", "class_id"), "samples", False),
        (("reference", "class_id"), "patients", True),
    ],
)
@pytest.mark.slow
def test_clips_that_begin_with_a_patient_are_not_logged(
    tmp_path: Path, names: tuple[str, ...], pictures: str, there: bool
) -> None:
    logger = PrivateWandbLogger(str(tmp_path), "p", "n", id="videos", pictures=pictures)
    trainer: Any = SimpleNamespace(is_global_zero=True, current_epoch=3, global_step=9, loggers=[logger])
    _ = logger.experiment
    shown: Any = Drawing(*names)
    Previews(str(tmp_path / "p"), str(tmp_path / "vae"), 2, 4).on_validation_batch_end(trainer, shown, None, "b", 0)
    wandb_logger.finish_run()
    (run,) = offline_runs(tmp_path)
    assert [bool(run.values(key)) for key in ("samples._type", "videos._type")] == [there, there]
    if there:
        (path,) = (tmp_path / "p").glob("*.gif")
        assert (Image.open(path).n_frames, Image.open(path).size) == (12, (2 * 7 + 2, 5))
        assert [name for name in run.media if name.endswith(".gif")]


def test_tensorboard_gets_all_images_and_animations(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(str(tmp_path), "tb", "")
    trainer: Any = SimpleNamespace(is_global_zero=True, current_epoch=3, global_step=9, loggers=[logger])
    shown: Any = Drawing("reference")
    Previews(str(tmp_path / "p"), str(tmp_path / "vae"), 2, 4).on_validation_batch_end(trainer, shown, None, "b", 0)
    logger.finalize("success")
    events = EventAccumulator(str(tmp_path / "tb")).Reload()
    assert set(events.Tags()["images"]) == {"samples", "videos"}
    (moving,) = events.Images("videos")
    assert (moving.step, moving.width, moving.height) == (9, 16, 5)
    assert moving.encoded_image_string == next((tmp_path / "p").glob("*.gif")).read_bytes()


def test_a_key_decides_between_online_and_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert PrivateWandbLogger(str(tmp_path), "p", "n").mode == "offline"
    with pytest.raises(UserError, match=r"offline=false needs a key: set WANDB_API_KEY or run 'wandb login'"):
        PrivateWandbLogger(str(tmp_path), "p", "n", offline=False)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".netrc").write_text("machine api.wandb.ai login user password secret\n")
    assert PrivateWandbLogger(str(tmp_path), "p", "n").mode == "online"
    assert PrivateWandbLogger(str(tmp_path), "p", "n", offline=True).mode == "offline"
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.hospital.example")
    assert PrivateWandbLogger(str(tmp_path), "p", "n").mode == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    assert PrivateWandbLogger(str(tmp_path), "p", "n").mode == "online"
    monkeypatch.setenv("WANDB_MODE", "dryrun")
    assert PrivateWandbLogger(str(tmp_path), "p", "n").mode == "offline"


@pytest.mark.slow
def test_run_is_offline_if_the_server_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(wandb_logger, "SERVER_TIMEOUT", 1.0)
    logger = PrivateWandbLogger(str(tmp_path), "p", "n", id="away")
    assert logger.mode == "online"
    with caplog.at_level("INFO"):
        logger.log_metrics({"train/loss": 2.0}, 1)
    wandb_logger.finish_run()
    (run,) = offline_runs(tmp_path)
    assert run.values("train/loss") == [2.0]
    away, kept = (record.message for record in caplog.records if record.name == "echodream.callbacks.wandb_logger")
    assert "so this run is kept offline" in away
    assert kept.endswith(f"wandb sync {run.path.parent}")


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("pictures", "all", "choose one of charts, samples, patients"),
        ("upload", "yes", "give true or false"),
        ("project", "lab/study", "give a name without /"),
        ("offline", "maybe", "give true or false"),
    ],
)
def test_impossible_settings_are_refused(tmp_path: Path, key: str, value: str, says: str) -> None:
    given: dict[str, Any] = {"project": "p", key: value}
    with pytest.raises(UserError, match=says):
        PrivateWandbLogger(str(tmp_path), name="n", **given)


@pytest.mark.slow
def test_given_id_is_kept_and_upload_logs_the_weights(tmp_path: Path) -> None:
    """The logger keeps the given run id; with ``upload``, it also logs the plots in the folder of the artifact."""
    folder = write_vae_artifact(tmp_path / "vae", tiny_autoencoder())
    Image.new("L", (6, 4)).save(folder / "roc.png")
    logger = PrivateWandbLogger(str(tmp_path), "p", "n", id="mine", pictures=CHARTS, upload=True)
    logger.set_run("other", {"seed": 1})
    log_artifact([logger], folder)
    wandb_logger.finish_run()
    (run,) = offline_runs(tmp_path)
    assert (run.id, run.config["seed"]) == ("mine", 1)
    assert run.values("roc.width") == [6]
    (model,) = run.artifacts.values()
    weights = {"config.json", "diffusion_pytorch_model.safetensors", "artifact.json", "training.yaml", "roc.png"}
    assert {entry.path for entry in model.manifest.contents} == {"fingerprint", *weights}


def test_absolute_paths_are_left_out() -> None:
    given = {"src": "/ward/DOE_JANE/videos", "own": "data/x", "list": ["~/k.key", 3], "n": None}
    assert redact_values(given) == {"src": "...", "own": "data/x", "list": ["...", 3], "n": None}


def test_an_id_is_of_the_folder_and_the_settings() -> None:
    ids = {run_id(Path(folder), given) for folder in ("a", "b") for given in ("1", "2")}
    assert len(ids) == 4
    assert run_id(Path("a"), "1") == run_id(Path("a").absolute(), "1")


def figures_of(root: Path, *overrides: str) -> str:
    """Run ``stage=track`` on the study below ``root``; return the summary that the stage prints."""
    paths = [f"paths.{name}={root}/{name}" for name in ("data", "models", "samples", "runs", "reports")]
    fixed = ["stage=track", "data=phantom", f"logger.wandb.save_dir={root}", *paths]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return str(engine.sample(compose("sample", [*fixed, *overrides])))


@pytest.mark.slow
def test_track_logs_numbers_stores_and_models(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="phantom has no results to track: run stage=filter"):
        figures_of(tmp_path)
    tiny_report.study(tmp_path)
    said = figures_of(tmp_path)
    (run,) = offline_runs(tmp_path)
    assert "stores and models  3" in said
    (step,) = run.history
    assert step["evaluation/videos/class agreement"] == pytest.approx(0.94)
    assert step["evaluation/videos/class agreement low"] == pytest.approx(0.87)
    assert step["utility/ASD/synthetic/auc"] == pytest.approx(0.81)
    assert (step["filter_video/kept"], step["filter_video/passed"]) == (6, 1)
    assert step["audit_image/authenticity"] == pytest.approx(0.1)
    videos = file_sha256(tmp_path / "samples/phantom/videos/SHA256SUMS")
    assert run.artifacts[f"store-{videos[:12]}"].use_after_commit
    assert run.config["study"] == "phantom"
    text = "\n".join(map(str, records(run.path)))
    assert not re.search(r"Doe-|rec0\d|video-0000", text)
    assert str(tmp_path) not in text


@pytest.mark.slow
def test_track_fails_if_the_server_did_not_accept_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors of the server: the server is absent, fails during the run, is too slow at the end, or refuses data."""
    import wandb

    tiny_report.study(tmp_path)
    lost = r"^W&B did not accept all results of phantom \({}\): run the same command again, or .*: wandb sync /"
    with monkeypatch.context() as patch:
        patch.setenv("WANDB_API_KEY", "k" * 40)
        patch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
        patch.setattr(wandb_logger, "SERVER_TIMEOUT", 1.0)
        with pytest.raises(UserError, match=lost.format("(?s:.+)")):
            figures_of(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("wandb.sdk.wandb_run.Run._log_artifact", failing(wandb.errors.CommError("no route\nto host")))
        with pytest.raises(UserError, match=lost.format("no route to host")):
            figures_of(tmp_path)
    finish = wandb.finish
    with monkeypatch.context() as patch:
        patch.setattr(wandb, "finish", lambda **told: (finish(**told), failing(TimeoutError("too slow"))()))
        with pytest.raises(UserError, match=lost.format("too slow")):
            figures_of(tmp_path)
    said = "Fatal error while uploading data. Some run data will not be synced, but it will still be written to disk."
    with monkeypatch.context() as patch:
        patch.setattr(wandb, "finish", lambda **told: (wandb.termwarn(said), finish(**told)))
        with pytest.raises(UserError, match=lost.format("Fatal error while uploading data")):
            figures_of(tmp_path)
    assert "done, offline" in figures_of(tmp_path)
    runs = offline_runs(tmp_path)
    assert len(runs) == 5
    # the offline runs are complete, so that the user can upload them later
    assert all(run.values("filter_video/kept") == [6] for run in runs)


def failing(error: Exception) -> Any:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    return fail


@pytest.mark.slow
def test_training_continues_if_logging_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import wandb

    moving_disc_store(tmp_path / "videos")
    finish = wandb.finish
    monkeypatch.setattr("wandb.sdk.wandb_run.Run.log", failing(ConnectionResetError("the service is gone")))
    monkeypatch.setattr(wandb, "finish", lambda **told: (finish(**told), failing(TimeoutError("too slow"))()))
    with caplog.at_level("WARNING"):
        metrics = engine.train(cfg_of(tmp_path))
    assert read_artifact(tmp_path / "vae", "vae").metrics == metrics
    said = [record.getMessage() for record in caplog.records if record.name == "echodream.callbacks.wandb_logger"]
    assert len(said) == 2
    assert said[0] == "wandb: some data are not logged (the service is gone); the run goes on"
    assert said[1].startswith("wandb: some data are not sent (too slow); they are in ")


def test_wandb_is_off_by_default(tmp_path: Path) -> None:
    assert "wandb" not in train_cfg(tmp_path).logger
    assert OmegaConf.select(cfg_of(tmp_path), "logger.wandb.pictures") == SAMPLES
