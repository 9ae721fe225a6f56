"""Tests of ``stage=filter`` against brute force: scores, decisions, bytes, shared files, and errors without output."""

import csv
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from scipy import stats
from torch import nn

from echodream import engine
from echodream.artifact import Artifact, write_artifact
from echodream.config.paths import CONF_DIR
from echodream.datamodules.recordings import Recordings
from echodream.errors import UserError
from echodream.filtering import embedding
from echodream.filtering import record as filter_record
from echodream.filtering.copy_generation import CopyGenerator, CopyRequest, select_frames_by_patient
from echodream.filtering.positive_controls import Control, describe_control
from echodream.networks.siamese import IdentityEncoder
from echodream.privacy.rules import Calibrated
from echodream.stages import filter as stage
from echodream.store import Store, StoreWriter, verify
from echodream.store.checksums import file_sha256
from echodream.store.schema import CHECKSUMS
from tests.support.fakes import tree
from tests.support.interruptions import run_until_killed
from tests.support.tiny_filter import (
    COPIES,
    ENCODER,
    GENERATOR,
    MEAN,
    C,
    Flat,
    H,
    W,
    cfg,
    drawn,
    plant,
    recording,
    recordings,
    samples,
    store,
    study,
    unit,
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study, twelve samples of one frame, an autoencoder and an identity network."""
    plant(monkeypatch, tmp_path)
    study(tmp_path / "latents")
    samples(tmp_path / "images", drawn())
    return tmp_path


def run(folder: Path, *overrides: str) -> Any:
    return engine.sample(cfg(folder, *overrides))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def training(similarity: str = "cosine", part: slice = slice(None)) -> dict[tuple[str, int], np.ndarray]:
    """Embeddings of all TRAIN frames, by recording and frame."""
    return {
        (name, place): unit(frames[place : place + 1], similarity)[0]
        for name, (_, split, frames) in recordings().items()
        if split == "TRAIN"
        for place in range(len(frames))[part]
    }


def highest(frames: np.ndarray, references: Mapping[tuple[str, int], np.ndarray], similarity: str = "cosine") -> Any:
    """Highest similarity of any of ``frames`` to any reference, and the key of that reference, by brute force."""
    table = unit(frames, similarity) @ np.stack([*references.values()]).T
    return table.max(), [*references][int(table.max(axis=0).argmax())]


def refused(folder: Path, words: str, *overrides: str) -> None:
    with pytest.raises(UserError, match=words) as told:
        run(folder, *overrides)
    assert "\n" not in str(told.value)
    assert not (folder / "private").exists()


def test_scores_thresholds_and_survivors_are_those_of_brute_force(folder: Path) -> None:
    summary = run(folder)
    references, given = training(), drawn()
    found = {row["FileName"]: row for row in rows(folder / "report/scores.csv")}
    assert found.keys() == given.keys()
    for name, frames in given.items():
        score, (nearest, place) = highest(frames, references)
        assert float(found[name]["Score"]) == pytest.approx(score, abs=2e-6)
        assert (found[name]["NearestRecording"], int(found[name]["NearestFrame"])) == (nearest, place)
        assert found[name]["NearestPatient"] == f"secret{recordings()[nearest][0]:02}"
    for name, source in COPIES.items():  # the copied frames are not the first frame of a recording
        assert (found[name]["NearestRecording"], int(found[name]["NearestFrame"])) == source
        assert float(found[name]["Score"]) == pytest.approx(1, abs=1e-6)

    test = Recordings(Store(folder / "latents"), "TEST")
    new = {
        patient: highest(recordings()[test.names[one.row]][2][one.frames], references)[0]
        for patient, one in select_frames_by_patient(test, 1, 0).items()
    }
    assert len(new) == 5  # five patients with six recordings
    evidence = rows(folder / "report/evidence.csv")
    told = {row["PatientID"]: float(row["Score"]) for row in evidence if row["Kind"] == "calibration"}
    assert told == pytest.approx(new, abs=2e-6)
    tau = max(new.values())  # 5 patients, alpha=0.2: p = 1/6 <= alpha only above all 5 scores
    kept = [name for name in given if highest(given[name], references)[0] <= tau]
    assert 4 < len(kept) <= 9
    assert not any(name.startswith("copy") for name in kept)
    for name in given:
        assert found[name]["Kept"] == str(name in kept).lower()
        p = (1 + sum(value >= float(found[name]["Score"]) for value in told.values())) / 6
        assert float(found[name]["PValue"]) == pytest.approx(p)

    made, src = verify(folder / "private"), Store(folder / "images")
    assert made.table["FileName"].tolist() == kept
    assert made.dataset.encoder == ENCODER
    assert made.dataset.synthetic
    assert made.dataset.statistics == src.dataset.statistics
    for name in kept:
        assert made.path(name).read_bytes() == src.path(name).read_bytes()
    scores = [float(found[name]["Score"]) for name in kept]
    assert made.table["PrivacyScore"].tolist() == pytest.approx(scores, abs=1e-6)
    assert made.table["PrivacyP"].tolist() == pytest.approx([float(found[name]["PValue"]) for name in kept], abs=1e-6)
    assert made.table[src.table.columns].equals(src.table[src.table["FileName"].isin(kept)].reset_index(drop=True))
    decision = made.dataset.settings["decision"]
    assert decision["passed"]
    assert decision["decisive"] == "alpha"
    assert decision["tau"] == pytest.approx(tau, abs=2e-6)
    assert (decision["drawn"], decision["kept"], decision["frames"]) == (12, len(kept), 1)
    assert decision["references"] == len(references)
    assert summary.facts["samples"] == f"12 drawn, {12 - len(kept)} rejected, {len(kept)} kept"


@pytest.mark.slow
def test_copies_are_recognised_without_the_frames_that_they_were_made_of(folder: Path) -> None:
    """References omit the copied frame and its neighbors (other_frame), or the whole recording (other_recording)."""
    left = (
        "controls.other_recording={_target_:echodream.filtering.positive_controls.PosteriorSample,leave_out:recording}"
    )
    run(folder, left, "report_only=[other_recording]")
    train = Recordings(Store(folder / "latents"), "TRAIN")
    evidence = rows(folder / "report/evidence.csv")
    told = {(row["Kind"], row["PatientID"]): float(row["Score"]) for row in evidence}
    twice = []
    for patient, one in select_frames_by_patient(train, 1, 0).items():
        name, place = train.names[one.row], int(one.frames[0])
        frame, references = recordings()[name][2][one.frames], training()
        assert told["exact", patient] == pytest.approx(1, abs=1e-6)
        near = {(name, other) for other in (place - 1, place, place + 1)}
        rest = {key: value for key, value in references.items() if key not in near}
        assert told["other_frame", patient] == pytest.approx(highest(frame, rest)[0], abs=2e-6)
        assert 0.7 < told["other_frame", patient] < 0.95
        if ("other_recording", patient) in told:
            twice.append(patient)
            rest = {key: value for key, value in references.items() if key[0] != name}
            assert told["other_recording", patient] == pytest.approx(highest(frame, rest)[0], abs=2e-6)
    assert twice == ["secret00", "secret03"]
    decision = Store(folder / "private").dataset.settings["decision"]
    assert [(row["transform"], row["controls"]) for row in decision["table"]][:2] == [
        ("exact", 14),
        ("other_frame", 14),
    ]
    assert [(row["transform"], row["controls"]) for row in decision["reported"]] == [("other_recording", 2)]
    assert "other_recording" not in decision["statement"]


def test_one_copied_frame_in_a_video_is_enough_where_it_is_looked_at(folder: Path) -> None:
    """Every check_every-th frame is compared: a copied frame at index 4 is found with check_every=2, but not with 3."""
    given = {f"new-{number}": recording(100 + number, 0, 7) for number in range(9)}
    given["hidden"] = recording(200, 0, 7)
    given["hidden"][4] = recordings()["clip-05-0"][2][2]
    samples(folder / "videos", given)
    for every, caught in ((2, True), (3, False)):
        at = [f"src={folder}/videos", f"dst={folder}/private{every}", f"private={folder}/report{every}", "on=video"]
        run(folder, *at, f"check_every={every}", "controls.other_frame=null")
        found = {row["FileName"]: row for row in rows(folder / f"report{every}/scores.csv")}
        for name, frames in given.items():
            assert float(found[name]["Score"]) == pytest.approx(highest(frames[::every], training())[0], abs=2e-6)
        assert (found["hidden"]["Kept"] == "false") == caught
        decision = Store(folder / f"private{every}").dataset.settings["decision"]
        assert decision["frames"] == len(range(0, 7, every))
        new = [row for row in rows(folder / f"report{every}/evidence.csv") if row["Kind"] == "calibration"]
        test = Recordings(Store(folder / "latents"), "TEST")
        for patient, one in select_frames_by_patient(test, len(range(0, 7, every)), 0, every).items():
            score = highest(recordings()[test.names[one.row]][2][one.frames], training())[0]  # frame count of a sample
            assert float(next(row["Score"] for row in new if row["PatientID"] == patient)) == pytest.approx(
                score, abs=2e-6
            )


def test_every_nth_reference_is_counted_from_the_first(folder: Path) -> None:
    run(folder, "reference_every=3", "controls.other_frame=null")
    references = {key: value for key, value in training().items() if key[1] % 3 == 0}
    for row in rows(folder / "report/scores.csv"):
        score, (nearest, place) = highest(drawn()[row["FileName"]], references)
        assert float(row["Score"]) == pytest.approx(score, abs=2e-6)
        assert (row["NearestRecording"], int(row["NearestFrame"])) == (nearest, place)


def test_what_may_be_shared_names_nobody(folder: Path) -> None:
    """The filtered store and filter.json contain no name of a patient, no name of a recording, and no path."""
    run(folder)
    shared = {**tree(folder / "private"), "filter.json": (folder / "report/filter.json").read_bytes()}
    for name, content in shared.items():
        for secret in (b"secret", b"clip-", str(folder).encode()):
            assert secret not in content, name
    assert b"secret" in (folder / "report/scores.csv").read_bytes()
    told = json.loads((folder / "report/filter.json").read_text())
    assert told["decision"] == Store(folder / "private").dataset.settings["decision"]


def test_views_are_looked_at_on_every_side(folder: Path) -> None:
    """views=[flip] detects a flipped copy; calibration patients and positive controls are scored in the same views."""
    flipped = {**drawn(), "turned": recordings()["clip-06-0"][2][3:4, :, :, ::-1].copy()}
    samples(folder / "turned", flipped)
    flip = "controls.flip={_target_:echodream.filtering.positive_controls.PixelTransform,flip:true}"
    at = [f"src={folder}/turned", flip, "report_only=[flip]"]
    run(folder, *at, f"dst={folder}/without", f"private={folder}/blind")
    run(folder, *at, "views=[flip]")
    blind, seeing = ({row["FileName"]: row for row in rows(folder / at / "scores.csv")} for at in ("blind", "report"))
    assert blind["turned"]["Kept"] == "true"
    assert seeing["turned"]["Kept"] == "false"
    # pixels are clipped to [-1, 1], which clips latents of the stand-in autoencoder to [-10, 10]
    for name, frames in flipped.items():
        both = np.concatenate([frames, np.clip(frames, -10, 10)[..., ::-1]])
        assert float(seeing[name]["Score"]) == pytest.approx(highest(both, training())[0], abs=2e-3)
    before, after = (list(rows(folder / at / "evidence.csv")) for at in ("blind", "report"))
    raised = [float(b["Score"]) - float(a["Score"]) for a, b in zip(before, after, strict=True)]
    kinds = [row["Kind"] for row in before]
    assert min(raised) >= 0
    for kind in ("calibration", "flip"):
        assert max(rise for rise, name in zip(raised, kinds, strict=True) if name == kind) > 0.01


PIXELS = "_target_:echodream.filtering.positive_controls.PixelTransform"


def test_a_range_is_certified_like_an_amount_and_stated_in_words(folder: Path) -> None:
    """Each training patient has a copy that is darkened by a random amount of the range, as the statement says."""
    run(folder, f"+controls.darker={{{PIXELS},gain:[-0.3,0.0]}}", "rule.alpha_max=0.6", "rule.alpha=0.5")
    shared = Store(folder / "private").dataset.settings
    assert shared["controls"]["darker"]["gain"] == [-0.3, 0.0]
    found = shared["decision"]
    row = next(row for row in found["table"] if row["transform"] == "darker")
    evidence = [row for row in rows(folder / "report/evidence.csv") if row["Kind"] == "darker"]
    below = sum(float(each["Score"]) < found["tau"] for each in evidence)
    assert (row["controls"], row["passes"]) == (14, below)
    assert len({each["Score"] for each in evidence}) == 14
    most = sum(float(each["Score"]) < (found["between"] or [0, found["tau"]])[1] for each in evidence)
    bound = float(stats.beta.ppf(0.9, most + 1, 14 - most))
    assert row["bound"] == pytest.approx(min(bound, 0.3) if found["between"] else bound)
    assert "darker uniform from -30 to 0 %" in found["statement"]
    assert describe_control("darker", shared["controls"]["darker"]) == "brighter or darker by -30 to 0 %"


def test_a_range_that_is_not_recognised_lets_nothing_pass(folder: Path) -> None:
    refused(
        folder, r"rule.beta=0.3 is not certified .* under 'flips', \d+ of 14", f"+controls.flips={{{PIXELS},flip:any}}"
    )
    with pytest.raises(InstantiationException) as told:
        run(folder, f"+controls.moved={{{PIXELS},shift:[0.2,0.1]}}")
    assert str(told.value.__cause__).startswith("shift is [0.2, 0.1]: give one number, or a range [lowest, highest]")


class Turned(nn.Module):
    """A network that is invariant to a horizontal flip: its output is the sum of a frame and its mirror image."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x + x.flip(-1)).flatten(1)


def with_copies(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a second identity network, ``Turned``, at ``folder``/second."""
    write_artifact(folder / "second", Artifact("reid", "x", "cc" * 32, "0" * 64), "seed: 0\n", lambda _: None)
    first = embedding.load_reid

    def load(path: str) -> IdentityEncoder:
        encoder = first(path)
        return encoder if Path(path).name != "second" else IdentityEncoder(Turned(), encoder.input_spec).eval()  # type: ignore[arg-type]

    monkeypatch.setattr(embedding, "load_reid", load)


def test_a_second_network_recognises_what_the_first_does_not(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the second network recognizes flipped copies; the threshold of each network is computed for alpha / 2."""
    with_copies(folder, monkeypatch)
    flip, alpha = f"controls.flip={{{PIXELS},flip:true}}", ["rule.alpha=0.4", "rule.alpha_max=0.4"]
    refused(folder, r"not certified .* under 'flip'", flip, *alpha)
    flipped = {**drawn(), "turned": recordings()["clip-06-0"][2][3:4, :, :, ::-1].copy()}
    samples(folder / "turned", flipped)
    second = [f"copies={folder}/second", f"src={folder}/turned", f"private={folder}/again"]
    run(folder, flip, *alpha, *second)
    shared = Store(folder / "private").dataset.settings
    decision = shared["decision"]
    assert (shared["copies"], decision["networks"], decision["passed"]) == ("cc" * 32, 2, True)
    assert next(row["passes"] for row in decision["table"] if row["transform"] == "flip") == 0
    assert "each of 2 networks accepts it" in decision["statement"]
    assert "these 2 networks" in decision["statement"]
    assert "this identity network" not in decision["statement"]
    assert decision["cost"]["level"] == pytest.approx(2 * 1 / 6)
    found = {row["FileName"]: row for row in rows(folder / "again/scores.csv")}
    test, references = Recordings(Store(folder / "latents"), "TEST"), training()
    new = [recordings()[test.names[one.row]][2][one.frames] for one in select_frames_by_patient(test, 1, 0).values()]
    thresholds = {"Identity": max(highest(frames, references)[0] for frames in new)}
    both = {key: (frame + mirrored(frame)) / 2 for key, frame in references.items()}
    sides = {key: frame / np.linalg.norm(frame) for key, frame in both.items()}

    def turned_score(frames: np.ndarray) -> float:
        x = unit(frames).reshape(len(frames), C, H, W)
        y = (x + x[..., ::-1]).reshape(len(frames), -1)
        return float((y / np.linalg.norm(y, axis=1, keepdims=True) @ np.stack([*sides.values()]).T).max())

    thresholds["Copies"] = max(turned_score(frames) for frames in new)
    for name, frames in flipped.items():
        assert float(found[name]["Score_Identity"]) == pytest.approx(highest(frames, references)[0], abs=2e-6)
        assert float(found[name]["Score_Copies"]) == pytest.approx(turned_score(frames), abs=2e-6)
        rejected = any(float(found[name][f"Score_{key}"]) > tau + 1e-6 for key, tau in thresholds.items())
        assert found[name]["Kept"] == str(not rejected).lower()
    assert float(found["turned"]["Score_Identity"]) < thresholds["Identity"]
    assert found["turned"]["Kept"] == "false"
    votes = [[float(row[f"Score_{key}"]) > tau + 1e-6 for key, tau in thresholds.items()] for row in found.values()]
    disagreement = decision["disagreement"]
    assert (disagreement["samples"], disagreement["by_all"]) == (len(flipped), sum(map(all, votes)))
    assert disagreement["by_some"] == sum(any(vote) and not all(vote) for vote in votes) > 0
    assert disagreement["share"]["value"] == disagreement["by_some"] / len(flipped)
    assert found["turned"]["NearestRecording"] == "clip-06-0"
    entry = json.loads(next((folder / "latents.decisions").glob("*.json")).read_text())
    assert len([*(folder / "latents.decisions").glob("*.json")]) == 2
    assert "copies" not in entry["decision"]
    with pytest.raises(UserError, match="made with another copies: choose another dst="):
        run(folder, flip, *alpha, f"src={folder}/turned", f"private={folder}/third")


def mirrored(flat: np.ndarray) -> np.ndarray:
    """Embedding, (D,), of the mirrored frame, from the embedding of the frame by the stand-in network."""
    turned: np.ndarray = flat.reshape(C, H, W)[..., ::-1].reshape(-1)
    return turned


def test_two_networks_need_more_calibration_patients(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_copies(folder, monkeypatch)
    words = r"rule.alpha=0.2, shared by 2 networks, needs 9 calibration patients and there are 5; .* rule.alpha=0.334"
    refused(folder, words, f"copies={folder}/second")
    refused(folder, r"rule=percentile compares samples by one network", f"copies={folder}/second", "rule=percentile")
    made = Artifact("reid", "x", "cc" * 32, "0" * 64, source="ab" * 32)
    shutil.rmtree(folder / "second")
    write_artifact(folder / "second", made, "seed: 0\n", lambda _: None)
    refused(folder, r"copies=.*second was trained on another store than real=", f"copies={folder}/second")


def test_an_outlier_is_rejected_and_counted(folder: Path) -> None:
    """A sample with tripled contrast has the same cosine similarity, but is outside the range of training frames."""
    contrast = (3 * (recording(200, 0, 1).astype(np.float64) - MEAN) + MEAN).astype(np.float16)
    samples(folder / "further", {**drawn(), "contrast": contrast})
    alpha = ["rule.alpha=0.4", "rule.alpha_max=0.4", f"src={folder}/further"]
    summary = run(folder, *alpha, "outliers=0.9")
    shared = Store(folder / "private").dataset.settings
    decision = shared["decision"]
    assert (shared["outliers"], decision["networks"], decision["outliers"], decision["passed"]) == (0.9, 2, True, True)
    assert decision["disagreement"] is None
    assert decision["cost"]["level"] == pytest.approx(2 * 1 / 6)
    for words in (
        "if the identity network and the outlier test accept it; the outlier test rejects at most 20 % of the",
        "these transforms, this identity network and this outlier test and copies",
        "no closer to the training patients, and no more of an outlier, than a new patient is, is rejected",
    ):
        assert words in decision["statement"]
    found = {row["FileName"]: row for row in rows(folder / "report/scores.csv")}
    test, references = Recordings(Store(folder / "latents"), "TEST"), training()
    new = [recordings()[test.names[one.row]][2][one.frames] for one in select_frames_by_patient(test, 1, 0).values()]
    tau = max(highest(frames, references)[0] for frames in new)
    similar = {name for name, row in found.items() if float(row["Score_Identity"]) > tau + 1e-6}
    rejected = {name for name, row in found.items() if row["Kept"] == "false"}
    assert similar >= {"copy-0", "copy-1", "copy-2"}
    assert similar < rejected
    assert decision["rejected_as_outliers"] == len(rejected - similar)
    assert "contrast" in rejected - similar
    assert float(found["contrast"]["Score_Outliers"]) == max(float(row["Score_Outliers"]) for row in found.values())
    assert summary.facts["outliers"] == f"{len(rejected - similar)} rejected by the outlier test only"
    entry = json.loads(next((folder / "latents.decisions").glob("*.json")).read_text())
    assert entry["decision"]["outliers"] == 0.9


def test_an_outlier_test_needs_more_calibration_patients_and_the_calibrated_rule(folder: Path) -> None:
    words = r"rule.alpha=0.2, shared by the identity network and the outlier test, needs 9 calibration patients"
    refused(folder, words, "outliers=0.9")
    refused(folder, "outliers is 99.9", "outliers=99.9")
    refused(
        folder, "rule=percentile compares samples by one network: set outliers=null", "outliers=0.9", "rule=percentile"
    )


def test_without_a_second_network_and_a_grid_the_decision_is_that_of_before(folder: Path) -> None:
    """Unused settings (copies, view_grid, outliers) are neither in the recorded decision nor in the scores."""
    run(folder)
    (entry,) = (json.loads(path.read_text()) for path in (folder / "latents.decisions").glob("*.json"))
    assert not {"copies", "view_grid", "outliers"} & (entry["decision"].keys() | entry["evidence"].keys())
    assert not [name for name in rows(folder / "report/scores.csv")[0] if name.startswith("Score_")]


@pytest.mark.slow
def test_a_grid_of_views_catches_what_lies_on_it(folder: Path) -> None:
    flip = f"controls.flip={{{PIXELS},flip:true}}"
    refused(folder, "not certified .* under 'flip'", flip)
    run(folder, flip, "view_grid={flip:[none,horizontal]}", f"private={folder}/again")
    decision = Store(folder / "private").dataset.settings["decision"]
    assert next(row["passes"] for row in decision["table"] if row["transform"] == "flip") == 0
    views = ["views=[flip]", "report_only=[flip]", f"dst={folder}/other", f"private={folder}/third"]
    run(folder, flip, *views)
    scores = [[row["Score"] for row in rows(folder / at / "scores.csv")] for at in ("again", "third")]
    assert scores[0] == scores[1]
    with pytest.raises(UserError, match="view_grid is 'flips': choose one of flip, shift, zoom"):
        run(folder, "view_grid={flips:[none]}")


def test_the_published_rule_is_the_published_rule(folder: Path) -> None:
    """rule=percentile: Pearson correlation of first frames; threshold: 95th percentile of TRAIN-to-TEST maxima."""
    run(folder, "rule=percentile")
    of = recordings()
    first = {
        split: unit(np.stack([f[0] for _, s, f in of.values() if s == split]), "pearson") for split in ("TRAIN", "TEST")
    }
    tau = np.percentile((first["TRAIN"] @ first["TEST"].T).max(axis=1), 95)
    made = Store(folder / "private")
    assert made.dataset.settings["decision"]["tau"] == pytest.approx(tau, abs=2e-6)
    assert made.dataset.settings["decision"]["statement"].startswith("No guarantee")
    for row in rows(folder / "report/scores.csv"):
        frames = drawn()[row["FileName"]]
        score = (unit(frames, "pearson") @ first["TRAIN"].T).max()
        assert float(row["Score"]) == pytest.approx(score, abs=2e-6)
        assert (row["Kept"] == "true") == (score < tau)


@dataclass(frozen=True)
class UpsideDown(Control):
    """A positive control that only this test file defines."""

    kind: ClassVar[str] = "upside_down"
    turns: int = 1

    @property
    def amount(self) -> str:
        return f"by {self.turns} turn"

    @property
    def description(self) -> str:
        return "upside down"

    def generate(self, copy_generator: CopyGenerator, requests: Sequence[CopyRequest]) -> Iterator[torch.Tensor]:
        for selection, rng in requests:
            yield copy_generator.recordings.posterior_sample(selection.row, selection.frames, rng).flip(-2)

    def pixel_views(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        return [pixels.flip(-2)]


def test_a_new_control_is_one_class_and_one_line_of_configuration(folder: Path) -> None:
    """A control added by configuration is certified, recorded and described, and can be used as a view."""
    declared = f"+controls.upside_down={{_target_:{__name__}.UpsideDown,turns:1}}"
    refused(folder, r"rule.beta=0.3 is not certified .* under 'upside_down'", declared)
    run(folder, declared, "views=[upside_down]")
    settings = Store(folder / "private").dataset.settings
    assert settings["controls"]["upside_down"] == {"kind": "upside_down", "turns": 1}
    assert next(row["passes"] for row in settings["decision"]["table"] if row["transform"] == "upside_down") == 0
    assert "upside_down by 1 turn" in settings["decision"]["statement"]
    assert {row["Kind"] for row in rows(folder / "report/evidence.csv")} >= {"upside_down", "calibration"}
    assert describe_control("upside_down", settings["controls"]["upside_down"]) == "upside down"


def test_the_order_of_rows_changes_nothing(folder: Path) -> None:
    run(folder)
    given = drawn()
    order = [[*given][place] for place in np.random.default_rng(0).permutation(len(given))]
    samples(folder / "shuffled", given, order)
    real = Store(folder / "latents")
    rng = np.random.default_rng(1)
    table = [(row, real.latents(row["FileName"])[0].numpy()) for row in real.table.to_dict("records")]
    store(folder / "mixed", [table[place] for place in rng.permutation(len(table))], 0.0)
    at = [f"src={folder}/shuffled", f"real={folder}/mixed", f"dst={folder}/other", f"private={folder}/again"]
    run(folder, *at)
    for name in ("scores.csv", "evidence.csv"):
        assert (folder / "report" / name).read_bytes() == (folder / "again" / name).read_bytes()
    kept, again = Store(folder / "private").table, Store(folder / "other").table
    assert again["FileName"].tolist() == [name for name in order if name in set(kept["FileName"])]
    assert set(kept["FileName"]) == set(again["FileName"])


@pytest.mark.slow
def test_a_rerun_has_nothing_to_do_and_other_settings_are_refused(folder: Path) -> None:
    run(folder)
    before = tree(folder)
    assert "already complete, nothing to do" in str(run(folder))
    assert tree(folder) == before
    for change, key in (("seed=1", "rule"), ("reference_every=2", "reference_every"), ("views=[exact]", "views")):
        with pytest.raises(UserError, match=rf"private already exists, made with another {key}: choose another dst="):
            run(folder, change)
    with pytest.raises(UserError, match=r"report already exists.*choose another private="):
        run(folder, "reference_every=2", f"dst={folder}/elsewhere")
    assert tree(folder) == before


@pytest.mark.slow
def test_a_rule_that_cannot_keep_its_promise_lets_nothing_pass(folder: Path) -> None:
    refused(folder, "rule.alpha=0.1 needs 9 calibration patients and there are 5", "rule.alpha=0.1")
    told = json.loads((folder / "report/filter.json").read_text())
    assert not told["decision"]["passed"]
    assert told["decision"]["kept"] == 0
    assert told["decision"]["tries"] == 1
    assert {row["Kept"] for row in rows(folder / "report/scores.csv")} == {"false"}
    refused(folder, "needs 28 even if no copy passes", "rule.beta=0.08")
    assert json.loads((folder / "report/filter.json").read_text())["decision"]["tries"] == 2
    refused(folder, "needs 28 even if no copy passes", "rule.beta=0.08")
    assert json.loads((folder / "report/filter.json").read_text())["decision"]["tries"] == 2
    run(folder)
    shared = Store(folder / "private").dataset.settings["decision"]
    assert shared["tries"] == 3
    assert "This is one of 3 decisions with different settings with these networks" in shared["statement"]
    assert "the confidence of all of them together is 70 %" in shared["statement"]  # 1 - 3 * delta


def decided(folder: Path) -> dict[str, Any]:
    """The decision that a filtered store records."""
    found: dict[str, Any] = Store(folder).dataset.settings["decision"]
    return found


@pytest.mark.slow
def test_decisions_are_counted_in_whichever_folder_and_after_its_removal(folder: Path) -> None:
    refused(folder, "needs 28 even if no copy passes", "rule.beta=0.08")
    shutil.rmtree(folder / "report")
    refused(folder, "needs 9 calibration patients", "rule.alpha=0.1", f"private={folder}/elsewhere")
    shutil.rmtree(folder / "elsewhere")
    run(folder)
    assert decided(folder / "private")["tries"] == 3
    for name in ("private", "report"):
        shutil.rmtree(folder / name)
    run(folder)
    assert decided(folder / "private")["tries"] == 3  # a repeated decision is not counted again
    run(folder, "seed=1", f"dst={folder}/other", f"private={folder}/fourth")
    assert decided(folder / "other")["tries"] == 4
    assert "This is one of 4 decisions" in decided(folder / "other")["statement"]


@pytest.mark.slow
def test_further_samples_under_the_same_decision_are_no_new_attempt(folder: Path) -> None:
    run(folder)
    first, scored = decided(folder / "private"), (folder / "report/scores.csv").read_bytes()
    assert "This is the first decision with these networks on these patients." in first["statement"]
    samples(folder / "more", {f"more-{number}": recording(400 + number, 0, 1) for number in range(4)})
    run(folder, f"src={folder}/more", f"dst={folder}/private2")
    second = decided(folder / "private2")
    assert (second["tries"], second["tau"], second["table"]) == (1, first["tau"], first["table"])
    assert second["drawn"] == 4
    assert {row["FileName"][:4] for row in rows(folder / "report/scores.csv")} == {"more"}
    kept = folder / "report/earlier" / Store(folder / "images").checksum[:16]
    assert (kept / "scores.csv").read_bytes() == scored
    assert json.loads((kept / "filter.json").read_text())["decision"] == first
    before = tree(folder)
    for at in ([], [f"src={folder}/more", f"dst={folder}/private2"]):
        assert "already complete, nothing to do" in str(run(folder, *at))
    assert tree(folder) == before


def test_no_message_advises_to_remove_the_record_of_a_decision(folder: Path) -> None:
    run(folder)
    with pytest.raises(UserError, match=r"report already exists.*choose another private=; ledger= counts") as told:
        run(folder, "reference_every=2", f"dst={folder}/elsewhere")
    assert "remove" not in str(told.value)


def test_decisions_with_other_networks_are_named(folder: Path) -> None:
    run(folder)
    shutil.rmtree(folder / "reid")
    write_artifact(folder / "reid", Artifact("reid", "x", "cd" * 32, "0" * 64), "seed: 0\n", lambda _: None)
    run(folder, f"dst={folder}/other", f"private={folder}/second")
    found = decided(folder / "other")
    assert (found["tries"], found["tries_with_other_networks"]) == (1, 1)
    assert "This is the first decision with these networks on these patients." in found["statement"]
    assert "Decisions with other networks on these patients (1) and on other copies" in found["statement"]


def test_decisions_of_before_the_ledger_still_count(folder: Path) -> None:
    refused(folder, "needs 28 even if no copy passes", "rule.beta=0.08")
    record = json.loads((folder / "report/filter.json").read_text())
    for name in ("frames_per_sample", "copies", "copied_patients", "tries_with_other_networks"):
        record["decision"].pop(name)
    record.pop("evidence")
    record["decision"]["tries"] = 5
    (folder / "report/filter.json").write_text(json.dumps(record))
    shutil.rmtree(folder / "latents.decisions")
    run(folder)
    assert decided(folder / "private")["tries"] == 6


def test_the_ledger_is_next_to_the_study_under_any_name_of_it(folder: Path) -> None:
    (folder / "link").symlink_to(folder / "latents")
    refused(folder, "needs 28 even if no copy passes", "rule.beta=0.08", f"real={folder}/latents/")
    run(folder, f"real={folder}/link")
    assert decided(folder / "private")["tries"] == 2
    assert len([*(folder / "latents.decisions").iterdir()]) == 2
    verify(folder / "latents")


@pytest.mark.parametrize("inside", ["report/ledger", "private", "latents/ledger", "images/ledger"])
@pytest.mark.slow
def test_a_ledger_in_an_output_or_a_store_is_refused(folder: Path, inside: str) -> None:
    refused(folder, "ledger=.* lies in .*: choose a folder that is kept with the study", f"ledger={folder}/{inside}")


def test_a_ledger_that_cannot_be_written_is_refused(folder: Path) -> None:
    (folder / "file").write_text("")
    refused(
        folder, r"ledger=.*file cannot be written .* give a folder that is kept with the study", f"ledger={folder}/file"
    )


def test_the_statement_says_how_many_frames_and_copies(folder: Path) -> None:
    given = {f"new-{number}": recording(100 + number, 0, 7) for number in range(9)}
    given["copy"] = recordings()["clip-05-0"][2][:7]
    samples(folder / "videos", given)
    run(folder, f"src={folder}/videos", "on=video", "check_every=3", "controls.other_frame=null", "generator=null")
    found = decided(folder / "private")
    assert (found["frames"], found["frames_per_sample"], found["copied_patients"]) == (3, 7, 14)
    assert "3 of the 7 frames of each sample are compared" in found["statement"]
    rejected, kept = found["rejected"], found["kept"]
    assert rejected >= 1
    assert found["copies"] == {
        "samples": kept,
        "rejected": rejected,
        "expected": pytest.approx((rejected + 1) * 0.3 / 0.7),
        "bound": min(kept, int(stats.nbinom.ppf(0.9, rejected + 1, 0.7))),
    }
    assert f"at most {found['copies']['bound']} are, if copies pass" in found["statement"]
    cost = found["cost"]
    assert cost["bound"] == pytest.approx(stats.beta.ppf(0.9, 1 + cost["rejected"], 5 - cost["rejected"]))
    assert "With these 5 calibration patients, the probability is at most" in found["statement"]
    assert "not checked which patients the generator was trained on" in found["statement"]


def generator(folder: Path, config: str = "seed: 0\n", **changes: Any) -> None:
    """Write the artifact of a generator, without weights, at ``folder``/lidm."""
    shutil.rmtree(folder / "lidm", ignore_errors=True)
    facts = {"source": file_sha256(folder / "latents" / CHECKSUMS), **changes}
    write_artifact(folder / "lidm", Artifact("lidm", "x", "ab" * 32, "0" * 64, **facts), config, lambda _: None)


def test_the_generator_is_checked_without_controls_that_need_it(folder: Path) -> None:
    generator(folder, source="34" * 32)
    refused(folder, "generator=.* was trained on another store than real=")
    generator(folder)
    shutil.rmtree(folder / "images")
    samples(folder / "images", drawn(), settings={"model": "77" * 32})
    refused(folder, "generator=.* did not sample src=")
    shutil.rmtree(folder / "images")
    samples(folder / "images", drawn(), settings={"model": "ab" * 32})
    run(folder)
    assert "generator" not in decided(folder / "private")["statement"]
    assert Store(folder / "private").dataset.settings["generator"] is None  # as in stores of older versions


@pytest.mark.parametrize("depth", [1, 2])
def test_a_generator_that_began_with_a_model_of_other_patients_is_refused(folder: Path, depth: int) -> None:
    source = file_sha256(folder / "latents" / CHECKSUMS)
    records = [{"fingerprint": "12" * 32, "source": which, "origin": "", "initial": None} for which in ("34" * 32, "")]
    own = {"fingerprint": "56" * 32, "source": source, "origin": "", "initial": None}
    shutil.rmtree(folder / "images")
    samples(folder / "images", drawn(), settings={"model": "ab" * 32})
    for record in records:
        generator(folder, initial=record if depth == 1 else {**own, "initial": record})
        refused(folder, r"generator=.* its initial model's patients are not covered by filter and audit; train without")
    generator(folder, initial=own if depth == 1 else {**own, "initial": own})  # initial model of the same patients
    run(folder)
    shutil.rmtree(folder / "private")
    shutil.rmtree(folder / "passed", ignore_errors=True)
    generator(folder, initial=records[0], privacy={"epsilon": 8.0, "delta": 1e-5})  # DP-SGD: public initial model
    run(folder)


STOPPED = "callbacks:\n  ema: null\n  {name}:\n    _target_: x.EarlyStopping\n    monitor: {monitor}\n"


@pytest.mark.parametrize("name", ["early_stopping", "patience"])
@pytest.mark.slow
def test_patients_who_stopped_a_training_are_no_new_patients(folder: Path, name: str) -> None:
    stopped, own = (STOPPED.format(name=name, monitor=monitor) for monitor in ("val/auc", "train/loss"))
    words = (
        r"calibration=\['VAL'\] is not possible: {key}=.* was selected by {by}, a metric of the VAL patients.*\[TEST\]"
    )
    enough = ["calibration=[VAL]", "rule.alpha=0.25"]
    for key, model, config, by in (
        ("generator", "lidm", stopped, "val/auc"),
        ("generator", "lidm", "objective: val/loss\n", "val/loss"),
        ("artifact", "reid", stopped, "val/auc"),
    ):
        for each in ("lidm", "reid"):
            shutil.rmtree(folder / each, ignore_errors=True)
            made = Artifact(each, "x", GENERATOR, "0" * 64)
            write_artifact(folder / each, made, config if each == model else own, lambda _: None)
        refused(folder, words.format(key=key, by=by), *enough)
    run(folder)  # calibration=[TEST], the default
    assert decided(folder / "private")["passed"]


def test_val_patients_calibrate_a_network_that_was_not_chosen_by_them(folder: Path) -> None:
    generator(folder, STOPPED.format(name="early_stopping", monitor="train/loss") + "objective: null\n")
    run(folder, "calibration=[VAL]", "rule.alpha=0.25")
    assert decided(folder / "private")["sizes"]["calibration_patients"] == 3


@pytest.mark.slow
def test_a_network_on_pixels_is_of_this_study(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The training videos of an identity network on pixels must be the decoded latents or the encoded videos."""
    plant(monkeypatch, folder, on="pixels")
    latents = file_sha256(folder / "latents" / CHECKSUMS)

    def trained(**facts: str) -> None:
        shutil.rmtree(folder / "reid")
        write_artifact(
            folder / "reid", Artifact("reid", "x", "ef" * 32, "0" * 64, **facts), "seed: 0\n", lambda _: None
        )

    trained(source="ab" * 32)
    refused(folder, "artifact=.* was trained on another store than real=")
    trained(source="ab" * 32, origin="cd" * 32)
    refused(folder, "artifact=.* was trained on another store than real=")
    samples(folder / "decoded", drawn(), settings={"source": latents}, synthetic=False)
    trained(source=file_sha256(folder / "decoded" / CHECKSUMS))
    run(folder)
    shutil.rmtree(folder / "private")
    trained(source="ab" * 32, origin=latents)
    run(folder)


def test_copies_that_are_not_recognised_let_nothing_pass(folder: Path) -> None:
    """The stand-in identity network does not recognize flipped copies, so the filter is not certified."""
    flip = "controls.flip={_target_:echodream.filtering.positive_controls.PixelTransform,flip:true}"
    refused(folder, r"rule.beta=0.3 is not certified .* under 'flip', 9 of 14 copies pass", flip)
    table = json.loads((folder / "report/filter.json").read_text())["decision"]["table"]
    assert next(row["passes"] for row in table if row["transform"] == "flip") == 9


def with_source(root: Path) -> None:
    row = {"FileName": "video-0", "Split": "TRAIN", "PatientID": "S0", "Source": "clip-16-0"}
    store(root, [(row, recording(100, 0, 1))], 0.0, synthetic=True)


def of_real_hearts(root: Path) -> None:
    """Write a video store whose source is a store of real recordings, as stage=video does."""
    row = {"FileName": "video-0", "Split": "TRAIN", "PatientID": "S000000", "Source": "real"}
    store(root, [(row, recording(16, 0, 1))], 0.0, synthetic=True)


def of_this_study(root: Path) -> None:
    began = file_sha256(root.parent / "latents" / CHECKSUMS)
    samples(root, drawn(), settings={"samples": {"source": began}})


def lonely(root: Path) -> None:
    table = [
        ({"FileName": f"c{number}", "Split": split, "PatientID": f"p{patient}"}, recording(patient, number, 5))
        for number, (patient, split) in enumerate([(0, "TRAIN"), (0, "TRAIN"), *((p, "TEST") for p in range(1, 6))])
    ]
    store(root, table, 0.0)


def flat(root: Path) -> None:
    same = np.full((5, C, H, W), 0.5, np.float16)
    splits = ["TRAIN"] * 14 + ["TEST"] * 5
    store(root, [({"FileName": f"c{n}", "Split": s, "PatientID": f"p{n}"}, same) for n, s in enumerate(splits)], 0.0)


SRC: list[tuple[str, Callable[[Path], Any]]] = [
    ("holds no sample", lambda root: samples(root, {})),
    ("holds recordings of patients: give samples of a generator", lambda root: samples(root, drawn(), synthetic=False)),
    ("latents of different encoders", lambda root: samples(root, drawn(), encoder="12" * 32)),
    ("samples of 1 and of 4 frames", lambda root: samples(root, {**drawn(), "long": recording(300, 0, 4)})),
    ("has names of .* in the column Source", with_source),
    ("was generated from real recordings", of_real_hearts),
    ("was generated from real recordings", of_this_study),
    ("has names of .* in the column FileName", lambda root: samples(root, {"clip-01-0": recording(300, 0, 1)})),
]
REAL: list[tuple[str, Callable[[Path], Any]]] = [
    ("holds samples of a generator: give the latents", lambda root: study(root, synthetic=True)),
    ("has one TRAIN patient only", lonely),
    ("have the same embedding|are constant", flat),
]


@pytest.mark.slow
@pytest.mark.parametrize(("words", "make"), SRC, ids=[words for words, _ in SRC])
def test_samples_that_cannot_be_judged_are_refused(folder: Path, words: str, make: Callable[[Path], Any]) -> None:
    make(folder / "bad")
    refused(folder, words, f"src={folder}/bad")


@pytest.mark.parametrize(("words", "make"), REAL, ids=[words for words, _ in REAL])
def test_studies_that_cannot_protect_are_refused(folder: Path, words: str, make: Callable[[Path], Any]) -> None:
    make(folder / "bad")
    refused(folder, words, f"real={folder}/bad")


def test_numbers_that_are_none_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Store.latents

    def wrong(self: Store, name: str, *where: Any) -> Any:
        mean, std = read(self, name, *where)
        return (torch.full_like(mean, torch.nan), std) if name == "new-3" else (mean, std)

    monkeypatch.setattr(Store, "latents", wrong)
    refused(folder, "new-3 holds NaN or infinite numbers")
    monkeypatch.setattr(Store, "latents", read)
    monkeypatch.setattr(Flat, "forward", lambda self, x: x.flatten(1) / 0)
    refused(folder, "gives embeddings that are NaN or infinite: train the reid again")
    monkeypatch.setattr(Flat, "forward", lambda self, x: x.flatten(1) * 0 + 1)
    refused(folder, "have the same embedding: the identity network has collapsed")


def test_a_patient_in_two_splits_is_refused(folder: Path) -> None:
    path, sums = folder / "latents/FileList.csv", folder / "latents" / CHECKSUMS
    before = file_sha256(path)
    path.write_text(path.read_text().replace("clip-15-1,TEST", "clip-15-1,TRAIN"))
    refused(folder, "has changed since the store was written")
    sums.write_text(sums.read_text().replace(before, file_sha256(path)))
    refused(folder, "is in two splits")


def test_networks_of_other_latents_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, folder, encoder="34" * 32)
    refused(folder, "made by another encoder than the latents that .*reid was trained on")
    plant(monkeypatch, folder, similarity="pearson")
    refused(folder, "set rule.similarity=pearson")
    plant(monkeypatch, folder)
    (folder / "bad").mkdir()
    samples(folder / "bad/images", drawn(), encoder="12" * 32)
    study(folder / "bad/latents", encoder="12" * 32)
    plant(monkeypatch, folder, encoder="12" * 32)
    refused(folder, "autoencoder=.* did not encode", f"src={folder}/bad/images", f"real={folder}/bad/latents")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "override"),
    [
        ("on is 'sound': choose one of image, video", "on=sound"),
        ("reference is 'last': choose one of all, first", "reference=last"),
        ("reference_every is 0", "reference_every=0"),
        ("calibration=.* is not possible: give TEST, VAL or both", "calibration=[TRAIN]"),
        ("calibration=.* is not possible: give TEST, VAL or both", "calibration=[]"),
        (r"views=\[turn\] is not among controls", "views=[turn]"),
        (r"report_only=\[turn\] is not among controls", "report_only=[turn]"),
        (r"leave_out=\[turn\] is not among controls", "leave_out=[turn]"),
        (r"leave_out=\[exact\] is part of the guarantee", "leave_out=[exact]"),
        (r"leave_out=exact is not a list: give names in brackets, or leave_out=\[\]", "leave_out=exact"),
        (r"leave_out=null is not possible: give it a value", "leave_out=null"),
        (r"report_only=exact is not a list", "report_only=exact"),
        ("controls.flip is not a control", "controls.flip=3"),
        ("views= can only name transforms of pixels without randomness", "views=[exact]"),
        ("has no transform outside report_only=", "report_only=[exact,other_frame]"),
        ("lies in .*private, which may be shared", "private=${dst}/report"),
        ("lies in .*images, which may be shared", "private=${src}"),
        (
            r"controls.sdedit_10 needs generator=",
            "controls.sdedit_10={_target_:echodream.filtering.positive_controls.SDEdit,strength:0.1}",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(folder: Path, words: str, override: str) -> None:
    refused(folder, words, override, *(["generator=null"] if "sdedit" in override else []))


def test_a_declared_copy_of_nobody_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recordings of two frames: without the copied frame and its neighbor, the patient has no reference frame."""
    plant(monkeypatch, tmp_path)
    table = [
        ({"FileName": f"c{n}", "Split": "TRAIN" if n < 14 else "TEST", "PatientID": f"p{n}"}, recording(n, 0, 2))
        for n in range(19)
    ]
    store(tmp_path / "latents", table, 0.0)
    samples(tmp_path / "images", drawn())
    refused(tmp_path, r"controls.other_frame: no TRAIN patient .* report_only=\[other_frame\]")
    run(tmp_path, "report_only=[other_frame]")


def test_all_samples_rejected_is_no_store(folder: Path) -> None:
    samples(folder / "copies", {name: frames for name, frames in drawn().items() if name.startswith("copy")})
    refused(folder, "none of the 3 samples is below the threshold", f"src={folder}/copies")


MOMENTS = {
    "before anything": (stage, "score_samples", 1),
    "scores not yet named": (filter_record, "write_table", 1),
    "record not yet written": (filter_record, "write_record", 1),
    "store not yet begun": (filter_record, "write_passed_samples", 1),
    "third row": (StoreWriter, "commit", 3),
    "before the last step": (StoreWriter, "finish", 1),
    "renaming": (Path, "rename", 1),
    "tidying up": (stage.shutil, "rmtree", 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_any_moment_there_is_no_store_or_the_whole_one(folder: Path, moment: str) -> None:
    whole = folder / "whole"
    run(folder, f"dst={whole}/private", f"private={whole}/report")
    run_until_killed(*MOMENTS[moment], lambda: run(folder))
    if (folder / "private").exists():
        assert moment == "tidying up"
        verify(folder / "private")
    run(folder)
    ours, theirs = (tree(root / "private") for root in (folder, whole))
    changing = ("dataset.json", "SHA256SUMS")  # these files contain the command line
    assert {k: v for k, v in ours.items() if k not in changing} == {
        k: v for k, v in theirs.items() if k not in changing
    }
    assert (folder / "report/scores.csv").read_bytes() == (whole / "report/scores.csv").read_bytes()
    assert not (folder / "private.partial").exists()


def test_models_of_another_split_are_refused(folder: Path) -> None:
    """An identity network trained on another store is an error, because other patients may have been in training."""
    shutil.rmtree(folder / "reid")
    made = Artifact("reid", "x", "ef" * 32, "0" * 64, source="ab" * 32)
    write_artifact(folder / "reid", made, "seed: 0\n", lambda _: None)
    refused(folder, "artifact=.* was trained on another store than real=")
    shutil.rmtree(folder / "reid")
    own = replace(made, source=file_sha256(folder / "latents" / CHECKSUMS))
    write_artifact(folder / "reid", own, "seed: 0\n", lambda _: None)
    run(folder)


def test_what_no_longer_passes_is_withdrawn(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(folder)
    shutil.rmtree(folder / "report")
    decide = Calibrated.decide
    broken = {"passed": False, "statement": "Nothing may pass: planted."}
    monkeypatch.setattr(Calibrated, "decide", lambda own, evidence: replace(decide(own, evidence), **broken))
    with pytest.raises(UserError, match=r"The earlier .*private is now .*private.withdrawn: do not share it"):
        run(folder)
    assert not (folder / "private").exists()
    assert (folder / "private.withdrawn").exists()


def test_the_published_rule_looks_at_samples_as_they_are() -> None:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        published = compose("sample", ["stage=filter", "data=phantom", "rule=percentile"])
        ours = compose("sample", ["stage=filter", "data=phantom"])
    assert (list(published.views), published.reference) == ([], "first")
    assert list(ours.views) == ["flip", "shift"]


def test_no_folder_is_named_in_what_may_be_shared(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = f"python sample.py stage=filter real={folder}/patients_of_meyer src=samples/x/images rule.beta=0.3"
    monkeypatch.setattr(engine, "redacted_command", lambda _: typed)
    run(folder)
    told = (folder / "private/dataset.json").read_text()
    assert "python sample.py stage=filter real=... src=... rule.beta=0.3" in told
    assert "meyer" not in told
    assert str(folder) not in told
