"""``stage=image`` and ``stage=video``: the numbers, the bytes, interruptions, and every refusal."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from echodream import engine
from echodream.callbacks.store_writer import WriteStore
from echodream.diffusion import Diffusion
from echodream.errors import UserError
from echodream.process.flow import Flow
from echodream.stages import drawing
from echodream.store import Statistics, Store, StoreWriter, problems
from tests.tiny_diffusion import (
    CLASSES,
    ENCODER,
    NAMES,
    STATISTICS,
    WINDOW,
    C,
    Gaussian,
    H,
    W,
    artifact,
    latent_store,
    model,
    published,
    sample_cfg,
)
from tests.tiny_vae import artifact as vae_artifact
from tests.tiny_vae import blob_store, tiny

ROOT = Path(__file__).resolve().parent.parent.parent
MEAN, STD = np.reshape(STATISTICS.mean, (C, 1, 1)), np.reshape(STATISTICS.std, (C, 1, 1))
TOLD = ("class_id", "EF", "view")


def study(folder: Path, conditions: tuple[str, ...] = ("class_id",), latents: bool = False, **more: Any) -> Path:
    """Both models; a store of images is drawn by ``images``."""
    folder.mkdir(exist_ok=True)
    artifact(folder / "lidm", model("lidm", conditions, **more), "lidm")
    artifact(folder / "lvdm", model("lvdm", ("reference", *conditions), **more), "lvdm")
    if latents:
        latent_store(folder / "latents")
    return folder


def image(folder: Path, *overrides: str, at: str = "images") -> Store:
    engine.sample(sample_cfg(folder, "image", f"dst={folder}/{at}", *overrides))
    return Store(folder / at)


def video(folder: Path, *overrides: str, at: str = "videos") -> Store:
    engine.sample(sample_cfg(folder, "video", f"dst={folder}/{at}", *overrides))
    return Store(folder / at)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def whitened(store: Store) -> list[np.ndarray]:
    """Of each recording, float64 (F, C, H, W)."""
    found = [store.latents(name)[0].numpy().astype(np.float64) for name in store.table["FileName"]]
    return [(latents - MEAN) / STD for latents in found]


def planted(patch: pytest.MonkeyPatch, mean: Callable[..., Tensor], std: float) -> Gaussian:
    stands = Gaussian(mean, std)
    patch.setattr(Diffusion, "forward", lambda own, *given: stands(own, *given))
    return stands


def same(left: Store, right: Store) -> None:
    """Rows and latents, to what another kernel may differ: one unit of float16 in the last place."""
    assert left.table.equals(right.table)
    for name in left.table["FileName"]:
        (a, b), (c, d) = left.latents(name), right.latents(name)
        assert torch.allclose(a.float(), c.float(), rtol=2.0**-10, atol=1e-5)
        assert torch.equal(b, d)


@pytest.mark.parametrize("process", [None, Flow()], ids=["ddpm", "flow"])
def test_the_exact_denoiser_gives_stores_of_the_right_mean_and_std(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, process: Any
) -> None:
    folder = study(tmp_path, process=process)
    network = planted(monkeypatch, lambda x, *_: torch.tensor([0.8, -0.5, 0.2]).view(1, C, *[1] * (x.ndim - 2)), 0.6)
    stills = image(folder, "n=40", "batch=16", "steps=25")
    assert network.rows == [16] * 25 + [16] * 25 + [8] * 25
    clips = video(folder, "n=6", "frames=13", "steps=25")
    for store, frames in ((stills, 1), (clips, 13)):
        latents = whitened(store)
        assert {part.shape for part in latents} == {(frames, C, H, W)}
        every = np.concatenate(latents).transpose(1, 0, 2, 3).reshape(C, -1)
        assert every.mean(1) == pytest.approx([0.8, -0.5, 0.2], abs=0.07)  # 960 numbers: standard error 0.02
        assert every.std(1) == pytest.approx([0.6] * C, rel=0.08)
        assert not any(store.latents(name)[1].any() for name in store.table["FileName"])
        assert not list(problems(store.root))


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
    words = r"takes 3 key frames, and image-000000 of .*images has 1: draw them with a lidm trained with view=triplet"
    refused(words, lambda: video(tmp_path, f"src={tmp_path}/single/images", at="other"), tmp_path, "other")


def test_key_frames_come_again_with_every_beat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ED at 0, then ES and ED of each beat; the beats' lengths vary from video to video as they did in training."""
    facts = {"reference_times": (0.0, 3.0, 8.0), "beat_spread": 0.2}
    artifact(tmp_path / "lvdm", model("lvdm", ("reference",), **facts), "lvdm")
    stills = latent_store(tmp_path / "images", [3] * 8, synthetic=True)
    seen: list[Any] = []
    planted(monkeypatch, lambda x, values, keep: (seen.append(values), torch.zeros(1))[1], 0.5)
    made = video(tmp_path, "frames=20", "overlap=4", "n=40", "repeat=true", "batch=40", "steps=1")
    values = {name: value[:40] for name, value in seen[0].items()}  # of the first window
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
    assert lengths.mean() == pytest.approx(8, abs=0.8)  # 40 draws: standard error 0.25
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
    assert made.table["HeartRate"].tolist() == [187.5, 187.5]  # 8 frames at 25 a second
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


