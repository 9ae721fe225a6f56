"""Images made by another program, from ingest to report page and data card, with small networks trained in the test."""

import json
import re
import shutil
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import echodream
from echodream.errors import UserError
from echodream.ingest.phantom import Phantom
from echodream.ingest.source import Limits
from echodream.networks.autoencoder import load_autoencoder
from echodream.store import Store
from tests.support.raw_files import write_video
from tests.support.tiny_vae import write_vae_artifact

pytestmark = pytest.mark.slow

STUDY = ["data=phantom", "data.size=32"]
SIZE = 32
SMALL = ["preset=tiny", "trainer.max_epochs=1", "datamodule.workers=0", "callbacks.pictures=null"]
RULE = ["rule.alpha=0.3", "rule.alpha_max=0.6", "rule.beta=0.5", "rule.delta=0.5", "rule.choose=0", "views=[]"]
RULE += [f"controls.{name}=null" for name in ("round_trip", "gain", "contrast", "flip", "shift", "rotate", "crop")]
"""High error rates and few controls, because there are few patients and the network is trained briefly."""
COPIES, OUTSIDE, NEW = 12, 4, 24
"""Numbers of images that copy a TRAIN patient, that copy a TEST patient, and that copy no patient."""


def run(program: str, *arguments: str) -> dict[str, Any]:
    return echodream.run(program, [*arguments])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Working directory with a phantom study, its autoencoder and identity network, and images of another program."""
    folder = tmp_path_factory.mktemp("foreign")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        source = ["data.source.patients=28", "data.source.size=32", "+data.source.seconds=[0.5,0.6]"]
        split = ["data.split.train=0.5", "data.split.val=0.15", "data.split.test=0.35"]
        run("sample", "stage=ingest", *STUDY, *source, *split, "workers=0")
        steps = ["trainer.limit_train_batches=40", "datamodule.batch_size=8", "loss.lite0.weight=0"]
        run("train", "model=vae", *STUDY, *SMALL, *steps, "model.lr=2e-3", "view.per_recording=16")
        reduce_posterior_noise(folder / "models/phantom/vae")
        run("sample", "stage=encode", *STUDY, "workers=0")
        steps = ["trainer.limit_train_batches=30", "datamodule.batch_size=8", "model.copies.frames=40"]
        run("train", "model=reid", *STUDY, *SMALL, *steps, "model.lr=2e-3", "view.per_recording=16")
        write_set(folder / "set")
        yield folder


def reduce_posterior_noise(folder: Path) -> None:
    """Give the autoencoder a small posterior standard deviation, as after a long training."""
    network = load_autoencoder(folder)
    with torch.no_grad():
        logvar = slice(network.config.latent_channels, None)
        network.quant_conv.weight[logvar] = 0
        network.quant_conv.bias[logvar] = -12
    shutil.rmtree(folder)
    write_vae_artifact(folder, network)


def write_set(raw: Path) -> None:
    """Write unchanged frames of TRAIN and TEST patients, and frames of phantom patients who are not in the study."""
    store = Store("data/phantom/videos")
    patients = store.table.drop_duplicates("PatientID")
    train, test = (patients[patients["Split"] == split]["FileName"].tolist() for split in ("TRAIN", "TEST"))
    new = Phantom(NEW, seed=99, size=SIZE, seconds=(0.5, 0.6), per_patient=(1, 1))
    frames = {f"of_{name}.png": store.frames(name, [3])[0] for name in (*train[:COPIES], *test[:OUTSIDE])}
    for number, recording in enumerate(new.recordings(None)):
        frames[f"new_{number}.png"] = new.read(recording, Limits()).frames[number % 8]
    raw.mkdir()
    for name, frame in frames.items():
        Image.fromarray(frame[..., 0]).save(raw / name)


@pytest.fixture(scope="module")
def filtered(root: Path) -> dict[str, Any]:
    """Ingest and filter the images of another program; returns the summary of the filter."""
    images = ["data=images", "data.name=phantom", "data.size=32", "synthetic=true", "raw=set", "workers=0"]
    assert "unknown" in run("sample", "stage=ingest", *images)["generator"]
    return run("sample", "stage=filter", *STUDY, "src=samples/phantom/foreign", *RULE)


def test_the_kept_samples_have_their_own_pixels_and_no_file_name(root: Path, filtered: dict[str, Any]) -> None:
    source, made = Store("samples/phantom/foreign"), Store("samples/phantom/private")
    scores = (root / "reports/phantom/filter_image/scores.csv").read_text().splitlines()
    head = scores[0].split(",")
    rows = [dict(zip(head, line.split(","), strict=True)) for line in scores[1:]]
    kept = [row for row in rows if row["Kept"] == "true"]
    assert made.table["FileName"].tolist() == [row["FileName"] for row in kept]
    assert 0 < len(kept) < len(rows) == COPIES + OUTSIDE + NEW
    for row in kept:
        assert made.path(row["FileName"]).read_bytes() == source.path(row["FileName"]).read_bytes()
        pixels = np.asarray(Image.open(root / "set" / row["RawFile"]))
        assert np.array_equal(made.frames(row["FileName"])[0, ..., 0], pixels)
    assert "RawFile" not in made.table
    assert all(
        b"ASD-" not in path.read_bytes() for path in Path("samples/phantom/private").rglob("*") if path.is_file()
    )
    copies = [row for row in rows if row["RawFile"].startswith("of_")]
    assert all(row["Kept"] == "false" for row in copies)
    assert [row["NearestRecording"] for row in copies] == [row["RawFile"][3:-4] for row in copies]


def test_the_decision_states_what_is_not_known(filtered: dict[str, Any]) -> None:
    decision = Store("samples/phantom/private").dataset.settings["decision"]
    assert decision["passed"]
    assert decision["not_tested"] == ["sdedit_10", "sdedit_30", "sdedit_50"]
    assert decision["statement"] == filtered["statement"]
    assert all(sentence in decision["statement"] for sentence in decision["unknown"])
    again = run("sample", "stage=filter", *STUDY, "src=samples/phantom/foreign", *RULE)
    assert "already complete" in again["title"]


@pytest.fixture(scope="module")
def audited(filtered: dict[str, Any]) -> dict[str, Any]:
    """Audit the kept samples without a generator (its default path does not exist); returns the record."""
    run("sample", "stage=audit", *STUDY, "pairs=2", "plant=1", "frames=2", "per_patient=4")
    found: dict[str, Any] = json.loads(Path("reports/phantom/audit/audit.json").read_text())
    return found


def test_the_audit_reads_pixels_and_leaves_the_generator_out(audited: dict[str, Any]) -> None:
    assert audited["not measured"]["membership inference"] == "the generator of these samples is not known"
    assert audited["source"] == Store("samples/phantom/private").checksum
    assert "If it was also trained on the held-out patients" in audited["unknown"]
    assert audited["unknown"] in audited["statement"]
    assert {"nearest in training (DCR)", "authenticity by latents"} <= {each["name"] for each in audited["measures"]}
    assert Path("reports/phantom/audit/nearest_pairs.png").is_file()


def test_page_and_card_say_what_is_not_known(audited: dict[str, Any]) -> None:
    """Report page and data card state that the generator is unknown; the card requires accept_unknown=true."""
    extractors = ["extractors=[spectrum]", "artifact=null", "autoencoder=null", "then=null"]
    run("sample", "stage=evaluate", *STUDY, "images=samples/phantom/private", "videos=null", *extractors)
    for share in ("false", "true"):
        where = f"dst=reports/phantom/{share}"
        run("sample", "stage=report", *STUDY, "videos=samples/phantom/private", f"share={share}", where)
        text = unescape(Path(f"reports/phantom/{share}/index.html").read_text())
        text = " ".join(re.sub(r"<[^>]+>", " ", text).split())
        assert "Guarantee holds; the generator is unknown" in text
        assert "What is not known about these images" in text
        assert "Not measured. membership inference: the generator of these samples is not known" in text
        assert audited["unknown"] in text
        assert "run again" not in text
        metrics = json.loads(Path(f"reports/phantom/{share}/metrics.json").read_text())
        assert metrics["notices"] == []
    card = ["stage=publish", *STUDY, "what=images", "src=samples/phantom/private", "license=mit", "accept_text=true"]
    with pytest.raises(UserError, match=r"the generator of these samples is not known.*accept_unknown=true"):
        run("sample", *card)
    run("sample", *card, "accept_unknown=true")
    text = Path("reports/phantom/hub/images/README.md").read_text()
    assert "made by a generator that is not known" in text
    section = text[text.index("## What is not known") : text.index("## Limits")]
    decision = Store("samples/phantom/private").dataset.settings["decision"]
    for sentence in (*decision["unknown"], audited["unknown"]):
        assert sentence in section
    assert "RawFile" not in Path("reports/phantom/hub/images/store/FileList.csv").read_text()


def test_videos_of_another_program_are_filtered_frame_by_frame(root: Path, filtered: dict[str, Any]) -> None:
    """The input is video files with the frame rate of the study, and a csv file with their classes."""
    store = Store("data/phantom/videos")
    names = store.table[store.table["Split"] == "TRAIN"]["FileName"].tolist()[:4]
    new = Phantom(4, seed=99, size=SIZE, seconds=(0.5, 0.5), per_patient=(1, 1))
    lines = ["file,what"]
    clips = [store.frames(name, range(16))[..., 0] for name in names]
    clips += [new.read(recording, Limits()).frames[:16, ..., 0] for recording in new.recordings(None)]
    for number, clip in enumerate(clips):
        write_video(root / "clips" / f"{number}.avi", clip, 32, codec="ffv1", pix_fmt="gray")
        lines.append(f"{number}.avi,{'PAH' if number % 2 else 'ASD'}")
    (root / "clips/labels.csv").write_text("\n".join(lines) + "\n")
    csv = ["data.source.csv=labels.csv", "data.source.columns.FileName=file", "+data.source.columns.class_name=what"]
    made = [
        "data=videos",
        "data.name=phantom",
        "data.size=32",
        "synthetic=true",
        "raw=clips",
        "dst=samples/phantom/clips",
    ]
    run("sample", "stage=ingest", *made, *csv, "workers=0")
    assert Store("samples/phantom/clips").table["NumberOfFrames"].tolist() == [16] * 8
    at = ["src=samples/phantom/clips", "on=video", "check_every=4"]
    run("sample", "stage=filter", *STUDY, *at, *RULE)
    kept = Store("samples/phantom/private_videos")
    assert kept.dataset.settings["decision"]["frames"] == 4
    assert "4 of the 16 frames of each sample are compared" in kept.dataset.settings["decision"]["statement"]
    assert not {f"sample-{number:06d}" for number in range(4)} & set(kept.table["FileName"])


def test_a_set_of_another_size_says_what_to_do(root: Path, filtered: dict[str, Any]) -> None:
    images = ["data=images", "data.name=phantom", "synthetic=true", "raw=set", "workers=0", "dst=samples/other"]
    with pytest.raises(UserError, match=r"have frames of 32x32: set data.size=32"):
        run("sample", "stage=ingest", *images, "data.size=64")
    run("sample", "stage=ingest", *images, "data.size=64", "real=null")
    with pytest.raises(UserError, match=r"has 64x64 pixels, .* had 32x32: ingest the samples again with data.size=32"):
        run("sample", "stage=filter", *STUDY, "src=samples/other", "dst=samples/x", "private=reports/x", *RULE)
