"""``stage=anonymity``, ``pairs`` and ``linkability``: copies are found, noise is not, invalid input is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir

from echodream import engine
from echodream.anonymization.comparison_spaces import ComparisonSpace, EmbeddingAugmentation
from echodream.anonymization.image_pairs import select_images
from echodream.anonymization.verification_pairs import read_pairs, sample_pairs
from echodream.config.paths import CONF_DIR
from echodream.errors import UserError
from echodream.store import Store
from tests.support.tiny_filter import C, H, W, pattern, plant, store, unit

PATIENTS = {"VAL": range(8), "TEST": range(8, 20)}


def picture(patient: int, number: int) -> np.ndarray:
    """Stored image, float16 (1, C, H, W): a pattern of the patient plus a weaker pattern of the single image."""
    from tests.support.tiny_filter import MEAN, STD

    return ((pattern(1, patient) + 0.6 * pattern(2, patient, number))[None] * STD + MEAN).astype(np.float16)


def rows(change: Callable[[np.ndarray, int, int], np.ndarray] | None = None) -> list[tuple[dict[str, Any], np.ndarray]]:
    """Two images per patient, one image for every fifth patient; ``change`` anonymizes an image."""
    found = []
    for split, patients in PATIENTS.items():
        for patient in patients:
            for number in range(1 if patient % 5 == 4 else 2):
                name = f"img-{patient:02}-{number}"
                frames = picture(patient, number)
                frames = frames if change is None else change(frames, patient, number).astype(np.float16)
                found.append(({"FileName": name, "Split": split, "PatientID": f"secret{patient:02}"}, frames))
    return found


def noise(frames: np.ndarray, patient: int, number: int) -> np.ndarray:
    """An unrelated image in place of ``frames``."""
    return picture(500 + 10 * patient + number, 0)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder with original images, unchanged copies, unrelated images, and a closed-form identity network."""
    plant(monkeypatch, tmp_path)
    store(tmp_path / "real", rows(), 0.0)
    store(tmp_path / "copy", rows()[::-1], 0.0, synthetic=True)
    store(tmp_path / "noise", rows(noise), 0.0, synthetic=True)
    return tmp_path


def run(folder: Path, stage: str, *overrides: str) -> str:
    where = [f"src={folder}/copy", f"real={folder}/real", f"artifact={folder}/reid", f"autoencoder={folder}/vae"]
    if stage == "pairs":
        where = [f"src={folder}/real"]
    if stage == "linkability":
        where += [f"pairs={folder}/pairs", "repeats=100"]
    given = [f"stage={stage}", "+data.name=x", "notes=null", f"dst={folder}/{stage}", *where, *overrides]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return str(engine.sample(compose("sample", given)))


def report(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / name / f"{name}.json").read_text())
    return found


def values(record: dict[str, Any], space: str) -> dict[str, Any]:
    return {each["name"]: each["value"] for each in record["spaces"][space]["measures"]}


def test_an_unchanged_copy_hides_nobody(folder: Path) -> None:
    said = run(folder, "anonymity")
    assert "identity: hidden rate" in said
    assert "target > 90 %: not met" in said
    record = report(folder, "anonymity")
    for space in ("identity", "latents"):
        found = values(record, space)
        assert found == {name: 100.0 if name == "nobody nearer" else 0.0 for name in found}
    table = pd.read_csv(folder / "anonymity" / "records.csv")
    assert (table["FileName"] == table["Original"]).all()
    assert len(table) == 2 * len(rows())
    assert "secret" not in (folder / "anonymity" / "anonymity.json").read_text() + table.to_csv()


@pytest.mark.slow
def test_noise_hides_as_chance_does_and_the_spaces_are_what_they_say(folder: Path) -> None:
    run(folder, "anonymity", f"src={folder}/noise")
    record = report(folder, "anonymity")
    assert values(record, "identity")["hidden rate"] > 85
    x, y = (
        unit(np.concatenate([frames for _, frames in sorted(part, key=lambda row: row[0]["FileName"])]))
        for part in (rows(), rows(noise))
    )
    own = np.linalg.norm(x - y, axis=1)
    assert values(record, "identity")["distance to own avatar"] == pytest.approx(np.median(own), abs=1e-5)
    across = np.linalg.norm(x[:, None] - y[None], axis=2)
    assert values(record, "identity")["DCR"] == pytest.approx(np.median(across.min(axis=0)), abs=1e-5)
    assert values(record, "latents")["DCR"] > 5 * values(record, "identity")["DCR"]


