"""Tests of ``stage=image``: the rows of the sampled store, and error messages."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from echodream.diffusion.model import DiffusionModel
from echodream.store import Store
from tests.support.sampling_study import CONDITIONS, command, image, ready_study, refused, study, video, write_csv
from tests.support.tiny_diffusion import ENCODER, NAMES, STATISTICS, C, H, W, latent_store, model


def test_the_file_list_of_images(tmp_path: Path) -> None:
    settings = ["guidance.class_id=2.5", "sampler=unipc", "steps=4", "spacing=quadratic"]
    store = image(study(tmp_path, CONDITIONS), "n=7", "seed=11", *settings)
    table = store.table
    assert table["FileName"].tolist() == [f"image-{row:06d}" for row in range(7)]
    assert table["PatientID"].tolist() == [f"S{row:06d}" for row in range(7)]
    assert set(table["Split"]) == {"TRAIN"}
    assert set(table["Seed"]) == {11}
    assert set(table["Sampler"]) == {"unipc"}
    assert set(table["Steps"]) == {4}
    assert set(table["Spacing"]) == {"quadratic"}
    assert set(table["Guidance"]) == {"class_id=2.5 EF=1 view=1"}
    assert table["class_id"].tolist() == [0, 1, 3, 0, 1, 3, 0]
    assert table["class_name"].tolist() == [NAMES[number] for number in table["class_id"]]
    assert table["EF"].between(40, 61).all()
    assert set(table["View"]) == {"A2C", "A4C"}
    facts = store.dataset
    assert (facts.kind, facts.channels, facts.height, facts.width) == ("latent", C, H, W)
    assert (facts.synthetic, facts.encoder, facts.statistics) == (True, ENCODER, STATISTICS)
    assert facts.settings["model"] == model("lidm", CONDITIONS).fingerprint()
    assert facts.settings["guidance"]["scales"] == {"class_id": 2.5, "EF": 1.0, "view": 1.0}


def test_uniform_labels_are_balanced(tmp_path: Path) -> None:
    table = image(study(tmp_path, CONDITIONS), "n=24", "steps=1").table
    assert table.groupby(["class_id", "View"]).size().tolist() == [4] * 6
    assert len(table["EF"].unique()) == 4
    assert table["EF"].mean() == pytest.approx(50.5, abs=2)


@pytest.mark.slow
def test_labels_as_in_training_are_those_of_its_train_rows(tmp_path: Path) -> None:
    folder = study(tmp_path, CONDITIONS, latents=True)
    made = image(folder, "n=60", "steps=1", "labels=training").table
    rows = Store(folder / "latents").table
    train = rows[rows["Split"] == "TRAIN"]
    known = set(zip(train["class_id"], train["EF"], train["View"], strict=True))
    drawn = list(zip(made["class_id"], made["EF"], made["View"], strict=True))
    assert set(drawn) == known  # 60 draws from 5 rows: P(a row is missing) < 1e-5
    more = image(folder, "n=70", "steps=1", "labels=training", at="more").table
    assert more["EF"].tolist()[:60] == made["EF"].tolist()
    other = image(folder, "n=60", "steps=1", "labels=training", "seed=1", at="other").table
    assert other["EF"].tolist() != made["EF"].tolist()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["guidance.class_id=2"], "class_id=2"),
        (["guidance.class_id=2", "guidance.interval=[0.2,0.75]"], "class_id=2 interval=0.2-0.75"),
        (
            ["guidance.class_id=2", "guidance.interval=[0,0.5]", "guidance.rescale=0.7"],
            "class_id=2 interval=0-0.5 rescale=0.7",
        ),
        (["guidance.auto.artifact=DIR/lidm", "guidance.auto.scale=1.5"], "class_id=1 auto=1.5"),
    ],
)
def test_the_column_guidance_tells_all_that_is_not_the_default(tmp_path: Path, overrides: list[str], told: str) -> None:
    folder = study(tmp_path)
    store = image(folder, "n=2", *[override.replace("DIR", str(folder)) for override in overrides])
    assert set(store.table["Guidance"]) == {told}


@pytest.mark.parametrize("precision", ["32", "bf16-mixed", "bf16-true", "auto"])
@pytest.mark.slow
def test_precisions_that_images_are_drawn_with(tmp_path: Path, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With weights in bf16, noise and samples are float32, and the record has the fingerprint of the artifact."""
    folder, seen = study(tmp_path), list[torch.Tensor]()
    setting, precision = precision, "bf16-true" if precision == "auto" else precision
    monkeypatch.setattr("echodream.runs.trainer._uses_bf16_gpu", lambda accelerator: setting == "auto")
    forward = DiffusionModel.forward

    def watched(own: DiffusionModel, x_t: torch.Tensor, t: torch.Tensor, *more: Any) -> torch.Tensor:
        predicted = forward(own, x_t, t, *more)
        seen.extend([x_t, predicted, next(own.denoiser.parameters()), next(own.conditioner.parameters())])
        return predicted

    monkeypatch.setattr(DiffusionModel, "forward", watched)
    store = image(folder, "n=2", "steps=2", f"trainer.precision={setting}")
    assert len(store) == 2
    assert store.dataset.settings["precision"] == precision
    assert store.dataset.settings["model"] == model("lidm").fingerprint()
    x_t, predicted, weight, embedding = seen[:4]
    assert (x_t.dtype, embedding.dtype) == (torch.float32, torch.float32)
    assert weight.dtype == (torch.bfloat16 if precision == "bf16-true" else torch.float32)
    assert predicted.dtype == (torch.bfloat16 if precision == "bf16-mixed" else torch.float32)
    full = image(folder, "n=2", "steps=2", "trainer.precision=32-true", at="full")
    for name in store.table["FileName"]:
        found, truth = (each.latents(name)[0].float() for each in (store, full))
        assert torch.nn.functional.cosine_similarity(found.flatten(), truth.flatten(), 0) > 0.95
        assert torch.equal(found, truth) == (precision == "32")


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ready_study(tmp_path_factory.mktemp("ready"))