def test_the_file_list_of_images(tmp_path: Path) -> None:
    store = image(study(tmp_path, TOLD), "n=7", "seed=11", "guidance.class_id=2.5", "sampler=unipc", "steps=4")
    table = store.table
    assert table["FileName"].tolist() == [f"image-{row:06d}" for row in range(7)]
    assert table["PatientID"].tolist() == [f"S{row:06d}" for row in range(7)]
    assert set(table["Split"]) == {"TRAIN"}
    assert set(table["Seed"]) == {11}
    assert set(table["Sampler"]) == {"unipc"}
    assert set(table["Steps"]) == {4}
    assert set(table["Guidance"]) == {"class_id=2.5 EF=1 view=1"}
    assert table["class_id"].tolist() == [0, 1, 3, 0, 1, 3, 0]
    assert table["class_name"].tolist() == [NAMES[number] for number in table["class_id"]]
    assert table["EF"].between(40, 61).all()
    assert set(table["View"]) == {"A2C", "A4C"}
    facts = store.dataset
    assert (facts.kind, facts.channels, facts.height, facts.width) == ("latent", C, H, W)
    assert (facts.synthetic, facts.encoder, facts.statistics) == (True, ENCODER, STATISTICS)
    assert facts.settings["model"] == model("lidm", TOLD).fingerprint()
    assert facts.settings["guidance"]["scales"] == {"class_id": 2.5, "EF": 1.0, "view": 1.0}


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
    assert (set(table["Seed"]), set(table["Steps"]), set(table["Sampler"])) == ({2}, {3}, {"dpmpp_2m"})
    assert set(table["Guidance"]) == {"class_id=1 reference=1.5"}
    assert (store.dataset.synthetic, store.dataset.encoder, store.dataset.statistics) == (True, ENCODER, STATISTICS)
    assert not list(problems(store.root))


def test_no_patient_of_the_study_is_in_a_store_of_samples(tmp_path: Path) -> None:
    """Not behind synthetic images, and not where the source is real."""
    folder = study(tmp_path, latents=True)
    image(folder, "labels=training")
    video(folder)
    real = video(folder, f"src={folder}/latents", at="from_real")
    for made in ("images", "videos", "from_real"):
        assert all(b"secret" not in content for content in bytes_of(folder / made).values())
    assert real.table["PatientID"].tolist() == [f"S{row:06d}" for row in range(8)]
    assert real.table["Split"].tolist() == Store(folder / "latents").table["Split"].tolist()
    assert real.table["class_id"].tolist() == list(CLASSES)


