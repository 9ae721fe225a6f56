import contextlib
import itertools
import shutil
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from pytorch_lightning import Callback, LightningModule, Trainer
from safetensors.torch import save_file
from torch.utils.data import DataLoader

from echodream.config.paths import CONF_DIR
from echodream.datamodules import datamodule, device_cache
from echodream.datamodules.augmentation import Augment
from echodream.datamodules.datamodule import StoreData
from echodream.datamodules.dataset import EpochSampler
from echodream.datamodules.views import Clips, Frames, Pairs, Triplet, View
from echodream.errors import UserError
from echodream.store import Store, StoreError, reader
from tests.support.stores import ENCODER, make_latent_store, make_video_store, row, study
from tests.support.tiny_diffusion import latent_store

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_latent_store(tmp_path_factory.mktemp("store") / "latents").root)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_video_store(tmp_path_factory.mktemp("store") / "videos").root)


class Watch(LightningModule):
    """Module that trains nothing and records its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[tuple[int, list[str], torch.Tensor]] = []
        self.validated: list[torch.Tensor] = []

    def training_step(self, batch: dict, index: int) -> torch.Tensor:
        self.seen.append((self.current_epoch, batch["name"], batch["x"]))
        return self.weight.sum() * batch["x"].sum()

    def validation_step(self, batch: dict, index: int) -> None:
        self.validated.append(batch["x"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.0)


class Killed(Exception):
    """Raised to stop the training in the middle."""


class KillAfter(Callback):
    """Saves a checkpoint after ``steps`` training batches, then stops the training with an error."""

    def __init__(self, steps: int, path: Path) -> None:
        self.steps, self.path = steps, path

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        if trainer.global_step == self.steps:
            trainer.save_checkpoint(self.path)
            raise Killed


def fit(data: StoreData, epochs: int, resume: Path | None = None, kill: KillAfter | None = None) -> Watch:
    quiet = ("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing")
    settings = {"accelerator": "cpu", "devices": 1, "num_sanity_val_steps": 0, **dict.fromkeys(quiet, False)}
    model, trainer = Watch(), Trainer(max_epochs=epochs, callbacks=[kill] if kill else [], **settings)
    with pytest.raises(Killed) if kill else contextlib.nullcontext():
        trainer.fit(model, data, ckpt_path=resume, weights_only=True if resume else None)
    return model


def same(left: list, right: list) -> bool:
    pairs = zip(left, right, strict=True)
    return all(a[:2] == b[:2] and torch.equal(a[2], b[2]) for a, b in pairs)


def data(src: str, workers: int = 0, **settings: object) -> StoreData:
    return StoreData(
        src, **{"view": Frames(per_recording=3), "batch_size": 5, "workers": workers, "seed": 3, **settings}
    )  # type: ignore[arg-type]


def test_training_sees_all_samples_each_epoch_and_anew(latents: str) -> None:
    seen = fit(data(latents), 2).seen
    assert [(epoch, len(names)) for epoch, names, _ in seen] == [(e, n) for e in (0, 1) for n in (5, 5, 2)]
    assert seen[0][1] != seen[3][1] or not torch.equal(seen[0][2], seen[3][2])
    assert same(seen, fit(data(latents), 2).seen)


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "steps"), [(0, 4), (2, 4), (0, 3), (2, 3), (0, 2), (2, 8)])
def test_training_goes_on_where_it_stopped_in_the_middle_of_an_epoch(
    latents: str, tmp_path: Path, workers: int, steps: int
) -> None:
    whole = fit(data(latents), 3).seen
    first = fit(data(latents, workers), 3, kill=KillAfter(steps, tmp_path / "stopped.ckpt")).seen
    rest = fit(data(latents, workers), 3, resume=tmp_path / "stopped.ckpt").seen
    assert same(first, whole[:steps])
    assert same(rest, whole[steps:])


def test_validation_and_test_never_change(latents: str) -> None:
    made = data(latents, view=Clips(frames=4), augment=Augment(noise=0.5))
    validated = fit(made, 2).validated
    assert len(validated) == 2
    assert torch.equal(validated[0], validated[1])
    batch = next(iter(made.val_dataloader()))
    assert torch.equal(batch["x"], validated[0])
    centre = made.store.latents("v1", 2, 6)[0][:, 0, 0, 0].float()
    assert ((batch["x"][0, 0].mean((-1, -2)) * 2 + 1) - centre).abs().max() < 0.3
    assert [batch["name"] for batch in made.test_dataloader()] == [["t1"]]


@pytest.mark.parametrize("kind", ["latents", "videos"])
@pytest.mark.parametrize("view", [Frames(), Clips(frames=4, reference="random")])
def test_cached_recordings_give_the_same_samples_without_the_files(
    request: pytest.FixtureRequest, tmp_path: Path, view: View, kind: str
) -> None:
    copied = Path(shutil.copytree(request.getfixturevalue(kind), tmp_path / kind))
    plain, cached = data(str(copied), view=view), data(str(copied), view=view, cache=True)
    truth = [list(plain.train_dataloader()), list(plain.val_dataloader())]
    for loader in (cached.train_dataloader, cached.val_dataloader):
        loader()
    shutil.rmtree(copied / kind.capitalize())
    found = [list(cached.train_dataloader()), list(cached.val_dataloader())]
    for one, other in zip(itertools.chain(*found), itertools.chain(*truth), strict=True):
        assert one["name"] == other["name"]
        assert all(torch.equal(one[key], other[key]) for key in one.keys() & {"x", "reference", "reference_time"})
    with pytest.raises(StoreError, match=r"cannot be (read|decoded)"):
        next(iter(plain.train_dataloader()))


def test_cached_frames_are_those_of_the_file_and_cannot_be_changed_through_a_copy(videos: str) -> None:
    plain, cached = Store(videos), Store(videos)
    name = str(plain.table["FileName"][0])
    cached.cache([name])
    for indices in (None, [0, 2, 1], range(1, 3), [2]):
        frames = cached.frames(name, indices)
        assert np.array_equal(frames, plain.frames(name, indices))
        frames[:] = 0
    assert np.array_equal(cached.frames(name), plain.frames(name))


def test_invalid_settings_of_the_cache_are_refused(videos: str) -> None:
    with pytest.raises(UserError, match=r"^datamodule.cache=device is for latents, and .*holds videos: give true$"):
        data(videos, cache="device")
    with pytest.raises(UserError, match=r"^datamodule.cache is 'yes': give auto, true, device or false$"):
        data(videos, cache="yes")


def test_small_studies_are_cached_by_default_and_larger_latents_on_a_machine_with_a_gpu(
    latents: str, videos: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mean and standard deviation take two bytes each; the cache may use a quarter of the memory."""
    numbers = {
        kind: Store(src).table.eval("NumberOfFrames * FrameHeight * FrameWidth").sum()
        for kind, src in (("latents", latents), ("videos", videos))
    }
    stored = {
        "latents": 4 * Store(latents).dataset.channels * int(numbers["latents"]),
        "videos": Store(videos).dataset.channels * int(numbers["videos"]),
    }
    names = Store(latents).table["FileName"]
    assert stored["latents"] == sum(4 * Store(latents).latents(name)[0].numel() for name in names)
    assert stored["videos"] == sum(Store(videos).frames(name).nbytes for name in Store(videos).table["FileName"])
    for kind, gpu, memory, most, small, expected in (
        ("latents", True, 4, 0, -1, True),
        ("latents", True, 3.9, 0, -1, False),
        ("latents", True, 4, -1, -1, False),
        ("latents", False, 4, 0, -1, False),
        ("latents", False, 4, 0, 0, True),
        ("latents", False, 3.9, 0, 0, False),
        ("videos", True, 4, 0, -1, False),
        ("videos", False, 4, 0, 0, True),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(torch.cuda, "is_available", lambda gpu=gpu: gpu)
            patch.setattr(reader, "machine_memory", lambda kind=kind, memory=memory: memory * stored[kind])
            patch.setattr(datamodule, "MAX_LATENT_CACHE_BYTES", stored[kind] + most)
            patch.setattr(datamodule, "MAX_SMALL_CACHE_BYTES", stored[kind] + small)
            made = data(latents if kind == "latents" else videos, cache="auto")
            made.samples("TRAIN")
            cached = {*made.store._cached_latents, *made.store._cached_frames}
            assert cached == ({*made.samples("TRAIN").rows.names} if expected else set())


@pytest.mark.parametrize(("limit", "expected"), [("max\n", None), ("123456\n", 123456), (None, None)])
def test_the_memory_limit_of_a_container_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str | None, expected: int | None
) -> None:
    path = tmp_path / "memory.max"
    monkeypatch.setattr(reader, "CGROUP_LIMIT", path)
    physical = reader.machine_memory()
    assert physical > 123456
    if limit is not None:
        path.write_text(limit)
    assert reader.machine_memory() == (expected or physical)


