"""Labels and pairs of original and anonymized images: selected label columns, and images for training and testing."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from echodream.datamodules.real_and_anonymized import RealAndAnonymizedData
from echodream.datamodules.tasks import Labels
from echodream.datamodules.views import Clips
from echodream.errors import UserError
from echodream.store import Statistics
from tests.support.stores import STATISTICS, Row, make_latent_store, make_video_store, row

TABLE = pd.DataFrame(
    {
        **{"FileName": ["a", "b", "c"], "Split": ["TRAIN"] * 3, "FPS": [1.0] * 3},
        **{"PA": [1, 0, 1], "Edema": [0.5, np.nan, 0], "Sex": ["m", "f", "m"], "Age": [0.5, 61, 7]},
        **{"Empty": [np.nan] * 3, "class_id": [0, 1, 0]},
    }
)


@pytest.mark.parametrize(
    ("task", "names"),
    [
        (Labels(["Edema", "PA"]), ["Edema", "PA"]),
        (Labels(None, {"PA": "projection=pa", "Edema": "edema"}), ["PA", "Edema"]),
        (Labels(None, ["PA"]), ["PA"]),
        (Labels(), ["Edema"]),  # the only label of CheXpert in this table
    ],
)
def test_labels_are_those_asked_for_or_those_of_the_study(task: Labels, names: list[str]) -> None:
    known = task.output_names(TABLE, Path("videos"))
    assert known == dict(enumerate(names))
    assert task.target_columns(known) == tuple(names)
    assert task.select_rows(TABLE, known)["FileName"].tolist() == (
        ["a", "c"] if names == ["Edema"] else ["a", "b", "c"]
    )


@pytest.mark.parametrize(
    ("task", "says"),
    [
        (Labels(["Male"]), r"task.labels has Male, which is not a column of videos; .* labels: PA, Edema, class_id$"),
        (Labels(None, ["Male"]), r"data.source.labels has Male, which is not a column of videos"),
        (Labels(["Sex"]), r"has Sex, but in videos it holds text, such as 'm': labels are 0 \(no\) to 1"),
        (Labels(["Age"]), r"has Age, but in videos it is 61 for b: labels are 0 \(no\) to 1 \(yes\), or empty"),
        (Labels(["Empty"]), r"has Empty, but in videos it is empty"),
    ],
)
def test_columns_that_are_no_labels_are_refused(task: Labels, says: str) -> None:
    with pytest.raises(UserError, match=says):
        task.output_names(TABLE, Path("videos"))


@pytest.mark.parametrize("wrong", ["PA", [], ["PA", "PA"], 3])
def test_labels_are_a_list_of_names(wrong: Any) -> None:
    with pytest.raises(UserError, match=r"task.labels is .*: give different columns, such as"):
        Labels(wrong)


def test_a_study_without_labels_is_told_what_there_is() -> None:
    with pytest.raises(UserError, match=r"none of the labels of CheXpert: set task.labels=; .*: PA, class_id$"):
        Labels().output_names(TABLE.drop(columns="Edema"), Path("videos"))


def originals(**more: Any) -> list[Row]:
    """Twelve images of six patients: eight of TRAIN (the last one without labels), two of VAL, two of TEST."""
    splits = ["TRAIN"] * 8 + ["VAL"] * 2 + ["TEST"] * 2
    labels = [{"PA": k % 2, "Edema": 0.5} for k in range(7)] + [{"PA": "", "Edema": ""}]
    labels += [{"PA": k % 2, "Edema": ""} for k in range(4)]
    return [row(f"o{k:02}", f"p{k // 2}", 1, splits[k], **labels[k], **more) for k in range(12)]


def versions(names: list[str], **more: Any) -> list[Row]:
    """Rows of anonymized images: other file names in reverse order, other patients and splits, and wrong labels."""
    return [row(f"v{len(names) - k:02}", f"x{k}", 1, "VAL", Of=name, PA=0.25, **more) for k, name in enumerate(names)]


NAMES = [f"o{k:02}" for k in range(12)]
TRAIN, TEST = NAMES[:7], NAMES[10:]


def paired(root: Path, anonymised: Any = None, **changes: Any) -> RealAndAnonymizedData:
    paths = anonymised if anonymised is None or isinstance(anonymised, list) else str(root / anonymised)
    settings: dict[str, Any] = {"src": str(root / "videos"), "view": Clips(frames=1), "batch_size": 4, "workers": 0}
    settings |= {"seed": 3, "task": Labels(["PA", "Edema"]), "match": "Of", "anonymised": paths}
    return RealAndAnonymizedData(**{**settings, **changes})


def seen(loader: Any) -> list[tuple[str, float]]:
    """Name and label of each image of a data loader."""
    pairs = [zip(b["name"], b["columns"]["PA"].tolist(), strict=True) for b in loader]
    return sorted((str(name), float(label)) for part in pairs for name, label in part)


def truth(names: list[str]) -> list[tuple[str, float]]:
    given = {r["FileName"]: r["PA"] for r in originals()}
    return [(name, float(given[name])) for name in names]


def test_versions_are_trained_on_with_the_labels_of_their_originals(tmp_path: Path) -> None:
    make_video_store(tmp_path / "videos", originals())
    of = ["o11", *NAMES[:8], "o10"]
    make_video_store(tmp_path / "masked", versions(of))
    data = paired(tmp_path, "masked", train_on="anonymised")
    name = {original: f"v{len(of) - k:02}" for k, original in enumerate(of)}
    assert seen(data.train_dataloader()) == sorted((name[o], label) for o, label in truth(TRAIN))
    assert seen(data.val_dataloader()) == truth(["o08", "o09"])
    own, other = data.test_dataloader()
    assert seen(own) == truth(TEST)
    assert seen(other) == sorted((name[o], label) for o, label in truth(TEST))
    tested = data.test_rows()
    assert list(tested) == ["", "masked"]
    for original in TEST:
        assert tested["masked"][name[original]] == tested[""][original]
    facts = data.metadata()
    assert (facts["train_on"], facts["match"]) == ("anonymised", "Of")
    assert facts["trained"] == {"anonymised": {"recordings": 7, "patients": 4}}
    assert facts["stores"].keys() == {"original", "masked"}
    assert data.training_table()["PA"].tolist() == [label for _, label in truth(TRAIN)]


def test_originals_are_trained_on_and_versions_only_tested(tmp_path: Path) -> None:
    make_video_store(tmp_path / "videos", originals())
    make_video_store(tmp_path / "weak", versions(TEST))
    make_video_store(tmp_path / "strong", versions(TEST[::-1]))
    data = paired(tmp_path, [str(tmp_path / "weak"), str(tmp_path / "strong")])
    assert seen(data.train_dataloader()) == truth(TRAIN)
    assert list(data.test_rows()) == ["", "weak", "strong"]
    assert [len(seen(loader)) for loader in data.test_dataloader()] == [2, 2, 2]
    assert seen(data.test_dataloader()[2]) == sorted(zip(("v02", "v01"), (1.0, 0.0), strict=True))
    assert len(paired(tmp_path).test_dataloader()) == 1


def test_a_set_of_training_images_alone_is_trained_on(tmp_path: Path) -> None:
    make_video_store(tmp_path / "videos", originals())
    make_video_store(tmp_path / "masked", versions(NAMES[:8]))
    data = paired(tmp_path, "masked", train_on="anonymised", length=5)
    assert list(data.test_rows()) == [""]
    assert len(seen(data.train_dataloader())) == 5


def test_latents_are_whitened_with_the_statistics_of_the_originals(tmp_path: Path) -> None:
    rows = originals()
    make_latent_store(tmp_path / "latents", rows, std=0.0)
    other = Statistics((9.0, 9.0, 9.0, 9.0), (1.0, 1.0, 1.0, 1.0))
    make_latent_store(tmp_path / "masked", versions(NAMES), std=0.0, statistics=other)
    data = paired(tmp_path, "masked", src=str(tmp_path / "latents"), kind="latent", train_on="anonymised")
    item = data.training_dataset()[2]  # the anonymized version of o02; its channel 1 contains the number of the image
    mean, std = STATISTICS.mean[1], STATISTICS.std[1]
    assert torch.allclose(item["x"][1], torch.tensor((2 - mean) / std))


@pytest.mark.parametrize(
    ("names", "settings", "says"),
    [
        (NAMES[1:], {"train_on": "anonymised"}, r"masked lacks 1 of the 9 images of .*videos \(o00\): anonymize all"),
        (TEST[:1], {}, r"masked lacks 1 of the 2 images of .*videos \(o11\)"),
        ([*NAMES, "o77"], {}, r"masked has 1 images of other originals \(o77\)"),
        ([*NAMES, "o03"], {}, r"several images with Of=o03: keep one image per original"),
        (
            NAMES,
            {"match": "Original"},
            r"match=Original is not a column of .*masked, which has .*names of originals",
        ),
        (NAMES, {"train_on": "both"}, r"train_on is 'both': choose one of original, anonymised"),
        (NAMES, {"anonymised": None, "train_on": "anonymised"}, r"needs one store as anonymised=, and has none"),
        (
            NAMES,
            {"anonymised": ["a/x", "b/x"]},
            r"anonymised=\[a/x,b/x\] has folders of equal names",
        ),
        (NAMES, {"anonymised": "/nowhere"}, r"anonymised=/nowhere does not exist: create it with stage=anonymise"),
    ],
)
@pytest.mark.slow
def test_sets_that_are_no_pairs_are_refused(
    tmp_path: Path, names: list[str], settings: dict[str, Any], says: str
) -> None:
    make_video_store(tmp_path / "videos", originals())
    made = [{**r, "FileName": f"w{k:02}"} for k, r in enumerate(versions(names))]
    make_video_store(tmp_path / "masked", made)
    with pytest.raises(UserError, match=says):
        paired(tmp_path, **{"anonymised": "masked", **settings})


def test_stores_of_other_images_are_refused(tmp_path: Path) -> None:
    make_video_store(tmp_path / "videos", originals())
    make_video_store(tmp_path / "wide", versions(NAMES, FrameWidth=9))
    with pytest.raises(UserError, match=r"anonymised=.*wide: v12 is 9x5 with 1 channel, the originals are 7x5 with 1"):
        paired(tmp_path, "wide")
    make_latent_store(tmp_path / "latents", versions(NAMES))
    with pytest.raises(UserError, match=r"latents holds latents and src=.* holds videos: convert one"):
        paired(tmp_path, "latents")
    with pytest.raises(UserError, match="are the same store"):
        paired(tmp_path, "videos")
