"""Distillation: losses compared with the exact flow of Gaussian data; training of students, and their samples."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torch import Tensor

from echodream import engine
from echodream.datamodules.datamodule import StoreData
from echodream.diffusion.few_steps import FewStepConfig
from echodream.diffusion.guidance import Guidance
from echodream.diffusion.model import load_diffusion_model
from echodream.diffusion.processes.base import Process
from echodream.errors import UserError
from echodream.modules.distillation import Distillation
from echodream.store import Store
from tests.support.gaussians import normal
from tests.support.tiny_diffusion import WINDOW, C, H, W, latent_store, model, sample_cfg, train_cfg

METHODS = ("consistency", "distribution_matching")
STD = 0.5
"""Standard deviation of the Gaussian data."""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of latents, with a trained image diffusion model and a trained video diffusion model."""
    folder = tmp_path_factory.mktemp("study")
    latent_store(folder / "latents")
    for kind in ("lidm", "lvdm"):
        engine.train(train_cfg(folder, kind))
    return folder


def distil_cfg(study: Path, kind: str, method: str, *overrides: str) -> Any:
    fixed = [f"distill={method}", f"distill.teacher={study}/{kind}", f"dst={study}/{kind}_{method}"]
    fixed.append("distill.steps=[1,2,4]")
    return train_cfg(study, kind, *fixed, "distill.teacher_steps=8", *overrides)


def built(study: Path, kind: str, method: str, *overrides: str) -> tuple[Distillation, Any]:
    """An untrained student (distillation module), and a batch of data."""
    cfg = distil_cfg(study, kind, method, *overrides)
    engine.check_and_resolve(cfg)
    torch.manual_seed(0)
    module: Distillation = instantiate(cfg.model.module)
    data: StoreData = instantiate(cfg.datamodule, columns=list(module.columns))
    module.configure_from_data(data)
    from torch.utils.data import default_collate

    samples = data.samples("TRAIN")
    return module, default_collate([samples[number] for number in range(min(8, len(samples)))])


def flow(process: Process, x_t: Tensor, t: Tensor, end: Tensor, std: float = STD) -> Tensor:
    """Closed form of the probability flow of data N(0, std^2), from x_t at the times ``t`` to the times ``end``.

    x_t has the standard deviation s_t = sqrt(a_t^2 std^2 + b_t^2), and the flow keeps x_t / s_t constant.
    """
    (a, b), (a_end, b_end) = (process.signal_and_noise_rates(time, x_t) for time in (t, end))
    return x_t * (a_end**2 * std**2 + b_end**2).sqrt() / (a**2 * std**2 + b**2).sqrt()


def posterior_mean(process: Process, x_t: Tensor, t: Tensor, std: float = STD) -> Tensor:
    a, b = process.signal_and_noise_rates(t, x_t)
    return x_t * a * std**2 / (a**2 * std**2 + b**2)


def exact_student(module: Distillation, error: float = 0.0) -> Any:
    """Replacement for ``student_x0``: each step ends on the exact flow, multiplied by 1 + ``error``."""
    table = module.process.step_times(module.few_steps)

    def student_x0(x_t: Tensor, t: Tensor, values: Any, scales: Tensor, position: Tensor) -> Tensor:
        ends = [max(e for e in table[int(p)] if e < float(time)) for time, p in zip(t, position, strict=True)]
        end = torch.tensor(ends, dtype=t.dtype)
        target = flow(module.process, x_t, t, end) * (1 + error)
        (a, b), (a_end, b_end) = (module.process.signal_and_noise_rates(time, x_t) for time in (t, end))
        return (target - b_end / b * x_t) / (a_end - b_end / b * a)

    return student_x0


@pytest.mark.slow
@pytest.mark.parametrize("process", ["ddpm", "flow"])
def test_the_exact_student_has_the_least_consistency_loss(
    study: Path, monkeypatch: pytest.MonkeyPatch, process: str, tmp_path: Path
) -> None:
    """With finer teacher steps, the loss of the exact student goes to 0; the teacher as a student has a large loss."""
    latent_store(tmp_path / "latents")
    engine.train(train_cfg(tmp_path, "lidm", f"process={process}", "trainer.max_epochs=1"))
    losses = {}
    for steps in (16, 32, 128):
        module, _ = built(tmp_path, "lidm", "consistency", f"process={process}", f"distill.teacher_steps={steps}")
        x = STD * normal(256, C, H, W)
        monkeypatch.setattr(module, "teacher_x0", lambda x_t, t, *_, m=module: posterior_mean(m.process, x_t, t))
        for name, student in (
            ("exact", exact_student(module)),
            ("wrong", exact_student(module, 0.1)),
            ("teacher", lambda x_t, t, *_, m=module: posterior_mean(m.process, x_t, t)),
        ):
            monkeypatch.setattr(module, "student_x0", student)
            torch.manual_seed(0)
            losses[name, steps] = float(module.distillation_loss(x, {}, torch.ones(256, 1), None))
    assert losses["exact", 16] > 2 * losses["exact", 32] > 8 * losses["exact", 128]
    assert losses["exact", 128] < losses["teacher", 128] / 20