def test_uniform_labels_are_balanced(tmp_path: Path) -> None:
    table = image(study(tmp_path, TOLD), "n=24", "steps=1").table
    assert table.groupby(["class_id", "View"]).size().tolist() == [4] * 6
    assert len(table["EF"].unique()) == 4
    assert table["EF"].mean() == pytest.approx(50.5, abs=2)


def test_labels_as_in_training_are_those_of_its_train_rows(tmp_path: Path) -> None:
    folder = study(tmp_path, TOLD, latents=True)
    made = image(folder, "n=60", "steps=1", "labels=training").table
    rows = Store(folder / "latents").table
    train = rows[rows["Split"] == "TRAIN"]
    known = set(zip(train["class_id"], train["EF"], train["View"], strict=True))
    drawn = list(zip(made["class_id"], made["EF"], made["View"], strict=True))
    assert set(drawn) == known  # 60 draws of five rows: one is left out once in 100,000 seeds
    more = image(folder, "n=70", "steps=1", "labels=training", at="more").table
    assert more["EF"].tolist()[:60] == made["EF"].tolist()
    other = image(folder, "n=60", "steps=1", "labels=training", "seed=1", at="other").table
    assert other["EF"].tolist() != made["EF"].tolist()


def write_csv(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(rows) + "\n")
    return path


def test_labels_of_a_csv_go_row_by_row(tmp_path: Path) -> None:
    folder = study(tmp_path, TOLD)
    labels = write_csv(tmp_path / "asked.csv", "EF,class_id,note", "44.5,3,x", ",1,y", "60,,z", "41,0,")
    store = image(folder, "n=null", f"labels={labels}")
    assert store.table["class_id"].fillna(-1).tolist() == [3, 1, -1, 0]
    assert store.table["EF"].fillna(-1).tolist() == [44.5, -1, 60, 41]
    assert "View" not in store.table
    assert len(image(folder, "n=2", f"labels={labels}", at="two")) == 2
    refused("n=5, and labels=.* has 4 rows", lambda: image(folder, f"labels={labels}", at="five"), folder, "five")
    write_csv(labels, "EF,class_id", "44.5,3", ",1", "60,0", "41,0")
    words = r"images is already there, made with other settings \(settings.labels was 'csv "
    with pytest.raises(UserError, match=words):
        image(folder, "n=null", f"labels={labels}")


def test_labels_of_a_csv_for_videos(tmp_path: Path) -> None:
    folder = study(tmp_path)
    image(folder)
    by_row = write_csv(tmp_path / "rows.csv", "class_id", *"33110")
    assert video(folder, f"labels={by_row}", at="by_row").table["class_id"].tolist() == [3, 3, 1, 1, 0]
    rows = [f"image-{row:06d},{number}" for row, number in ((4, 3), (2, 1), (0, 3), (1, 0), (3, 1), (9, 0))]
    by_name = write_csv(tmp_path / "names.csv", "Source,class_id", *rows)
    found = video(folder, f"labels={by_name}", "repeat=true", "n=7", at="by_name").table
    assert found["class_id"].tolist() == [3, 0, 1, 1, 3, 3, 0]
    assert found["Source"].tolist()[5:] == ["image-000000", "image-000001"]
    short = write_csv(tmp_path / "short.csv", "class_id", "1")
    refused("has 1 rows for 5 videos", lambda: video(folder, f"labels={short}", at="x"), folder, "x")
    lost = write_csv(tmp_path / "lost.csv", *by_name.read_text().splitlines()[:3])
    refused("has no row whose Source is image-000000", lambda: video(folder, f"labels={lost}", at="x"), folder, "x")
    twice = write_csv(tmp_path / "twice.csv", *by_name.read_text().splitlines(), rows[1])
    words = "two rows whose Source is image-000002"
    refused(words, lambda: video(folder, f"labels={twice}", at="x"), folder, "x")


def test_going_round_again_gives_other_videos_of_the_same_image(tmp_path: Path) -> None:
    folder = study(tmp_path)
    image(folder, "n=2")
    store = video(folder, "n=5", "repeat=true")
    assert store.table["Source"].tolist() == [f"image-00000{row % 2}" for row in range(5)]
    assert store.table["PatientID"].tolist() == [f"S00000{row % 2}" for row in range(5)]
    first, third = whitened(store)[0], whitened(store)[2]
    assert np.abs(first - third).mean() > 0.1


