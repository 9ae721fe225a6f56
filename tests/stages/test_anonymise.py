"""Tests of ``stage=anonymise``: redrawn frames against a closed form, blur, key frames, interruptions, errors."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from echodream import engine
from echodream.anonymization.methods import select_joint_frames
from echodream.config.paths import CONF_DIR
from echodream.datamodules.recordings import select_recordings
from echodream.diffusion.model import DiffusionModel
from echodream.diffusion.processes.base import Process
from echodream.diffusion.processes.ddpm import DDPM
from echodream.diffusion.processes.rectified_flow import RectifiedFlow
from echodream.errors import UserError
from echodream.sampling import sample_store as drawing
from echodream.store import Store, StoreWriter, find_problems
from tests.support.interruptions import Accident, failing_after
from tests.support.sampling_study import bytes_of, planted, same, whitened
from tests.support.tiny_diffusion import (
    CLASSES,
    LENGTHS,
    NAMES,
    SPLITS,
    STATISTICS,
    C,
    H,
    W,
    artifact,
    latent_store,
    model,
)
from tests.support.tiny_filter import ENCODER, plant
from tests.support.tiny_vae import moving_disc_store

MIDDLE = [length // 2 for length in LENGTHS]


def study(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study with original recordings, a random generator, an autoencoder in closed form, and a fixed code version."""
    plant(monkeypatch, folder)
    (folder / "vae").mkdir()
    latent_store(folder / "real", encoder=ENCODER)
    generator(folder)
    monkeypatch.setattr(engine, "code_version", lambda: "1.2.3")
    return folder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return study(tmp_path, monkeypatch)


def generator(folder: Path, at: str = "lidm", **more: Any) -> None:
    shutil.rmtree(folder / at, ignore_errors=True)
    artifact(folder / at, model("lidm", **{"encoder": ENCODER, **more}), "lidm")


def run(folder: Path, *overrides: str, at: str = "made") -> Store:
    where = [f"src={folder}/real", f"generator={folder}/lidm", f"autoencoder={folder}/vae", f"dst={folder}/{at}"]
    fixed = ["stage=anonymise", "+data.name=x", "notes=null", "trainer.accelerator=cpu", *where]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        engine.sample(compose("sample", [*fixed, *overrides]))
    return Store(folder / at)


def frames_of(folder: Path, places: list[Any], at: str = "real") -> list[np.ndarray]:
    """Whitened frames at ``places`` of the original recordings: for each recording float64 (f, C, H, W)."""
    return [part[np.atleast_1d(place)] for part, place in zip(whitened(Store(folder / at)), places, strict=True)]


def test_without_noise_it_is_the_stored_mean_of_the_middle_frame(folder: Path) -> None:
    made, real = run(folder, "strength=0"), Store(folder / "real")
    for name, place in zip(real.table["FileName"], MIDDLE, strict=True):
        mean, std = made.latents(name)
        assert torch.equal(mean, real.latents(name)[0][place : place + 1])
        assert not std.any()
    assert made.table["FileName"].tolist() == real.table["FileName"].tolist()
    for column in ("Split", "PatientID", "class_id", "class_name", "EF", "View", "FPS"):
        assert made.table[column].tolist() == real.table[column].tolist()
    assert made.table["OriginalFrames"].tolist() == MIDDLE
    assert set(made.table["NumberOfFrames"]) == {1}
    assert not {"ED", "ES"} & set(made.table)
    assert not made.dataset.synthetic
    assert "as private as the originals" in made.dataset.settings["private"]
    assert (made.dataset.encoder, made.dataset.statistics) == (ENCODER, STATISTICS)
    assert not list(find_problems(made.root))