def test_the_target_of_a_step_is_by_hand(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The expected target is one teacher step on the teacher's grid, followed by one student step to the end."""
    module, _ = built(
        study, "lidm", "consistency", "distill.steps=[2]", "distill.teacher_steps=4", "distill.guidance=null"
    )
    process, x = module.process, STD * normal(6, C, H, W)
    grid = [999, 561, 249, 61, -1]
    asked: list[tuple[str, list[int]]] = []

    def teacher(x_t: Tensor, t: Tensor, *_: Any) -> Tensor:
        asked.append(("teacher", t.tolist()))
        return 0.7 * x_t

    def student(x_t: Tensor, t: Tensor, *_: Any) -> Tensor:
        asked.append(("student", t.tolist()))
        return 0.2 * x_t

    monkeypatch.setattr(module, "teacher_x0", teacher)
    monkeypatch.setattr(module, "student_x0", student)
    monkeypatch.setattr(module, "noise_like", lambda x: normal(*x.shape, seed=5))
    torch.manual_seed(0)
    loss = float(module.distillation_loss(x, {}, torch.ones(6, 0), None))
    times = asked[0][1]
    assert len(set(times)) > 2
    alpha = {t: float(process.alphas_cumprod[t]) for t in grid[:-1]} | {-1: 1.0}  # type: ignore[attr-defined]

    def step(x_t: np.ndarray, x_0: np.ndarray, t: int, end: int) -> np.ndarray:
        noise = (x_t - alpha[t] ** 0.5 * x_0) / (1 - alpha[t]) ** 0.5
        return alpha[end] ** 0.5 * x_0 + (1 - alpha[end]) ** 0.5 * noise

    errors = []
    for row, t in enumerate(times):
        x_t = (
            alpha[t] ** 0.5 * x[row].double().numpy()
            + (1 - alpha[t]) ** 0.5 * normal(6, C, H, W, seed=5)[row].double().numpy()
        )
        later = grid[grid.index(t) + 1]
        first, end = (999, 249) if t > 249 else (249, -1)
        x_later = step(x_t, 0.7 * x_t, t, later)
        target = x_later if later == end else step(x_later, 0.2 * x_later, later, end)
        share = alpha[end] ** 0.5 - ((1 - alpha[end]) / (1 - alpha[first])) ** 0.5 * alpha[first] ** 0.5
        errors.append(float(((step(x_t, 0.2 * x_t, t, end) - target) ** 2).mean()) / share**2)
    assert loss == pytest.approx(np.mean(errors), rel=1e-3)
    assert [name for name, _ in asked] == ["teacher", "student", "student"]


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_matching_moves_samples_towards_the_distribution_of_the_teacher(
    study: Path, monkeypatch: pytest.MonkeyPatch, scale: float
) -> None:
    """Samples with another standard deviation move toward that of the teacher; samples of the same one do not move."""
    module, _ = built(study, "lidm", "distribution_matching")
    process = module.process

    def network(std: float) -> Any:
        def forward(x_t: Tensor, t: Tensor, *_: Any) -> Tensor:
            return process.prediction_from_x0(posterior_mean(process, x_t, t, std), x_t, t)

        return forward

    monkeypatch.setattr(module, "teacher_x0", lambda x_t, t, *_: posterior_mean(process, x_t, t))
    for std, moves in ((STD * scale, True), (STD, False)):
        monkeypatch.setattr(module.fake, "forward", network(std))
        samples = (std * normal(512, C, H, W)).requires_grad_()
        torch.manual_seed(0)
        module._matching_loss(samples, {}, torch.ones(512, 1), None).backward()  # type: ignore[no-untyped-call]
        assert samples.grad is not None
        outward = float((samples.grad * samples.detach()).sum())
        assert (abs(outward) > 1e-3) == moves
        if moves:
            assert (outward > 0) == (scale > 1)  # the optimizer moves samples against the gradient


def test_guidance_with_one_scale_per_row_is_guidance_of_each_row() -> None:
    made = model("lvdm", ("reference", "class_id"))
    x, t = normal(3, C, WINDOW, H, W), torch.tensor([999, 300, 7])
    values = made.conditioner.encode_request({"class_id": [0, 1, 3]})
    values |= {"reference": normal(3, C, 1, H, W), "reference_time": torch.zeros(3, 1)}
    scales = torch.tensor([1.0, 2.0, 3.5])
    module: Any = SimpleNamespace(
        teacher=made, process=made.process, few_steps=FewStepConfig((1,), "trailing", {"class_id": [1.0, 4.0]})
    )
    found = Distillation.teacher_x0(module, x, t, values, scales[:, None])
    for row in range(3):
        own = {name: value[row : row + 1] for name, value in values.items()}
        guidance = Guidance({"class_id": float(scales[row])})
        denoise = guidance.guided_denoiser(made.predictor(own), made.conditioner.names, made.process)
        x_t, time = x[row : row + 1], t[row : row + 1]
        expected = made.process.predict_x0(x_t, time, denoise(x_t, time))
        torch.testing.assert_close(found[row : row + 1], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["lidm", "lvdm"])
def test_a_student_is_trained_loaded_and_sampled(study: Path, kind: str, method: str) -> None:
    engine.train(distil_cfg(study, kind, method))
    made = load_diffusion_model(f"{study}/{kind}_{method}", kind)
    few = made.process.few_steps
    assert few is not None
    assert (few.steps, few.spacing, dict(few.guidance)) == ((1, 2, 4), "quadratic", {"class_id": (1.0, 3.0)})
    teacher = load_diffusion_model(f"{study}/{kind}", kind)
    assert made.metadata == teacher.metadata
    assert any(not torch.equal(*pair) for pair in zip(made.parameters(), teacher.parameters(), strict=False))
    assert all(torch.isfinite(parameter).all() for parameter in made.parameters())
    stage, src = ("image", []) if kind == "lidm" else ("video", [f"src={study}/latents", "frames=12", "n=2"])
    checksums = set()
    for steps in few.steps:
        dst = study / f"{stage}_{method}_{steps}"
        cfg = sample_cfg(study, stage, f"artifact={study}/{kind}_{method}", f"dst={dst}", f"steps={steps}", *src)
        engine.sample(cfg)
        store = Store(dst)
        assert set(store.table["Steps"]) == {steps}
        assert set(store.table["Sampler"]) == {"ddim"}
        checksums.add(store.checksum)
    assert len(checksums) == len(few.steps)


@pytest.mark.slow
def test_a_student_has_no_dropout(study: Path, tmp_path: Path) -> None:
    """The layers of the teacher have no active dropout during distillation."""
    engine.train(train_cfg(study, "lidm", "denoiser.dropout=0.5", f"dst={tmp_path}/teacher"))
    cfg = distil_cfg(study, "lidm", "consistency", f"distill.teacher={tmp_path}/teacher", f"dst={tmp_path}/student")
    seen: list[bool] = []
    hook = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda layer, _: seen.append(layer.training) if isinstance(layer, torch.nn.Dropout) else None
    )
    try:
        engine.train(cfg)
    finally:
        hook.remove()
    assert seen
    assert not any(seen)


