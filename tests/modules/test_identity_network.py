"""model=identity: labels, metrics, training in two processes, and the use of the network in other stages."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor

from echodream import engine
from echodream.artifact import read_artifact
from echodream.config.paths import CONF_DIR
from echodream.datamodules.anonymized import AnonymizedData
from echodream.datamodules.views import Frames, Pairs
from echodream.errors import UserError
from echodream.filtering.embedding import FrameEmbedder
from echodream.losses.identity import IdentityLoss
from echodream.metrics.verification import all_pairs, auc, bootstrap_pairs, rank1_accuracy, similarity_matrix
from echodream.modules.identity import Identity
from echodream.modules.reid import load_reid
from echodream.networks.iresnet import IResNet
from echodream.store import Dataset, Store, StoreWriter
from echodream.store.video import write_video
from echodream.training.settings_hash import settings_hash
from echodream.weights import fingerprint
from tests.support.logged import capture_logs
from tests.support.patients import STATISTICS, latent_store

ROOT = Path(__file__).resolve().parent.parent.parent
B, D = 3, 6
SIDE, WIDE = 12, 20
SPLIT = ("TRAIN", "TRAIN", "TRAIN", "VAL", "TEST")


def image(patient: int, number: int, side: int = SIDE, wide: int = WIDE) -> np.ndarray:
    """Image of a patient: one random pattern per patient plus a small change per image, uint8 (1, H, W, 1)."""
    own, rng = np.random.default_rng(patient), np.random.default_rng(1000 * patient + number + 7)
    x = 127 + 50 * own.normal(size=(1, side, wide, 1)) + 20 * rng.normal(size=(1, side, wide, 1))
    return x.clip(0, 255).astype(np.uint8)


def image_store(root: Path, patients: int = 15, change: Any = None, **columns: str) -> Store:
    """Store of two images per patient (one image for every seventh patient); ``change`` anonymizes an image."""
    names = []
    with StoreWriter(root, Dataset(kind="video", channels=1, height=SIDE, width=WIDE)) as writer:
        for patient in range(patients):
            for number in range(1 if patient % 7 == 6 else 2):
                name = f"i{patient:02}-{number}"
                path = writer.scratch_path(name)
                pixels = image(patient, number)
                write_video(path, pixels if change is None else change(pixels), 1.0)
                row = {"FileName": name, "Split": SPLIT[patient % 5], "PatientID": f"p{patient}", "NumberOfFrames": 1}
                row |= {"FPS": 1.0, "FrameHeight": SIDE, "FrameWidth": WIDE, **dict.fromkeys(columns, name)}
                writer.commit(row, path)
                names.append(name)
        return writer.finish(names)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    image_store(folder / "videos")
    latent_store(folder / "latents")
    return folder


def embedder(channels: int, size: tuple[int, int], paired: bool) -> IResNet:
    torch.manual_seed(1)
    return IResNet(channels, size, [1, 1, 1, 1], [4, 4, 6, 6], D, paired=paired)


class Spy(IdentityLoss):
    """Identity loss that records its arguments."""

    def forward(self, features: Tensor, identity: Tensor, pairs: Tensor, compare: Any, targets: Any = None) -> Tensor:
        self.features, self.identity = features.detach(), identity
        return features.sum()


def data(src: Path, view: Any = None, **changes: Any) -> AnonymizedData:
    given = {"train_on": "original", "anonymised": None, "match": "FileName", "batch_size": B, "workers": 0, "seed": 0}
    return AnonymizedData(src=str(src), view=view or Frames(held_out=1), **given | changes)


def adapted(src: Path, view: Any = None, on: str = "pixels", **changes: Any) -> Identity:
    made = Identity(embedder, Spy(), torch.optim.SGD, on=on)
    made.configure_from_data(data(src, view, **changes))
    made.logged = capture_logs(made)  # type: ignore[assignment]
    return made.eval()


def test_a_training_step_embeds_frames_with_patient_labels(study: Path) -> None:
    made, x = adapted(study / "videos"), torch.randn(B, 1, SIDE, WIDE)
    given: Any = {"x": x, "name": ["i05-1", "i00-0", "i05-0"], "columns": {}}
    made.training_step(given, 0)
    spy: Any = made.head
    assert torch.equal(spy.features, made.encoder.network(x))
    first, second, third = spy.identity.tolist()
    assert first == third != second
    given["x"] = x * torch.nan
    with pytest.raises(UserError, match="the loss is not finite on a batch of i05-1, i00-0, i05-0"):
        made.training_step(given, 0)


@torch.no_grad()
def test_latents_are_normalized_once_and_all_held_out_frames_are_compared(study: Path) -> None:
    """Expected metrics come from frames that the test reads; one recording is too short, and one is repeated."""
    made = adapted(study / "latents", Frames(held_out=5), on="latents")
    source = data(study / "latents", Frames(held_out=5))
    batches = list(source.test_dataloader())
    for index, batch in enumerate([*batches, batches[0]]):
        made.test_step(batch, index)
    made.on_test_epoch_end()
    table = source.store.table[source.store.table["Split"] == "TEST"]
    x, patient, recording = [], [], []
    for name, owner, frames in zip(table["FileName"], table["PatientID"], table["NumberOfFrames"], strict=True):
        shown = min(5, frames)
        low = (frames - shown) // 2
        stored = source.store.latents(name, low, low + shown)[0].float()
        x.append(stored)
        patient += [owner] * shown
        recording += [name] * shown
    mean, std = (torch.tensor(part).view(1, -1, 1, 1) for part in (STATISTICS.mean, STATISTICS.std))
    embeddings = made.encoder.network((torch.cat(x) - mean) / std).numpy()
    scores = similarity_matrix(embeddings)
    pairs = all_pairs(scores, np.array(patient))
    logged: Any = made.logged
    assert made.verification_pairs is not None
    assert len(made.verification_pairs.score) == len(pairs.score)
    # latents are random samples of their posterior, so AUCs differ slightly
    assert logged["test/auc"] == pytest.approx(auc(pairs), abs=2e-3)
    assert logged["test/auc_low"] == pytest.approx(bootstrap_pairs(pairs, auc).low, abs=0.02)
    assert logged["test/rank1"] == pytest.approx(
        rank1_accuracy(scores, np.array(patient), np.array(recording)), abs=0.05
    )


def test_unsuitable_data_are_refused_or_logged(tmp_path: Path, study: Path, caplog: Any) -> None:
    with caplog.at_level("INFO"):
        adapted(study / "videos")
    assert "split VAL: 1 of 3 patients have only one image (p13), so they have no genuine pair" in caplog.text
    assert "split TEST" not in caplog.text
    with pytest.raises(UserError, match="give view=frames"):
        adapted(study / "videos", Pairs())
    with pytest.raises(UserError, match="holds videos, but on=latents needs latents"):
        adapted(study / "videos", on="latents")
    store = Store(study / "videos").table

    def with_table(table: pd.DataFrame) -> Identity:
        source = data(study / "videos")
        source.store.table = table
        made = Identity(embedder, Spy(), torch.optim.SGD, on="pixels")
        made.configure_from_data(source)
        return made

    with pytest.raises(UserError, match="has only one patient in TRAIN: ingest at least two"):
        with_table(store[(store["Split"] != "TRAIN") | (store["PatientID"] == "p0")])
    with pytest.raises(UserError, match="split VAL has only one patient"):
        with_table(store[(store["Split"] != "VAL") | (store["PatientID"] == "p3")])
    with pytest.raises(
        UserError, match=r"split TEST has no patient with two images, which verification needs \(p14, p4, p9\)"
    ):
        with_table(store[(store["Split"] != "TEST") | store["FileName"].str.endswith("0")])


def test_anonymized_images_have_the_patient_of_their_original(tmp_path: Path, study: Path) -> None:
    """Patients and splits in the anonymized store are ignored; missing and unexpected images are named in the error."""
    image_store(tmp_path / "dark", change=lambda x: x // 2, Original="")
    table = pd.read_csv(tmp_path / "dark" / "FileList.csv", dtype=str)
    table["PatientID"], table["Split"] = [f"S{k}" for k in range(len(table))], "TRAIN"
    table["FileName"], table = table["FileName"], table.iloc[::-1]
    table.to_csv(tmp_path / "dark" / "FileList.csv", index=False)
    changes = {"train_on": "anonymised", "anonymised": str(tmp_path / "dark"), "match": "Original"}
    source, real = data(study / "videos", **changes), Store(study / "videos").table
    assert source.store.table[["FileName", "PatientID", "Split"]].equals(real[["FileName", "PatientID", "Split"]])
    row = source.samples("VAL").rows
    shown = row.read(0, [0], np.random.default_rng(0))
    assert float(shown.max()) < 0.01  # pixels of the anonymized images, which are darker
    assert adapted(study / "videos", **changes)._patient.tolist() == real["PatientID"].tolist()
    table = table.replace({"Original": {"i00-0": "nobody", "i03-1": "no one"}})
    table.to_csv(tmp_path / "dark" / "FileList.csv", index=False)
    with pytest.raises(UserError) as told:
        data(study / "videos", **changes)
    assert "lacks 2 of the 28 images of" in str(told.value)
    assert "(i00-0, i03-1) and has 2 images of other originals (no one, nobody): anonymize all" in str(told.value)
    for change, says in [
        ({"match": "Whose"}, "match=Whose is not a column"),
        ({"train_on": "both"}, "choose one of original, anonymised"),
        ({"anonymised": str(study / "videos")}, "are the same store: give the anonymized store"),
        ({"anonymised": str(tmp_path / "nowhere")}, "does not exist: create it with stage=anonymise"),
    ]:
        with pytest.raises(UserError, match=says):
            data(study / "videos", **changes | change)


def given(folder: Path, src: Path, *overrides: str) -> list[str]:
    fixed = ["model=identity", "data=phantom", f"src={src}", f"dst={folder}/identity", f"work={folder}/runs"]
    fixed += ["preset=tiny", "embedder.widths=[4,6,8,10]", "embedder.features=8", "datamodule.workers=0"]
    fixed += ["datamodule.batch_size=8", "head.scale=16", "head.share=0.5", "model.lr=0.02", "trainer.accelerator=cpu"]
    fixed += ["trainer.max_epochs=3", "trainer.log_every_n_steps=1", f"logger.csv.save_dir={folder}/logs"]
    return [*fixed, *overrides]


def train(folder: Path, src: Path, *overrides: str) -> dict[str, float]:
    where = f"callbacks.verification.folder={folder}/pictures"
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return engine.train(compose("train", given(folder, src, where, *overrides)))


def losses(folder: Path) -> np.ndarray:
    return pd.read_csv(folder / "logs" / "csv" / "metrics.csv")["train/loss"].dropna().to_numpy()


@pytest.mark.slow
def test_two_processes_train_as_one_with_the_same_batch(tmp_path: Path, study: Path) -> None:
    """Two processes share batch statistics, sampled centers, gradients and held-out metrics.

    12 steps with half of the class centers (head.share=0.5). Only rounding differs: 1e-3 of the loss. If batch
    statistics, sampled centers or gradients were not shared, the loss would differ by 1e-2.
    """
    more = ["on=latents", "view.per_recording=2", "trainer.max_epochs=2"]
    one = train(tmp_path / "one", study / "latents", *more)
    split = ["datamodule.batch_size=4", "trainer.devices=2", "trainer.strategy=ddp", f"hydra.run.dir={tmp_path}/hydra"]
    command = [sys.executable, str(ROOT / "train.py"), *given(tmp_path / "two", study / "latents", *more, *split)]
    said = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert said.returncode == 0, said.stderr
    a, b = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(a) == 12
    assert np.abs(b / a - 1).max() < 1e-3
    facts = read_artifact(tmp_path / "two" / "identity", "identity")
    assert facts.metrics == pytest.approx(one, abs=0.02)
    states = [load_reid(tmp_path / name / "identity").network.state_dict() for name in ("one", "two")]
    for name, value in states[0].items():
        assert torch.allclose(value.float(), states[1][name].float(), rtol=0.02, atol=2e-3), name


@pytest.mark.slow
def test_a_network_of_pixels_is_trained_and_used_to_link_images(tmp_path: Path, study: Path) -> None:
    metrics = train(tmp_path, study / "videos", "trainer.max_epochs=6", "model.lr=0.1")
    assert metrics["auc"] > 0.9
    folder = tmp_path / "identity"
    encoder = load_reid(folder)
    assert read_artifact(folder, "identity").fingerprint == fingerprint(encoder.network)
    assert json.loads((folder / "config.json").read_text())["_class_name"] == "IResNet"
    assert len(list((tmp_path / "pictures").iterdir())) == 6
    # already complete: the same command returns the stored metrics
    assert train(tmp_path, study / "videos", "trainer.max_epochs=6", "model.lr=0.1") == metrics

    image_store(tmp_path / "copy")
    noise = np.random.default_rng(0)
    image_store(tmp_path / "noise", change=lambda x: noise.integers(0, 256, x.shape).astype(np.uint8))
    sample(tmp_path, "pairs", f"src={study}/videos")
    for name in ("copy", "noise"):
        stage = [f"src={tmp_path}/{name}", f"real={study}/videos", f"artifact={folder}"]
        linked = sample(tmp_path, "linkability", *stage, f"pairs={tmp_path}/pairs", "repeats=100", at=name)
        found = json.loads((tmp_path / name / "linkability.json").read_text()) if linked else {}
        outer = found["sets"]["outer"]["AUC"]["value"]
        assert outer == 1 if name == "copy" else outer < 0.9
        assert found["network"] == fingerprint(encoder.network)
        assert found["sets"]["originals"]["AUC"]["value"] > 0.8
        sample(tmp_path, "anonymity", *stage, at=name)
        hidden = json.loads((tmp_path / name / "anonymity.json").read_text())["spaces"]
        assert set(hidden) == {"identity", "pixels"}


def sample(folder: Path, stage: str, *overrides: str, at: str = "") -> str:
    fixed = [f"stage={stage}", "+data.name=x", "notes=null", f"dst={folder}/{at or stage}", *overrides]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return str(engine.sample(compose("sample", fixed)))


def test_any_embedder_of_reid_can_be_trained(tmp_path: Path, study: Path) -> None:
    """The Siamese embedder of model=reid can be trained on latents; images are refused by this embedder."""
    overrides = ["on=latents", "embedder=tiny", "trainer.max_epochs=0", "embedder.widths=[4,4,4,4]"]
    train(tmp_path, study / "latents", *overrides)
    assert json.loads((tmp_path / "identity" / "config.json").read_text())["_class_name"] == "Siamese"
    with pytest.raises(UserError, match="embeds latents, and the images are pixels"):
        FrameEmbedder(str(tmp_path / "identity"), "vae", kind="video")


@pytest.mark.slow
def test_training_hash_depends_on_the_anonymized_images_and_not_on_their_folder(tmp_path: Path, study: Path) -> None:
    def settings(*overrides: str) -> str:
        with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
            cfg = compose(
                "train", given(tmp_path, study / "videos", f"callbacks.verification.folder={tmp_path}", *overrides)
            )
        engine.check_and_resolve(cfg)
        return settings_hash(cfg)

    for name, change in (("a", lambda x: x // 2), ("b", lambda x: x // 3), ("c", lambda x: x // 2)):
        image_store(tmp_path / name, patients=3, change=change)
    found = [settings("train_on=anonymised", f"anonymised={tmp_path}/{name}") for name in "abc"]
    assert found[0] == found[2] != found[1]
    assert settings() not in found
    # without train_on=anonymised, the anonymized images are not read
    assert settings(f"anonymised={tmp_path}/a") == settings()