@pytest.mark.slow
@pytest.mark.parametrize("process", [DDPM(), RectifiedFlow()], ids=["ddpm", "flow"])
@pytest.mark.parametrize("strength", [0.2, 0.5, 1.0])
def test_what_is_left_of_a_frame_is_what_the_flow_of_a_gaussian_leaves(
    folder: Path, monkeypatch: pytest.MonkeyPatch, process: Process, strength: float
) -> None:
    """For Gaussian data, x_t = a x + s noise is mapped to mean + (x_t - a mean) std / sqrt(a^2 std^2 + s^2)."""
    generator(folder, process=process)
    std, mean = 0.8, torch.tensor([0.8, -0.5, 0.2]).view(1, C, 1, 1)
    planted(monkeypatch, lambda *_: mean, std)
    made = np.concatenate(whitened(run(folder, f"strength={strength}", "steps=50", "frames=5")))
    places = [np.linspace(0, length - 1, 5).round().astype(int) for length in LENGTHS]
    x = np.concatenate(frames_of(folder, places)) - mean.numpy()
    y = made - mean.numpy()
    a, s = levels(process, strength)
    shrink = std / np.sqrt(a**2 * std**2 + s**2)
    assert (x * y).sum() / (x * x).sum() == pytest.approx(a * shrink, abs=0.04)  # slope over 2,880 values
    rest = y - a * shrink * x
    drawn = np.mean((0.125 / np.array(STATISTICS.std)) ** 2)  # variance of latents sampled from the posterior
    assert rest.std() == pytest.approx(shrink * np.sqrt(s**2 + a**2 * drawn), rel=0.06)


def levels(process: Process, strength: float) -> tuple[float, float]:
    if isinstance(process, RectifiedFlow):
        return 1 - strength, strength
    share = float(process.alphas_cumprod[round(1000 * strength) - 1])
    return share**0.5, (1 - share) ** 0.5


