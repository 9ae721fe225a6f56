"""Training of diffusion models: the loss against a direct calculation, the exported artifact, and interruptions."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from pytorch_lightning.callbacks import Callback
from safetensors.torch import load_file
from torch import Tensor, nn

from echodream import engine
from echodream.artifact import read_artifact
from echodream.config.error_messages import error_sentence
from echodream.datamodules.datamodule import StoreData
from echodream.diffusion.model import DiffusionModel, load_diffusion_model
from echodream.diffusion.processes.ddpm import DDPM
from echodream.errors import UserError
from echodream.modules.latent_diffusion import LatentDiffusion
from echodream.training import fit as training
from tests.support.gaussians import cumulative
from tests.support.interruptions import StopTraining
from tests.support.tiny_diffusion import ENCODER, STATISTICS, WINDOW, C, H, W, latent_store, train_cfg
from tests.support.tiny_vae import moving_disc_store

KINDS = ("lidm", "lvdm")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    latent_store(folder / "latents")
    return folder


@pytest.fixture(scope="module")
def trained(study: Path) -> dict[str, LatentDiffusion]:
    """The image and the video diffusion model after two epochs, at the moment of their export."""
    kept: dict[str, LatentDiffusion] = {}
    with pytest.MonkeyPatch.context() as patch:
        export = LatentDiffusion.export

        def spy(self: LatentDiffusion, root: Path, *rest: Any) -> None:
            kept[root.name] = self
            export(self, root, *rest)

        patch.setattr(LatentDiffusion, "export", spy)
        for kind in KINDS:
            engine.train(train_cfg(study, kind))
    return kept


class Spied:
    """Module configured on its data, without a trainer; records noise, network inputs and predictions."""

    def __init__(
        self, patch: pytest.MonkeyPatch, folder: Path, kind: str, *overrides: str, network: Any = None
    ) -> None:
        cfg = train_cfg(folder, kind, *overrides)
        engine.check_and_resolve(cfg)
        torch.manual_seed(0)
        self.module: LatentDiffusion = instantiate(cfg.model.module)
        self.data: StoreData = instantiate(cfg.datamodule, columns=list(self.module.columns))
        self.module.configure_from_data(self.data)
        self.noised: list[Any] = []
        self.predictions: list[Tensor] = []
        self.keep: list[dict[str, Tensor]] = []
        self.logged: list[tuple[str, float, int]] = []
        corrupt, forward = self.module.process.corrupt, network or DiffusionModel.forward

        def corrupting(*given: Any) -> Any:
            self.noised.append(corrupt(*given))
            return self.noised[-1]

        def predicting(own: DiffusionModel, x_t: Tensor, t: Tensor, values: Any, keep: dict[str, Tensor]) -> Tensor:
            self.keep.append(keep)
            self.predictions.append(forward(own, x_t, t, values, keep))
            return self.predictions[-1]

        patch.setattr(LatentDiffusion, "logs_this_step", True)
        patch.setattr(self.module.process, "corrupt", corrupting)
        patch.setattr(DiffusionModel, "forward", predicting)
        patch.setattr(
            self.module, "log", lambda name, value, **how: self.logged.append((name, float(value), how["batch_size"]))
        )

    def batch(self, split: str = "TRAIN", most: int = 8) -> Any:
        samples = self.data.samples(split)
        from torch.utils.data import default_collate

        return default_collate([samples[number] for number in range(min(most, len(samples)))])

    def errors(self, call: int, mask: Any = None) -> list[float]:
        """Mean squared error of each row of a network call over the real (not padded) frames, computed with numpy."""
        prediction, target = (x.detach().numpy() for x in (self.predictions[call], self.noised[call].target))
        found = []
        for row in range(len(target)):
            square = (prediction[row].astype(np.float64) - target[row].astype(np.float64)) ** 2
            found.append(float((square if mask is None else square[:, mask[row].numpy()]).mean()))
        return found

    def bands(self, call: int, errors: list[float], scale: float = 1000.0, offset: int = 1) -> dict[str, float]:
        bands: dict[str, list[float]] = {}
        for t, error in zip(self.noised[call].t.tolist(), errors, strict=True):
            number = next(n for n in range(1, 5) if (t + offset) / scale < n / 4 or n == 4)
            bands.setdefault(f"error_band{number}", []).append(error)
        return {name: float(np.mean(values)) for name, values in bands.items()}


def per_frame(own: DiffusionModel, x_t: Tensor, *_: Any) -> Tensor:
    """Network whose prediction for each number depends on this number only."""
    return 0.3 * x_t - 0.1


@pytest.mark.slow
def test_the_artifact_loads_and_predicts_bit_for_bit(study: Path, trained: dict[str, LatentDiffusion]) -> None:
    for kind in KINDS:
        made, own = load_diffusion_model(str(study / kind), kind), trained[kind].model.eval()
        names = {path.name for path in (study / kind).iterdir()}
        weights = {"diffusion_pytorch_model.safetensors", "conditioner.safetensors"}
        assert names == weights | {"config.json", "diffusion.json", "artifact.json", "training.yaml"}
        torch.manual_seed(1)
        rest = (H, W) if kind == "lidm" else (WINDOW, H, W)
        x, t = torch.randn(2, C, *rest), torch.tensor([999, 40])
        values = {"class_id": torch.tensor([3, -1])}
        if kind == "lvdm":
            values |= {"reference": torch.randn(2, C, 1, H, W), "reference_time": torch.tensor([[2.0], [0.0]])}
        kept = [frozenset(values), frozenset[str]()]
        with torch.no_grad():
            assert torch.equal(made.predictor(values)(x, t, kept), own.predictor(values)(x, t, kept))
        assert made.metadata == own.metadata
        assert made.process.settings() == DDPM(least_weight=0.1).settings()


@pytest.mark.slow
def test_the_facts_are_those_of_the_data(trained: dict[str, LatentDiffusion]) -> None:
    for kind, frames in (("lidm", 1), ("lvdm", WINDOW)):
        facts = trained[kind].model.metadata
        assert (facts.channels, facts.height, facts.width, facts.frames, facts.fps) == (C, H, W, frames, 25.0)
        assert (facts.statistics, facts.encoder, facts.reference_times) == (STATISTICS, ENCODER, ())
        (told,) = [c for c in trained[kind].conditioner.settings()["conditions"] if c["name"] == "class_id"]
        counts = {item["id"]: (item["name"], item["count"]) for item in told["facts"]["classes"]}
        assert counts == {0: ("sick", 2), 1: ("well", 2), 3: ("other", 1)}  # counts of TRAIN recordings only


@pytest.mark.slow
def test_what_is_exported_is_the_average(study: Path, trained: dict[str, LatentDiffusion]) -> None:
    for kind in KINDS:
        state = next(
            found
            for path in (study / "runs").glob("*/last.ckpt")
            if (
                "model.conditioner.conditions.reference.null"
                in (found := torch.load(path, weights_only=True))["state_dict"]
            )
            == (kind == "lvdm")
        )
        name = "conv_in.weight"
        made = load_file(study / kind / "diffusion_pytorch_model.safetensors")[name]
        assert torch.equal(made, state["state_dict"][f"model.denoiser.unet.{name}"])
        assert not torch.equal(made, state["current_model_state"][f"model.denoiser.unet.{name}"])
        null = load_file(study / kind / "conditioner.safetensors")["conditions.class_id.null"]
        assert torch.equal(null, state["state_dict"]["model.conditioner.conditions.class_id.null"])
        assert not torch.equal(null, state["current_model_state"]["model.conditioner.conditions.class_id.null"])


def test_metrics_and_pictures(study: Path, trained: dict[str, LatentDiffusion]) -> None:
    for kind in KINDS:
        metrics = read_artifact(study / kind, kind).metrics
        assert metrics.keys() == {"loss", *(f"error_band{number}" for number in range(1, 5))}
        assert all(math.isfinite(value) and value > 0 for value in metrics.values())
    assert [path.name for path in sorted((study / "pictures").iterdir())] == ["samples_00000.png", "samples_00001.png"]


def with_callback(patch: pytest.MonkeyPatch, callback: Callback) -> None:
    make = training.make_trainer
    patch.setattr(training, "make_trainer", lambda s, found, **more: make(s, [*found, callback], **more))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_run_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, study: Path, trained: dict[str, LatentDiffusion], kind: str
) -> None:
    latent_store(tmp_path / "latents")
    for epoch, batch in ((0, 2), (1, 1)):
        with monkeypatch.context() as patch:
            with_callback(patch, StopTraining(epoch, batch))
            with pytest.raises(OSError, match="accident"):
                engine.train(train_cfg(tmp_path, kind))
        assert not (tmp_path / kind).exists()
    engine.train(train_cfg(tmp_path, kind))
    for name in ("diffusion_pytorch_model.safetensors", "conditioner.safetensors", "diffusion.json", "config.json"):
        assert (tmp_path / kind / name).read_bytes() == (study / kind / name).read_bytes(), name
    assert read_artifact(tmp_path / kind, kind).metrics == read_artifact(study / kind, kind).metrics


def test_where_the_vae_of_the_previews_lies_is_no_other_training(study: Path, trained: Any, tmp_path: Path) -> None:
    before = (study / "lidm" / "artifact.json").read_bytes()
    engine.train(train_cfg(study, "lidm", f"model.vae={tmp_path}"))
    assert (study / "lidm" / "artifact.json").read_bytes() == before
    with pytest.raises(UserError, match="lidm was trained with other settings"):
        engine.train(train_cfg(study, "lidm", "conditioning.class_id.dropout=0.2"))


@pytest.mark.slow
def test_the_held_out_loss_is_the_same_every_time(study: Path, trained: dict[str, LatentDiffusion]) -> None:
    module = trained["lvdm"]
    data: StoreData = instantiate(train_cfg(study, "lvdm").datamodule, columns=["class_id"], src=str(study / "latents"))
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    found = []
    for _ in range(2):
        torch.rand(3)
        found += trainer.validate(module, datamodule=data, verbose=False)
    assert found[0] == found[1]
    assert found[0]["val/loss"] > 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_training_loss_by_brute_force(study: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Expected loss: weights from the formula of the paper, schedule from numpy; masks and levels row by row."""
    spied = Spied(monkeypatch, study, kind)
    batch = spied.batch(most=8)
    times = torch.tensor([0, 249, 250, 499, 700, 751, 998, 999])[: len(batch["x"])]
    monkeypatch.setattr(spied.module.process, "sample_t", lambda count, device: times)
    loss = spied.module.training_step(batch, 0)
    mask = batch.get("mask")
    if kind == "lvdm":
        assert sorted(set(mask.sum(1).tolist())) == [5, 8]
    errors, share = spied.errors(0, mask), cumulative(DDPM())
    weights = [max(0.1, min(r, 5) / (r + 1)) for r in (share[t] / (1 - share[t]) for t in times.tolist())]
    assert loss.item() == pytest.approx(np.mean(np.multiply(weights, errors)), rel=1e-5)
    logged = {name.removeprefix("train/"): value for name, value, _ in spied.logged}
    assert logged.pop("loss") == pytest.approx(loss.item())
    assert logged == pytest.approx(spied.bands(0, errors), rel=1e-5)
    assert len(logged) == 4
    loss.backward()
    assert all(p.grad is not None for p in spied.module.parameters())


