"""Timing runs have the steps, parameters and file sizes of the real training, and estimate the training time."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import echodream
from echodream.ingest.phantom import Phantom
from echodream.ingest.source import Limits
from echodream.ingest.split import SplitRatios
from echodream.modules.latent_diffusion import LatentDiffusion
from echodream.planning import timing
from echodream.planning.fingerprint import fingerprint_raw
from echodream.planning.timing import RandomStudy, StepTimer, _median_step, time_model
from echodream.store import Store
from echodream.store.verify import find_problems

SMALL = ["data=phantom", "preset=tiny", "data.size=32", "data.source.patients=10"]
SHORT = ["trainer.max_epochs=3", "trainer.limit_train_batches=7", "trainer.accelerator=cpu", "datamodule.workers=0"]


@pytest.fixture(scope="module")
def random_study(tmp_path_factory: pytest.TempPathFactory) -> RandomStudy:
    phantom = Phantom(patients=10, size=32)
    prepared = {"fps": None, "size": 32}
    found = fingerprint_raw(phantom, None, SplitRatios(), Limits(), prepared, 3, 0)
    return RandomStudy(tmp_path_factory.mktemp("random"), found.table, 1, SMALL)


@pytest.mark.slow
def test_the_random_stores_have_the_recordings_of_the_study(random_study: RandomStudy) -> None:
    for kind in ("videos", "latents"):
        root = random_study.folder / "data" / "phantom" / kind
        random_study.write_store(root)
        store = Store(root)
        assert store.table["PatientID"].nunique() == 10
        assert [text for text in find_problems(root) if "SHA256SUMS" not in text] == []
    latents = store.latents(store.table["FileName"][0])[0]
    assert latents.shape[1:] == (4, 4, 4)
    assert latents.std() == pytest.approx(1, rel=0.1)


@pytest.mark.slow
def test_key_frames_fit_the_lengths_of_the_random_recordings(random_study: RandomStudy, tmp_path: Path) -> None:
    """Random recordings may be shorter than the real ones. Key frames must stay inside, and empty marks stay empty."""
    table = pd.DataFrame({"NumberOfFrames": np.arange(60, 100), "FPS": 30.0, "FrameHeight": 32, "FrameWidth": 32})
    last = (table["NumberOfFrames"] - 1).astype(str)
    table = table.assign(ED="0 " + last, ES=last, FileName=[f"r{n}" for n in range(40)], Split="TRAIN")
    table.loc[3, ["ED", "ES"]] = None
    made = RandomStudy(tmp_path, table, 1, SMALL).table
    assert made["ED"][3] == made["ES"][3] == ""
    for frames, ed, es in made.drop(index=3)[["NumberOfFrames", "ED", "ES"]].itertuples(index=False):
        marks = [int(mark) for mark in f"{ed} {es}".split()]
        assert len(marks) >= 3
        assert max(marks) < frames
    assert set(made["NumberOfFrames"]) != set(table["NumberOfFrames"])


@pytest.mark.slow
def test_a_timing_run_has_the_steps_and_parameters_of_the_training(
    random_study: RandomStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timing = time_model("lidm", random_study, 3, *SHORT, "datamodule.batch_size=8")
    monkeypatch.chdir(tmp_path)
    paths = [f"paths.{name}={random_study.folder / name}" for name in ("data", "models", "runs")]
    assert timing.steps == 3 * 7
    assert timing.epochs == 3
    assert timing.batch == 8
    with monkeypatch.context() as patch:
        patch.setattr("echodream.training.fit.check_stores", lambda *arguments: None)
        patch.setattr(Store, "checksum", "0" * 64)
        metrics = echodream.run(
            "train", ["model=lidm", *SMALL, *SHORT, *paths, "datamodule.batch_size=8", "callbacks.pictures=null"]
        )
    weights = sum(file.stat().st_size for file in Path(metrics["dst"]).glob("*.safetensors"))
    assert weights == pytest.approx(4 * timing.parameters, rel=0.1)
    checkpoint = next((random_study.folder / "runs").rglob("last.ckpt")).stat().st_size
    assert weights + checkpoint == pytest.approx(timing.disk, rel=0.15)
    assert timing.gigabytes > 16 * timing.parameters / 1e9
    assert 0 < timing.gigabytes_per_sample < timing.gigabytes


@pytest.mark.slow
def test_hours_are_the_sum_of_all_parts(random_study: RandomStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fake clock replaces the real clock. Each part of the training (such as steps, epochs, validation, test and
    finish_training) advances the fake clock by a known time.
    """
    clock = [0.0]

    def advanced(function: str, seconds: float) -> None:
        original = getattr(LatentDiffusion, function)

        def wrapped(self: Any, *arguments: Any, **more: Any) -> Any:
            clock[0] += seconds
            return original(self, *arguments, **more)

        monkeypatch.setattr(LatentDiffusion, function, wrapped)

    monkeypatch.setattr(timing, "_synchronized_time", lambda: clock[0])
    parts = {"training_step": 1, "on_train_epoch_start": 20, "validation_step": 0.5, "on_validation_epoch_end": 7}
    parts |= {
        "test_step": 0.25,
        "on_test_epoch_end": 3,
        "finish_training": 100,
        "preview": 40,
        "configure_from_data": 9,
    }
    for function, seconds in parts.items():
        advanced(function, seconds)
    made = []
    build = timing.build_module_and_data
    monkeypatch.setattr(timing, "build_module_and_data", lambda cfg: made.append(build(cfg)) or made[-1])
    found = time_model("lidm", random_study, 3, *SHORT, "datamodule.batch_size=2", "trainer.check_val_every_n_epoch=2")
    ((_, data),) = made
    validation = 0.5 * len(data.val_dataloader()) + 7 + 40
    test = 0.25 * len(data.test_dataloader()) + 3
    assert found.seconds_per_step == 1
    assert 3600 * found.hours == pytest.approx(9 + 3 * (20 + 7) + 1 * validation + 100 + test)