def test_what_nobody_asked_for_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The source has no EF: it is drawn without, and the summary says so; guided it is refused."""
    folder = study(tmp_path)
    artifact(folder / "both", model("lvdm", ("reference", "class_id", "EF")), "lvdm")
    image(folder)
    with caplog.at_level("INFO"):
        store = video(folder, f"artifact={folder}/both")
    assert "not asked for  EF" in caplog.text
    assert "EF" not in store.table
    words = "guidance.EF=2 has nothing to guide: no row has a value of EF"
    guided = [f"artifact={folder}/both", "guidance.EF=2"]
    refused(words, lambda: video(folder, *guided, at="guided"), folder, "guided")


def test_a_row_is_the_same_for_any_batch_and_length_of_the_list(tmp_path: Path) -> None:
    folder = study(tmp_path)
    whole = image(folder, "n=8", "batch=8", "guidance.class_id=3", "sampler=ddpm")
    for batch in (1, 3):
        same(image(folder, "n=8", f"batch={batch}", "guidance.class_id=3", "sampler=ddpm", at=f"by{batch}"), whole)
    clips = video(folder, "frames=19", "batch=8", "windows=4")
    for batch, windows in ((1, 1), (3, 2)):
        same(video(folder, "frames=19", f"batch={batch}", f"windows={windows}", at=f"v{batch}"), clips)
    fewer = video(folder, "frames=19", "n=3", at="fewer")
    for row, latents in enumerate(whitened(fewer)):
        assert latents == pytest.approx(whitened(clips)[row], rel=2e-3, abs=1e-3)


@pytest.fixture
def one_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """The code's version, whatever happens to the checkout meanwhile."""
    monkeypatch.setattr(engine, "code_version", lambda: "1.2.3")


class Accident(Exception):
    pass


def failing_after(count: int, call: Callable[..., Any]) -> Callable[..., Any]:
    left = [count]

    def wrapped(*args: Any, **more: Any) -> Any:
        if not left[0]:
            raise Accident
        left[0] -= 1
        return call(*args, **more)

    return wrapped


@pytest.mark.usefixtures("one_version")
@pytest.mark.parametrize("stage", ["image", "video"])
def test_ten_interruptions_end_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, stage: str
) -> None:
    """Before the first row, within batches, between them, and at each step of the completion."""
    folder, undisturbed = study(tmp_path / "a"), study(tmp_path / "b")
    more = ["n=8", "batch=3", "steps=2"] if stage == "image" else ["n=8", "batch=3", "steps=1", "frames=13"]
    if stage == "video":
        for place in (folder, undisturbed):
            image(place, "n=8", "steps=1")
    final = "images" if stage == "image" else "videos"
    engine.sample(sample_cfg(undisturbed, stage, *more))
    stops: list[tuple[Any, str, int]] = [(drawing, "write_latents", count) for count in (0, 0, 1, 2, 0, 1, 2)]
    stops += [(WriteStore, "complete", 0), (StoreWriter, "finish", 0), (StoreWriter, "gather", 1)]
    for owner, attribute, count in stops:
        with monkeypatch.context() as patch:
            patch.setattr(owner, attribute, failing_after(count, getattr(owner, attribute)))
            with pytest.raises(Accident):
                engine.sample(sample_cfg(folder, stage, *more))
        assert not (folder / final).exists()
    engine.sample(sample_cfg(folder, stage, *more))
    made = bytes_of(folder / final)
    assert made == bytes_of(undisturbed / final)
    assert not list(folder.glob("*.partial"))
    with monkeypatch.context() as patch, caplog.at_level("INFO"):
        patch.setattr(Diffusion, "forward", None)
        engine.sample(sample_cfg(folder, stage, *more))
    assert f"{final} already complete, nothing to do" in caplog.text
    assert bytes_of(folder / final) == made