IMAGE = [
    (["n=0"], "n is 0: give a whole number from 1"),
    (["n=2.5"], "n is 2.5"),
    (["batch=0"], "batch is 0: give a whole number from 1"),
    (["workers=-1"], "workers is -1"),
    (["seed=-1"], "seed is -1: give a whole number from 0"),
    (["steps=0"], "steps is 0: give a whole number from 1 to 1000"),
    (["steps=1001"], "steps is 1001: give"),
    (
        ["sampler=heun"],
        "sampler=heun cannot be combined with process=ddpm: choose one of dpmpp_2m, unipc, ddim, ddpm, euler",
    ),
    (["clip=0"], "clip is 0: give a number above 0, or null for no limit"),
    (["compile=maybe"], "compile is 'maybe': give true, false or reduce-overhead"),
    (["channels_last=maybe"], "channels_last is 'maybe': give true or false"),
    (["spacing=even"], "spacing is 'even': choose one of trailing, quadratic, leading"),
    (["spacing=leading", "artifact=DIR/flow"], "spacing is 'leading': choose one of trailing, quadratic"),
    (["guidance.view=2"], "guidance.view=2 is not possible: this model's conditions are class_id, EF"),
    (["guidance.reference=0"], "guidance.reference=0 is not possible"),
    (["guidance.class_id=strong"], "guidance.class_id is 'strong': give a number"),
    (["guidance.class_id=null"], "guidance.class_id is null: give a number"),
    (["guidance.interval=0.5"], r"guidance.interval is \[0.5\]: give two increasing"),
    (["guidance.interval=[0.7,0.2]"], r"guidance.interval is \[0.7, 0.2\]: give two increasing"),
    (["guidance.rescale=2"], "guidance.rescale is 2: give a number from 0 to 1"),
    (["guidance.auto=2"], "guidance.auto=2 is not possible: give guidance.auto.artifact= and guidance.auto.scale="),
    (["guidance.auto.scale=2"], "guidance.auto.scale needs guidance.auto.artifact="),
    (["guidance.auto.artifact=DIR/none"], "none has no lidm"),
    (
        ["guidance.auto.artifact=DIR/flow"],
        "flow differs from the model in process.name: train the weak model with",
    ),
    (
        ["guidance.auto.artifact=DIR/foreign"],
        "foreign differs from the model in encoder: train the weak model with",
    ),
    (
        ["guidance.auto.artifact=DIR/scaled"],
        "scaled differs from the model in statistics: train the weak model with",
    ),
    (
        ["trainer.precision=16-true"],
        "trainer.precision=16-true is not suitable for sampling: choose one of 32-true, .* 16-mixed, bf16-true",
    ),
    (["trainer.precision=64-true"], "trainer.precision=64-true is not suitable for sampling"),
    (["trainer.precision=half"], "trainer.precision=half is not suitable for sampling"),
    (["labels=null"], "labels=null is not possible: give it a value, or leave it out"),
    (["training=null"], "training=null is not possible"),
    (["artifact=null"], "artifact=null is not possible"),
    (["dst=null"], "dst=null is not possible"),
    (["seed=null"], "seed=null is not possible"),
    (["labels=even"], "labels=even: choose uniform or training, or give the path of a csv"),
    (["labels=training", "training=DIR/none"], "none"),
    (["labels=DIR/none.csv"], "labels=.*none.csv cannot be read .*; correct the csv"),
    (["labels=DIR/wrong.csv"], "labels=.*wrong.csv has no rows with class_id or EF"),
    (["labels=DIR/empty.csv"], "labels=.*empty.csv has no rows with class_id or EF"),
    (["labels=DIR/class.csv", "n=null"], "class_id=2 was not in the training data of the model: give one of 0 sick"),
    (
        ["labels=DIR/fraction.csv", "n=null"],
        "EF=0.55 is outside of the training range 40 to 61: give percent",
    ),
    (["artifact=DIR/vae"], "vae contains a vae model: give the folder of a lidm model"),
    (["artifact=DIR/none"], "none does not exist: train one with train.py"),
    (["artifact=DIR/images"], "images has no lidm"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("overrides", "words"), IMAGE, ids=[" ".join(entry[0]) for entry in IMAGE])
def test_images_that_cannot_be_drawn(ready: Path, overrides: list[str], words: str) -> None:
    write_csv(ready / "wrong.csv", "class,ef", "1,50")
    write_csv(ready / "empty.csv", "class_id,EF")
    write_csv(ready / "class.csv", "class_id", "1", "2")
    write_csv(ready / "fraction.csv", "EF", "50", "0.55")
    given = [override.replace("DIR", str(ready)) for override in overrides]
    refused(words, lambda: image(ready, *given, at="refused"), ready, "refused")
    assert not (ready / "refused.partial").exists()


@pytest.mark.slow
def test_weights_that_are_not_finite(tmp_path: Path) -> None:
    folder = study(tmp_path)
    path = folder / "lidm" / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    state["conv_in.weight"][0, 0, 0, 0] = torch.nan
    save_file(state, path)
    refused("conv_in.weight is not finite", lambda: image(folder), folder, "images")
    (folder / "lvdm" / "diffusion.json").write_text("{")
    latent_store(folder / "images")
    refused("diffusion.json is not readable: train the lvdm again", lambda: video(folder), folder, "videos")


def test_a_network_that_overflows_leaves_no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = study(tmp_path)
    monkeypatch.setattr(DiffusionModel, "forward", lambda own, x_t, *_: x_t * 1e30)
    refused("a sample is not finite|a latent is not finite", lambda: image(folder), folder, "images")


@pytest.mark.slow
def test_a_refusal_on_the_command_line_is_one_line(tmp_path: Path) -> None:
    folder = study(tmp_path)
    asked = command(folder, "image", "n=3", "sampler=heun")
    done = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "error: sampler=heun cannot be combined with process=ddpm: choose one of dpmpp_2m, unipc, ddim, ddpm, euler, "
        "euler_ancestral\n"
    )