def test_augmentation_is_for_training_alone(videos: str) -> None:
    plain, varied = (data(videos, augment=augment) for augment in (None, Augment(noise=0.5)))
    for split, equal in (("TRAIN", False), ("VAL", True), ("TEST", True)):
        assert torch.equal(plain.samples(split)[0]["x"], varied.samples(split)[0]["x"]) == equal


def test_the_last_batch_is_dropped_only_when_asked(latents: str) -> None:
    assert [len(batch["name"]) for batch in data(latents).train_dataloader()] == [5, 5, 2]
    assert [len(batch["name"]) for batch in data(latents, drop_last=True).train_dataloader()] == [5, 5]
    assert [len(batch["name"]) for batch in data(latents, batch_size=64).train_dataloader()] == [12]
    with pytest.raises(UserError, match="batch_size=64 with drop_last exceeds 12 samples"):
        data(latents, batch_size=64, drop_last=True).train_dataloader()
    with pytest.raises(UserError, match="batch_size=1 is too small for batch normalization"):
        data(latents, batch_size=1, drop_last=True).train_dataloader()


def test_one_size_is_needed(tmp_path: Path) -> None:
    rows = [row("a", "A", 3), {**row("b", "B", 4), "FrameHeight": 9}]
    src = str(make_video_store(tmp_path / "videos", rows).root)
    with pytest.raises(UserError, match=r"recordings of 2 sizes \(7x5, 7x9"):
        data(src)