@pytest.mark.parametrize(
    ("override", "setting"),
    [("seed=1", "seed"), ("steps=2", "steps"), ("guidance.class_id=2", "guidance.scales.class_id"), ("n=4", "labels")],
)
def test_other_settings_do_not_overwrite(tmp_path: Path, override: str, setting: str) -> None:
    folder = study(tmp_path)
    image(folder)
    with pytest.raises(UserError, match=rf"made with other settings \(settings.{setting} was "):
        image(folder, override)


def command(folder: Path, stage: str, *overrides: str) -> list[str]:
    kind, places = {"image": ("lidm", []), "video": ("lvdm", [f"src={folder}/images"])}[stage]
    places += [f"dst={folder}/{stage}s", f"artifact={folder}/{kind}", f"paths.runs={folder}/runs"]
    fixed = [f"stage={stage}", "data=phantom", "workers=0", "trainer.accelerator=cpu"]
    return [sys.executable, str(ROOT / "sample.py"), *fixed, *places, *overrides]


@pytest.mark.chaos
def test_a_killed_process_is_gone_on_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", os.devnull)  # a commit during the test is not another version of the code
    folder, undisturbed = study(tmp_path / "a"), study(tmp_path / "b")
    more = ["n=160", "batch=2", "steps=2"]
    image(undisturbed, *more)
    for least in (3, 30):
        process = subprocess.Popen(command(folder, "image", *more), cwd=tmp_path, stdout=subprocess.DEVNULL)
        journal, deadline = folder / "images.partial" / "journal-0.jsonl", time.monotonic() + 300
        while not (journal.is_file() and journal.read_bytes().count(b"\n") >= least) and time.monotonic() < deadline:
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not (folder / "images").exists()
        assert least <= journal.read_bytes().count(b"\n") < 160
    image(folder, *more)
    left, right = bytes_of(folder / "images"), bytes_of(undisturbed / "images")
    assert left.keys() == right.keys()
    assert all(left[name] == right[name] for name in left if name not in ("dataset.json", "SHA256SUMS"))
    facts = [json.loads(made["dataset.json"]) for made in (left, right)]
    assert {key for key in facts[0] if facts[0][key] != facts[1][key]} <= {"command", "code_version"}


TWO = """
import sys
from pathlib import Path
from echodream import engine
from tests.tiny_diffusion import sample_cfg

folder = Path(sys.argv[1])
more = ["trainer.devices=2", "trainer.strategy=ddp"]
engine.sample(sample_cfg(folder, "image", *more, "n=7", "batch=2", f"dst={folder}/images-2"))
engine.sample(sample_cfg(folder, "video", *more, "n=3", "batch=4", "frames=13", f"dst={folder}/videos-2"))
"""


