"""Complete training runs of the smallest autoencoder."""

import functools
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from diffusers import AutoencoderKL
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image
from pytorch_lightning.callbacks import Callback

from echodream import engine
from echodream.artifact import Artifact, read_artifact, write_artifact
from echodream.config.paths import CONF_DIR
from echodream.datamodules.frame_budget_batches import FrameBudgetBatches
from echodream.errors import UserError
from echodream.modules.vae import VAE
from echodream.runs.predict import PredictionData
from echodream.runs.trainer import AtomicCheckpointIO, make_trainer
from echodream.store.checksums import file_sha256
from echodream.store.schema import CHECKSUMS
from echodream.training import fit as training
from echodream.training.settings_hash import settings_hash
from echodream.weights import fingerprint
from tests.support.interruptions import StopTraining
from tests.support.tiny_vae import HEIGHT, WIDTH, moving_disc, moving_disc_store, train_cfg

ROOT = Path(__file__).resolve().parents[2]


def study(folder: Path, **more: Any) -> Path:
    moving_disc_store(folder / "videos", **more)
    return folder


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def without_paths(folder: Path) -> dict[str, bytes]:
    """Contents of the artifact's files, except training.yaml, which has temporary paths."""
    return {name: value for name, value in bytes_of(folder).items() if name != "training.yaml"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An autoencoder after three epochs; other tests cover loggers and pictures."""
    folder = study(tmp_path_factory.mktemp("trained"))
    engine.train(train_cfg(folder, "trainer.max_epochs=3", "model.lr=0.01", "callbacks.ema.decay=0.5"))
    return folder


@pytest.mark.slow
def test_the_artifact_is_complete_and_diffusers_opens_it(trained: Path) -> None:
    assert {path.name for path in (trained / "vae").iterdir()} == {
        "artifact.json",
        "config.json",
        "diffusion_pytorch_model.safetensors",
        "training.yaml",
    }
    assert not (trained / "vae.partial").exists()
    network = AutoencoderKL.from_pretrained(trained / "vae")
    artifact = read_artifact(trained / "vae", "vae")
    assert fingerprint(network) == artifact.fingerprint
    assert network.encode(torch.zeros(1, 1, HEIGHT, WIDTH)).latent_dist.mean.shape == (1, 4, HEIGHT // 2, WIDTH // 2)
    wanted = {f"{name}{part}" for name in ("psnr", "ssim", "mae") for part in ("", "_moving")}
    assert artifact.metrics.keys() == wanted | {"psnr_bicubic", "ssim_bicubic"}
    assert all(math.isfinite(value) for value in artifact.metrics.values())


@pytest.mark.parametrize("source", [None, "ab" * 32])
@pytest.mark.slow
def test_the_artifact_names_the_origin_of_its_store(tmp_path: Path, source: str | None) -> None:
    """The artifact records the store from which the training store was decoded, so that the patients are known."""
    folder = study(tmp_path)
    path, sums = folder / "videos/dataset.json", folder / "videos" / CHECKSUMS
    before, dataset = file_sha256(path), json.loads(path.read_text())
    dataset["settings"] = {} if source is None else {"source": source}
    path.write_text(json.dumps(dataset))
    sums.write_text(sums.read_text().replace(before, file_sha256(path)))
    engine.train(train_cfg(folder, "trainer.max_epochs=0"))
    artifact = read_artifact(folder / "vae", "vae")
    assert (artifact.source, artifact.origin) == (file_sha256(sums), source or "")


def test_the_loss_falls_and_each_epoch_is_validated(trained: Path) -> None:
    table = pd.read_csv(trained / "logs" / "csv" / "metrics.csv")
    loss = table["train/loss"].dropna().to_numpy()
    assert len(loss) == 12
    assert loss[-4:].mean() < 0.8 * loss[:4].mean()
    assert table["val/psnr"].notna().sum() == 3
    assert {"train/l1", "train/kl", "val/psnr_moving", "val/ssim", "val/mae"} <= set(table.columns)


def test_the_statistics_are_those_of_the_training_frames(trained: Path) -> None:
    network = AutoencoderKL.from_pretrained(trained / "vae")
    # the TRAIN recordings
    frames = np.concatenate([moving_disc(length, k) for k, length in ((0, 5), (1, 11), (2, 3), (5, 9))])
    x = torch.from_numpy(frames).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        posterior = network.encode(x).latent_dist
    mean, std = posterior.mean.double(), posterior.std.double()
    found = mean.mean(dim=(0, 2, 3))
    variance = mean.var(dim=(0, 2, 3), correction=0) + std.square().mean(dim=(0, 2, 3))
    assert network.config.latents_mean == pytest.approx(found.tolist(), abs=1e-5)
    assert network.config.latents_std == pytest.approx(variance.sqrt().tolist(), rel=1e-5)


def test_the_recipe_is_kept_without_what_differs_from_run_to_run(trained: Path) -> None:
    recipe = OmegaConf.load(trained / "vae" / "training.yaml")
    assert recipe.model.lr == 0.01
    assert recipe.callbacks == {"ema": {"_target_": "echodream.callbacks.ema.EMA", "decay": 0.5}}
    assert "logger" not in recipe


def test_the_same_command_finds_it_complete(trained: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = bytes_of(trained / "vae")
    with caplog.at_level("INFO"):
        found = engine.train(
            train_cfg(
                trained, "trainer.max_epochs=3", "model.lr=0.01", "callbacks.ema.decay=0.5", "model.module.clip=1.0"
            )
        )
    assert "already complete, nothing to do" in caplog.text
    assert found == read_artifact(trained / "vae", "vae").metrics
    assert bytes_of(trained / "vae") == before


def test_other_settings_do_not_overwrite_it(trained: Path) -> None:
    with pytest.raises(UserError, match=r"vae was trained with other settings: choose another dst="):
        engine.train(train_cfg(trained, "trainer.max_epochs=3", "model.lr=0.02"))


def test_the_checkpoint_opens_without_code(trained: Path) -> None:
    (path,) = (trained / "runs").glob("*/last.ckpt")
    state = torch.load(path, weights_only=True)
    assert state["epoch"] == 2
    assert state["state_dict"].keys() == state["current_model_state"].keys()


def test_a_picture_of_each_validation_is_kept(trained: Path) -> None:
    pictures = sorted((trained / "pictures").iterdir())
    assert [path.name for path in pictures] == [f"reconstruction_{epoch:05d}.png" for epoch in range(3)]
    picture = np.asarray(Image.open(pictures[-1]))
    assert picture.shape == (3 * (HEIGHT + 2) - 2, 2 * (WIDTH + 2) - 2, 3)  # two validation recordings
    middle = moving_disc(4, 3)[1]  # the pictures show the first of the middle two of four frames
    assert np.array_equal(picture[:HEIGHT, :WIDTH], np.repeat(middle, 3, axis=-1))
    shown, made = (picture[top : top + HEIGHT, :WIDTH].astype(float) for top in (0, HEIGHT + 2))
    drawn = picture[2 * (HEIGHT + 2) :, :WIDTH].astype(float)
    assert drawn == pytest.approx(np.minimum(4 * np.abs(shown - made), 255), abs=5)


def accident(cfg: Any, monkeypatch: pytest.MonkeyPatch, *callbacks: Callback) -> None:
    """Train until a callback raises an error."""
    make = training.make_trainer
    with monkeypatch.context() as patch:
        patch.setattr(training, "make_trainer", lambda s, found, **more: make(s, [*found, *callbacks], **more))
        with pytest.raises(OSError, match="accident"):
            engine.train(cfg)


MORE = ("trainer.max_epochs=3", "loss.adversarial.weight=0.5", "loss.adversarial.start=6", "loss.adversarial.width=4")


@pytest.mark.slow
@pytest.mark.parametrize("decoder_only", [False, True])
def test_an_interrupted_run_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoder_only: bool
) -> None:
    """Interrupted in the first and second epoch, and before the export; with two optimizers and averaged weights."""
    more = [*MORE, "loss.adversarial.layers=1"]
    more += ["loss.adversarial.decoder_only=true", "loss.adversarial.local_mean=3"] if decoder_only else []
    monkeypatch.setattr(engine, "code_version", lambda: "1.2.3")
    straight, broken = study(tmp_path / "a"), study(tmp_path / "b")
    engine.train(train_cfg(straight, *more))
    for epoch, batch in ((0, 2), (1, 1), (2, 3)):
        accident(train_cfg(broken, *more), monkeypatch, StopTraining(epoch, batch))
        assert not (broken / "vae").exists()

    class Late(Callback):
        def on_test_start(self, trainer: Any, pl_module: Any) -> None:
            raise OSError("accident")

    accident(train_cfg(broken, *more), monkeypatch, Late())
    engine.train(train_cfg(broken, *more))
    assert without_paths(broken / "vae") == without_paths(straight / "vae")


@pytest.mark.slow
def test_an_epoch_without_validation_leaves_a_checkpoint_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = ("trainer.max_epochs=2", "trainer.check_val_every_n_epoch=2", "trainer.limit_train_batches=2")
    monkeypatch.setattr(engine, "code_version", lambda: "1.2.3")
    straight, broken = study(tmp_path / "a"), study(tmp_path / "b")
    engine.train(train_cfg(straight, *few))
    accident(train_cfg(broken, *few), monkeypatch, StopTraining(1, 1))
    (last,) = (broken / "runs").glob("*/last.ckpt")
    assert torch.load(last, weights_only=True)["epoch"] == 0
    engine.train(train_cfg(broken, *few))
    assert without_paths(broken / "vae") == without_paths(straight / "vae")


def test_a_kill_while_the_checkpoint_is_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = functools.partial(pl.Trainer, accelerator="cpu", logger=False, enable_checkpointing=False)
    assert isinstance(make_trainer(settings, []).strategy.checkpoint_io, AtomicCheckpointIO)
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"epoch": 1}, path)
    monkeypatch.setattr(torch, "save", lambda state, file: (file.write(b"half"), 1 / 0))
    with pytest.raises(ZeroDivisionError):
        AtomicCheckpointIO().save_checkpoint({"epoch": 2}, path)
    assert torch.load(path, weights_only=True) == {"epoch": 1}


@pytest.mark.slow
def test_a_nan_loss_stops_with_one_sentence_and_keeps_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, few = study(tmp_path), "trainer.limit_train_batches=1"

    class Poison(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if trainer.current_epoch == 1:
                batch["x"][0] = torch.nan

    make = training.make_trainer
    with monkeypatch.context() as patch:
        patch.setattr(training, "make_trainer", lambda s, found, **more: make(s, [*found, Poison()], **more))
        with pytest.raises(UserError, match=r"^the loss \(l1, kl\) is not finite on a batch of r\d") as caught:
            engine.train(train_cfg(folder, few))
    named = set(str(caught.value).split(" batch of ")[1].split(":")[0].split(", "))
    assert named <= {"r0", "r1", "r2", "r5"}
    assert not (folder / "vae").exists()
    (last,) = (folder / "runs").glob("*/last.ckpt")
    assert torch.load(last, weights_only=True)["epoch"] == 0
    assert engine.train(train_cfg(folder, few))["psnr"] > 0  # the same command continues the training


@pytest.mark.slow
def test_pictures_and_values_reach_several_loggers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    folder = study(tmp_path)
    engine.train(
        train_cfg(
            folder,
            "logger=[csv,tensorboard,wandb]",
            f"logger.csv.save_dir={folder}/logs",
            f"logger.tensorboard.save_dir={folder}/logs",
            f"logger.wandb.save_dir={folder}/logs",
            "logger.wandb.offline=true",
            "logger.wandb.pictures=patients",
            "trainer.max_epochs=1",
            "trainer.limit_train_batches=1",
        )
    )
    board = EventAccumulator(str(folder / "logs" / "tensorboard"))
    board.Reload()
    assert board.Tags()["images"] == ["reconstruction"]
    assert {"train/loss", "val/psnr", "test/psnr"} <= set(board.Tags()["scalars"])
    assert list((folder / "logs" / "wandb").glob("offline-run-*/files/media/images/reconstruction_*.png"))
    assert (folder / "logs" / "csv" / "metrics.csv").is_file()


@pytest.mark.slow
def test_published_weights_are_used_as_they_are_with_no_epochs(trained: Path, tmp_path: Path) -> None:
    study(tmp_path)
    engine.train(train_cfg(tmp_path, f"vae.weights={trained}/vae", "trainer.max_epochs=0"))
    made, given = (read_artifact(folder / "vae", "vae") for folder in (tmp_path, trained))
    assert made.fingerprint == given.fingerprint
    assert made.metrics == pytest.approx(given.metrics)


@pytest.mark.slow
def test_frames_that_do_not_fit_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    folder = study(tmp_path)
    with pytest.raises(UserError, match=r"videos has 1 channels, this vae takes 3: ingest with data.grey=false"):
        engine.train(train_cfg(folder, "vae.channels=3"))
    with pytest.raises(UserError, match=r"r0 is 24x16, not divisible by 16: ingest with another data.size"):
        engine.train(train_cfg(folder, "vae.widths=[4,4,4,4,4]"))
    assert {path.name for path in folder.iterdir()} == {"videos"}


def test_a_folder_that_is_no_store_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    with pytest.raises(UserError, match=f"{tmp_path}/videos"):
        engine.train(train_cfg(tmp_path))
    assert not (tmp_path / "vae").exists()


@pytest.mark.slow
def test_still_recordings_have_no_metrics_of_what_moves(tmp_path: Path) -> None:
    folder = study(tmp_path, lengths=(1, 1, 1, 1, 1))
    found = engine.train(train_cfg(folder, "trainer.max_epochs=1"))
    assert "psnr" in found
    assert not [name for name in found if name.endswith("_moving")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.max_epochs=-1", "trainer.max_epochs is -1: give a whole number from 0"),
        ("trainer.max_epochs=1.5", "trainer.max_epochs is 1.5"),
        ("trainer.max_epochs=null", "trainer.max_epochs is null"),
        ("model.lr=0", "model.lr is 0: give a number above 0"),
        ("model.lr=nan", "model.lr is nan"),
        ("model.lr=fast", "model.lr is 'fast'"),
        ("trainer.accelerator=gpus", "^trainer: .*gpus"),
        ("trainer.devices=0", "^trainer: .*devices"),
        ("trainer.precision=17", "^trainer: .*17"),
        ("trainer.strategy=quantum", "^trainer: .*quantum"),
        ("trainer.limit_train_batches=1.5", "^trainer: .*limit_train_batches"),
        ("+trainer.colour=blue", "^trainer: .*colour"),
    ],
)
def test_bad_settings_are_one_sentence(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        engine.train(train_cfg(study(tmp_path), override))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "vae").exists()


@pytest.mark.slow
def test_two_runs_of_one_command_are_kept_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, refused = study(tmp_path), []
    cfg = [folder, "trainer.max_epochs=1", "trainer.limit_train_batches=1"]

    class Second(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
            with pytest.raises(UserError, match=r"is being used for training by another process: .*another work="):
                engine.train(train_cfg(*cfg))
            refused.append(True)

    make = training.make_trainer
    with monkeypatch.context() as patch:
        patch.setattr(training, "make_trainer", lambda s, found, **more: make(s, [*found, Second()], **more))
        metrics = engine.train(train_cfg(*cfg))
    assert refused == [True]
    # simulates that the second process checked for an artifact before the first process had finished
    with monkeypatch.context() as patch:
        patch.setattr(engine, "metrics_of_existing_artifact", lambda *_: None)
        patch.setattr(training, "make_trainer", None)
        assert engine.train(train_cfg(*cfg)) == metrics
        with pytest.raises(UserError, match=r"vae was meanwhile written by another run: .* another dst="):
            write_artifact(folder / "vae", Artifact("vae", "", "", ""), "", lambda _: None)


@pytest.mark.parametrize(("budget", "workers", "key"), [(8, -1, "workers"), (8, 0.5, "workers"), (0, 0, "budget")])
def test_packs_that_cannot_be_read_are_refused(tmp_path: Path, budget: int, workers: int, key: str) -> None:
    store = moving_disc_store(tmp_path / "videos", [3])
    with pytest.raises(UserError, match=f"^{key} is .*: give a whole number from"):
        PredictionData(lambda: FrameBudgetBatches(store, budget), workers).predict_dataloader()


@pytest.mark.slow
def test_the_demo_experiment_trains(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """The complete configuration of experiment=demo, on an ingested phantom of 64 x 64."""
    shared = ["data=phantom", "experiment=demo"]
    few = ["data.source.patients=12", "+data.source.per_patient=[1,1]", "+data.source.seconds=[0.3,0.4]", "workers=0"]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        raw = compose("sample", ["stage=ingest", *shared, *few, f"dst={tmp_path}/videos"])
        less = [
            "trainer.max_epochs=1",
            "trainer.limit_train_batches=1",
            "datamodule.workers=0",
            "callbacks.pictures=null",
        ]
        where = [
            f"src={tmp_path}/videos",
            f"dst={tmp_path}/vae",
            f"work={tmp_path}/runs",
            f"logger.csv.save_dir={tmp_path}",
        ]
        cfg = compose("train", ["model=vae", *shared, *less, *where, "trainer.accelerator=cpu"])
    engine.sample(raw)
    assert engine.train(cfg)["psnr"] > 0
    # one batch per epoch; metrics are logged every ten batches
    assert not [w for w in recwarn if "logging interval" in str(w.message)]
    recipe = OmegaConf.load(tmp_path / "vae" / "training.yaml")
    assert (recipe.model.schedule, list(recipe.vae.widths)) == ("cosine", [16, 32, 64, 64])


@pytest.mark.slow
def test_two_processes_train_and_export_once(tmp_path: Path) -> None:
    """Training with two optimizers: in each backward pass, the parameters of the other network have no gradient."""
    folder = study(tmp_path)
    overrides = [
        "data=phantom",
        *(
            "vae.widths=[4,4]",
            "vae.layers=1",
            "vae.groups=2",
            "loss.adversarial.weight=0.5",
            "loss.adversarial.width=4",
        ),
        *("loss.adversarial.start=1", "loss.adversarial.layers=1", "datamodule.workers=0", "datamodule.batch_size=2"),
        *("trainer.accelerator=cpu", "trainer.devices=2", "trainer.strategy=ddp", "trainer.max_epochs=1"),
        *("trainer.limit_train_batches=2", f"src={folder}/videos", f"dst={folder}/vae", f"paths.runs={folder}/runs"),
    ]
    asked = [sys.executable, str(ROOT / "train.py"), "model=vae", *overrides]
    done = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("vae done") == 1
    facts = json.loads((folder / "vae" / "artifact.json").read_text())
    assert math.isfinite(facts["metrics"]["psnr"])
    assert fingerprint(AutoencoderKL.from_pretrained(folder / "vae")) == facts["fingerprint"]


def test_ctrl_c_is_an_interruption_and_not_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Impatient(Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            raise KeyboardInterrupt

    make = training.make_trainer
    monkeypatch.setattr(training, "make_trainer", lambda s, found, **more: make(s, [*found, Impatient()], **more))
    with pytest.raises(KeyboardInterrupt):
        engine.train(train_cfg(study(tmp_path)))


def test_a_seeded_epoch_is_a_function_of_seed_and_epoch() -> None:
    class Fake:
        current_epoch, global_rank = 3, 0

    draws = []
    for seed, epoch in ((1, 3), (1, 3), (2, 3), (1, 4)):
        Fake.current_epoch = epoch
        torch.rand(int(torch.randint(9, (1,))))
        training.SeedEpochs(seed).on_train_epoch_start(Fake(), pl.LightningModule())  # type: ignore[arg-type]
        draws.append(torch.rand(1).item())
    assert draws[0] == draws[1]
    assert len(set(draws)) == 3


@pytest.mark.slow
def test_each_epoch_is_a_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        engine.train(train_cfg(study(tmp_path), "trainer.limit_train_batches=1"))
    lines = [line for line in caplog.messages if line.startswith("epoch ")]
    assert len(lines) == 2
    assert re.fullmatch(r"epoch 2 of 2  train/loss [\d.]+  val/psnr [\d.]+  val/ssim -?[\d.e-]+", lines[1])
    assert "train: LPIPS is off, because loss.perceptual has no weight files (backbone= and linear=)" in caplog.messages


def test_the_bar_is_on_stderr_where_somebody_looks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The progress bar goes to stderr of a terminal, because stdout has the result of the command."""
    settings = functools.partial(pl.Trainer, accelerator="cpu", logger=False, max_epochs=1)
    assert make_trainer(settings, []).progress_bar_callback is None
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    bar: Any = make_trainer(settings, []).progress_bar_callback
    shown = bar.init_train_tqdm()
    shown.reset(3)
    shown.refresh()
    said = capsys.readouterr()
    assert "0/3" in said.err
    assert said.out == ""


def test_when_a_training_stops_is_among_its_settings(tmp_path: Path) -> None:
    study(tmp_path)
    plain = train_cfg(tmp_path)
    stops = [f"+callbacks.early_stopping.{given}" for given in ("monitor=val/psnr", "patience=3")]
    other = train_cfg(tmp_path, *stops)
    assert settings_hash(plain) != settings_hash(other)
    assert "early_stopping" not in training.training_yaml(plain)
    assert "patience: 3" in training.training_yaml(other)
    target = "+callbacks.patience._target_=pytorch_lightning.callbacks.EarlyStopping"
    named = train_cfg(tmp_path, target, "+callbacks.patience.monitor=val/psnr")
    assert "monitor: val/psnr" in training.training_yaml(named)


def test_a_training_on_a_gpu_has_the_precision_of_its_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, seen = study(tmp_path), list[str]()
    monkeypatch.setattr("echodream.runs.trainer._uses_bf16_gpu", lambda accelerator: True)
    step = VAE.training_step

    def watched(own: VAE, *arguments: Any) -> None:
        seen.append(str(own.trainer.precision))
        step(own, *arguments)

    monkeypatch.setattr(VAE, "training_step", watched)
    engine.train(train_cfg(folder, "trainer.max_epochs=1"))
    assert set(seen) == {"bf16-mixed"}
    assert OmegaConf.load(folder / "vae" / "training.yaml").trainer.precision == "bf16-mixed"
    engine.train(train_cfg(folder, "trainer.max_epochs=1"))  # already complete: nothing to train
    with pytest.raises(UserError, match=r"was trained with trainer\.precision=bf16-mixed: choose another dst="):
        engine.train(train_cfg(folder, "trainer.max_epochs=1", "trainer.precision=32-true"))
