"""Tests of ``stage=filter memoriser=true``: counts of copies by a fine-tuned generator, against brute force."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from echodream import engine
from echodream.artifact import Artifact, write_artifact
from echodream.datamodules.recordings import named_rng
from echodream.diffusion.model import load_diffusion_model
from echodream.errors import UserError
from echodream.filtering import record as filter_record
from echodream.modules.latent_diffusion import LatentDiffusion
from echodream.runs.trainer import AtomicCheckpointIO
from echodream.store import Store
from echodream.store.checksums import file_sha256
from echodream.store.schema import CHECKSUMS
from tests.support import tiny_diffusion
from tests.support.fakes import tree
from tests.support.interruptions import run_until_killed
from tests.support.tiny_filter import MEAN, STD, TRAIN, cfg, drawn, plant, recording, recordings, samples, study, unit

pytestmark = pytest.mark.slow

MEMORISER = ["memoriser=true", "memoriser_settings={patients:3,steps:6,checkpoints:2,batch_size:4,samples:24}"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study, and a generator trained on that study for a few steps."""
    folder = tmp_path_factory.mktemp("trained")
    study(folder / "latents")
    engine.train(tiny_diffusion.train_cfg(folder, "lidm", "conditioning=[]", "view.per_recording=4"))
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The study, samples of the generator, and an identity network and an autoencoder in closed form."""
    plant(monkeypatch, tmp_path)
    for name in ("latents", "lidm"):
        shutil.copytree(trained / name, tmp_path / name)
    model = load_diffusion_model(str(tmp_path / "lidm"), "lidm").fingerprint()
    samples(tmp_path / "images", drawn(), settings={"model": model, "steps": 3, "sampler": "dpmpp_2m"})
    return tmp_path


def run(folder: Path, *overrides: str) -> Any:
    return engine.sample(cfg(folder, f"work={folder}/work", *overrides))


def evidence(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report/filter.json").read_text())
    return found


def white(frames: np.ndarray) -> np.ndarray:
    return ((frames.astype(np.float64) - MEAN) / STD).reshape(len(frames), -1)


def distance(x: np.ndarray, frames: np.ndarray) -> float:
    """Root mean square difference of a frame, (D,), to the nearest of ``frames``."""
    return float(np.sqrt(((x - frames) ** 2).mean(axis=1)).min())


def frames_of(patient: str) -> list[tuple[str, np.ndarray]]:
    """Names and frames of the recordings of a patient."""
    return [
        (name, white(frames)) for name, (number, _, frames) in recordings().items() if f"secret{number:02}" == patient
    ]


def scale(x: np.ndarray, left_out: set[str]) -> float:
    """Mean distance of frame ``x`` to the ten nearest TRAIN patients, without the patients ``left_out``."""
    everyone = {f"secret{number:02}" for number, split, _ in recordings().values() if split == "TRAIN"}
    each = sorted(to_patient(x, name) for name in everyone - left_out)
    return float(np.mean(each[:10]))


def to_patient(x: np.ndarray, patient: str) -> float:
    return distance(x, np.concatenate([frames for _, frames in frames_of(patient)]))


def test_counts_are_those_of_brute_force(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from echodream.filtering import memorization

    seen: list[Any] = []
    sample = memorization.sample_fine_tuned_models

    def planted(*given: Any) -> Any:
        """Replace the first samples by two copies of a frame, two noisy copies, and frames of four new patients."""
        made = sample(*given)
        names = sorted(set(made.recordings.names))
        frame = torch.from_numpy(recordings()[names[0]][2][2:3].astype(np.float32))
        noise = torch.from_numpy(np.random.default_rng(5).normal(size=(24, *frame.shape)) * STD + MEAN).float()
        made.latents[:4] = [
            frame + share * (part - frame) for share, part in zip((0, 0.001, 0.6, 0.7), noise, strict=False)
        ]
        made.latents[4:8] = [torch.from_numpy(recording(500 + k, 0, 1).astype(np.float32)) for k in range(4)]
        seen.append(made)
        return made

    monkeypatch.setattr("echodream.stages.filter.sample_fine_tuned_models", planted)
    summary = run(folder, *MEMORISER)
    found, of = record(folder)["memoriser"], recordings()
    (made,) = seen
    tuned = {f"secret{of[name][0]:02}" for name in made.recordings.names}
    assert len(tuned) == 3
    own, others = found["rule"]["copy"], found["rule"]["novel"]
    assert 0 < own < others
    classes, nearest = [], []
    for latents in made.latents:
        x = white(latents.numpy())[0]
        nearest.append(min(sorted(tuned), key=lambda name: to_patient(x, name)))
        least = to_patient(x, nearest[-1]) / scale(x, tuned)
        classes.append("novel" if least >= others else "copy" if least <= own else "half")
    assert classes[:2] == ["copy", "copy"]
    assert classes[2:8] == ["half"] * 2 + ["novel"] * 4  # noisy copies, new patients
    told = [row for row in evidence(folder / "report/evidence.csv") if row["Kind"].startswith("memoriser")]
    assert [row["Kind"].split()[1] for row in told] == classes
    assert [row["PatientID"] for row in told] == nearest
    references = np.concatenate([unit(frames) for _, split, frames in of.values() if split == "TRAIN"])
    scores = [float((unit(latents.numpy()) @ references.T).max()) for latents in made.latents]
    assert [float(row["Score"]) for row in told] == pytest.approx(scores, abs=2e-6)
    tau = record(folder)["decision"]["tau"]
    for row, names in zip([*found["table"], found["together"]], (["copy"], ["half"], ["copy", "half"]), strict=True):
        passes = [score < tau for score, name in zip(scores, classes, strict=True) if name in names]
        assert (row["controls"], row["passes"]) == (len(passes), sum(passes))
        assert row["bound"] == pytest.approx(stats.beta.ppf(0.9, sum(passes) + 1, len(passes) - sum(passes)))
    assert summary.facts["memorized copies"].startswith("0 of ")
    by_steps = {each["steps"]: each for each in found["by_steps"]}
    assert set(by_steps) == {0, 3, 6}
    for name in ("copy", "half", "novel"):
        assert by_steps[3][name] + by_steps[6][name] == classes.count(name)
    assert by_steps[0]["copy"] + by_steps[0]["half"] + by_steps[0]["novel"] == len(drawn())
    assert "secret" not in json.dumps(record(folder))


def test_the_distances_of_the_rule_are_those_of_real_frames(folder: Path) -> None:
    """Thresholds: distance to other frames of the same patient, and distance of new patients to fine-tuned patients."""
    from echodream.datamodules.recordings import select_recordings
    from echodream.filtering.copy_generation import select_frames_by_patient

    run(folder, *MEMORISER)
    rule, of = record(folder)["memoriser"]["rule"], recordings()
    everyone = select_recordings(Store(folder / "latents"), ("TRAIN", "VAL", "TEST"), "real")
    real = select_frames_by_patient(everyone, 1, 0)
    patients = np.unique([f"secret{number:02}" for number in range(TRAIN)])
    tuned = set(patients[named_rng(0, "memoriser").permutation(TRAIN)[:3]].tolist())
    own, others = [], []
    for patient, one in real.items():
        name, place = everyone.names[one.row], int(one.frames[0])
        x = white(of[name][2])[place]
        left_out = tuned | {patient}
        if patient not in tuned:
            others.append(min(to_patient(x, name) for name in tuned) / scale(x, left_out))
        if patient in patients:
            kept = [
                frame
                for other, frames in frames_of(patient)
                for number, frame in enumerate(frames)
                if other != name or abs(number - place) > 1
            ]
            own.append(distance(x, np.stack(kept)) / scale(x, left_out))
    assert rule == {
        "copy": pytest.approx(np.quantile(own, 0.95, method="inverted_cdf")),
        "novel": pytest.approx(min(others)),
        "own": 14,
        "others": 19,
    }


def test_the_decision_and_the_store_do_not_depend_on_it(folder: Path) -> None:
    run(folder, *MEMORISER)
    ours = tree(folder / "private")
    alone = folder / "alone"
    run(folder, f"dst={alone}/private", f"private={alone}/report")
    theirs = tree(alone / "private")
    changing = ("dataset.json", "SHA256SUMS")  # these files contain the command line
    assert {k: v for k, v in ours.items() if k not in changing} == {
        k: v for k, v in theirs.items() if k not in changing
    }
    decisions = [Store(each / "private").dataset.settings for each in (folder, alone)]
    assert decisions[0] == decisions[1]
    assert "memoriser" not in json.dumps(decisions[0])
    assert len([*(folder / "latents.decisions").glob("*.json")]) == 1


def test_it_is_added_to_a_decision_of_before(folder: Path) -> None:
    run(folder)
    shared, scored = tree(folder / "private"), (folder / "report/scores.csv").read_bytes()
    told, decision = (folder / "report/evidence.csv").read_bytes(), record(folder)
    assert "memoriser added" in str(run(folder, *MEMORISER))
    assert tree(folder / "private") == shared
    assert (folder / "report/scores.csv").read_bytes() == scored
    after = record(folder)
    result = after.pop("memoriser")
    assert after == decision
    assert (folder / "report/evidence.csv").read_bytes().startswith(told)
    before = tree(folder)
    for at in ([], MEMORISER):
        assert "already complete, nothing to do" in str(run(folder, *at))
    assert tree(folder) == before
    more = [MEMORISER[0], MEMORISER[1].replace("samples:24", "samples:48")]
    assert "memoriser added" in str(run(folder, *more))
    assert len([*(folder / "work").iterdir()]) == 1  # the fine-tuned generators are reused
    again = record(folder)["memoriser"]
    assert again["settings"]["samples"] == 48
    assert again["rule"] == result["rule"]
    kinds = [row["Kind"].split()[0] for row in evidence(folder / "report/evidence.csv")]
    assert kinds.count("memoriser") == 48


MOMENTS = {
    "first checkpoint": (AtomicCheckpointIO, "save_checkpoint", 1),
    "second checkpoint": (AtomicCheckpointIO, "save_checkpoint", 2),
    "a step of the second part": (LatentDiffusion, "training_step", 5),
    "export of the first part": (LatentDiffusion, "export", 1),
    "result not yet written": (filter_record, "add_memorization_result", 1),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_while_fine_tuning_it_ends_with_the_same_bytes(folder: Path, moment: str) -> None:
    whole = folder / "whole"
    run(folder, f"dst={whole}/private", f"private={whole}/report", *MEMORISER, f"work={whole}/work")
    run_until_killed(*MOMENTS[moment], lambda: run(folder, *MEMORISER))
    run(folder, *MEMORISER)
    found = json.loads((whole / "report/filter.json").read_text())
    assert record(folder)["memoriser"] == found["memoriser"]
    weights = ["generator_1/diffusion_pytorch_model.safetensors", "generator_2/diffusion_pytorch_model.safetensors"]
    (ours,), (theirs,) = ([*(root / "work").iterdir()] for root in (folder, whole))
    assert [(ours / name).read_bytes() for name in weights] == [(theirs / name).read_bytes() for name in weights]
    assert (folder / "report/evidence.csv").read_bytes() == (whole / "report/evidence.csv").read_bytes()


def refused(folder: Path, words: str, *overrides: str) -> None:
    with pytest.raises(UserError, match=words) as told:
        run(folder, *MEMORISER, *overrides)
    assert "\n" not in str(told.value)
    assert not (folder / "private").exists()


def test_what_cannot_be_trained_is_refused(folder: Path) -> None:
    refused(folder, "memoriser=true trains a copy of generator=", "generator=null")
    refused(folder, "patients=14 needs more than 14 TRAIN patients", "memoriser_settings.patients=14")
    refused(
        folder,
        r"memoriser_settings: steps=7 and samples=24 must be multiples of checkpoints=2",
        "memoriser_settings.steps=7",
    )
    refused(folder, "work=.* lies in .*private, which may be shared", f"work={folder}/private/work")
    source = file_sha256(folder / "latents" / CHECKSUMS)
    for config in ("seed: 0\n", "model: {name: lidm}\n", "- 1\n", "a: [\n"):
        shutil.rmtree(folder / "lidm")
        model = tiny_diffusion.model("lidm", (), encoder=Store(folder / "latents").dataset.encoder)
        made = Artifact("lidm", "x", model.fingerprint(), "0" * 64, source=source)
        write_artifact(folder / "lidm", made, config, model.save)
        shutil.rmtree(folder / "images")
        samples(folder / "images", drawn(), settings={"model": model.fingerprint(), "steps": 3})
        refused(folder, "generator=.*training.yaml has no training settings, as in a published checkpoint: give a lidm")
