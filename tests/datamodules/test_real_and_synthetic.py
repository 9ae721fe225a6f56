"""Training on real, synthetic or mixed data: samples of an epoch, held-out patients, and folds of whole patients."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from echodream.datamodules.patient_folds import assign_folds, split_by_fold
from echodream.datamodules.real_and_synthetic import RealAndSyntheticData
from echodream.datamodules.tasks import Classification, Regression
from echodream.datamodules.views import Clips
from echodream.errors import UserError
from tests.support.stores import make_video_store, row

NAMES = ["ASD", "Non-ASD", "PAH"]


def real_rows() -> list[dict[str, Any]]:
    """Nine TRAIN, three VAL and three TEST recordings of three classes."""
    given = []
    for number in range(15):
        split = "TRAIN" if number < 9 else ("VAL" if number < 12 else "TEST")
        k = number % 3
        columns = {"class_id": k, "class_name": NAMES[k], "EF": "" if number == 4 else 50.0 + number}
        given.append(row(f"r{number}", f"P{number // 3 * 3 + k}", 6, split, **columns))
    return given


def synthetic_rows(count: int = 5, first: str = "S", **more: Any) -> list[dict[str, Any]]:
    return [
        row(f"s{k}", f"{first}{k}", 6, class_id=k % 3, class_name=NAMES[k % 3], EF=40.5 + k, **more)
        for k in range(count)
    ]


@pytest.fixture
def stores(tmp_path: Path) -> Path:
    make_video_store(tmp_path / "real", real_rows())
    make_video_store(tmp_path / "synthetic", synthetic_rows())
    return tmp_path


def mixed(folder: Path, task: Any = None, **changes: Any) -> RealAndSyntheticData:
    settings = {"src": str(folder / "real"), "synthetic": str(folder / "synthetic"), "batch_size": 4, "workers": 0}
    settings |= {"seed": 3, "view": Clips(frames=2), "task": task or Classification()}
    made = RealAndSyntheticData(**{**settings, "columns": ["class_id"], **changes})
    return made


def epoch(data: RealAndSyntheticData, number: int) -> list[str]:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(number)  # type: ignore[attr-defined]
    return [name for batch in loader for name in batch["name"]]


def held_out(data: RealAndSyntheticData) -> list[str]:
    return [name for loader in (data.val_dataloader(), data.test_dataloader()) for b in loader for name in b["name"]]


REAL, FAKE = [f"r{k}" for k in range(9)], [f"s{k}" for k in range(5)]


@pytest.mark.parametrize(("train_on", "expected"), [("real", REAL), ("synthetic", FAKE), ("both", REAL + FAKE)])
def test_an_epoch_has_each_recording_once_and_tests_are_real(stores: Path, train_on: str, expected: list[str]) -> None:
    data = mixed(stores, train_on=train_on)
    for number in (0, 1):
        assert sorted(epoch(data, number)) == sorted(expected)
    assert epoch(data, 0) != epoch(data, 1)
    assert held_out(data) == [f"r{k}" for k in range(9, 15)]
    trained = data.metadata()["trained"]
    assert {name: size["recordings"] for name, size in trained.items()} == {
        name: size for name, size in (("real", 9), ("synthetic", 5)) if train_on in (name, "both")
    }
    assert data.metadata()["train_on"] == train_on


def test_a_ratio_takes_other_synthetic_samples_in_each_epoch(stores: Path) -> None:
    data = mixed(stores, train_on="both", ratio=1 / 3)
    seen = []
    for number in range(5):
        names = epoch(data, number)
        assert sorted(name for name in names if name[0] == "r") == REAL
        fake = [name for name in names if name[0] == "s"]
        assert len(fake) == 3
        seen += fake
    assert {seen.count(name) for name in FAKE} == {3}  # 15 draws from 5 recordings: each recording three times
    more = epoch(mixed(stores, train_on="both", ratio=1.0), 0)
    assert sum(name[0] == "s" for name in more) == 9
    assert {name for name in more if name[0] == "s"} == set(FAKE)


def test_an_epoch_of_a_length_goes_on_where_the_last_one_ended(stores: Path) -> None:
    data = mixed(stores, train_on="both", length=10)
    names = [name for number in range(7) for name in epoch(data, number)]
    assert len(names) == 70
    assert {names.count(name) for name in REAL + FAKE} == {5}  # 70 draws from 14 recordings: each recording five times
    once = mixed(stores, train_on="synthetic", length=10)
    drawn = epoch(once, 0)
    assert {drawn.count(name) for name in FAKE} == {2}


def test_a_sample_that_comes_again_is_another_clip(stores: Path) -> None:
    samples = mixed(stores, train_on="synthetic", length=40).training_dataset()
    clips: dict[str, set[int]] = {}
    for number in range(40):
        item = samples[number]
        clips.setdefault(item["name"], set()).add(int(((item["x"][0, 0, 0, 0] + 1) * 127.5).round()))
    assert all(len(starts) > 1 for starts in clips.values())
    assert torch.equal(samples[7]["x"], samples[7]["x"])


def test_classes_are_chosen_by_name_in_both_stores(stores: Path) -> None:
    data = mixed(stores, Classification(["PAH", "ASD"]), train_on="both")
    assert data.output_names == {2: "PAH", 0: "ASD"}
    assert sorted(epoch(data, 0)) == ["r0", "r2", "r3", "r5", "r6", "r8", "s0", "s2", "s3"]
    assert held_out(data) == ["r9", "r11", "r12", "r14"]
    assert len(data.full_table) - len(data.store.table) == 5
    assert mixed(stores).output_names == dict(enumerate(NAMES))


def test_recordings_without_a_number_are_left_out(stores: Path) -> None:
    data = mixed(stores, Regression("EF"), columns=["EF"])
    assert "r4" not in epoch(data, 0)
    assert len(data.full_table) - len(data.store.table) == 1
    assert next(iter(data.test_dataloader()))["columns"]["EF"].tolist() == [62.0, 63.0, 64.0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "changes", "says"),
    [
        (None, {"train_on": "fake"}, r"train_on is 'fake': choose one of real, synthetic, both"),
        (None, {"train_on": "both", "synthetic": "/absent"}, r"synthetic=/absent does not exist"),
        (None, {"ratio": 1.0}, r"ratio= needs train_on=both"),
        (None, {"train_on": "both", "ratio": -1}, r"ratio is -1"),
        (None, {"train_on": "both", "ratio": "half"}, r"ratio is 'half': give a number above 0 to 1000"),
        (None, {"folds": 3}, r"datamodule.folds is 3 and datamodule.fold is None: set both"),
        (None, {"fold": 0}, r"datamodule.folds is None and datamodule.fold is 0: set both"),
        (None, {"folds": 3, "fold": 3}, r"datamodule.fold is 3: use a whole number from 0, below datamodule.folds=3"),
        (None, {"folds": 3, "fold": True}, r"datamodule.fold is True: use a whole number"),
        (None, {"length": 0}, r"datamodule.length is 0"),
        (None, {"train_on": "synthetic", "folds": 3, "fold": 0}, r"would train the same model in each fold"),
        (Classification(["ASD", "TOF"]), {}, r"has TOF, but .* has the classes ASD, Non-ASD, PAH"),
        (Regression("Age"), {"columns": []}, r"task.column=Age is not a column of"),
        (Regression("View"), {"columns": []}, r"task.column=View is not a column of|holds no numbers"),
    ],
)
def test_what_cannot_be_is_refused(stores: Path, task: Any, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        mixed(stores, task, **changes)


@pytest.mark.parametrize("classes", ["ASD", ["ASD"], ["ASD", "ASD"]])
def test_classes_are_two_names_or_more(classes: Any) -> None:
    with pytest.raises(UserError, match=r"task.classes is .*: use two or more different"):
        Classification(classes)


def test_held_out_patients_may_not_come_back_as_synthetic_ones(stores: Path, tmp_path: Path) -> None:
    """A synthetic store with held-out patients is refused: it may have been decoded from latents of real videos."""
    make_video_store(tmp_path / "leak", synthetic_rows(14, first="P"))
    with pytest.raises(UserError, match=r"leak has 5 TRAIN patients who are VAL or TEST"):
        mixed(stores, train_on="both", synthetic=str(tmp_path / "leak"))


def test_stores_that_do_not_go_together_are_refused(stores: Path, tmp_path: Path) -> None:
    make_video_store(tmp_path / "colour", synthetic_rows(), channels=3)
    swapped = [{**entry, "class_name": NAMES[(k + 1) % 3]} for k, entry in enumerate(synthetic_rows())]
    make_video_store(tmp_path / "swapped", swapped)
    make_video_store(tmp_path / "unlabelled", [{**entry, "class_id": ""} for entry in synthetic_rows()])
    stranger = [*synthetic_rows(), row("s9", "S9", 6, class_id=7, class_name="TOF")]
    make_video_store(tmp_path / "stranger", stranger)
    make_video_store(tmp_path / "held", [{**entry, "Split": "TEST"} for entry in synthetic_rows()])
    for name, says in (
        ("colour", r"is 7x5 with 3 channels and src=.* is 7x5 with 1 channel"),
        ("swapped", r"class_id of Non-ASD differs"),
        ("unlabelled", r"has recordings without class_id"),
        ("held", r"has no TRAIN recording of this task"),
        (
            "stranger",
            r"stranger has class_id 7, which no recording of src=.* has: set task.classes= to classes of both",
        ),
    ):
        with pytest.raises(UserError, match=says):
            mixed(stores, train_on="both", synthetic=str(tmp_path / name))
    chosen = mixed(stores, Classification(["ASD", "PAH"]), train_on="synthetic", synthetic=str(tmp_path / "stranger"))
    assert set(chosen.training_table()["class_id"]) == {0, 2}


def test_who_gave_the_labels_is_told(stores: Path, tmp_path: Path) -> None:
    assert mixed(stores, train_on="both").metadata()["synthetic_labels"] == "asked"
    assert "synthetic_labels" not in mixed(stores).metadata()
    make_video_store(tmp_path / "told", synthetic_rows(LabelSource="abc123def456"))
    told = mixed(stores, train_on="both", synthetic=str(tmp_path / "told"))
    assert told.metadata()["synthetic_labels"] == "abc123def456"


def many(seed: int = 0) -> pd.DataFrame:
    """Table of sixty patients in two classes, with one to four recordings each."""
    rng = np.random.default_rng(seed)
    rows = [
        {"FileName": f"f{p}_{k}", "PatientID": f"p{p}", "class_id": p % 2, "Split": ("TRAIN", "VAL", "TEST")[p % 3]}
        for p in range(60)
        for k in range(rng.integers(1, 5))
    ]
    return pd.DataFrame(rows)


def grouped(fold: np.ndarray, table: pd.DataFrame) -> bool:
    """True if all recordings of every patient are in one fold."""
    return bool((table.assign(fold=fold).groupby("PatientID")["fold"].nunique() == 1).all())


def test_folds_hold_whole_patients_and_both_classes_alike() -> None:
    table = many()
    strata, patients = table["class_id"].to_numpy(), table["PatientID"].to_numpy()
    fold = assign_folds(patients, strata, 5, seed=1)
    assert grouped(fold, table)
    assert set(fold) == set(range(5))
    shares = [strata[fold == number].mean() for number in range(5)]
    assert max(shares) - min(shares) < 0.15
    assert (assign_folds(patients, strata, 5, seed=1) == fold).all()
    assert (assign_folds(patients, strata, 5, seed=2) != fold).any()
    from sklearn.model_selection import StratifiedKFold

    loose = np.zeros(len(table), int)
    for number, (_, tested) in enumerate(StratifiedKFold(5, shuffle=True, random_state=1).split(strata, strata)):
        loose[tested] = number
    assert not grouped(loose, table)  # the check fails, as it should, on folds that ignore patients


def test_each_patient_is_tested_once_and_never_trained_on_in_that_fold() -> None:
    table, tested = many(), []
    strata = table["class_id"].to_numpy()
    for fold in range(5):
        found = split_by_fold(table, strata, 5, fold, seed=0, held_out_only=False)
        assert (found.groupby("PatientID")["Split"].nunique() == 1).all()
        assert set(found["Split"]) == {"TRAIN", "VAL", "TEST"}
        tested += sorted(set(found.loc[found["Split"] == "TEST", "PatientID"]))
    assert sorted(tested) == sorted(set(table["PatientID"]))


def test_with_a_generator_only_those_whom_it_never_saw_are_tested() -> None:
    table, tested = many(), set()
    strata = table["class_id"].to_numpy()
    seen = set(table.loc[table["Split"] == "TRAIN", "PatientID"])
    for fold in range(4):
        found = split_by_fold(table, strata, 4, fold, seed=0, held_out_only=True)
        assert seen <= set(found.loc[found["Split"] == "TRAIN", "PatientID"])
        tested |= set(found.loc[found["Split"] == "TEST", "PatientID"])
    assert tested == set(table["PatientID"]) - seen


def test_too_few_patients_for_so_many_folds_are_refused() -> None:
    table = many().query("PatientID in ('p0', 'p1', 'p2', 'p3', 'p5', 'p7', 'p9')")
    with pytest.raises(UserError, match="folds=3 needs 3 patients of each class, and one class has 2"):
        split_by_fold(table, table["class_id"].to_numpy(), 3, 0, 0, held_out_only=False)
    for wrong in (2, 2.5, True, "5"):
        with pytest.raises(UserError, match="give a whole number from 3"):
            split_by_fold(table, table["class_id"].to_numpy(), wrong, 0, 0, held_out_only=False)  # type: ignore[arg-type]


def test_numbers_are_spread_over_folds_by_fifths() -> None:
    strata = Regression("EF").strata(pd.DataFrame({"EF": np.arange(100.0)}))
    assert np.bincount(strata).tolist() == [20] * 5
