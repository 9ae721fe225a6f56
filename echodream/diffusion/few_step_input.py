"""Input of the network of a distilled model."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from echodream.diffusion.few_steps import SCALES_KEY, STEPS_KEY, FewStepConfig
from echodream.diffusion.processes.base import Process

_HARMONICS = 4


class FewStepInput(nn.Module):
    """Embedding, (B, T), of the end time of a sampling step and of guidance scales: an input of a distilled network.

    The embedding is added to the time embedding of the network. The embedding is zero before training.
    """

    def __init__(self, few_steps: FewStepConfig, process: Process, width: int) -> None:
        super().__init__()
        self.few_steps = few_steps
        boundaries = process.step_times(few_steps)
        longest = max(map(len, boundaries))
        padded = [[math.inf] * (longest - len(times)) + times for times in boundaries]
        self.boundaries: Tensor
        self.register_buffer("boundaries", torch.tensor(padded), persistent=False)
        self.limits: Tensor
        self.register_buffer("limits", torch.tensor(list(few_steps.guidance.values())).view(-1, 2), persistent=False)
        self.process = process
        inputs = 2 * _HARMONICS * (1 + len(few_steps.guidance))
        last = nn.Linear(width, width)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(nn.Linear(inputs, width), nn.SiLU(), last)

    def step_end_time(self, t: Tensor, position: Tensor) -> Tensor:
        """End time, (B,), of the sampling step that contains ``t``, (B,), or begins at ``t``; same dtype as ``t``.

        ``position``, (B,), is the index in ``FewStepConfig.steps`` of each row's number of steps.
        """
        earlier = self.boundaries.to(t.device)[position]
        return earlier.masked_fill(earlier >= t[:, None].float(), -math.inf).amax(dim=1).to(t.dtype)

    def forward(self, t: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        position = values.get(STEPS_KEY)
        if position is None:
            position = torch.full((len(t),), len(self.few_steps.steps) - 1, device=t.device)
        end = self.process.relative_time(self.step_end_time(t, position)).float().clamp(0, 1)
        features = [end[:, None]]
        if self.few_steps.guidance:
            scales = values.get(SCALES_KEY)
            scales = torch.ones(len(t), len(self.limits), device=t.device) if scales is None else scales
            low, high = self.limits.to(t.device).log().unbind(1)
            features.append((scales.log() - low) / (high - low).clamp(min=1e-6))
        angles = torch.cat(features, dim=1)[..., None] * torch.arange(1, _HARMONICS + 1, device=t.device) * math.pi
        added: Tensor = self.layers(torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1))
        return added