@pytest.mark.slow
def test_without_a_network_there_are_latents_alone_and_without_pairs_the_nearest(folder: Path) -> None:
    run(folder, "anonymity", "artifact=null", "splits=[TEST]")
    assert set(report(folder, "anonymity")["spaces"]) == {"latents"}
    assert report(folder, "anonymity")["sizes"]["originals"]["images"] == 21
    made = [
        ({**row, "FileName": f"new-{k}", "PatientID": f"S{k}"}, frames)
        for k, (row, frames) in enumerate(rows(noise)[:7])
    ]
    store(folder / "drawn", made, 0.0, synthetic=True)
    said = run(folder, "anonymity", f"src={folder}/drawn", "paired=false", "splits=[TEST]")
    assert "no pairs: each image is compared with the nearest original" in said
    table = pd.read_csv(folder / "anonymity" / "records.csv")
    assert (table["Original"] == table["ClosestOriginal"]).all()
    assert "hidden by patient" not in said


@pytest.mark.slow
def test_the_same_command_gives_the_same_bytes(folder: Path) -> None:
    run(folder, "pairs")
    for stage in ("anonymity", "pairs", "linkability"):
        before = {path.name: path.read_bytes() for path in (folder / stage).iterdir()} if stage == "pairs" else None
        if before is None:
            run(folder, stage)
            before = {path.name: path.read_bytes() for path in (folder / stage).iterdir()}
            shutil.rmtree(folder / stage)
        run(folder, stage)
        assert {path.name: path.read_bytes() for path in (folder / stage).iterdir()} == before


@pytest.mark.slow
def test_sets_that_are_no_pairs_are_refused_by_name(folder: Path) -> None:
    store(folder / "few", rows()[2:], 0.0, synthetic=True)
    with pytest.raises(UserError, match=rf"few lacks 2 of the {len(rows())} images of .*real \(img-00-0, img-00-1\)"):
        run(folder, "anonymity", f"src={folder}/few")
    more = [*rows(), ({"FileName": "foreign", "Split": "TEST", "PatientID": "x"}, picture(0, 0))]
    store(folder / "more", more, 0.0, synthetic=True)
    with pytest.raises(UserError, match=r"more has 1 images of other originals \(foreign\)"):
        run(folder, "anonymity", f"src={folder}/more")
    longer = [(row, np.repeat(frames, 2, axis=0)) for row, frames in rows()]
    store(folder / "longer", longer, 0.0, synthetic=True)
    sizes = f"FrameWidth {W}, FrameHeight {H}, NumberOfFrames"
    with pytest.raises(UserError, match=rf"img-00-0 has {sizes} 1 in .* and {sizes} 2 in .*"):
        run(folder, "anonymity", f"src={folder}/longer")
    twice = [({**row, "Of": rows()[0][0]["FileName"]}, frames) for row, frames in rows()]
    store(folder / "twice", twice, 0.0, synthetic=True)
    with pytest.raises(UserError, match="several images with Of=img-00-0"):
        run(folder, "anonymity", f"src={folder}/twice", "match=Of")
    with pytest.raises(UserError, match="are the same store"):
        run(folder, "anonymity", f"src={folder}/real")
    store(folder / "other", rows(), 0.0, encoder="12" * 32)
    with pytest.raises(UserError, match="encoded by different autoencoders"):
        run(folder, "anonymity", f"src={folder}/other")
    with pytest.raises(UserError, match="frames=2 is too many: img-"):
        run(folder, "anonymity", "frames=2")
    with pytest.raises(UserError, match=r"splits=\['ALL'\] is not possible"):
        run(folder, "anonymity", "splits=[ALL]")
    assert not (folder / "anonymity").exists()


def test_pairs_are_balanced_of_different_images_and_seeded(folder: Path) -> None:
    said = run(folder, "pairs", "per_patient=1")
    assert "patients without a second image: 3" in said  # patients 9, 14 and 19
    owner = {row["FileName"]: row["PatientID"] for row, _ in rows()}
    for split, patients in PATIENTS.items():
        table = pd.read_csv(folder / "pairs" / f"{split}.csv")
        several = [patient for patient in patients if patient % 5 != 4]
        assert (table["Same"] == 1).sum() == (table["Same"] == 0).sum() == len(several)
        assert (table["First"] != table["Second"]).all()
        assert ((table["First"].map(owner) == table["Second"].map(owner)) == (table["Same"] == 1)).all()
        assert not table.apply(lambda row: tuple(sorted((row["First"], row["Second"]))), axis=1).duplicated().any()
    run(folder, "pairs", "per_patient=1", "seed=1", f"dst={folder}/others")
    assert (folder / "others" / "TEST.csv").read_text() != (folder / "pairs" / "TEST.csv").read_text()


