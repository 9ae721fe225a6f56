"""Tests of ``stage=label``: labels from classifiers against a computation by hand, and error messages."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from echodream import engine
from echodream.artifact import Artifact, write_artifact
from echodream.config.paths import CONF_DIR
from echodream.errors import UserError
from echodream.evaluation import relabeling
from echodream.evaluation.relabeling import ClassProbabilities, _column_titles, most_probable_classes
from echodream.networks.classifiers import Classifier
from echodream.runs.summary import Summary
from echodream.stages import label as stage
from echodream.store import Store, verify
from echodream.weights import fingerprint
from tests.support.stores import HEIGHT, WIDTH, make_video_store, row

ASD, PAH = ([0, 1], ["ASD", "Non-ASD"]), ([2, 3], ["Non-PAH", "PAH"])


def rows() -> list[dict[str, Any]]:
    """Rows of six recordings with four classes and three splits in mixed order."""
    splits = ["TEST", "TRAIN", "TRAIN", "VAL", "TRAIN", "TEST"]
    names = ASD[1] + PAH[1]
    return [
        row(f"v{k}", f"P{k}", 7 + k, split, class_id=k % 4, class_name=names[k % 4], EF=50.5)
        for k, split in enumerate(splits)
    ]


def run(folder: Path, *overrides: str) -> Summary:
    """Run ``sample.py stage=label`` on the store ``folder``/videos."""
    fixed = ["stage=label", f"src={folder}/videos", f"notes={folder}/notes", *overrides]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return engine.sample(compose("sample", fixed))


class Oracles:
    """Replaces trained classifiers by given outputs: folder -> (classes, logits of each recording)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **said: tuple[tuple[list[int], list[str]], np.ndarray]) -> None:
        self.said = said
        monkeypatch.setattr(stage, "open_classifier", self.open)
        monkeypatch.setattr(relabeling, "predict_split", self.predict)

    def open(self, folder: str) -> Any:
        (ids, names), _ = self.said[folder]
        facts = {"class_ids": ids, "class_names": names, "task": "classification"}
        if not ids:
            facts |= {"task": "regression", "column": "EF"}
        made = Artifact("classifier", "hearts", folder[0] * 64, "0" * 64)
        return SimpleNamespace(folder=folder, metadata=facts, artifact=made)

    def predict(self, model: Any, store: Store, split: str, batch: int) -> Any:
        table = store.table[store.table["Split"] == split].reset_index(drop=True)
        places = [int(name[1:]) for name in table["FileName"]]
        return table, self.said[model.folder][1][places]


def softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits) / np.exp(logits).sum()


@pytest.mark.slow
def test_the_most_confident_classifier_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    logits = {name: scale * rng.standard_normal((6, 2)) for name, scale in (("asd", 1), ("pah", 4), ("pah_again", 4))}
    Oracles(monkeypatch, asd=(ASD, logits["asd"]), pah=(PAH, logits["pah"]), again=(PAH, logits["pah_again"]))
    source = make_video_store(tmp_path / "videos", rows())
    run(tmp_path, "artifacts=[asd,pah,again]")
    made = Store(tmp_path / "videos_relabelled")
    verify(made.root)
    won = set()
    for k, cells in enumerate(made.table.to_dict("records")):
        mean = (softmax(logits["pah"][k]) + softmax(logits["pah_again"][k])) / 2  # same classes: the mean
        shares = {**dict(zip(ASD[0], softmax(logits["asd"][k]), strict=True)), **dict(zip(PAH[0], mean, strict=True))}
        best = max(shares, key=lambda number: shares[number])
        won.add(bool(best > 1))
        assert (cells["class_id"], cells["class_name"]) == (best, (ASD[1] + PAH[1])[best])
        assert cells["Confidence"] == pytest.approx(shares[best], abs=1e-6)
        assert [cells[f"P_{name}"] for name in ("ASD", "Non_ASD", "Non_PAH", "PAH")] == pytest.approx(
            [shares[number] for number in range(4)], abs=1e-6
        )
        assert (cells["Asked_class_id"], cells["Asked_class_name"]) == (k % 4, (ASD[1] + PAH[1])[k % 4])
        assert cells["LabelSource"] == "a" * 12 + "+" + "p" * 12 + "+" + "a" * 12
        assert made.path(cells["FileName"]).read_bytes() == source.path(cells["FileName"]).read_bytes()
    assert won == {True, False}
    assert made.table["EF"].tolist() == [50.5] * 6
    assert "already complete" in run(tmp_path, "artifacts=[asd,pah,again]").title
    run(tmp_path, "artifacts=[pah,asd]", f"src={made.root}", f"dst={tmp_path}/twice")
    assert Store(tmp_path / "twice").table["Asked_class_id"].tolist() == [0, 1, 2, 3, 0, 1]  # the original requests


