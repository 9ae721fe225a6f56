import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from echodream.datamodules.augmentation import Augment
from echodream.datamodules.dataset import EpochSampler, ResumableLoader, SampleIndex, ViewDataset
from echodream.datamodules.recordings import Recordings
from echodream.datamodules.views import Clips, Frames, Pairs, View
from echodream.errors import UserError
from echodream.store import Store
from tests.support.stores import make_latent_store, make_video_store

AUGMENT = Augment(gain=0.3, speckle=0.2, shift=0.2)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_video_store(tmp_path_factory.mktemp("store") / "videos")


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_latent_store(tmp_path_factory.mktemp("store") / "latents")


def samples(
    store: Store, view: View, seed: int = 0, augment: Augment | None = None, columns: tuple[str, ...] = ()
) -> ViewDataset:
    return ViewDataset(Recordings(store, "TRAIN"), view, seed, columns, augment)


def loader(made: ViewDataset, workers: int, batch_size: int = 3) -> ResumableLoader:
    settings = {"batch_size": batch_size, "num_workers": workers, "persistent_workers": workers > 0}
    return ResumableLoader(made, sampler=EpochSampler(made), **settings)


def epochs(load: ResumableLoader, count: int = 2) -> list[dict]:
    found = []
    for epoch in range(count):
        load.sampler.set_epoch(epoch)
        found += list(load)
    return found


def same(left: dict, right: dict) -> bool:
    tensors = [name for name in left if isinstance(left[name], torch.Tensor)]
    return left["name"] == right["name"] and all(torch.equal(left[name], right[name]) for name in tensors)


@pytest.mark.slow
@pytest.mark.parametrize(
    "view",
    [Frames(per_recording=2), Clips(frames=4, reference="random", references=2), Pairs()],
    ids=lambda v: type(v).__name__,
)
@pytest.mark.parametrize("kind", ["videos", "latents"])
def test_a_sample_is_the_same_for_any_number_of_workers_that_persist(
    view: View, kind: str, request: pytest.FixtureRequest
) -> None:
    store, augment = request.getfixturevalue(kind), AUGMENT if kind == "videos" else Augment(noise=0.2)
    alone = epochs(loader(samples(store, view, augment=augment), 0))
    for workers in (1, 2):
        shared = epochs(loader(samples(store, view, augment=augment), workers))
        assert len(shared) == len(alone)
        assert all(same(a, b) for a, b in zip(alone, shared, strict=True))


@pytest.mark.parametrize("view", [Frames(per_recording=2), Clips(frames=4), Pairs()], ids=lambda v: type(v).__name__)
def test_a_sample_changes_with_seed_epoch_and_number(latents: Store, view: View) -> None:
    made = samples(latents, view)
    draws = {
        "again": made[SampleIndex(1, 2)],
        "epoch": made[SampleIndex(2, 2)],
        "seed": samples(latents, view, 1)[SampleIndex(1, 2)],
        "number": made[SampleIndex(1, 3)],
    }
    first = made[SampleIndex(1, 2)]
    assert torch.equal(first["x"], draws["again"]["x"])
    assert not any(torch.equal(first["x"], draws[what]["x"]) for what in ("epoch", "seed", "number"))


def test_epoch_and_number_cannot_be_exchanged(latents: Store) -> None:
    made = samples(latents, Frames(per_recording=2))
    noise = [made[SampleIndex(a, b)]["x"][3] for a, b in ((0, 1), (1, 0))]
    assert not torch.equal(noise[0], noise[1])


def test_shapes_of_frames(videos: Store, latents: Store) -> None:
    batch = default_collate([samples(videos, Frames())[i] for i in range(2)])
    assert batch["x"].shape == (2, 1, 5, 7)
    assert set(batch) == {"x", "name", "columns"}
    assert default_collate([samples(latents, Frames())[i] for i in range(3)])["x"].shape == (3, 4, 5, 7)


def test_shapes_of_clips(latents: Store) -> None:
    made = samples(latents, Clips(frames=6, reference="even", references=3))
    batch = default_collate([made[i] for i in range(2)])
    assert batch["x"].shape == (2, 4, 6, 5, 7)
    assert batch["reference"].shape == (2, 4, 3, 5, 7)
    assert (batch["mask"].shape, batch["mask"].dtype) == ((2, 6), torch.bool)
    assert (batch["reference_time"].shape, batch["reference_time"].dtype) == ((2, 3), torch.float32)


def test_a_clip_of_one_frame_is_a_clip(latents: Store) -> None:
    assert default_collate([samples(latents, Clips(frames=1))[0]])["x"].shape == (1, 4, 1, 5, 7)


def test_shapes_of_pairs(latents: Store) -> None:
    batch = default_collate([samples(latents, Pairs())[i] for i in range(3)])
    assert batch["x"].shape == batch["other"].shape == (3, 4, 5, 7)
    assert batch["same"].tolist() == [1.0, 0.0, 1.0]
    assert batch["name"] == ["a1", "a1", "a2"]
    assert (batch["other_name"][0], batch["other_name"][2]) == ("a2", "a1")
    assert batch["other_name"][1] in ("b1", "c1")