def test_pairs_of_one_recording_only_when_asked(tmp_path: Path) -> None:
    many = [
        ({"FileName": f"r{k}", "Split": "TEST", "PatientID": f"p{k}"}, np.repeat(picture(k, 0), 3, axis=0))
        for k in range(4)
    ]
    store(tmp_path / "real", many, 0.0)
    shown = select_images(Store(tmp_path / "real"), ["TEST"], 3, "src")
    with pytest.raises(UserError, match=r"no patient with a second image in TEST \(p0, p1, p2, p3"):
        sample_pairs(shown, 5, False, [0])
    found = sample_pairs(shown, 5, True, [0])
    assert len(found) == 2 * 4 * 3
    assert (shown.patients[found[::2, 0]] == shown.patients[found[::2, 1]]).all()
    assert (shown.patients[found[1::2, 0]] != shown.patients[found[1::2, 1]]).all()


@pytest.mark.slow
def test_a_copy_is_linked_and_noise_is_not(folder: Path) -> None:
    run(folder, "pairs")
    said = run(folder, "linkability")
    record = report(folder, "linkability")
    sets = record["sets"]
    assert sets["outer"]["AUC"]["value"] == 1.0
    assert sets["outer"]["best F1"]["recall"]["value"] == 1.0
    for name in ("AUC", "EER", "best F1"):
        assert sets["inner"][name] == sets["originals"][name]
    assert sets["originals"]["AUC"]["value"] > 0.95
    assert "it needs 1000 pairs of two patients in validation, but there are 7" in said
    assert record["residual risk"]["patients"] == 4
    assert record["residual risk"]["attack"]["value"] > record["residual risk"]["control"]["value"]
    assert "secret" not in json.dumps(record)
    run(folder, "linkability", f"src={folder}/noise", "far=0.2")
    sets = report(folder, "linkability")["sets"]
    assert abs(sets["outer"]["AUC"]["value"] - 0.5) < 0.25
    assert sets["outer"]["best F1"]["recall"]["value"] < 0.2
    assert sets["originals"]["FAR 0.2"]["far"]["value"] <= 0.6
    run(folder, "linkability", "artifact=null", "views.flip=true", "views.degrees=5")
    assert report(folder, "linkability")["compared by"] == "correlation of latents"


def test_pairs_of_one_s_own_are_taken_and_checked(folder: Path) -> None:
    shown = select_images(Store(folder / "real"), ["TEST"], 1, "real")
    path = folder / "own.csv"
    path.write_text("First,Second\nimg-08-0,img-08-1\nimg-08-0,img-09-0\n")
    assert read_pairs(path, shown).tolist() == [[0, 1], [0, 2]]
    path.write_text("First,Second\nimg-08-0,img-00-0\n")
    with pytest.raises(UserError, match=r"not in TEST of .*real \(img-00-0\)"):
        read_pairs(path, shown)
    path.write_text("First,FirstFrame,Second,Same\nimg-08-0,0,img-08-1,1\nimg-08-0,0,img-09-0,1\n")
    with pytest.raises(UserError, match="Same in line 3 contradicts the PatientID"):
        read_pairs(path, shown)
    path.write_text("First,FirstFrame,Second\nimg-08-0,7,img-08-1\n")
    with pytest.raises(UserError, match="names images that are not in TEST"):
        read_pairs(path, shown)
    path.write_text("A,B\n1,2\n")
    with pytest.raises(UserError, match="has no column First"):
        read_pairs(path, shown)
    with pytest.raises(UserError, match="cannot be read as pairs: run stage=pairs"):
        run(folder, "linkability", f"pairs={folder}/nowhere")


def test_images_are_also_seen_mirrored() -> None:
    x = torch.randn(2, C, 6, 6, generator=torch.Generator().manual_seed(0))
    space = ComparisonSpace("latents", "", lambda frames: frames.flatten(1))
    plain, both = (
        EmbeddingAugmentation().augment(space).embed(x),
        EmbeddingAugmentation(flip=True).augment(space).embed(x),
    )
    assert torch.allclose(both, EmbeddingAugmentation(flip=True).augment(space).embed(x.flip(-1)), atol=1e-6)
    assert not torch.allclose(plain, both, atol=1e-2)
    assert torch.allclose(plain.norm(dim=1), torch.ones(2))
    with pytest.raises(UserError, match=r"views\.(flip|degrees) is .*: give"):
        EmbeddingAugmentation(degrees=90)


@pytest.mark.slow
def test_stores_of_pixels_are_compared_by_pixels(tmp_path: Path) -> None:
    from tests.support.tiny_vae import moving_disc_store

    moving_disc_store(tmp_path / "real")
    moving_disc_store(tmp_path / "copy")
    run(tmp_path, "anonymity", "artifact=null", "frames=3")
    record = report(tmp_path, "anonymity")
    assert set(record["spaces"]) == {"pixels"}
    assert record["sizes"]["originals"]["images"] == 21
    assert values(record, "pixels")["distance to own avatar"] == 0.0
    store(tmp_path / "latents", rows(), 0.0)
    with pytest.raises(UserError, match=r"holds latents with .* channels and src=.* holds videos"):
        run(tmp_path, "anonymity", f"real={tmp_path}/latents", "artifact=null")
