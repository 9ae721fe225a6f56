"""Tests of ``stage=audit``: planted copies stand out, harmless samples do not, and skipped measures are reported."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from PIL import Image

from echodream.auditing.leakage import LATENT_MEASURES, LEAKAGE_MEASURES
from echodream.auditing.quality import QUALITY_MEASURES
from echodream.config.paths import CONF_DIR
from echodream.errors import UserError
from echodream.stages import audit as stage
from tests.support.audit_study import HELD, TRAIN, audit, copies, networks, reid, samples, strangers, study, write
from tests.support.tiny_vae import tiny_autoencoder
from tests.support.tiny_vae import write_vae_artifact as vae_artifact

pytestmark = pytest.mark.slow

SPACES = ("", " by latents")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with autoencoder, identity network, real patients, and two sets of single-frame samples."""
    root = networks(tmp_path_factory.mktemp("audit"))
    study(root / "real")
    samples(root / "samples", strangers)
    samples(root / "copies", copies)
    return root


@pytest.fixture(scope="module")
def harmless(folder: Path) -> tuple[Path, str]:
    """Audit of samples that show no patient of the study: its output folder and the printed summary."""
    return folder / "of-strangers", audit(folder, f"dst={folder}/of-strangers")


@pytest.fixture(scope="module")
def copied(folder: Path) -> tuple[Path, str]:
    """Audit of copies of training patients, with a picture of four pairs: its output folder and the printed summary."""
    return folder / "of-copies", audit(folder, f"src={folder}/copies", f"dst={folder}/of-copies", "pairs=4")


def made(folder: Path, name: str = "audit") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / name / "audit.json").read_text())
    return found