def test_a_validation_of_some_steps_stands_for_all() -> None:
    timer: Any = StepTimer()
    timer.evaluation_times, timer.evaluation_end = [0.0, 4.0, 4.5, 5.0], 8.0  # previews in step 1, metrics last
    assert timer.evaluation_seconds(3) == 8.0
    assert timer.evaluation_seconds(13) == 8.0 + 10 * 0.5
    assert StepTimer().evaluation_seconds(5) == 0


@pytest.mark.slow
def test_an_adversarial_phase_is_timed_too(random_study: RandomStudy, caplog: pytest.LogCaptureFixture) -> None:
    both = [
        "loss.lite0.weight=0",
        "loss.adversarial.weight=0.5",
        "loss.adversarial.width=16",
        "datamodule.batch_size=4",
    ]
    plain = time_model("vae", random_study, 2, *SHORT, *both, "loss.adversarial.weight=0")
    late = time_model(
        "vae", random_study, 2, *SHORT, *both, "loss.adversarial.start=15", "loss.adversarial.decoder_start=10"
    )
    assert plain.steps == late.steps == 21
    assert [record.getMessage() for record in caplog.records] == []  # no warning about an unused adversarial loss
    assert late.parameters > plain.parameters
    assert late.disk > plain.disk


def test_steps_are_timed_by_the_median_of_the_second_half() -> None:
    assert _median_step([0, 9, 10, 11, 12, 13, 99]) == 1
    assert _median_step([0, 2]) == 2
    assert _median_step([3]) == 0


def test_memory_is_what_autograd_keeps() -> None:
    timer: Any = StepTimer()
    timer.on_train_batch_start(None, None, None, 0)
    x = torch.ones(7, 5, requires_grad=True)
    y = torch.full((7, 5), 2.0)
    loss = (x * y).exp().sum()
    loss.backward()
    timer.on_train_batch_end(None, None, None, None, 0)
    assert sum(timer.saved_bytes.values()) == 2 * 7 * 5 * 4  # autograd keeps y and the exponential
    (x * 3).exp().sum().backward()
    assert sum(timer.saved_bytes.values()) == 2 * 7 * 5 * 4
