"""Tests of ``stage=video``: key frames, the rows of the sampled store, and error messages."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from echodream.stages.video import clip_config
from echodream.store import find_problems
from tests.support.sampling_study import image, planted, ready_study, refused, study, video, whitened
from tests.support.tiny_diffusion import ENCODER, STATISTICS, WINDOW, C, artifact, latent_store, model, published
from tests.support.tiny_vae import moving_disc_store


@pytest.mark.slow
def test_key_frames_become_three_frames_and_the_video_takes_all_three(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact(tmp_path / "lidm", model("lidm", frames=3), "lidm")
    times = (0.0, 3.5, 7.0)
    artifact(tmp_path / "lvdm", model("lvdm", ("reference", "class_id"), reference_times=times), "lvdm")
    with monkeypatch.context() as patch:
        planted(patch, lambda *_: torch.arange(9.0).view(1, 9, 1, 1), 1e-4)
        stills = image(tmp_path, "n=2", "steps=5")
    assert stills.table["NumberOfFrames"].tolist() == [3, 3]
    for latents in whitened(stills):
        assert latents.mean(axis=(2, 3)) == pytest.approx(np.arange(9.0).reshape(3, C), abs=0.02)  # ED, ES, ED
    seen: list[Any] = []

    def mean(x: Tensor, values: Any, keep: Any) -> Tensor:
        seen.append(values)
        return torch.zeros(1)

    planted(monkeypatch, mean, 0.5)
    video(tmp_path, "frames=8")
    reference = np.stack([latents.transpose(1, 0, 2, 3) for latents in whitened(stills)])
    assert seen[0]["reference"].numpy() == pytest.approx(reference, abs=1e-5)
    assert seen[0]["reference_time"].tolist() == [list(times)] * 2
    image(study(tmp_path / "single"), "n=2")
    words = r"needs 3 reference frames, but image-000000 of .*images has 1: give src= with recordings of 3 frames"
    refused(words, lambda: video(tmp_path, f"src={tmp_path}/single/images", at="other"), tmp_path, "other")


@pytest.mark.slow
def test_key_frames_come_again_with_every_beat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Key frames are ED at 0, then ES and ED of each beat; beat lengths vary between videos as in the training data."""
    facts = {"reference_times": (0.0, 3.0, 8.0), "beat_spread": 0.2}
    artifact(tmp_path / "lvdm", model("lvdm", ("reference",), **facts), "lvdm")
    stills = latent_store(tmp_path / "images", [3] * 8, synthetic=True)
    seen: list[Any] = []
    planted(monkeypatch, lambda x, values, keep: (seen.append(values), torch.zeros(1))[1], 0.5)
    made = video(tmp_path, "frames=20", "overlap=4", "n=40", "repeat=true", "batch=40", "steps=1")
    values = {name: value[:40] for name, value in seen[0].items()}  # the first window of each video
    lengths = 60 * 25.0 / made.table["HeartRate"].to_numpy()
    key_frames = whitened(stills)
    for row, length in enumerate(lengths):
        times, reference = values["reference_time"][row].numpy(), values["reference"][row].numpy()
        count = (len(times) - 1) // 2
        wanted = [0.0, *(length * (beat + part) for beat in range(count) for part in (3 / 8, 1))]
        assert times == pytest.approx(wanted, rel=1e-3)
        assert times[-1] >= 20
        which = [0, *[1, 2] * count]
        assert reference == pytest.approx(key_frames[row % 8][which].transpose(1, 0, 2, 3), abs=1e-5)
    assert lengths.mean() == pytest.approx(8, abs=0.8)  # 40 videos: standard error 0.25
    assert 0.12 < lengths.std() / 8 < 0.26
    again = video(tmp_path, "frames=20", "overlap=4", "n=3", "batch=2", "steps=1", at="fewer")
    assert again.table["HeartRate"].tolist() == made.table["HeartRate"].tolist()[:3]


