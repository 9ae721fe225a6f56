"""Sampling steps never wait for the device: the loop runs on the meta device, which cannot return values."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from echodream.diffusion.guidance import Guidance
from echodream.diffusion.processes import base
from echodream.diffusion.processes.base import Process
from echodream.diffusion.processes.ddpm import DDPM
from echodream.diffusion.processes.rectified_flow import RectifiedFlow
from echodream.diffusion.samplers import SAMPLERS
from echodream.sampling.sampling_module import ClipLengthConfig, SamplingConfig, SamplingModule
from tests.support.host_access import HostAccess, forbidden_host_access
from tests.support.tiny_diffusion import WINDOW, C, H, W, model


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of network calls of each sampling loop; the loops run under ``forbidden_host_access``."""
    calls: list[int] = []
    run = base.run_solver

    def run_watched(solver: Any, denoise: Callable[..., Tensor], x: Tensor, *rest: Any) -> Tensor:
        calls.append(0)

        def counted(x_t: Tensor, t: Tensor) -> Tensor:
            calls[-1] += 1
            return denoise(x_t, t)

        with forbidden_host_access():
            return run(solver, counted, x, *rest)

    monkeypatch.setattr(base, "run_solver", run_watched)
    return calls


def values_on_meta(video: bool) -> dict[str, Tensor]:
    values: dict[str, Tensor] = {"class_id": torch.tensor([0, 1]), "EF": torch.tensor([50.0, torch.nan])}
    if video:
        values |= {"reference": torch.randn(2, C, 2, H, W), "reference_time": torch.tensor([[0.0, 5.0]] * 2)}
    return {name: value.to("meta") for name, value in values.items()}


GUIDANCE = {
    "none": Guidance(),
    "class": Guidance({"class_id": 2.0}),
    "interval": Guidance({"class_id": 2.0, "EF": 3.0}, interval=(0.2, 0.8), rescale=0.5),
}


CASES = [
    *((DDPM(), sampler, "lidm", "interval") for sampler in SAMPLERS["ddpm"]),
    *((RectifiedFlow(), sampler, "lidm", "class") for sampler in SAMPLERS["flow"]),
    *((DDPM(), "unipc", kind, guidance) for kind, guidance in (("crossfade", "interval"), ("continue", "none"))),
]


@pytest.mark.parametrize(("process", "sampler", "kind", "guidance"), CASES)
@pytest.mark.slow
def test_no_step_waits_for_the_device(
    watched: list[int], process: Process, sampler: str, kind: str, guidance: str
) -> None:
    video = kind != "lidm"
    names = ("reference", "class_id", "EF") if video else ("class_id", "EF")
    made = model("lvdm" if video else "lidm", names, process).to("meta")
    length = ClipLengthConfig(13, WINDOW, 3, 2, kind) if video else None
    config = SamplingConfig(0, 4, sampler, GUIDANCE[guidance], "quadratic", clip_limit=4.0)
    SamplingModule(made, config, length).to("meta").sample_latents([0, 1], values_on_meta(video))
    steps = 7 if sampler == "heun" else 4
    assert watched == [steps] * (2 if kind == "continue" else 1)


@pytest.mark.parametrize(
    "fault",
    [
        lambda x: x * x.max().item(),
        lambda x: x if (x > 0).any() else -x,
        lambda x: x * torch.tensor([2.0]).to(x.device),
        lambda x: x * torch.tensor([2.0], device=x.device),
        lambda x: x * x.new_tensor([2.0]),
        lambda x: x[[1, 0]],
        lambda x: x.masked_fill(x > 0, 1)[x > 0],
        lambda x: x * x.to("cpu"),
    ],
    ids=["item", "bool", "copy", "values", "new values", "list", "condition", "copy to the host"],
)
def test_the_check_notices_a_step_that_waits(watched: list[int], fault: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises((HostAccess, RuntimeError)):
        DDPM().sample(lambda x_t, t: fault(x_t), torch.zeros(2, C, H, W, device="meta"), 3)
    assert watched == [1]
