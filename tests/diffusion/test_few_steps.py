"""Sampling in few steps with a distilled model: times of the steps, network inputs, and limits."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from echodream.diffusion.few_step_input import FewStepInput
from echodream.diffusion.few_steps import SCALES_KEY, STEPS_KEY, FewStepConfig
from echodream.diffusion.guidance import Guidance
from echodream.diffusion.model import DiffusionModel, load_diffusion_model
from echodream.diffusion.processes.base import Process
from echodream.diffusion.processes.ddpm import DDPM
from echodream.diffusion.processes.rectified_flow import RectifiedFlow
from echodream.errors import UserError
from echodream.sampling.sampling_module import SamplingConfig, SamplingModule
from tests.support.gaussians import normal
from tests.support.tiny_diffusion import C, H, W, artifact, model

FEW = FewStepConfig((1, 2, 4), "quadratic", {"class_id": (1.0, 3.0)})
PROCESSES: list[Process] = [DDPM(), DDPM("epsilon", zero_snr=False), RectifiedFlow()]


def distilled(kind: str = "lidm", few: FewStepConfig = FEW, process: Process | None = None) -> DiffusionModel:
    """Model with random weights and the additional inputs that ``few`` needs."""
    process = process or DDPM()
    process.few_steps = few
    made = model(kind, ("reference", "class_id") if kind == "lvdm" else ("class_id",), process)
    if made.few_step_input is not None:
        torch.manual_seed(1)
        for parameter in made.few_step_input.parameters():
            torch.nn.init.normal_(parameter, std=3.0)
    return made.requires_grad_(False)


@pytest.mark.parametrize(("t", "end"), [(999, 400), (700, 3), (61, -1)])
@pytest.mark.parametrize("prediction", ["v", "epsilon"])
def test_a_step_is_that_of_ddim(t: int, end: int, prediction: str) -> None:
    process = DDPM(prediction, zero_snr=False)
    x_t, output = normal(2, C, H, W), normal(2, C, H, W, seed=1)
    scheduler = DDIMScheduler(
        beta_start=1e-4, beta_end=0.02, prediction_type={"v": "v_prediction"}.get(prediction, prediction),
        clip_sample=False,
    )  # fmt: skip
    scheduler.num_inference_steps = 1
    scheduler.config.num_train_timesteps = t - end  # the scheduler steps from t to ``end``
    expected = scheduler.step(output, t, x_t).prev_sample
    times = (torch.full((2,), time) for time in (t, end))
    begin = torch.full((2,), t)
    found = process.deterministic_step(x_t, process.predict_x0(x_t, begin, output), *times)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_step_is_that_of_euler_for_rectified_flow() -> None:
    process, x_t, output = RectifiedFlow(), normal(2, C, H, W), normal(2, C, H, W, seed=1)
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=[0.8, 0.3])
    expected = scheduler.step(output, scheduler.timesteps[0], x_t).prev_sample
    t, end = torch.full((2,), 800.0), torch.full((2,), 300.0)
    found = process.deterministic_step(x_t, process.predict_x0(x_t, t, output), t, end)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: process.name)
def test_fewer_steps_end_where_more_steps_end(process: Process) -> None:
    """The times of few steps are part of the teacher's grid of 16 steps; student and teacher must use equal times."""
    for spacing in ("trailing", "quadratic"):
        times = process.step_times(dataclasses.replace(FEW, spacing=spacing))
        grid = process.step_times(FewStepConfig((16,), spacing))[0]
        for steps, found in zip(FEW.steps, times, strict=True):
            assert found == pytest.approx(grid[:: 16 // steps])


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: process.name)
def test_the_end_of_the_step_of_any_time(process: Process) -> None:
    network = FewStepInput(FEW, process, 8)
    for position, times in enumerate(process.step_times(FEW)):
        for t in [999, 998, 600, 250, 249, 100, 61, 60, 1]:
            value = torch.tensor([t], dtype=process.time_dtype)
            expected = max(time for time in times if time < t)
            assert float(network.step_end_time(value, torch.tensor([position]))) == pytest.approx(expected)


def sample(made: DiffusionModel, steps: int | None, rows: list[int], **guidance: float) -> Tensor:
    few = made.process.few_steps
    assert few is not None
    config = SamplingConfig(0, steps or few.steps[-1], None, Guidance(guidance))
    values = made.conditioner.encode_request({"class_id": [(0, 1, 3)[row % 3] for row in rows]})
    return SamplingModule(made, config).sample_latents(rows, values)


def test_a_sample_is_a_loop_over_the_steps_by_hand() -> None:
    made = distilled()
    found = sample(made, 2, [0, 1], class_id=2.0)
    process, metadata = made.process, made.metadata
    x = torch.stack([torch.randn(C, H, W, generator=generator) for generator in rows_generators(2)])
    alphas = process.alphas_cumprod.double()  # type: ignore[attr-defined]
    values = made.conditioner.encode_request({"class_id": [0, 1]})
    given = {**values, STEPS_KEY: torch.tensor([1, 1]), SCALES_KEY: torch.tensor([[2.0], [2.0]])}
    for t, end in ((999, 249), (249, -1)):
        v = made(x, torch.full((2,), t), given, {"class_id": torch.ones(2, dtype=torch.bool)}).double()
        a, b = alphas[t].sqrt(), (1 - alphas[t]).sqrt()
        a_end, b_end = (alphas[end].sqrt(), (1 - alphas[end]).sqrt()) if end >= 0 else (1.0, 0.0)
        x_0, noise = a * x - b * v, b * x + a * v
        x = (a_end * x_0 + b_end * noise).float()
    mean, std = (torch.tensor(metadata.statistics.__dict__[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
    torch.testing.assert_close(found[:, :, 0], x * std + mean, rtol=1e-3, atol=1e-3)


def rows_generators(count: int) -> list[torch.Generator]:
    from echodream.sampling.sampling_module import row_generator

    return [row_generator(0, row) for row in range(count)]


@pytest.mark.parametrize("kind", ["lidm"])
def test_steps_and_scales_change_a_sample_and_its_batch_does_not(kind: str) -> None:
    made = distilled(kind)
    one = sample(made, 4, [3], class_id=2.0)
    torch.testing.assert_close(sample(made, 4, [2, 3], class_id=2.0)[1:], one, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(sample(made, 4, [3], class_id=1.0), one)
    assert not torch.allclose(sample(made, 2, [3], class_id=2.0), one)


def test_a_guided_step_is_one_evaluation() -> None:
    made = distilled()
    rows: list[int] = []
    made.denoiser.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    sample(made, 4, [0, 1, 2], class_id=3.0)
    assert rows == [3] * 4


def test_before_training_the_student_is_its_teacher() -> None:
    process = DDPM()
    teacher = model("lidm", ("class_id",), process)
    process.few_steps = FEW
    torch.manual_seed(0)
    student = DiffusionModel(teacher.denoiser, teacher.conditioner, process, teacher.metadata)
    assert student.few_step_input is not None
    x, t = normal(3, C, H, W), torch.tensor([999, 500, 3])
    values, keep = teacher.conditioner.encode_request({"class_id": [0, 1, 3]}), {"class_id": torch.ones(3) > 0}
    inputs = {STEPS_KEY: torch.tensor([0, 1, 2]), SCALES_KEY: torch.full((3, 1), 2.0)}
    assert torch.equal(student(x, t, {**values, **inputs}, keep), teacher(x, t, values, keep))


@pytest.mark.parametrize("kind", ["lidm", "lvdm"])
def test_an_artifact_comes_back(tmp_path: Path, kind: str) -> None:
    made = distilled(kind)
    folder = artifact(tmp_path / kind, made, kind)
    found = load_diffusion_model(str(folder), kind)
    assert found.process.few_steps == FEW
    assert found.fingerprint() == made.fingerprint()
    assert found.few_step_input is not None
    t, values = torch.tensor([999, 100]), {STEPS_KEY: torch.tensor([0, 2]), SCALES_KEY: torch.tensor([[1.0], [2.5]])}
    assert torch.equal(found.few_step_input(t, values), made.few_step_input(t, values))  # type: ignore[misc]
    (folder / "few_steps.safetensors").unlink()
    with pytest.raises(UserError, match=r"few_steps\.safetensors"):
        load_diffusion_model(str(folder), kind)


def test_sdedit_takes_the_steps_below_its_strength() -> None:
    made, times = distilled(), list[float]()
    made.denoiser.register_forward_pre_hook(lambda _, inputs: times.append(float(inputs[1][0])))
    x_0 = normal(2, C, H, W)
    denoise = made.guided_denoiser(Guidance(), made.conditioner.encode_request({"class_id": [0, 1]}))
    made.process.sample(denoise, normal(2, C, H, W, seed=1), 6, None, None, x_0, 0.3)
    assert times == [299, 249, 61]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"steps": 3}, "steps=3: this model was distilled for steps=1 or 2 or 4, so give one of these numbers"),
        ({"sampler": "unipc"}, "sampler=unipc: this model was distilled for sampler=ddim"),
        ({"spacing": "trailing"}, "spacing=trailing: this model was distilled with spacing=quadratic"),
        ({"guidance": {"class_id": 5.0}}, r"guidance.class_id=5: this model was distilled for scales of 1 to 3"),
        ({"guidance": {"interval": (0.2, 0.7)}}, "guidance.interval cannot be combined with a distilled model"),
        ({"guidance": {"rescale": 0.5}}, "guidance.rescale cannot be combined with a distilled model"),
    ],
)
def test_what_it_was_not_made_for_is_refused(settings: dict[str, Any], says: str) -> None:
    from echodream.sampling.sample_store import sampling_config

    guidance = {"class_id": 1.0, "interval": (0.0, 1.0), "rescale": 0.0, "auto": {"artifact": None, "scale": 1.0}}
    given = {"steps": None, "sampler": None, "spacing": None, **settings}
    given["guidance"] = {**guidance, **settings.get("guidance", {})}
    with pytest.raises(UserError, match=says):
        sampling_config(distilled(), 0, **given)


def test_without_settings_it_samples_with_its_own() -> None:
    from echodream.sampling.sample_store import sampling_config

    guidance = {"class_id": 2.0, "interval": (0.0, 1.0), "rescale": 0.0, "auto": {"artifact": None, "scale": 1.0}}
    config = sampling_config(distilled(), 0, None, None, None, guidance)
    assert (config.steps, config.sampler, config.spacing) == (4, "ddim", "quadratic")
    undistilled = sampling_config(model("lidm"), 0, None, None, None, guidance)
    assert (undistilled.steps, undistilled.sampler, undistilled.spacing) == (12, "unipc", "quadratic")


@pytest.mark.parametrize(
    ("few", "says"),
    [
        ({"steps": ()}, r"distill.steps=\[\]: give increasing whole numbers"),
        ({"steps": (4, 2)}, r"distill.steps=\[4, 2\]: give increasing"),
        ({"guidance": {"class_id": (3.0, 1.0)}}, r"distill.guidance.class_id=\[3.0, 1.0\]: give the lowest and the"),
        ({"guidance": {"EF": (1.0, 2.0)}}, r"distill.guidance.EF is not a condition of this model"),
        ({"spacing": "even"}, "spacing is 'even': choose one of"),
    ],
)
def test_impossible_settings_are_refused(few: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        distilled(few=dataclasses.replace(FEW, **few))