def test_beats_that_are_all_alike_come_again_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"reference_times": (0.0, 3.0, 8.0), "beat_spread": 0.0}
    artifact(tmp_path / "lvdm", model("lvdm", ("reference",), **facts), "lvdm")
    latent_store(tmp_path / "images", [3] * 2, synthetic=True)
    seen: list[Any] = []
    planted(monkeypatch, lambda x, values, keep: (seen.append(values), torch.zeros(1))[1], 0.5)
    made = video(tmp_path, "frames=20", "overlap=4", "steps=1")
    assert made.table["HeartRate"].tolist() == [187.5, 187.5]  # beats of 8 frames at 25 frames per second
    assert seen[0]["reference_time"][0, :7].tolist() == [0, 3, 8, 11, 16, 19, 24]


def test_a_reference_in_the_middle_of_training_clips_is_one_when_sampling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact(tmp_path / "lvdm", model("lvdm", ("reference",), reference_times=(3.5,)), "lvdm")
    latent_store(tmp_path / "images")
    seen: list[Any] = []
    planted(monkeypatch, lambda x, values, keep: (seen.append(values), torch.zeros(1))[1], 0.5)
    video(tmp_path, "n=2")
    assert seen[0]["reference_time"].tolist() == [[3.5], [3.5]]


@pytest.mark.slow
@pytest.mark.parametrize("join", ["crossfade", "continue"])
def test_the_file_list_of_videos(tmp_path: Path, join: str) -> None:
    folder = study(tmp_path)
    stills = image(folder)
    overlap = {"crossfade": 3, "continue": 2}[join]
    store = video(folder, "frames=19", f"join={join}", f"overlap={overlap}", "guidance.reference=1.5", "seed=2")
    table = store.table
    assert table["FileName"].tolist() == [f"video-{row:06d}" for row in range(5)]
    assert table["Source"].tolist() == stills.table["FileName"].tolist()
    for column in ("PatientID", "Split", "class_id", "class_name"):
        assert table[column].tolist() == stills.table[column].tolist()
    assert set(table["NumberOfFrames"]) == {19}
    assert set(table["Joins"]) == {{"crossfade": "3 7 11", "continue": "8 14"}[join]}
    assert (set(table["Seed"]), set(table["Steps"]), set(table["Sampler"])) == ({2}, {3}, {"unipc"})
    assert set(table["Guidance"]) == {"class_id=1 reference=1.5"}
    assert (store.dataset.synthetic, store.dataset.encoder, store.dataset.statistics) == (True, ENCODER, STATISTICS)
    assert not list(find_problems(store.root))


@pytest.mark.slow
def test_going_round_again_gives_other_videos_of_the_same_image(tmp_path: Path) -> None:
    folder = study(tmp_path)
    image(folder, "n=2")
    store = video(folder, "n=5", "repeat=true")
    assert store.table["Source"].tolist() == [f"image-00000{row % 2}" for row in range(5)]
    assert store.table["PatientID"].tolist() == [f"S00000{row % 2}" for row in range(5)]
    first, third = whitened(store)[0], whitened(store)[2]
    assert np.abs(first - third).mean() > 0.1


