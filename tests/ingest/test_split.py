from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echodream.errors import UserError
from echodream.ingest.source import Recording
from echodream.ingest.split import SplitRatios, assign_splits


def study(sizes: dict[str, int], each: int = 2) -> list[Recording]:
    """Recordings of a study with ``sizes[class]`` patients in each class and ``each`` recordings per patient."""
    return [
        Recording(f"{kind}-{patient}-{k}", f"{kind}-{patient}", columns={"class_name": kind})
        for kind, count in sizes.items()
        for patient in range(count)
        for k in range(each)
    ]


def sizes(splits: dict[str, str], kind: str = "") -> Counter[str]:
    return Counter(split for patient, split in splits.items() if patient.startswith(kind))


@settings(deadline=None, max_examples=150, derandomize=True)
@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    shares=st.sampled_from([(0.7, 0.15, 0.15), (0.8, 0.1, 0.1), (0.5, 0.25, 0.25), (0.75, 0.125, 0.125), (1, 0, 0)]),
    seed=st.integers(0, 5),
)
def test_each_class_and_the_whole_are_near_the_ratios(
    counts: list[int], shares: tuple[float, float, float], seed: int
) -> None:
    ratios = SplitRatios(*shares, seed=seed)
    kinds = {f"k{index:02d}": count for index, count in enumerate(counts)}
    splits = assign_splits(study(kinds), ratios)
    assert len(splits) == sum(counts)
    for kind, count in kinds.items():
        found = sizes(splits, kind)
        assert all(abs(found[s] - share * count) <= 1 + 1e-9 for s, share in zip(("TRAIN", "VAL", "TEST"), shares))  # noqa: B905
    whole = sizes(splits)
    assert all(abs(whole[s] - share * sum(counts)) <= 2 for s, share in zip(("TRAIN", "VAL", "TEST"), shares))  # noqa: B905


def test_many_small_classes_come_near_the_ratios_together() -> None:
    found = sizes(assign_splits(study({f"k{index:02d}": 1 for index in range(40)}), SplitRatios()))
    assert found == {"TRAIN": 28, "VAL": 6, "TEST": 6}


def test_a_share_of_nothing_gets_nobody() -> None:
    found = sizes(assign_splits(study({f"k{index}": 3 for index in range(20)}), SplitRatios(0.8, 0.2, 0)))
    assert found == {"TRAIN": 48, "VAL": 12}


def test_a_seed_decides_and_only_a_seed() -> None:
    recordings = study({"a": 20, "b": 15})
    first = assign_splits(recordings, SplitRatios())
    assert first == assign_splits(recordings, SplitRatios())
    assert first != assign_splits(recordings, SplitRatios(seed=1))


def test_the_order_of_recordings_does_not_matter() -> None:
    recordings = study({"a": 20, "b": 15}, 3)
    shuffled = [recordings[index] for index in np.random.default_rng(0).permutation(len(recordings))]
    assert assign_splits(shuffled, SplitRatios()) == assign_splits(recordings, SplitRatios())


def test_a_patient_who_changes_class_is_one_patient() -> None:
    recordings = [Recording(f"r{k}", "p", columns={"class_name": "ab"[k % 2]}) for k in range(5)]
    assert len(assign_splits(recordings, SplitRatios())) == 1


def test_given_splits_are_respected_and_the_rest_is_drawn() -> None:
    recordings = study({"a": 20})
    given = [Recording(f"g{k}", f"given-{k}", split=("TEST", "VAL")[k % 2]) for k in range(6)]
    splits = assign_splits([*given, *recordings], SplitRatios())
    assert [splits[f"given-{k}"] for k in range(6)] == ["TEST", "VAL"] * 3
    assert sizes(splits, "a") == {"TRAIN": 14, "VAL": 3, "TEST": 3}


def test_one_given_split_holds_for_all_recordings_of_the_patient() -> None:
    recordings = [Recording("a", "p"), Recording("b", "p", split="TEST"), Recording("c", "p")]
    assert assign_splits(recordings, SplitRatios()) == {"p": "TEST"}


def test_a_patient_in_two_given_splits_is_refused() -> None:
    recordings = [Recording("a", "p7", split="TRAIN"), Recording("b", "p7", split="TEST")]
    with pytest.raises(UserError, match="'p7' is in two splits, TRAIN and TEST"):
        assign_splits(recordings, SplitRatios())


def test_recordings_need_no_classes() -> None:
    recordings = [Recording(str(k), str(k), columns={"View": k % 2}) for k in range(20)]
    assert sizes(assign_splits(recordings, SplitRatios(0.5, 0.5, 0))) == {"TRAIN": 10, "VAL": 10}


def test_no_recordings_have_no_splits() -> None:
    assert assign_splits([], SplitRatios()) == {}


@pytest.mark.parametrize("shares", [(0.7, 0.7, 0.7), (1.2, -0.2, 0), (0, 0, 0), (float("nan"), 0.5, 0.5)])
def test_shares_that_are_none_are_refused(shares: tuple[float, float, float]) -> None:
    with pytest.raises(UserError, match=r"the shares are|data.split.train is nan"):
        SplitRatios(*shares)


@pytest.mark.parametrize(
    "wrong", [{"train": "most"}, {"val": None}, {"test": True}, {"seed": 1.5}, {"seed": -1}], ids=str
)
def test_shares_that_are_no_numbers_are_refused_by_name(wrong: dict[str, object]) -> None:
    with pytest.raises(UserError, match=rf"data\.split\.{next(iter(wrong))} is"):
        SplitRatios(**wrong)  # type: ignore[arg-type]
