"""Tests of ``stage=filter`` on samples of an unknown generator: comparisons, omitted checks, errors and statements."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from echodream import engine
from echodream.artifact import Artifact, write_artifact
from echodream.errors import UserError
from echodream.store import Dataset, Store, StoreWriter
from echodream.store.schema import FILE_COLUMN
from echodream.store.video import write_video
from tests.support.tiny_filter import cfg, drawn, plant, recordings, samples, study, unit
from tests.support.tiny_vae import HEIGHT, WIDTH, moving_disc

OUTSIDE = {"test-copy": ("clip-15-1", 2), "val-copy": ("clip-20-0", 4)}
"""Samples that copy a frame of a TEST patient and a frame of a VAL patient."""
SDEDIT = "controls.sdedit_10={_target_:echodream.filtering.positive_controls.SDEdit,strength:0.1}"


def frames() -> dict[str, np.ndarray]:
    of = recordings()
    return {**drawn(), **{name: of[source][2][[frame]] for name, (source, frame) in OUTSIDE.items()}}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study, and samples of an unknown generator: three copy TRAIN patients, two copy a TEST and a VAL patient."""
    plant(monkeypatch, tmp_path)
    study(tmp_path / "latents")
    samples(tmp_path / "images", frames(), settings={"model": None})
    return tmp_path


def run(folder: Path, *overrides: str) -> Any:
    return engine.sample(cfg(folder, *overrides))


def rows(path: Path) -> dict[str, dict[str, str]]:
    with path.open() as file:
        return {row["FileName"]: row for row in csv.DictReader(file)}


def nearest(frame: np.ndarray, *splits: str) -> tuple[float, str]:
    """Highest similarity of ``frame`` to any frame of ``splits``, and the recording of that frame, by brute force."""
    of = {name: parts for name, (_, split, parts) in recordings().items() if split in splits}
    scores = {name: float((unit(frame) @ unit(parts).T).max()) for name, parts in of.items()}
    best = max(scores, key=lambda name: scores[name])
    return scores[best], best


def test_samples_are_compared_with_all_patients_of_the_study(folder: Path) -> None:
    """The threshold is the same as for a known generator; copies of TEST and VAL patients are also rejected."""
    run(folder)
    found = rows(folder / "report/scores.csv")
    for name, frame in frames().items():
        score, recording = nearest(frame, "TRAIN", "TEST", "VAL")
        assert float(found[name]["Score"]) == pytest.approx(score, abs=2e-6)
        assert found[name]["NearestRecording"] == recording
    for name, (source, frame) in OUTSIDE.items():
        assert (found[name]["NearestRecording"], int(found[name]["NearestFrame"])) == (source, frame)
        assert found[name]["Kept"] == "false"
    unknown = Store(folder / "private").dataset.settings["decision"]

    samples(folder / "known", frames())
    run(folder, f"src={folder}/known", f"dst={folder}/other", f"private={folder}/report2")
    known = Store(folder / "other").dataset.settings["decision"]
    assert {*OUTSIDE} <= set(Store(folder / "other").table["FileName"])  # a known generator: compared with TRAIN only
    for name in ("tau", "cost", "table", "training_patients", "references"):
        assert unknown[name] == known[name]
    tau = known["tau"]
    to_train = {name: nearest(frame, "TRAIN")[0] for name, frame in frames().items()}
    alone = [name for name in to_train if to_train[name] < tau <= nearest(frames()[name], "TEST", "VAL")[0]]
    assert {*OUTSIDE} <= set(alone)
    assert unknown["rejected_by_others"] == len(alone)
    assert unknown["rejected"] == known["rejected"] + len(alone)
    assert unknown["other_patients"] == 8
    assert (
        f"the 8 patients of VAL and TEST, at the same threshold, and {len(alone)} samples were" in unknown["statement"]
    )