@pytest.mark.slow
def test_what_nobody_asked_for_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The source has no EF: videos are sampled without EF and the log says so; guidance by EF is an error."""
    folder = study(tmp_path)
    artifact(folder / "both", model("lvdm", ("reference", "class_id", "EF")), "lvdm")
    image(folder)
    with caplog.at_level("INFO"):
        store = video(folder, f"artifact={folder}/both")
    assert "not conditioned on  EF" in caplog.text
    assert "EF" not in store.table
    words = "guidance.EF=2 is not possible: no sample has a value of EF"
    guided = [f"artifact={folder}/both", "guidance.EF=2"]
    refused(words, lambda: video(folder, *guided, at="guided"), folder, "guided")


@pytest.mark.slow
def test_uniform_labels_of_videos_are_balanced(tmp_path: Path) -> None:
    """labels=uniform sets balanced classes, and also values of EF, which the source does not have."""
    folder = study(tmp_path)
    artifact(folder / "both", model("lvdm", ("reference", "class_id", "EF")), "lvdm")
    image(folder)
    table = video(folder, f"artifact={folder}/both", "n=6", "repeat=true", "labels=uniform").table
    assert table["class_id"].tolist() == [0, 1, 3, 0, 1, 3]
    assert table["EF"].between(40, 61).all()
    assert len(table["EF"].unique()) == 2  # one EF for each cycle of the classes


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ready_study(tmp_path_factory.mktemp("ready"))


VIDEO = [
    (["n=4"], "n=4, but src= has 3 rows: lower n, sample more images, or repeat images with repeat=true"),
    (["n=0"], "n is 0"),
    (["frames=0"], "frames is 0: give a whole number from 1"),
    (["frames=8.5"], "frames is 8.5"),
    (["frames=9", "overlap=8"], "overlap=8 is not possible: give 1 to 7 frames, fewer than a window has"),
    (["frames=9", "overlap=0"], "overlap=0 is not possible: give 1 to 7 frames"),
    (["frames=9", "overlap=-1"], "overlap is -1"),
    (["windows=0"], "windows is 0"),
    (
        ["windows=most"],
        "windows is 'most': give a whole number from 1, .*, or all or auto",
    ),
    (["repeat=maybe", "n=4"], "repeat is 'maybe': give true or false"),
    (["repeat=1", "n=4"], "repeat is 1: give true or false"),
    (["repeat=null"], "repeat=null is not possible"),
    (["src=null"], "src=null is not possible"),
    (["trainer.precision=16-true"], "trainer.precision=16-true is not suitable for sampling"),
    (["join=null"], "join=null is not possible: give it a value"),
    (["join=glue"], "join is 'glue': choose one of crossfade, continue"),
    (["batch=0"], "batch is 0"),
    (["steps=0"], "steps is 0: give a whole number"),
    (["sampler=heun"], "sampler=heun cannot be combined with process=ddpm"),
    (["spacing=1"], "spacing is 1: choose one of trailing, quadratic, leading"),
    (["guidance.text=2"], "guidance.text=2 is not possible"),
    (["src=DIR/other"], r"other was encoded by efef.*, this model needs cdcd"),
    (["src=DIR/pixels"], "pixels is a video store, but a latent store is needed"),
    (["src=DIR/none"], "none"),
    (["src=DIR/unknown"], "class_id=2 was not in the training data of the model"),
    (["src=DIR/fraction"], "EF=0.55 is outside of the training range"),
    (["artifact=DIR/lidm"], "lidm contains a lidm model: give the folder of a lvdm model"),
    (
        ["artifact=DIR/free", "join=continue", "frames=9"],
        "needs a model conditioned on several reference frames",
    ),
    (
        ["artifact=DIR/published", "join=continue", "frames=9"],
        "needs a model conditioned on several reference frames",
    ),
    (["artifact=DIR/wide"], "images has latents of 6x4, but this lvdm samples 5x7"),
]


@pytest.fixture(scope="module")
def sources(ready: Path) -> Path:
    latent_store(ready / "other", encoder="ef" * 32)
    latent_store(ready / "unknown", [3, 3], class_id=[1, 2])
    latent_store(ready / "fraction", [3, 3], EF=[50.0, 0.55])
    moving_disc_store(ready / "pixels")
    artifact(ready / "free", model("lvdm", ("class_id", "EF")), "lvdm")
    wide = model("lvdm", ("reference", "class_id", "EF"))
    object.__setattr__(wide.metadata, "height", 7)
    object.__setattr__(wide.metadata, "width", 5)
    artifact(ready / "wide", wide, "lvdm")
    artifact(ready / "published", published(), "lvdm")
    return ready


@pytest.mark.slow
@pytest.mark.parametrize(("overrides", "words"), VIDEO, ids=[" ".join(entry[0]) for entry in VIDEO])
def test_videos_that_cannot_be_drawn(sources: Path, overrides: list[str], words: str) -> None:
    given = [override.replace("DIR", str(sources)) for override in overrides]
    refused(words, lambda: video(sources, *given, at="refused"), sources, "refused")
    assert not (sources / "refused.partial").exists()


@pytest.mark.slow
def test_a_model_without_references_draws_videos_from_noise_alone(sources: Path) -> None:
    assert len(video(sources, f"artifact={sources}/free", "frames=13", "overlap=4", at="free_videos")) == 3
    assert WINDOW == 8


def test_windows_share_a_quarter_of_their_frames_by_default() -> None:
    assert clip_config(model("lvdm"), 20, "crossfade", None, 1).overlap == WINDOW // 4 > 0