def test_an_interrupted_distillation_gives_the_same_student(study: Path, tmp_path: Path) -> None:
    whole = distil_cfg(study, "lidm", "consistency", f"dst={tmp_path}/whole", f"work={tmp_path}/a")
    engine.train(whole)
    part = distil_cfg(study, "lidm", "consistency", f"dst={tmp_path}/again", f"work={tmp_path}/b")
    from echodream.callbacks.epoch_summary import EpochSummary

    class Stopped(Exception):
        pass

    def stop(*_: Any) -> None:
        raise Stopped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EpochSummary, "on_train_epoch_end", stop, raising=False)
        with pytest.raises(Stopped):
            engine.train(part.copy())
    engine.train(part.copy())
    found, expected = (load_diffusion_model(f"{tmp_path}/{name}", "lidm").fingerprint() for name in ("again", "whole"))
    assert found == expected


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["distill.steps=[3]"], "distill.teacher_steps=8 cannot be combined with distill.steps=3: give a multiple"),
        (
            ["distill.steps=[16]", "distill.teacher_steps=96"],
            "distill.teacher_steps=96 cannot be combined with distill.steps=16",
        ),
        (["distill.steps=4"], "distill.steps is 4: give a list"),
        (["distill.guidance.class_id=2"], "distill.guidance.class_id is 2: give a list"),
        (
            ["+distill.guidance.EF=[1,2]"],
            "distill.guidance.EF is not a condition of this model; its conditions are class",
        ),
        (["distill.steps=[0]"], "distill.steps is 0"),
        (["distill.spacing=even"], "spacing is 'even'"),
        (["process=flow"], "has another process, view or autoencoder"),
    ],
)
def test_what_cannot_be_distilled_is_refused(study: Path, overrides: list[str], says: str) -> None:
    with pytest.raises((UserError, InstantiationException), match=says):
        engine.train(distil_cfg(study, "lidm", "consistency", f"dst={study}/refused", *overrides))
    assert not (study / "refused").exists()


@pytest.mark.slow
def test_a_student_is_no_teacher(study: Path) -> None:
    if not (study / "lidm_consistency").exists():
        engine.train(distil_cfg(study, "lidm", "consistency"))
    with pytest.raises(UserError, match="is a distilled model: give the model that it was distilled from"):
        built(study, "lidm", "consistency", f"distill.teacher={study}/lidm_consistency")