def test_the_errors_by_noise_level_are_those_since_the_last_log(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spied = Spied(monkeypatch, study, "lidm", network=per_frame)
    for logs in (False, True, True):
        monkeypatch.setattr(LatentDiffusion, "logs_this_step", logs)
        spied.module.training_step(spied.batch(), 0)
    found = [(name, value, count) for name, value, count in spied.logged if name != "train/loss"]
    bands = [spied.bands(call, spied.errors(call)) for call in range(3)]
    rows = [[min(int((t + 1) / 250), 3) + 1 for t in noised.t.tolist()] for noised in spied.noised]
    sums = [{name: value * rows[call].count(int(name[-1])) for name, value in bands[call].items()} for call in range(3)]
    expected = []
    for calls in ((0, 1), (2,)):
        for number in range(1, 5):
            if count := sum(rows[call].count(number) for call in calls):
                total = sum(sums[call].get(f"error_band{number}", 0.0) for call in calls)
                expected.append((f"train/error_band{number}", pytest.approx(total / count, rel=1e-5), count))
    assert found == expected


@pytest.mark.slow
@pytest.mark.parametrize(("every", "accumulated"), [(2, 1), (3, 2), (0, 1)])
def test_values_are_logged_at_the_steps_of_lightning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int, accumulated: int
) -> None:
    latent_store(tmp_path / "latents")
    steps: list[tuple[bool, bool]] = []

    class Compare(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            steps.append((pl_module.logs_this_step, trainer._logger_connector.should_update_logs))

    more = [f"trainer.log_every_n_steps={every}", f"+trainer.accumulate_grad_batches={accumulated}"]
    with_callback(monkeypatch, Compare())
    engine.train(train_cfg(tmp_path, "lidm", "datamodule.batch_size=1", "trainer.limit_train_batches=5", *more))
    assert len(steps) == 10
    assert all(own == lightning for own, lightning in steps)
    assert any(own for own, _ in steps) == (every > 0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_held_out_loss_by_brute_force(study: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    more = ["view.held_out=9"] if kind == "lidm" else ["view.frames=9", "view.per_recording=1"]
    spied = Spied(monkeypatch, study, kind, *more)
    batch = spied.batch("VAL")
    assert batch["mask"].sum(1).tolist() == [9, 6]
    with torch.no_grad():
        spied.module.validation_step(batch, 0)
    clips = kind == "lvdm"
    assert [tuple(noised.x_t.shape) for noised in spied.noised] == [(2, C, 9, H, W) if clips else (15, C, H, W)] * 4
    assert [set(noised.t.tolist()) for noised in spied.noised] == [{125}, {375}, {625}, {875}]
    weighted, bands = [], {}
    for call in range(4):
        errors = spied.errors(call, batch["mask"] if clips else None)
        share = cumulative(DDPM())[125 + 250 * call]
        ratio = share / (1 - share)
        weighted.append(np.mean(errors) * max(0.1, min(ratio, 5) / (ratio + 1)))
        bands |= spied.bands(call, errors)
    logged = {name: value for name, value, _ in spied.logged if name != "val/loss"}
    assert logged == pytest.approx({f"val/{name}": value for name, value in bands.items()}, rel=1e-5)
    assert [v for n, v, _ in spied.logged if n == "val/loss"] == pytest.approx(weighted, rel=1e-5)
    assert all(kept.all() for keep in spied.keep for kept in keep.values())
    noise = [noised.x_t for noised in spied.noised]
    assert not torch.equal(noise[0], noise[1])


def test_flow_counts_all_levels_alike(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spied = Spied(monkeypatch, study, "lidm", "process=flow")
    loss = spied.module.training_step(spied.batch(), 0)
    errors = spied.errors(0)
    assert loss.item() == pytest.approx(np.mean(errors), rel=1e-5)
    logged = {name.removeprefix("train/"): value for name, value, _ in spied.logged if name != "train/loss"}
    assert logged == pytest.approx(spied.bands(0, errors, offset=0), rel=1e-5)


def test_frames_that_only_pad_do_not_count(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spied = Spied(monkeypatch, study, "lvdm", network=per_frame)
    batch = spied.batch()
    losses = []
    for garbage in (0.0, 1e3):
        padded = ~batch["mask"][:, None, :, None, None].expand_as(batch["x"])
        assert padded.any()
        batch["x"] = torch.where(padded, garbage, batch["x"])
        torch.manual_seed(0)
        losses.append(spied.module.training_step(batch, 0).item())
        with torch.no_grad():
            spied.module.validation_step(batch, 0)
    assert losses[0] == losses[1]
    held_out = [value for name, value, _ in spied.logged if name.startswith("val/")]
    assert held_out[: len(held_out) // 2] == held_out[len(held_out) // 2 :]


@pytest.mark.slow
def test_each_condition_is_dropped_as_often_as_set(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = ["conditioning.class_id.dropout=0.5", "conditioning.reference.dropout=0.2", "model.joint_dropout=0.1"]
    spied = Spied(monkeypatch, study, "lvdm", *more, network=per_frame)
    batch = spied.batch(most=4)
    torch.manual_seed(0)
    for _ in range(500):
        spied.module.training_step(batch, 0)
    kept = {name: torch.cat([keep[name] for keep in spied.keep]).double() for name in ("class_id", "reference")}
    # tolerance: 3.6 standard errors of 2,000 samples
    assert kept["class_id"].mean().item() == pytest.approx(0.45, abs=0.04)
    assert kept["reference"].mean().item() == pytest.approx(0.72, abs=0.036)
    assert (kept["class_id"] * kept["reference"]).mean().item() == pytest.approx(0.36, abs=0.04)


@pytest.mark.slow
def test_checkpointing_changes_the_memory_and_not_the_gradient(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for more in ("false", "true"):
        with monkeypatch.context() as patch:
            spied = Spied(patch, study, "lvdm", f"model.checkpointing={more}", "model.channels_last=true")
            module = spied.module.train()
            blocks = [m for m in module.modules() if getattr(m, "gradient_checkpointing", False)]
            assert bool(blocks) == (more == "true")
            torch.manual_seed(1)
            module.training_step(spied.batch(most=2), 0).backward()
            found.append({name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, grad in found[0].items():
        assert torch.allclose(grad, found[1][name], atol=1e-7), name


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_mixed_precision_accumulation_and_the_order_of_channels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    latent_store(tmp_path / "latents")
    seen: dict[str, Any] = {}

    class Look(Callback):
        def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
            seen["steps"] = trainer.global_step
            seen["schedule"] = trainer.estimated_stepping_batches

        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            hidden = pl_module.model.denoiser.unet.conv_in.register_forward_hook(
                lambda m, i, out: seen.update(dtype=out.dtype)
            )
            seen.setdefault("hooks", []).append(hidden)

    with_callback(monkeypatch, Look())
    more = ["+trainer.accumulate_grad_batches=2", "model.checkpointing=true", "model.channels_last=true"]
    engine.train(train_cfg(tmp_path, kind, "trainer.precision=bf16-mixed", *more, "callbacks.pictures=null"))
    assert (seen["steps"], seen["schedule"], seen["dtype"]) == (4, 4, torch.bfloat16)  # 2 epochs of 3 batches
    made = load_diffusion_model(str(tmp_path / kind), kind)
    assert all(p.dtype == torch.float32 for p in made.parameters())


def test_compile_is_in_place(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, *_, **__: asked.append(self))
    plain = Spied(monkeypatch, study, "lidm").module
    assert not asked
    module = Spied(monkeypatch, study, "lidm", "model.compile=true").module
    assert asked == [module.model.denoiser]
    assert module.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.slow
def test_key_frames_are_drawn_jointly_and_used_as_references(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spied = Spied(monkeypatch, study, "lidm", "view=triplet")
    assert (spied.module.model.metadata.frames, spied.module.model.denoiser.channels) == (3, 3 * C)
    batch = spied.batch()
    assert batch["x"].shape[1:] == (3 * C, H, W)
    assert torch.isfinite(spied.module.training_step(batch, 0))
    clips = Spied(monkeypatch, study, "lvdm", "view.reference=keyframes", "view.references=3")
    facts = clips.module.model.metadata
    # each TRAIN recording has one beat, repeated twice: ED at frame 0, ES at frame 2, ED at the last frame
    beats = np.repeat([8, 11, 4, 7, 13], 2)
    assert facts.reference_times == pytest.approx((0, 2, beats.mean()))
    assert facts.beat_spread == pytest.approx(beats.std() / beats.mean())
    middle = Spied(monkeypatch, study, "lvdm", "view.reference=even").module.model.metadata
    # mean over recordings: the middle frame is 4 of eight frames, and 2 of five frames
    assert middle.reference_times == pytest.approx((3.6,))


def test_frames_are_trained_with_noise_in_common(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spied = Spied(monkeypatch, study, "lvdm", "model.shared_noise=0.7", network=per_frame)
    assert spied.module.model.metadata.shared_noise == 0.7
    batch, process = spied.batch(most=10), DDPM()
    times = torch.full((10,), 999)  # the level of pure noise
    monkeypatch.setattr(spied.module.process, "sample_t", lambda count, device: times)
    for _ in range(4):
        spied.module.training_step(batch, 0)
    noise = torch.cat([noised.x_t for noised in spied.noised]).transpose(1, 2).flatten(2)
    assert process.alphas_cumprod[999] == 0
    products = torch.einsum("bfx,bgx->fg", noise, noise) / len(noise) / noise.shape[-1]
    apart = ~torch.eye(WINDOW, dtype=torch.bool)
    assert products[apart].mean().item() == pytest.approx(0.7, abs=0.1)
    assert products[~apart].mean().item() == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("view", ["first", "keyframes"])
@pytest.mark.slow
def test_a_residual_has_unit_spread_and_is_what_the_clip_lacks(
    study: Path, monkeypatch: pytest.MonkeyPatch, view: str
) -> None:
    asked = [f"view.reference={view}", f"view.references={3 if view == 'keyframes' else 1}", "view.per_recording=40"]
    spied = Spied(monkeypatch, study, "lvdm", *asked, network=per_frame)
    model, data = spied.module.model, spied.data.samples("TRAIN")
    squares, plain = [], []
    for number in range(len(data)):
        sample = data[number]
        batch = {name: sample[name][None] for name in ("x", "reference", "reference_time")}
        drawn = model.to_residual(batch["x"], batch)
        assert torch.allclose(model.from_residual(drawn, batch), batch["x"], atol=1e-5)
        squares.append(drawn[0][:, sample["mask"]].square().flatten(1))
        plain.append(batch["x"][0][:, sample["mask"]].square().flatten(1))
    assert torch.cat(squares, dim=1).mean(dim=1) == pytest.approx([1.0] * C, rel=0.1)
    batch = spied.batch()
    spied.module.training_step(batch, 0)
    times = torch.zeros(len(batch["x"]), dtype=torch.long)
    monkeypatch.setattr(spied.module.process, "sample_t", lambda count, device: times)  # the level with almost no noise
    spied.module.training_step(batch, 0)
    assert torch.allclose(spied.noised[-1].x_t, model.to_residual(batch["x"], batch), atol=0.06)
    spied.module.validation_step(batch, 0)
    assert len(spied.noised) == 2 + 4


@pytest.mark.slow
def test_without_placed_references_the_clip_itself_is_drawn(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Spied(monkeypatch, study, "lvdm", "conditioning=[class_id]", "view.reference=none").module.model
    off = Spied(monkeypatch, study, "lvdm", "model.residual=false").module.model
    given = "conditioning=[published,published_reference]"
    published = Spied(monkeypatch, study, "lvdm", given).module.model
    for made in (plain, off, published):
        assert made.metadata.residual is None
        x = torch.randn(2, C, WINDOW, H, W)
        assert made.to_residual(x, {}) is x
        assert made.from_residual(x, {}) is x


def test_the_stride_slows_the_clip(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Spied(monkeypatch, study, "lvdm", "view.stride=2").module.model.metadata.fps == 12.5


@pytest.mark.slow
def test_a_model_without_conditions(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, more in (("lidm", []), ("lvdm", ["view.reference=none"])):
        spied = Spied(monkeypatch, study, kind, "conditioning=[]", *more)
        assert spied.module.conditioner.names == ()
        assert torch.isfinite(spied.module.training_step(spied.batch(), 0))


def refused(words: str, folder: Path, kind: str, *overrides: str) -> None:
    with pytest.raises((UserError, InstantiationException)) as caught:
        engine.train(train_cfg(folder, kind, *overrides))
    said = error_sentence(caught.value, "train", [])
    assert said is not None
    assert re.search(words, said)
    assert "\n" not in said
    assert not (folder / kind).exists()
    assert not list(folder.glob("*.partial"))


@pytest.mark.slow
def test_what_cannot_be_trained_is_refused(tmp_path: Path) -> None:
    latent_store(tmp_path / "latents")
    refused(r"model.shared_noise is 1: give a number from 0 to below 1", tmp_path, "lvdm", "model.shared_noise=1")
    moving_disc_store(tmp_path / "videos")
    refused("videos holds videos: encode them", tmp_path, "lidm", f"src={tmp_path}/videos", "conditioning=[]")
    words = r"conditioning=reference and view.reference need each other"
    refused(words, tmp_path, "lvdm", "view.reference=none")
    refused(words, tmp_path, "lvdm", "conditioning=[class_id]")
    refused(words, tmp_path, "lidm", "conditioning=[class_id,reference]")
    refused(r"has no column 'EF'", bare(tmp_path / "bare"), "lidm", "conditioning=[EF]")


def test_latents_are_cached_by_default_in_a_training_of_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With several processes, the default is no cache, because each process would need its own cache."""
    latent_store(tmp_path / "latents")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for overrides, expected in (
        ([], "auto"),
        (["trainer.devices=2"], False),
        (["trainer.devices=auto"], False),
        (["trainer.num_nodes=2"], False),
        (["trainer.devices=2", "datamodule.cache=true"], True),
    ):
        cfg = train_cfg(tmp_path, "lidm", *overrides)
        engine.check_and_resolve(cfg)
        assert training.build_module_and_data(cfg)[1].cache == expected


@pytest.mark.parametrize("kind", ["lidm", "lvdm"])
@pytest.mark.slow
def test_training_starts_with_the_weights_of_an_artifact(
    tmp_path: Path, study: Path, trained: dict[str, LatentDiffusion], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """All weights (also of conditions) and the metadata come from the initial model; its process must be the same."""
    latent_store(tmp_path / "latents", class_id=[0] * 8)
    initial = f"+model.module.initial={study / kind}"
    own = Spied(monkeypatch, tmp_path, kind, initial).module
    first = load_diffusion_model(str(study / kind), kind)
    assert own.model.fingerprint() == first.fingerprint()
    assert all(parameter.requires_grad for parameter in own.parameters())
    assert own.model.denoiser.training
    refused("initial=.* has another process, view or autoencoder", tmp_path, kind, initial, "process=flow")
    refused("the initial model has other conditions", tmp_path, kind, initial, "model.width=16")


def bare(folder: Path) -> Path:
    folder.mkdir()
    latent_store(folder / "latents", EF=[None] * 8)
    return folder


@pytest.mark.slow
def test_a_loss_that_is_not_finite_names_the_recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    latent_store(tmp_path / "latents")

    class Poison(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if trainer.current_epoch == 1:
                batch["x"][0] = torch.nan

    with monkeypatch.context() as patch:
        with_callback(patch, Poison())
        with pytest.raises(UserError, match=r"^the loss is not finite on a batch of r\d") as caught:
            engine.train(train_cfg(tmp_path, "lidm"))
    assert set(str(caught.value).split(" batch of ")[1].split(":")[0].split(", ")) <= {"r0", "r1", "r2", "r5", "r6"}
    assert not (tmp_path / "lidm").exists()
    engine.train(train_cfg(tmp_path, "lidm"))  # continues after the first epoch
    assert json.loads((tmp_path / "lidm" / "artifact.json").read_text())["metrics"]["loss"] > 0


@pytest.mark.slow
def test_key_frames_are_modeled_as_the_first_and_differences_to_it(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The differences of the second frame have standard deviation 1; the third frame is divided by the same std."""
    spied = Spied(monkeypatch, study, "lidm", "view=triplet", "view.per_recording=40")
    model, data = spied.module.model, spied.data.samples("TRAIN")
    x = torch.stack([data[number]["x"] for number in range(len(data))])
    residual = model.to_residual(x, {})
    assert torch.allclose(model.from_residual(residual, {}), x, atol=1e-5)
    assert torch.equal(residual[:, :C], x[:, :C])
    assert residual[:, C : 2 * C].square().mean(dim=(0, 2, 3)) == pytest.approx([1.0] * C, rel=0.15)
    std = torch.tensor(model.metadata.residual)[2 * C :, None, None]
    assert torch.allclose(residual[:, 2 * C :], (x[:, 2 * C :] - x[:, :C]) / std, atol=1e-5)
    plain = Spied(monkeypatch, study, "lidm", "view=triplet", "model.residual=false").module.model
    assert plain.metadata.residual is None


class Auxiliary(nn.Module):
    """Auxiliary loss that records its arguments."""

    weight = 0.5

    def forward(self, latents: Tensor, class_id: Tensor, signal: Tensor) -> Tensor:
        self.given = latents, class_id, signal
        return latents.mean()


def test_the_auxiliary_loss_gets_the_denoised_estimate_in_the_units_of_the_store(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With almost no noise, the estimate equals the clip; the published code passes another quantity."""
    spied = Spied(monkeypatch, study, "lvdm", network=per_frame)
    module, batch = spied.module, spied.batch()
    times = torch.zeros(len(batch["x"]), dtype=torch.long)
    monkeypatch.setattr(module.process, "sample_t", lambda count, device: times)
    torch.manual_seed(0)
    plain = module.training_step(batch, 0)
    module.auxiliary = Auxiliary()  # type: ignore[assignment]
    torch.manual_seed(0)
    total = module.training_step(batch, 0)
    latents, class_id, signal = module.auxiliary.given  # type: ignore[union-attr]
    statistics = module.model.metadata.statistics
    std = torch.tensor(statistics.std)[:, None, None, None]
    expected = batch["x"] * std + torch.tensor(statistics.mean)[:, None, None, None]
    assert ((latents - expected) / std).abs().mean() < 0.05
    assert torch.equal(class_id, torch.as_tensor(batch["columns"]["class_id"]))
    assert signal.min() > 0.99
    assert (total - plain).item() == pytest.approx(0.5 * latents.mean().item(), rel=1e-4, abs=1e-5)