def test_two_processes_make_the_same_rows(tmp_path: Path) -> None:
    """Of the videos there is one batch: the second process has nothing to do."""
    folder = study(tmp_path)
    image(folder, "n=7", "batch=2")
    video(folder, "n=3", "batch=4", "frames=13")
    (tmp_path / "two.py").write_text(TWO)
    asked = [sys.executable, str(tmp_path / "two.py"), str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(asked, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for kind in ("images", "videos"):
        one, two = (bytes_of(folder / f"{kind}{end}") for end in ("", "-2"))
        assert one.keys() == two.keys()
        assert all(one[name] == two[name] for name in one if name not in ("dataset.json", "SHA256SUMS"))
        assert not list(problems(folder / f"{kind}-2"))


def refused(words: str, run: Callable[[], Any], folder: Path, final: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        run()
    assert "\n" not in str(caught.value)
    assert not (folder / final).exists()


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models that know class_id and EF, three images, and a weak model that does not fit."""
    folder = study(tmp_path_factory.mktemp("ready"), ("class_id", "EF"), latents=True)
    image(folder, "n=3", "steps=1")
    artifact(folder / "flow", model("lidm", ("class_id", "EF"), process=Flow()), "lidm")
    artifact(folder / "foreign", model("lidm", ("class_id", "EF"), encoder="ef" * 32), "lidm")
    other = Statistics((0.0,) * C, (1.0,) * C)
    made = model("lidm", ("class_id", "EF"))
    object.__setattr__(made.facts, "statistics", other)
    artifact(folder / "scaled", made, "lidm")
    vae_artifact(folder / "vae", tiny())
    return folder


IMAGE = [
    (["n=0"], "n is 0; give a whole number from 1"),
    (["n=null"], "n is None; give a whole number"),
    (["n=2.5"], "n is 2.5"),
    (["batch=0"], "batch is 0; give a whole number from 1"),
    (["workers=-1"], "workers is -1"),
    (["seed=-1"], "seed is -1; give a whole number from 0"),
    (["steps=0"], "steps=0 is not possible; give a whole number from 1 to 1000"),
    (["steps=1001"], "steps=1001 is not possible"),
    (["sampler=euler"], "sampler=euler does not go with process=ddpm; take one of: dpmpp_2m, unipc, ddim, ddpm"),
    (["guidance.view=2"], "guidance.view=2 has nothing to guide: this model's conditions are class_id, EF"),
    (["guidance.reference=0"], "guidance.reference=0 has nothing to guide"),
    (["guidance.class_id=strong"], "guidance.class_id=strong is no scale; give a number"),
    (["guidance.class_id=null"], "guidance.class_id=None is no scale"),
    (["guidance.interval=0.5"], r"guidance.interval=\[0.5\] is no interval"),
    (["guidance.interval=[0.7,0.2]"], r"guidance.interval=\[0.7,0.2\] is no interval"),
    (["guidance.rescale=2"], "guidance.rescale=2 is no share"),
    (["guidance.auto=2"], "guidance.auto=2: give guidance.auto.artifact= and guidance.auto.scale="),
    (["guidance.auto.scale=2"], "guidance.auto.scale needs guidance.auto.artifact="),
    (["guidance.auto.artifact=DIR/none"], "none holds no lidm"),
    (["guidance.auto.artifact=DIR/flow"], "flow has another process, encoder or conditions, or other latents"),
    (["guidance.auto.artifact=DIR/foreign"], "foreign has another process, encoder or conditions, or other latents"),
    (["guidance.auto.artifact=DIR/scaled"], "scaled has another process, encoder or conditions, or other latents"),
    (["labels=even"], "labels=even: choose uniform or training, or give the path of a csv"),
    (["labels=training", "training=DIR/none"], "none"),
    (["labels=DIR/none.csv"], "labels=.*none.csv cannot be read as csv"),
    (["labels=DIR/wrong.csv"], "labels=.*wrong.csv has no rows with class_id or EF"),
    (["labels=DIR/empty.csv"], "labels=.*empty.csv has no rows with class_id or EF"),
    (["labels=DIR/class.csv", "n=null"], "class_id=2 is a class that the model was not trained on: give one of 0 sick"),
    (["labels=DIR/fraction.csv", "n=null"], "EF=0.55 is not what the model was trained on, 40 to 61: give percent"),
    (["artifact=DIR/vae"], "vae is a vae, a lidm is needed here"),
    (["artifact=DIR/none"], "none does not exist: train one with train.py"),
    (["artifact=DIR/images"], "images holds no lidm"),
]


@pytest.mark.parametrize(("overrides", "words"), IMAGE, ids=[" ".join(entry[0]) for entry in IMAGE])
def test_images_that_cannot_be_drawn(ready: Path, overrides: list[str], words: str) -> None:
    write_csv(ready / "wrong.csv", "class,ef", "1,50")
    write_csv(ready / "empty.csv", "class_id,EF")
    write_csv(ready / "class.csv", "class_id", "1", "2")
    write_csv(ready / "fraction.csv", "EF", "50", "0.55")
    given = [override.replace("DIR", str(ready)) for override in overrides]
    refused(words, lambda: image(ready, *given, at="refused"), ready, "refused")
    assert not (ready / "refused.partial").exists()


VIDEO = [
    (["n=4"], "n=4, and src= has 3 rows: lower n, draw more images, or go round again with repeat=true"),
    (["n=0"], "n is 0"),
    (["frames=0"], "frames is 0; give a whole number from 1"),
    (["frames=8.5"], "frames is 8.5"),
    (["frames=9", "overlap=8"], "overlap=8: give 1 to 7 frames, fewer than the 8 of a window"),
    (["frames=9", "overlap=0"], "overlap=0: give 1 to 7 frames"),
    (["frames=9", "overlap=-1"], "overlap is -1"),
    (["windows=0"], "windows is 0"),
    (["join=glue"], "join=glue is not known; choose crossfade or continue"),
    (["batch=0"], "batch is 0"),
    (["steps=0"], "steps=0 is not possible"),
    (["sampler=heun"], "sampler=heun does not go with process=ddpm"),
    (["guidance.text=2"], "guidance.text=2 has nothing to guide"),
    (["src=DIR/other"], r"other was encoded by efef.*, this model needs cdcd"),
    (["src=DIR/pixels"], "pixels is a video store, a latent store is needed here"),
    (["src=DIR/none"], "none"),
    (["src=DIR/unknown"], "class_id=2 is a class that the model was not trained on"),
    (["src=DIR/fraction"], "EF=0.55 is not what the model was trained on"),
    (["artifact=DIR/lidm"], "lidm is a lidm, a lvdm is needed here"),
    (["artifact=DIR/free", "join=continue", "frames=9"], "join=continue needs a model trained with .*reference"),
    (["artifact=DIR/shared", "sampler=ddpm"], "sampler=ddpm gives each frame noise of its own, .*shared_noise=0.5"),
    (["artifact=DIR/published", "join=continue", "frames=9"], "join=continue gives several reference frames"),
    (["artifact=DIR/wide"], "images has latents of 6x4, this lvdm draws 5x7"),
]


@pytest.fixture(scope="module")
def sources(ready: Path) -> Path:
    latent_store(ready / "other", encoder="ef" * 32)
    latent_store(ready / "unknown", [3, 3], class_id=[1, 2])
    latent_store(ready / "fraction", [3, 3], EF=[50.0, 0.55])
    blob_store(ready / "pixels")
    artifact(ready / "free", model("lvdm", ("class_id", "EF")), "lvdm")
    wide = model("lvdm", ("reference", "class_id", "EF"))
    object.__setattr__(wide.facts, "height", 7)
    object.__setattr__(wide.facts, "width", 5)
    artifact(ready / "wide", wide, "lvdm")
    artifact(ready / "shared", model("lvdm", ("reference", "class_id", "EF"), shared_noise=0.5), "lvdm")
    artifact(ready / "published", published(), "lvdm")
    return ready


@pytest.mark.parametrize(("overrides", "words"), VIDEO, ids=[" ".join(entry[0]) for entry in VIDEO])
def test_videos_that_cannot_be_drawn(sources: Path, overrides: list[str], words: str) -> None:
    given = [override.replace("DIR", str(sources)) for override in overrides]
    refused(words, lambda: video(sources, *given, at="refused"), sources, "refused")
    assert not (sources / "refused.partial").exists()


def test_a_model_without_references_draws_videos_from_noise_alone(sources: Path) -> None:
    assert len(video(sources, f"artifact={sources}/free", "frames=13", "overlap=4", at="free_videos")) == 3
    assert WINDOW == 8


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
    monkeypatch.setattr(Diffusion, "forward", lambda own, x_t, *_: x_t * 1e30)
    refused("a sample is not finite|a latent is not finite", lambda: image(folder), folder, "images")


def test_a_refusal_on_the_command_line_is_one_line(tmp_path: Path) -> None:
    folder = study(tmp_path)
    asked = command(folder, "image", "n=3", "sampler=euler")
    done = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "error: sampler=euler does not go with process=ddpm; take one of: dpmpp_2m, unipc, ddim, ddpm\n"
    )