def by_name(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {measure["name"]: measure for measure in record["measures"]}


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_generator_that_copies_stands_out(folder: Path, copied: tuple[Path, str]) -> None:
    found = by_name(made(folder, "of-copies"))
    for space in SPACES:
        share = found[f"nearest in training (DCR){space}"]
        assert share["stands_out"]
        assert share["value"]["value"] >= 0.75  # 24 of 30 training patients are compared with 24 held-out patients
        assert share["details"]["samples"]["p_value"] < 0.002
        assert found[f"data copying, C_T{space}"]["stands_out"]
        assert found[f"data copying, C_T{space}"]["value"]["high"] < -3
        assert found[f"authenticity{space}"]["value"]["value"] < 0.1
    for attacker in ("the nearest sample", "a trained attacker"):
        membership = found[f"membership by {attacker}, AUC by latents"]
        assert membership["stands_out"]
        assert membership["value"]["value"] > 0.9
        assert f"membership by {attacker}, AUC" not in found  # the identity network was trained on training patients
    assert found["training patients covered"]["details"]["all samples"] > 0.8
    assert "<- stands out" in copied[1]


def test_a_harmless_generator_does_not(folder: Path, harmless: tuple[Path, str]) -> None:
    said = harmless[1]
    found = by_name(made(folder, "of-strangers"))
    assert not any(measure["stands_out"] for measure in found.values() if measure["about"] == "privacy")
    for space in SPACES:
        assert abs(found[f"data copying, C_T{space}"]["value"]["value"]) < 3
        share = found[f"nearest in training (DCR){space}"]
        assert 0.25 < share["value"]["value"] < 0.75
        assert share["details"]["samples"]["patients"] == HELD
        assert share["details"]["new patients"]["patients"] == HELD // 2
    assert "no measure stands out, which does not prove privacy" in said
    assert "40 samples, 30 training, 24 held out" in said


def test_the_audit_says_which_share_of_copies_it_would_find(folder: Path, harmless: tuple[Path, str]) -> None:
    record = made(folder, "of-strangers")
    assert record["power"]["copies"]["exact"] == {"about": "exact", "number": 4}
    assert record["power"]["copies"]["rotated"]["number"] == 4
    assert "need generator=" in record["power"]["not planted"]["redrawn"]
    power = {measure["name"]: measure["power"] for measure in record["measures"]}
    assert power["training patients singled out by latents"]["exact"] == 0.01  # one of 40 samples
    assert power["authenticity by latents"] is None or set(power["authenticity by latents"]) == {"exact", "rotated"}
    assert power["recall"] is None
    assert "power, exact copies" in harmless[1]
    assert "1 % of the samples are found, by " in harmless[1]
    assert "40 samples, 30 training, 24 held out" in harmless[1]  # the planted copies are not counted


@pytest.mark.slow
def test_copies_are_found_in_whichever_frame_they_are(folder: Path, tmp_path: Path) -> None:
    """Samples of five frames: the third frame copies a training patient, the others show no patient of the study."""
    real = {row["FileName"]: row for row in study(tmp_path / "real").table.to_dict("records")}
    assert len(real) > TRAIN
    from tests.support.audit_study import heart

    rows = {}
    for number in range(36):
        frames = heart(strangers(number), 5)
        frames[2] = heart(copies(number), 5)[2]
        rows[f"v{number:03}"] = (frames, {"PatientID": f"S{number}"})
    write(tmp_path / "samples", rows, synthetic=True)
    networks(tmp_path)
    audit(tmp_path, "frames=5", "every=2")
    found = by_name(made(tmp_path))
    for space in SPACES:
        assert found[f"nearest in training (DCR){space}"]["value"]["value"] > 0.7
        assert found[f"data copying, C_T{space}"]["stands_out"]
        assert found[f"authenticity{space}"]["value"]["value"] < 0.1
    lost = found["identity lost along a sample"]
    assert lost["value"]["value"] > 0.8
    curve = lost["details"]["samples"]["curve"]
    assert curve[0] == pytest.approx(1, abs=1e-6)
    assert curve.index(min(curve)) == 2  # the copied frame, which shows another person


@pytest.mark.slow
def test_samples_that_are_all_of_one_identity_collide(folder: Path) -> None:
    samples(folder / "one", lambda number: 1000 + number // 10)
    audit(folder, f"src={folder}/one", f"dst={folder}/of-one")
    found = by_name(made(folder, "of-one"))["collisions between seeds"]
    assert found["stands_out"]
    assert found["value"]["value"] == pytest.approx(4 * 45 / 780, abs=0.05)
    assert found["expected"]["value"] == pytest.approx(0.01, abs=0.006)


@pytest.mark.slow
def test_what_is_not_measured_is_said_with_the_reason(folder: Path, harmless: tuple[Path, str], tmp_path: Path) -> None:
    record = made(folder, harmless[0].name)
    assert set(record["not measured"]) == {
        "identity drift",
        "membership inference",
        "picture of the nearest samples",
    }
    assert "single frame" in record["not measured"]["identity drift"]
    assert "generator=null" in record["not measured"]["membership inference"]
    study(tmp_path / "real", train=30, held=3)
    said = audit(folder, f"real={tmp_path}/real", f"dst={tmp_path}/few")
    record = json.loads((tmp_path / "few" / "audit.json").read_text())
    assert (
        "false accept rate of 0.01 needs 15 held-out patients, and there are 3"
        in record["not measured"]["collisions between seeds"]
    )
    assert "No cell has 10 samples" in record["not measured"]["data copying, C_T by latents"]
    assert "not measured: " in said
    todo = [*(f"{name}{space}" for name in LEAKAGE_MEASURES for space in SPACES), *QUALITY_MEASURES]
    todo += [f"{name} by latents" for name in LATENT_MEASURES]
    told = {
        "linkability": "linkability, residual risk",
        "DCR and NNDR": "nearest in training (DCR)",
        "membership by samples": "membership by the nearest sample, AUC",
        "attribute disclosure": "attribute disclosure, class_id",
        "precision, recall, density, coverage": "recall",
    }
    for name in todo:
        title = next((name.replace(short, long) for short, long in told.items() if name.startswith(short)), name)
        assert (title in by_name(record)) != (name in record["not measured"]), name


@pytest.mark.slow
def test_the_same_command_gives_the_same_bytes_and_is_then_done(folder: Path, harmless: tuple[Path, str]) -> None:
    before = files(harmless[0])
    assert set(before) == {"audit.json", "measures.png", "nearest.png"}
    first = audit(folder, f"dst={folder}/again")
    assert files(folder / "again") == before
    second = audit(folder, f"dst={folder}/again")
    assert "already complete, nothing to do" in second
    assert first.splitlines()[1:] == second.splitlines()[1:]
    with pytest.raises(UserError, match="made with per_patient=16, now 4: choose another dst="):
        audit(folder, f"dst={folder}/again", "per_patient=4")
    with pytest.raises(UserError, match="made from other recordings"):
        audit(folder, f"dst={folder}/again", f"src={folder}/copies")
    assert files(folder / "again") == before


@pytest.mark.slow
def test_the_order_of_the_samples_does_not_matter(folder: Path, harmless: tuple[Path, str]) -> None:
    samples(folder / "backwards", strangers, order=-1)
    audit(folder, f"dst={folder}/of-backwards", f"src={folder}/backwards")
    one, two = made(folder, harmless[0].name), made(folder, "of-backwards")
    assert one["source"] != two["source"]
    assert one["measures"] == two["measures"]


@pytest.mark.slow
def test_an_audit_that_was_interrupted_leaves_nothing_with_its_name(
    folder: Path, harmless: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stage, "write_record", killed)
        with pytest.raises(KeyboardInterrupt):
            audit(folder, f"dst={folder}/killed")
    assert not (folder / "killed").exists()
    (folder / "killed.partial" / "left").mkdir()
    audit(folder, f"dst={folder}/killed")
    assert files(folder / "killed") == files(harmless[0])
    assert not (folder / "killed.partial").exists()


@pytest.mark.parametrize(
    ("overrides", "samples", "levels"),
    [
        (["on=image"], 4, 4),
        (["on=video"], 4, 4),
        (["on=image", "experiment=demo"], 4, 4),
        (["on=video", "experiment=demo"], 2, 2),
        (["on=video", "experiment=demo", "membership.levels=3"], 2, 3),
        (["on=moving"], 4, 4),
    ],
)
def test_fewer_clips_are_restored_where_each_takes_long(overrides: list[str], samples: int, levels: int) -> None:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        given = compose("sample", ["stage=audit", "data=phantom", *overrides]).membership
    assert (given.samples, given.levels, given.noises) == (samples, levels, 1)


def test_nobody_is_named(harmless: tuple[Path, str]) -> None:
    text = (harmless[0] / "audit.json").read_text()
    assert "secret" not in text
    assert "r000" not in text
    assert "S0000" not in text


def test_the_samples_nearest_to_a_patient_are_shown_beside_that_patient(folder: Path, copied: tuple[Path, str]) -> None:
    """Each column of the picture has a sample above its nearest real frame; the closest pair is the first column."""
    picture = np.asarray(Image.open(copied[0] / "nearest_pairs.png")).astype(int)
    assert picture.shape == (2 * 10 - 2, 4 * 14 - 2, 3)
    above, below = picture[:8], picture[10:]
    columns = [(above[:, 14 * k : 14 * k + 12], below[:, 14 * k : 14 * k + 12]) for k in range(4)]
    same = np.mean([np.abs(one - two).mean() for one, two in columns])
    other = np.mean([np.abs(columns[k][0] - columns[k - 1][1]).mean() for k in range(4)])
    assert same < 0.5 * other
    assert "picture of the nearest samples" not in made(folder, copied[0].name)["not measured"]


MISTAKES = [
    (["on=images"], "on is 'images': choose one of image, video"),
    (["held_out=[TRAIN]"], "held_out=.* is not possible: give VAL, TEST, or both"),
    (["held_out=[]"], "held_out=.* is not possible"),
    (["frames=0"], "frames is 0: give a whole number from 1"),
    (["every=0"], "every is 0"),
    (["cells=0"], "cells is 0: give a whole number from 1"),
    (["far=1.5"], "far is 1.5: give a number above 0"),
    (["pairs=-1"], "pairs is -1"),
    (["plant=-1"], "plant is -1"),
    (["attributes=[EF]"], r"attributes=\[EF\] is not a column of patients in both .*: choose from class_id"),
    (["membership.levels=0"], "membership.levels is 0"),
    (["src={folder}/real"], "real is not synthetic: give samples"),
    (["real={folder}/samples"], "samples is synthetic: give the latents of the patients"),
    (["artifact={folder}/vae"], "contains a vae model: give the folder of a reid or identity model"),
    (["artifact={folder}/foreign"], "was made by another encoder"),
    (["generator={folder}/nothing"], "generator=.* holds no lidm or lvdm"),
    (["generator={folder}/vae"], "is a vae: give the lidm or lvdm"),
    (["autoencoder={folder}/other", "pairs=2"], "autoencoder=.*other did not encode the latents of .*real"),
    (["real={folder}/only-train"], "held_out: .* has no recording in the splits TEST, VAL"),
]


@pytest.mark.parametrize(("overrides", "says"), MISTAKES)
def test_what_cannot_be_audited_is_refused_before_anything_is_written(
    folder: Path, overrides: list[str], says: str
) -> None:
    if not (folder / "foreign").exists():
        reid(folder / "foreign", encoder="12" * 32)
        vae_artifact(folder / "other", tiny_autoencoder(seed=5))
        study(folder / "only-train", held=0)
    with pytest.raises(UserError, match=says):
        audit(folder, f"dst={folder}/refused", *(override.format(folder=folder) for override in overrides))
    assert not list(folder.glob("refused*"))