def test_an_empty_split_is_one_sentence(tmp_path: Path) -> None:
    made = data(str(make_video_store(tmp_path / "videos", study()[:4]).root))
    with pytest.raises(UserError, match="no recording in split VAL"):
        made.val_dataloader()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"workers": -1}, "workers is -1"),
        ({"seed": -4}, "seed is -4"),
        ({"columns": ["EF", "Age"]}, "no column 'Age'; it has FileName"),
        ({"kind": "video"}, "is a latent store"),
        ({"encoder": "cd" * 32}, "was encoded by"),
        ({"augment": Augment(speckle=0.1)}, "augment.speckle is for pixels"),
    ],
)
def test_what_cannot_be_is_refused_at_birth(latents: str, settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        data(latents, **settings)


@pytest.mark.parametrize(("view", "kind"), [("frames", Frames), ("clips", Clips), ("pairs", Pairs)])
def test_the_configuration_says_the_same_as_the_constructors(latents: str, view: str, kind: type) -> None:
    parts = {
        name: OmegaConf.load(CONF_DIR / path)
        for name, path in (("datamodule", "datamodule/default.yaml"), ("view", f"view/{view}.yaml"))
    }
    cfg = OmegaConf.create({"src": latents, "seed": 0, **parts})
    assert set(cfg.view) - {"_target_"} == {field.name for field in fields(kind)}
    OmegaConf.resolve(cfg)
    cfg.datamodule.columns, cfg.datamodule.encoder = ["EF"], ENCODER
    made = instantiate(cfg.datamodule)
    assert isinstance(made, StoreData)
    assert isinstance(made.view, kind)
    assert made.augment == Augment()
    assert made.columns == ("EF",)
    batch = made.samples("TRAIN")[0]
    assert batch["x"].shape[-2:] == (5, 7)


DEVICE_VIEWS = [
    Frames(per_recording=2),
    Clips(frames=4, reference="random"),
    Pairs(),
    Clips(frames=4, posterior="mean"),
    Triplet(),
    Clips(frames=4, reference="keyframes", references=3),
]


def moved(batch: dict, made: StoreData) -> dict:
    return made.transfer_batch_to_device(batch, torch.device("cpu"), 0)


@pytest.mark.parametrize("view", DEVICE_VIEWS)
def test_a_cache_on_the_device_gives_the_same_samples_but_for_the_noise(tmp_path: Path, view: View) -> None:
    """With standard deviation 0 in the store, samples equal means, so that cached and uncached batches compare."""
    latent_store(tmp_path / "latents")
    copied = Store(tmp_path / "latents")
    for name in copied.table["FileName"]:
        mean, std = copied.latents(name)
        save_file({"mean": mean, "std": torch.zeros_like(std)}, copied.path(name))
    plain, cached = (data(str(copied.root), view=view, columns=["FPS"], cache=cache) for cache in (False, "device"))
    truth = list(plain.train_dataloader())
    found = [moved(batch, cached) for batch in cached.train_dataloader()]
    for one, other in zip(truth, found, strict=True):
        assert one.keys() == other.keys()
        assert one["name"] == other["name"]
        assert torch.equal(one["columns"]["FPS"], other["columns"]["FPS"])
        for key in one.keys() & {"x", "reference", "other", "mask", "same"}:
            torch.testing.assert_close(one[key], other[key])


def test_the_noise_of_a_cache_on_the_device_is_that_of_the_posterior(latents: str) -> None:
    made = data(latents, view=Frames(), batch_size=6, cache="device")
    made.train_dataloader()
    cache, number = made._device_cache, 3
    assert cache is not None
    seeds = torch.arange(4000)
    one = torch.stack([torch.full_like(seeds, number), seeds], dim=1)
    many = torch.cat([cache.batch_latents(part) for part in one.split(50)]).double()
    statistics = made.store.dataset.statistics
    mean, std = (moment[number].double() for moment in (cache.mean, cache.std))
    offset, scale = (torch.tensor(each).double()[:, None, None] for each in (statistics.mean, statistics.std))
    expected, spread = (mean - offset) / scale, std / scale
    assert ((many.mean(0) - expected).abs() < 5 * spread / 4000**0.5).all()
    assert ((many.std(0) / spread - 1).abs() < 5 / 8000**0.5).all()
    assert torch.equal(cache.batch_latents(one[:50]), cache.batch_latents(one[:50]))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_training_with_a_cache_on_the_device_goes_on_where_it_stopped(
    latents: str, tmp_path: Path, workers: int
) -> None:
    whole = fit(data(latents, cache="device"), 3).seen
    first = fit(data(latents, workers, cache="device"), 3, kill=KillAfter(4, tmp_path / "stopped.ckpt")).seen
    rest = fit(data(latents, workers, cache="device"), 3, resume=tmp_path / "stopped.ckpt").seen
    assert same([*first, *rest], whole)
    assert whole[0][2].dtype == torch.float32
    assert not same(whole, fit(data(latents, cache=True), 3).seen)


def test_a_cache_on_the_device_that_does_not_fit_or_apply_is_refused(
    latents: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**30, 2**31))
    device_cache._check_memory(2**28, torch.device("cuda"))
    with pytest.raises(UserError, match=r"^datamodule.cache=device: latents take 0.3 GiB, more than a quarter of 1"):
        device_cache._check_memory(2**28 + 1, torch.device("cuda"))
    device_cache._check_memory(2**40, torch.device("cpu"))
    with pytest.raises(UserError, match=r"^augment.noise is not for datamodule.cache=device: set it to 0"):
        data(latents, cache="device", augment=Augment(noise=0.5))


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["auto", "device"])
def test_cached_latents_of_many_recordings_reach_workers_that_are_not_forked(tmp_path: Path, cache: str) -> None:
    rows = [row(f"r{number:03}", f"p{number}", 2) for number in range(150)]
    src = str(make_latent_store(tmp_path / "latents", [*rows, row("v", "q", 2, "VAL")]).root)
    made = data(src, cache=cache)
    samples = made.training_dataset()
    settings = {"multiprocessing_context": "forkserver", "sampler": EpochSampler(samples)}
    loader = DataLoader(samples, batch_size=75, num_workers=1, **settings)
    batches = [moved(batch, made) for batch in loader]
    assert [len(batch["x"]) for batch in batches] == [75] * 6
    assert cache == "device" or len(made.store._cached_latents) == 150
    assert cache == "auto" or not made.store._cached_latents