def test_columns_go_along(videos: Store) -> None:
    made = samples(videos, Clips(frames=3), columns=("class_id", "EF", "View", "PatientID"))
    columns = default_collate([made[i] for i in range(4)])["columns"]
    assert isinstance(columns["class_id"], torch.Tensor)
    assert columns["class_id"].dtype == torch.int64
    assert columns["class_id"].tolist() == [0, 0, 1, 0]
    np.testing.assert_array_equal(columns["EF"], np.array([55.5, 54.5, 30.25, np.nan], np.float32))
    assert columns["View"] == ["A4C", "A2C", "A4C", "A4C"]
    assert columns["PatientID"] == ["A", "A", "B", "C"]


def test_augmentation_treats_a_clip_and_its_reference_alike(videos: Store) -> None:
    view = Clips(frames=3, reference="first")
    item = samples(videos, view, augment=Augment(gain=0.5, shift=0.3, rotate=20, zoom=0.3))[1]
    assert torch.equal(item["x"][:, :1], item["reference"])
    assert not torch.equal(item["x"], samples(videos, view)[1]["x"])


def test_augmentation_treats_the_two_of_a_pair_apart(videos: Store) -> None:
    plain, varied = (samples(videos, Pairs(), augment=augment)[0] for augment in (None, Augment(gain=0.9)))
    gains = [(varied[name] + 1).sum() / (plain[name] + 1).sum() for name in ("x", "other")]
    assert abs(gains[0] - gains[1]) > 0.01


def test_an_epoch_has_every_sample_once_in_an_order_of_its_own(videos: Store) -> None:
    sampler = EpochSampler(samples(videos, Frames(), seed=5))
    orders = []
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        draws = list(sampler)
        assert {draw.epoch for draw in draws} == {epoch}
        orders.append([draw.number for draw in draws])
        assert sorted(orders[-1]) == list(range(45))
        assert [draw.number for draw in sampler] == orders[-1]
    assert orders[0] != orders[1]
    assert [draw.number for draw in EpochSampler(samples(videos, Frames(), seed=6))] != orders[0]


def test_an_epoch_is_not_listed_in_advance_and_keeps_its_number(videos: Store) -> None:
    sampler = EpochSampler(samples(videos, Frames(), seed=5))
    draws, expected = iter(sampler), list(sampler)
    assert not hasattr(draws, "__length_hint__")
    first = next(draws)
    sampler.set_epoch(3)
    assert [first, *draws] == expected


def test_seed_one_epoch_zero_is_not_seed_zero_epoch_one(videos: Store) -> None:
    later = EpochSampler(samples(videos, Frames(), seed=0))
    later.set_epoch(1)
    assert [d.number for d in later] != [d.number for d in EpochSampler(samples(videos, Frames(), seed=1))]


def test_processes_share_an_epoch(videos: Store) -> None:
    made = samples(videos, Frames())
    alone = [draw.number for draw in EpochSampler(made)]
    shares = [[draw.number for draw in EpochSampler(made, rank=rank, world=4)] for rank in range(4)]
    assert [len(share) for share in shares] == [12] * 4
    assert [number for group in zip(*shares, strict=True) for number in group] == [*alone, *alone[:3]]


def test_a_fixed_order_does_not_know_epochs(videos: Store) -> None:
    sampler = EpochSampler(samples(videos, Frames()), fixed=True)
    sampler.set_epoch(7)
    assert list(sampler) == [SampleIndex(0, number) for number in range(45)]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_goes_on_in_the_middle_of_an_epoch(latents: Store, workers: int) -> None:
    made = samples(latents, Frames(per_recording=3), augment=None)
    whole = epochs(loader(made, 0, 5), 3)  # 12 samples: 3 batches per epoch
    first = loader(made, workers, 5)
    first.sampler.set_epoch(1)
    taken = list(itertools.islice(first, 2))
    assert all(same(a, b) for a, b in zip(taken, whole[3:5], strict=True))
    state = first.state_dict()

    second = loader(made, workers, 5)
    second.load_state_dict(state)
    assert second.state_dict() == state
    rest = []
    for epoch in (1, 2):
        second.sampler.set_epoch(epoch)
        rest += list(second)
    assert len(rest) == 4
    assert all(same(a, b) for a, b in zip(rest, whole[5:], strict=True))


def test_a_state_from_the_end_of_an_epoch_leaves_nothing_out(latents: Store) -> None:
    first = loader(samples(latents, Frames(per_recording=3)), 0, 5)
    assert len(list(first)) == 3
    second = loader(samples(latents, Frames(per_recording=3)), 0, 5)
    second.load_state_dict(first.state_dict())
    second.sampler.set_epoch(1)
    assert len(list(second)) == 3


def test_a_state_of_another_epoch_leaves_nothing_out(latents: Store) -> None:
    load = loader(samples(latents, Frames(per_recording=3)), 0, 5)
    load.load_state_dict({"epoch": 1, "batches": 2})
    load.sampler.set_epoch(2)
    assert len(list(load)) == 3


def test_what_a_view_refuses_is_refused_at_birth(videos: Store) -> None:
    with pytest.raises(UserError, match="no column 'ED'"):
        samples(videos, Clips(frames=3, reference="keyframes", references=3))
    with pytest.raises(UserError, match=r"no column 'Age'; it has FileName, Split"):
        samples(videos, Frames(), columns=("Age",))


@pytest.mark.slow
def test_importing_views_loads_no_lightning() -> None:
    import subprocess
    import sys

    code = "import sys, echodream.datamodules.dataset; print('pytorch_lightning' in sys.modules)"
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root).stdout == "False\n"