def test_each_is_drawn_for_its_own_class(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = model("lidm").conditioner.encode_request({"class_id": [0, 1, 3]})["class_id"].tolist()
    planted(monkeypatch, lambda x, values, keep: values["class_id"].view(-1, 1, 1, 1).double(), 0.01)
    made = run(folder, "strength=1", "frames=2")
    number = dict(zip(NAMES, known, strict=False)) | {3: known[2]}
    for latents, class_id in zip(whitened(made), CLASSES, strict=True):
        assert latents.shape == (2, C, H, W)
        assert latents == pytest.approx(number[class_id] * np.ones_like(latents), abs=0.1)


@pytest.mark.slow
def test_a_number_beyond_those_of_training_counts_as_the_nearest(folder: Path) -> None:
    """The EF of a TEST patient may be outside the range of TRAIN, here 40 to 61: the nearest value in range is used."""
    generator(folder, conditions=("class_id", "EF"))
    made = {}
    for ef in (61.0, 75.0, 50.0):
        latent_store(folder / f"ef{ef:g}", LENGTHS[:1], encoder=ENCODER, EF=[ef])
        store = run(folder, f"src={folder}/ef{ef:g}", "steps=2", "strength=1", at=f"made{ef:g}")
        made[ef] = whitened(store)[0]
        assert store.table["EF"].tolist() == [ef]
    assert np.array_equal(made[75.0], made[61.0])
    assert np.abs(made[50.0] - made[61.0]).mean() > 0.01


def test_a_class_that_the_generator_does_not_know_matters_only_where_it_is_told(folder: Path) -> None:
    """strength=0 and method=blur do not use the generator, so a class outside of its training data is accepted."""
    latent_store(folder / "strange", LENGTHS[:2], encoder=ENCODER, class_id=[3, 2])
    for number, more in enumerate((["strength=0"], ["method=blur"])):
        made = run(folder, f"src={folder}/strange", *more, at=f"made{number}")
        assert made.table["class_id"].tolist() == [3, 2]


@pytest.mark.slow
def test_an_image_depends_on_the_seed_and_itself_alone(folder: Path) -> None:
    whole = run(folder, "frames=3")
    for batch in (1, 5):
        same(run(folder, "frames=3", f"batch={batch}", at=f"by{batch}"), whole)
    latent_store(folder / "few", LENGTHS[:5], encoder=ENCODER)
    few = run(folder, "frames=3", f"src={folder}/few", at="few_made")
    for latents, wanted in zip(whitened(few), whitened(whole), strict=False):
        assert latents == pytest.approx(wanted, rel=2e-3, abs=1e-3)
    other = run(folder, "frames=3", "seed=1", at="other")
    for latents, wanted in zip(whitened(other), whitened(whole), strict=True):
        assert np.abs(latents - wanted).mean() > 0.1
    three = whitened(whole)[0]
    assert np.abs(three[0] - three[1] - (three[1] - three[2])).mean() > 0.1  # the noise differs between frames


@pytest.mark.slow
def test_interruptions_end_with_the_same_bytes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = ["batch=3", "steps=2"]
    run(folder, *more, at="undisturbed")
    for owner, attribute, count in [(drawing, "write_latents", k) for k in (0, 4)] + [(StoreWriter, "finish", 0)]:
        with monkeypatch.context() as patch:
            patch.setattr(owner, attribute, failing_after(count, getattr(owner, attribute)))
            with pytest.raises(Accident):
                run(folder, *more)
        assert not (folder / "made").exists()
    run(folder, *more)
    assert bytes_of(folder / "made") == bytes_of(folder / "undisturbed")
    monkeypatch.setattr(DiffusionModel, "forward", None)
    run(folder, *more)
    with pytest.raises(UserError, match=r"settings\.strength"):
        run(folder, *more, "strength=0.3")


def test_of_key_frames_drawn_jointly_it_takes_the_place_of_the_nearest(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = select_recordings(Store(folder / "real"), SPLITS, "src")
    for place, shown, slot in ((4, [0, 4, 8], 1), (6, [0, 2, 6], 2), (1, [1, 2, 8], 0), (8, [0, 2, 8], 2)):
        taken, where = select_joint_frames(rows, 0, place, 3)  # the key frames are 0, 2 and 8
        assert (taken.frames.tolist(), where) == (shown, slot)
    assert select_joint_frames(rows, 1, 6, 1)[0].frames.tolist() == [6]
    assert select_joint_frames(rows, 1, 5, 2)[0].frames.tolist() == [5, 11]
    generator(folder, frames=3)
    planted(monkeypatch, lambda *_: torch.zeros(1, 1, 1, 1), 1.0)
    made = whitened(run(folder, "strength=0.01"))
    for latents, wanted in zip(made, frames_of(folder, MIDDLE), strict=True):
        assert latents.shape == (1, C, H, W)
        assert np.corrcoef(latents.ravel(), wanted.ravel())[0, 1] > 0.95


def test_blur_is_that_of_the_decoded_pixels(folder: Path) -> None:
    """The autoencoder of this test decodes latents to pixels = latents / 10, clipped to [-1, 1]."""
    made, real = run(folder, "method=blur", "blur=0.8"), Store(folder / "real")
    reach = np.arange(-3, 4)
    weight = np.exp(-(reach**2) / (2 * 0.8**2))
    weight /= weight.sum()
    for name, place in zip(real.table["FileName"], MIDDLE, strict=True):
        pixels = (real.latents(name)[0][place].numpy().astype(np.float64) / 10).clip(-1, 1)
        padded = np.pad(pixels, ((0, 0), (3, 3), (3, 3)), mode="edge")
        wanted = np.zeros_like(pixels)
        for i, down in enumerate(weight):
            for j, across in enumerate(weight):
                wanted += down * across * padded[:, i : i + H, j : j + W]
        assert made.latents(name)[0].numpy()[0] == pytest.approx(10 * wanted, rel=2e-3, abs=4e-3)
    assert made.dataset.settings["blur"] == 0.8
    assert "strength" not in made.dataset.settings


@pytest.mark.slow
def test_measured_beside_its_originals(folder: Path) -> None:
    """stage=anonymity compares each frame with the same frame of the original recording; other frames are an error."""
    run(folder, "strength=0")
    run(folder, "strength=0", "frames=3", at="three")

    def measured(*overrides: str) -> dict[str, Any]:
        where = [f"real={folder}/real", "artifact=null", f"dst={folder}/out", "notes=null", "+data.name=x"]
        with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
            engine.sample(compose("sample", ["stage=anonymity", *where, *overrides]))
        record = json.loads((folder / "out" / "anonymity.json").read_text())
        return {each["name"]: each["value"] for each in record["spaces"]["latents"]["measures"]}

    for own in ([f"src={folder}/made"], [f"src={folder}/three", "frames=3"]):
        found = measured(*own)
        assert found["hidden rate"] == found["distance to own avatar"] == 0
    with pytest.raises(UserError, match="made has no version of frame 0 of r0, only of 4: give frames=1, as in"):
        measured(f"src={folder}/made", "frames=3")


REFUSED = [
    (["method=blurr"], "method is 'blurr': choose one of redraw, blur"),
    (["strength=1.5"], "strength is 1.5: give a number from 0 to 1"),
    (["strength=-0.1"], "strength is -0.1: give a number from 0 to 1"),
    (["strength=true"], "strength is true: give a number"),
    (["method=blur", "blur=0"], "blur is 0: give a number above 0 and below 1000, a standard deviation in pixels"),
    (["frames=0"], "frames is 0: give a whole number"),
    (["frames=6"], "frames=6 is too many: r2 of .*real has 5"),
    (["batch=0"], "batch is 0: give a whole number from 1"),
    (["steps=0"], "steps is 0: give"),
    (["guidance.auto.scale=2"], "guidance.auto=.* is not possible in stage=anonymise: leave it out"),
    (["guidance.EF=2"], "guidance.EF=2 is not possible"),
    (["trainer.precision=64-true"], "trainer.precision=64-true is not suitable for sampling"),
    (["generator=DIR/none"], "none has no lidm"),
    (
        ["generator=DIR/foreign"],
        "generator= samples latents of another autoencoder than that of .*real: train it again",
    ),
    (
        ["generator=DIR/wide"],
        "r0 of .*real is 6x4, and generator= samples 7x4: give the LIDM that was trained on",
    ),
    (["src=DIR/pixels"], "src=.*pixels holds videos, but latents are needed: run stage=encode first"),
    (["src=DIR/nowhere"], "nowhere does not exist"),
    (["src=DIR/strange"], "r1 of .*strange has class_id=2, which generator= was not trained on: give a LIDM whose"),
    (["src=DIR/oblique", "generator=DIR/views"], "r2 of .*oblique has View=PLAX, which generator= was not trained on"),
    (["src=DIR/other"], "autoencoder=.*vae did not encode .*other: give the autoencoder of these latents"),
]


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        folder = study(tmp_path_factory.mktemp("ready"), patch)
        generator(folder, at="foreign", encoder="ef" * 32)
        wide = model("lidm", encoder=ENCODER)
        object.__setattr__(wide.metadata, "width", 7)
        artifact(folder / "wide", wide, "lidm")
        moving_disc_store(folder / "pixels")
        latent_store(folder / "other", LENGTHS[:2], encoder="12" * 32)
        latent_store(folder / "strange", LENGTHS[:2], encoder=ENCODER, class_id=[3, 2])
        latent_store(folder / "oblique", LENGTHS[:3], encoder=ENCODER, View=["A4C", None, "PLAX"])
        generator(folder, at="views", conditions=("class_id", "view"))
        yield folder


@pytest.mark.slow
@pytest.mark.parametrize(("overrides", "words"), REFUSED, ids=[" ".join(entry[0]) for entry in REFUSED])
def test_refusals(ready: Path, overrides: list[str], words: str) -> None:
    given = [override.replace("DIR", str(ready)) for override in overrides]
    with pytest.raises(UserError, match=words) as caught:
        run(ready, *given)
    assert "\n" not in str(caught.value)
    assert not (ready / "made").exists()
    assert not (ready / "made.partial").exists()


def test_a_generator_that_failed_leaves_no_store(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DiffusionModel, "forward", lambda own, x_t, *_: x_t * float("nan"))
    with pytest.raises(UserError, match="NaN or infinite"):
        run(folder)
    assert not (folder / "made").exists()