def test_of_equal_confidences_the_first_is_taken() -> None:
    parts = [
        ClassProbabilities([4, 5], ["a", "b"], np.array([[0.2, 0.8]])),
        ClassProbabilities([6, 7], ["c", "d"], np.array([[0.8, 0.2]])),
    ]
    part, place, sure = most_probable_classes(parts)
    assert (part.tolist(), place.tolist(), sure.tolist()) == ([0], [1], [0.8])


def test_a_regression_sets_its_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Oracles(monkeypatch, ef=(([], []), np.arange(6)[:, None] + 40.25))
    make_video_store(tmp_path / "videos", rows())
    run(tmp_path, "artifacts=[ef]")
    table = Store(tmp_path / "videos_relabelled").table
    assert set(Store(tmp_path / "videos_relabelled").dataset.settings) == {"labels"}
    assert table["EF"].tolist() == [40.25 + k for k in range(6)]
    assert table["Asked_EF"].tolist() == [50.5] * 6
    assert table["class_id"].tolist() == [0, 1, 2, 3, 0, 1]


@torch.no_grad()
def test_labels_of_a_network_on_the_center_clip(tmp_path: Path) -> None:
    torch.manual_seed(2)
    network = Classifier(4, 1, 2, [4, 6, 8, 5], [1, 1, 1, 1], [3, 3], [1, 1], False).eval()
    network.head.weight.mul_(8)
    facts = {"class_ids": [0, 1, 2, 3], "class_names": ASD[1] + PAH[1], "frames": 3, "stride": 2}
    facts |= {"height": HEIGHT, "width": WIDTH}
    mark = fingerprint(network)
    made = Artifact("classifier", "hearts", mark, "0" * 64)
    write_artifact(tmp_path / "net", made, "seed: 0\n", lambda folder: network.save(folder, facts))
    store = make_video_store(tmp_path / "videos", rows())
    said = run(tmp_path, f"artifacts=[{tmp_path}/net]", f"dst={tmp_path}/new")
    table = Store(tmp_path / "new").table
    for k, entry in enumerate(rows()):
        first = (entry["NumberOfFrames"] - 5) // 2
        x = torch.from_numpy(store.frames(entry["FileName"])[first : first + 5 : 2, :, :, 0]).float() / 127.5 - 1
        shares = network(x[None, None])[0].softmax(dim=0)
        assert table["class_id"][k] == int(shares.argmax())
        assert table["Confidence"][k] == pytest.approx(float(shares.max()), abs=1e-5)
    assert set(table["LabelSource"].astype(str)) == {mark[:12]}
    same = sum(int(table["class_id"][k]) == k % 4 for k in range(6))
    assert said.facts["as before"] == f"{same} of 6"


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["artifacts=[]"], r"artifacts= is empty"),
        (["artifacts=[asd]"], r"src=.*videos has class_id 2, which is not in .* \[0, 1\]: add a classifier"),
        (["artifacts=[asd,pah,other]"], r"class 3 is Sick in .*other and PAH in another classifier"),
        (["artifacts=[asd,pah]", "dst={0}/videos"], r"dst=.*videos is also src="),
        (["artifacts=[asd,pah]", "src={0}/nothing"], r"nothing does not exist"),
    ],
)
def test_invalid_settings_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str], says: str
) -> None:
    zeros = np.zeros((6, 2))
    Oracles(monkeypatch, asd=(ASD, zeros), pah=(PAH, zeros), other=(([3, 4], ["Sick", "Well"]), zeros))
    make_video_store(tmp_path / "videos", rows())
    with pytest.raises(UserError, match=says):
        run(tmp_path, *(override.format(tmp_path) for override in overrides))
    assert [path.name for path in tmp_path.iterdir()] == ["videos"]


def test_a_missing_artifact_is_refused(tmp_path: Path) -> None:
    make_video_store(tmp_path / "videos", rows())
    with pytest.raises(UserError, match="nowhere has no classifier: train one"):
        run(tmp_path, f"artifacts={tmp_path}/nowhere")


def test_column_names_of_classes_are_unique(tmp_path: Path) -> None:
    part = ClassProbabilities([4, 5, 6], ["心臓", "肺癌", "正常"], np.eye(3))
    assert _column_titles([part]) == ["P___", "P1___", "P1____6"]
    make_video_store(tmp_path / "videos", rows())
    with pytest.raises(UserError, match="artifacts=5 is not possible"):
        run(tmp_path, "artifacts=5")