def test_the_decision_says_what_is_not_known(folder: Path) -> None:
    summary = run(folder, SDEDIT)
    decision = Store(folder / "private").dataset.settings["decision"]
    for words in (
        "it is not known which generator made them, whether it was trained on the training patients",
        "Copies of persons who are not in this study are not found.",
        "Copies that only the generator can make were not tested: sdedit_10.",
        "Membership inference on the generator is not possible",
        "of VAL and TEST",
    ):
        assert words in decision["statement"]
        assert any(words in sentence for sentence in decision["unknown"])
    assert decision["passed"]
    assert decision["not_tested"] == ["sdedit_10"]
    assert "sdedit" not in str(decision["table"])
    assert "not given the generator" not in decision["statement"]
    assert "unknown" in str(summary.facts["generator"])
    samples(folder / "known", drawn())
    run(folder, f"src={folder}/known", f"dst={folder}/other", f"private={folder}/report2")
    known = Store(folder / "other").dataset.settings["decision"]
    assert not {"unknown", "not_tested", "other_patients"} & known.keys()


def test_a_generator_that_is_given_is_not_used(folder: Path) -> None:
    """The samples record no generator, so generator= is ignored, and controls that need a generator are left out."""
    made = Artifact("lidm", "x", "cd" * 32, "0" * 64, source="34" * 32)  # trained on another study
    write_artifact(folder / "lidm", made, "seed: 0\n", lambda _: None)
    run(folder, SDEDIT)
    settings = Store(folder / "private").dataset.settings
    assert settings["generator"] is None
    assert "sdedit_10" not in settings["controls"]


def test_a_repeated_run_does_nothing_and_another_set_is_no_new_decision(folder: Path) -> None:
    run(folder)
    before = {path.name: path.read_bytes() for path in (folder / "private").rglob("*") if path.is_file()}
    assert "already complete" in run(folder).title
    assert {path.name: path.read_bytes() for path in (folder / "private").rglob("*") if path.is_file()} == before
    samples(folder / "more", {f"more-{name}": frame for name, frame in drawn().items()}, settings={"model": None})
    run(folder, f"src={folder}/more", f"dst={folder}/private2")
    assert Store(folder / "private2").dataset.settings["decision"]["tries"] == 1


def test_memorization_of_an_unknown_generator_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"memoriser=true needs the generator of src=.*, which is not known"):
        run(folder, "memoriser=true")
    assert not (folder / "private").exists()


def test_files_of_samples_are_named_in_the_private_table_only(folder: Path) -> None:
    source = Store(folder / "images")
    with StoreWriter(folder / "named", source.dataset) as writer:
        for number, (name, row) in enumerate(source.rows().items()):
            writer.copy(source.path(name), {**row, FILE_COLUMN: f"secret/{number}.png"})
        writer.finish(list(source.rows()), source.dataset.statistics)
    run(folder, f"src={folder}/named")
    found = rows(folder / "report/scores.csv")
    assert [found[name][FILE_COLUMN] for name in source.rows()] == [f"secret/{k}.png" for k in range(len(source))]
    for path in (folder / "private").rglob("*"):
        assert not path.is_file() or b"secret" not in path.read_bytes()


def test_decoded_latents_are_refused(folder: Path) -> None:
    dataset = Dataset(kind="video", channels=1, synthetic=True, settings={"decoder": "ab"})
    with StoreWriter(folder / "decoded", dataset) as writer:
        write_video(writer.scratch_path("s"), moving_disc(2, 0), 25.0)
        row = {"FileName": "s", "Split": "TRAIN", "PatientID": "S0", "NumberOfFrames": 2, "FPS": 25.0}
        writer.commit({**row, "FrameHeight": HEIGHT, "FrameWidth": WIDTH}, writer.scratch_path("s"))
        writer.finish(["s"])
    with pytest.raises(UserError, match="was decoded from latents, which record their generator: give the latents"):
        run(folder, f"src={folder}/decoded")


def test_percentile_rule_says_what_is_not_known(folder: Path) -> None:
    run(folder, "rule=percentile")
    decision = Store(folder / "private").dataset.settings["decision"]
    assert decision["statement"].startswith("No guarantee")
    assert "it is not known which generator made them" in decision["statement"]
    assert rows(folder / "report/scores.csv")["val-copy"]["Kept"] == "false"
