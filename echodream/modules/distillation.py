"""Distillation of latent diffusion models to few sampling steps (``distill=consistency | distribution_matching``)."""

import copy
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from echodream import validation
from echodream.datamodules.datamodule import StoreData
from echodream.diffusion.few_steps import SCALES_KEY, STEPS_KEY, FewStepConfig
from echodream.diffusion.guidance import subset_coefficients, weighted_sum
from echodream.diffusion.model import DiffusionModel, load_diffusion_model
from echodream.diffusion.noise import sample_noise
from echodream.diffusion.processes.base import expand_like
from echodream.errors import UserError
from echodream.losses.denoising import mean_squared_errors
from echodream.modules.latent_diffusion import LatentDiffusion
from echodream.types import Batch


class Distillation(LatentDiffusion):
    """Train a student to sample in few steps like its ``teacher``, the folder of an artifact with equal settings.

    The student begins with the teacher's weights. One student can sample in each of the numbers of steps ``steps``,
    with timesteps by ``spacing``. ``guidance`` is the range (lowest, highest) of guidance scales of each condition.
    Guidance scales are an input of the student (2210.03142). ``teacher_steps`` is the number of first-order steps of
    the teacher, a multiple of each number in ``steps``. For further arguments, see ``LatentDiffusion``.
    """

    has_unused_parameters = True  # null embeddings are not used

    def __init__(
        self,
        *,
        teacher: str,
        steps: Sequence[int],
        spacing: str,
        teacher_steps: int,
        guidance: Mapping[str, Sequence[float]] | None = None,
        initial: str | None = None,
        **settings: Any,
    ) -> None:
        if initial is not None:
            raise UserError("model.initial is not possible with distill=: a student begins with its teacher's weights")
        super().__init__(initial=teacher, **settings)
        steps = validation.list_of_values("distill.steps", steps)
        limits = {
            str(name): validation.list_of_values(f"distill.guidance.{name}", scales)
            for name, scales in (guidance or {}).items()
        }
        self.few_steps = FewStepConfig(tuple(steps), spacing, limits)
        validation.whole_number("distill.teacher_steps", teacher_steps, 1, self.process.max_steps)
        spaced = self.process.for_sampling(spacing)
        self.grid = [*map(float, spaced.first_order_times(teacher_steps)), self.process.data_time]
        for number, times in zip(steps, self.process.step_times(self.few_steps), strict=True):
            if teacher_steps % number or not np.allclose(self.grid[:: teacher_steps // number], times):
                problem = f"distill.teacher_steps={teacher_steps} cannot be combined with distill.steps={number}"
                raise UserError(f"{problem}: give a multiple of each number of steps, for example 16")
        self._frozen: list[DiffusionModel] = []  # checkpoints and moving averages omit networks in a list

    def configure_from_data(self, data: StoreData) -> None:
        super().configure_from_data(data)
        self._frozen = [load_diffusion_model(str(self.initial), "lvdm" if self.model.is_video else "lidm")]
        if self._frozen[0].process.few_steps is not None:
            problem = f"distill.teacher={self.initial} is a distilled model"
            raise UserError(f"{problem}: give the model that it was distilled from")
        process = copy.copy(self.process)
        process.few_steps = self.few_steps
        denoiser = self.model.denoiser.eval()  # turns dropout off; Trainer.fit keeps this mode
        self.model = DiffusionModel(denoiser, self.conditioner, process, self.model.metadata)

    @property
    def teacher(self) -> DiffusionModel:
        """The frozen teacher, on the device of the student."""
        return self._frozen[0].to(self.device)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Distillation loss, scalar, for random guidance scales, which are log-uniform in their ranges."""
        values = self.model.conditioner.precompute(self.model.condition_values(batch))
        x = self.model.to_residual(batch["x"], values)
        limits = torch.tensor(list(self.few_steps.guidance.values())).to(x.device, non_blocking=True).view(-1, 2)
        share = torch.rand(len(x), len(limits), device=x.device)
        scales = limits[:, 0] * (limits[:, 1] / limits[:, 0]) ** share
        loss = self.distillation_loss(x, values, scales, batch.get("mask"))
        return self.log_training_loss(loss, batch["name"], len(x))

    @abstractmethod
    def distillation_loss(self, x: Tensor, values: Mapping[str, Tensor], scales: Tensor, mask: Tensor | None) -> Tensor:
        """Loss, scalar, for data ``x`` (B, C, *rest) with condition ``values`` and guidance ``scales`` (B, G)."""

    def noise_like(self, x: Tensor) -> Tensor:
        """Noise with the shape of ``x``, from the noise distribution of the teacher's training."""
        return sample_noise(x.shape, self.shared_noise, device=x.device).to(x.dtype)

    def student_x0(
        self, x_t: Tensor, t: Tensor, values: Mapping[str, Tensor], scales: Tensor, position: Tensor
    ) -> Tensor:
        """The student's estimate of x_0, (B, C, *rest), for a step from ``t`` to the end of its sampling step.

        ``position``, int (B,), is the index in ``steps`` of each sample's number of sampling steps.
        """
        inputs = {**values, STEPS_KEY: position, SCALES_KEY: scales}
        return self.process.predict_x0(x_t, t, self.model(x_t, t, inputs, self.keep_masks(x_t)))

    @torch.no_grad()
    def teacher_x0(self, x_t: Tensor, t: Tensor, values: Mapping[str, Tensor], scales: Tensor) -> Tensor:
        """The teacher's estimate of x_0, (B, C, *rest), with the guidance ``scales`` (B, G)."""
        by_name = dict(zip(self.few_steps.guidance, scales.unbind(1), strict=True))
        terms = subset_coefficients(by_name, self.teacher.conditioner.names)
        predictions = self.teacher.predictor(values)(x_t, t, list(terms))
        guided = weighted_sum(terms, dict(zip(terms, predictions, strict=True)), x_t)
        return self.process.predict_x0(x_t, t, guided)

    def keep_masks(self, x: Tensor) -> dict[str, Tensor]:
        """Masks of the condition dropout, bool (B,), that keep all conditions of the samples ``x``."""
        return {name: torch.ones(len(x), dtype=torch.bool, device=x.device) for name in self.conditioner.names}

    def preview(self, batch: Batch, count: int, steps: int) -> Tensor:
        """Sample previews (``LatentDiffusion.preview``) in the largest number of steps of the student."""
        return super().preview(batch, count, self.few_steps.steps[-1])

    def times_tensor(self, values: Sequence[float], device: torch.device) -> Tensor:
        """Tensor (N,) of N diffusion times, in the time dtype of the process."""
        return torch.tensor(values, dtype=self.process.time_dtype).to(device, non_blocking=True)

    def _log_held_out_errors(self, stage: str, batch: Batch, batch_idx: int) -> None:
        """Log the mean squared error between the student's samples and the teacher's samples from the same noise.

        The conditions are those of held-out patients, and the guidance scales are the lowest of their ranges.
        """
        x, values, mask = self._held_out_inputs(batch)
        x = self.model.to_residual(x, values)
        noise = sample_noise(x.shape, self.shared_noise, torch.Generator().manual_seed(batch_idx)).to(x.device)
        lowest = [low for low, _ in self.few_steps.guidance.values()]
        scales = torch.tensor([lowest], device=x.device).expand(len(x), -1)
        expected = self.process.run_steps(self.grid, noise, lambda x_t, t: self.teacher_x0(x_t, t, values, scales))
        options: dict[str, Any] = {"batch_size": len(x), "on_epoch": True, "sync_dist": True}
        for number, steps in enumerate(self.few_steps.steps):
            position, grid = torch.full((len(x),), number, device=x.device), self.grid[:: (len(self.grid) - 1) // steps]

            def estimate(x_t: Tensor, t: Tensor, position: Tensor = position) -> Tensor:
                return self.student_x0(x_t, t, values, scales, position)

            error = mean_squared_errors(self.process.run_steps(grid, noise, estimate), expected, mask).mean()
            self.log(f"{stage}/error_{steps}_steps", error, **options)
            if number == len(self.few_steps.steps) - 1:
                self.log(f"{stage}/loss", error, **options)


class ConsistencyDistillation(Distillation):
    """Multistep consistency distillation (2403.06807).

    From noisy data at a time of the teacher's grid, the teacher makes one guided step. From the points before and after
    the teacher's step, the student predicts the end point of its sampling step. The loss is the squared distance
    between the two predicted points.
    """

    def distillation_loss(self, x: Tensor, values: Mapping[str, Tensor], scales: Tensor, mask: Tensor | None) -> Tensor:
        rows, grid = len(x), self.times_tensor(self.grid, x.device)
        position = torch.randint(len(self.few_steps.steps), (rows,), device=x.device)
        length = (len(grid) - 1) // torch.tensor(self.few_steps.steps).to(x.device, non_blocking=True)[position]
        index = torch.randint(len(grid) - 1, (rows,), device=x.device)
        first = index // length * length
        t, t_next, end = grid[index], grid[index + 1], grid[first + length]
        x_t = self.process.corrupt(x, t, self.noise_like(x)).x_t
        step, is_end = self.process.deterministic_step, t_next == end
        with torch.no_grad():
            x_next = step(x_t, self.teacher_x0(x_t, t, values, scales), t, t_next)
            inside = torch.where(is_end, t, t_next)  # at the end, the student's prediction is not used
            end_point = step(x_next, self.student_x0(x_next, inside, values, scales, position), inside, end)
            target = torch.where(expand_like(is_end, x), x_next, end_point)
        prediction = step(x_t, self.student_x0(x_t, t, values, scales, position), t, end)
        errors = mean_squared_errors(prediction, target, mask)
        # errors are divided by the factor of x_0 in the sampling step from ``first`` to ``end``
        x0_factor = step(torch.zeros_like(x), torch.ones_like(x), grid[first], end).flatten(1)[:, 0]
        return (errors / x0_factor.square()).mean()


class DistributionMatching(Distillation):
    """Distribution matching distillation (2405.14867): the student's noised samples get the teacher's distribution.

    A second network, ``fake``, is trained on the samples of the student. The gradient for a sample is the difference
    between the estimates of x_0 by the second network and by the guided teacher. The student samples as in
    ``stage=image`` and ``stage=video``, up to a random step.
    """

    def configure_from_data(self, data: StoreData) -> None:
        super().configure_from_data(data)
        self.fake = copy.deepcopy(self._frozen[0]).requires_grad_(True)

    def distillation_loss(self, x: Tensor, values: Mapping[str, Tensor], scales: Tensor, mask: Tensor | None) -> Tensor:
        number = int(torch.randint(len(self.few_steps.steps), ()))
        steps = self.few_steps.steps[number]
        grid, position = self.grid[:: (len(self.grid) - 1) // steps], torch.full((len(x),), number, device=x.device)
        last = int(torch.randint(steps, ()))

        def estimate(x_t: Tensor, t: Tensor) -> Tensor:
            return self.student_x0(x_t, t, values, scales, position)

        with torch.no_grad():
            x_t = self.process.run_steps(grid[: last + 1], self.noise_like(x), estimate)
        samples = estimate(x_t, self.times_tensor(grid[last : last + 1], x.device).expand(len(x)))
        return self._matching_loss(samples, values, scales, mask) + self._fake_loss(samples.detach(), values, mask)

    def _matching_loss(
        self, samples: Tensor, values: Mapping[str, Tensor], scales: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Loss, scalar, whose gradient moves ``samples`` towards the distribution of the teacher."""
        t = self.process.sample_t(len(samples), device=samples.device)
        with torch.no_grad():
            x_t = self.process.corrupt(samples, t, self.noise_like(samples)).x_t
            real = self.teacher_x0(x_t, t, values, scales)
            fake = self.process.predict_x0(x_t, t, self.fake(x_t, t, values, self.keep_masks(samples)))
            size = (samples - real).abs().flatten(1).mean(dim=1).clamp(min=1e-3)
            target = samples - (fake - real) / expand_like(size, samples)
        return mean_squared_errors(samples, target, mask).mean() / 2

    def _fake_loss(self, samples: Tensor, values: Mapping[str, Tensor], mask: Tensor | None) -> Tensor:
        """Denoising loss, scalar, of the second network on ``samples`` of the student."""
        t = self.process.sample_t(len(samples), device=samples.device)
        noised = self.process.corrupt(samples, t, self.noise_like(samples))
        prediction = self.fake(noised.x_t, noised.t, values, self.keep_masks(samples))
        return (noised.weight * mean_squared_errors(prediction, noised.target, mask)).mean()
