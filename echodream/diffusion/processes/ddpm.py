"""DDPM, a variance-preserving noise process in discrete time (arXiv 2006.11239)."""

from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from echodream import validation
from echodream.diffusion.noise_schedules import NOISE_SCHEDULES, scheduler_arguments
from echodream.diffusion.processes.base import NoisedBatch, Process, expand_like
from echodream.diffusion.samplers import SAMPLERS, Sampler, Solver
from echodream.errors import UserError

PREDICTION_TYPES = {"v": "v_prediction", "epsilon": "epsilon", "sample": "sample"}
SPACINGS = ("trailing", "quadratic", "leading")


class DDPM(Process):
    """DDPM: x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) noise, t = 0 .. steps - 1, a_t the cumulative product of 1 - beta.

    ``prediction`` is the network output: "v" = sqrt(a_t) noise - sqrt(1 - a_t) x_0 (arXiv 2202.00512), "epsilon" (the
    noise) or "sample" (x_0). ``schedule`` is a name of ``NOISE_SCHEDULES``. ``zero_snr`` rescales the betas for pure
    noise at the last noise level. ``spacing`` of the sampling timesteps is "trailing" (with the last noise level,
    arXiv 2305.08891), "leading" (without the last noise level), or "quadratic" (denser at low noise, arXiv
     2010.02502). ``min_snr`` is the gamma of min-SNR loss weights (arXiv 2303.09556), ``least_weight`` their lower
    bound; without ``min_snr``, all weights are 1.
    """

    name: ClassVar[str] = "ddpm"
    spacings: ClassVar[tuple[str, ...]] = SPACINGS
    first_order_sampler: ClassVar[str] = "ddim"
    data_time: ClassVar[float] = -1
    time_dtype: ClassVar[torch.dtype] = torch.int64

    def __init__(
        self,
        prediction: str = "v",
        schedule: str = "linear",
        beta_start: float = 1e-4,
        beta_end: float = 0.02,
        steps: int = 1000,
        zero_snr: bool = True,
        spacing: str = "trailing",
        min_snr: float | None = 5.0,
        least_weight: float = 0.0,
    ) -> None:
        self.prediction = validation.one_of("process.prediction", prediction, tuple(PREDICTION_TYPES))
        self.schedule = validation.one_of("process.schedule", schedule, tuple(NOISE_SCHEDULES))
        self.spacing = validation.one_of("process.spacing", spacing, SPACINGS)
        if not (validation.is_finite(beta_start) and validation.is_finite(beta_end) and 0 < beta_start <= beta_end < 1):
            problem = f"process.beta_start={beta_start} and process.beta_end={beta_end} are not a noise schedule"
            raise UserError(f"{problem}; give two increasing numbers between 0 and 1, for example 0.0001 and 0.02")
        validation.whole_number("process.steps", steps, 2, note=", for example 1000")
        if min_snr is not None:
            validation.positive_number("process.min_snr", min_snr, note=", or null for no weights")
        validation.true_or_false("process.zero_snr", zero_snr)
        if prediction == "epsilon" and zero_snr:
            problem = "process.prediction=epsilon is undefined with process.zero_snr=true"
            raise UserError(f"{problem}; give process.prediction=v, or process.zero_snr=false")
        validation.fraction("process.least_weight", least_weight)
        self.least_weight = float(least_weight)
        self.beta_start, self.beta_end, self.steps = float(beta_start), float(beta_end), steps
        self.zero_snr, self.min_snr = zero_snr, None if min_snr is None else float(min_snr)
        self.max_steps = steps
        self._alphas_by_device: dict[torch.device, Tensor] = {}

    def sample_t(self, count: int, generator: Generator | None = None, device: Any = None) -> Tensor:
        """Uniformly distributed times: int64, (count,)."""
        sampling_device = device if generator is None else generator.device
        return torch.randint(0, self.steps, (count,), generator=generator, device=sampling_device).to(device)

    def evenly_spaced_times(self, count: int) -> Tensor:
        return ((torch.arange(count, dtype=torch.float64) + 0.5) / count * self.steps).long()

    def relative_time(self, t: Tensor) -> Tensor:
        return (t.float() + 1) / self.steps

    def log_snr(self, t: Tensor) -> Tensor:
        return torch.logit(self._device_alphas_cumprod(t.device)[t])

    def corrupt(self, x_0: Tensor, t: Tensor, noise: Tensor) -> NoisedBatch:
        signal, sigma = self.signal_and_noise_rates(t, x_0)
        targets = {"epsilon": lambda: noise, "sample": lambda: x_0, "v": lambda: signal * noise - sigma * x_0}
        x_t = signal * x_0 + sigma * noise
        return NoisedBatch(x_t.to(x_0.dtype), t, targets[self.prediction]().to(x_0.dtype), self.weight(t))

    def predict_x0(self, x_t: Tensor, t: Tensor, prediction: Tensor) -> Tensor:
        if self.prediction == "sample":
            return prediction
        signal, sigma = self.signal_and_noise_rates(t, x_t)
        if self.prediction == "v":
            return (signal * x_t - sigma * prediction).to(x_t.dtype)
        return ((x_t - sigma * prediction) / signal).to(x_t.dtype)

    def prediction_from_x0(self, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        signal, sigma = self.signal_and_noise_rates(t, x_t)
        if self.prediction == "epsilon":
            return ((x_t - signal * x_0) / sigma).to(x_t.dtype)
        return x_0 if self.prediction == "sample" else self._x0_to_v(x_0, x_t, t)

    def weight(self, t: Tensor) -> Tensor:
        """Min-SNR loss weights at times ``t``, (B,) each: min(snr, min_snr) for errors of x_0 (arXiv 2303.09556)."""
        if self.min_snr is None:
            return torch.ones(len(t), device=t.device)
        signal = self._device_alphas_cumprod(t.device)[t]
        snr = signal / (1 - signal)
        bounded = snr.clamp(max=self.min_snr)
        weight = bounded / {"v": snr + 1, "epsilon": snr, "sample": torch.ones_like(snr)}[self.prediction]
        return weight.clamp(min=self.least_weight)

    @cached_property
    def alphas_cumprod(self) -> Tensor:
        """Cumulative product of 1 - beta at each noise level: float32, (steps,), decreasing."""
        return self._ddpm_scheduler(self._scheduler_config()).alphas_cumprod

    def _ddpm_scheduler(self, config: dict[str, Any]) -> Any:
        from diffusers import DDPMScheduler

        return DDPMScheduler(**config, clip_sample=False)

    def _scheduler_config(self) -> dict[str, Any]:
        return {
            **scheduler_arguments(self.schedule, self.steps, self.beta_start, self.beta_end),
            "prediction_type": PREDICTION_TYPES[self.prediction],
            "rescale_betas_zero_snr": self.zero_snr,
            "timestep_spacing": "trailing" if self.spacing == "quadratic" else self.spacing,
        }

    def _device_alphas_cumprod(self, device: torch.device) -> Tensor:
        if device not in self._alphas_by_device:
            self._alphas_by_device[device] = self.alphas_cumprod.to(device)
        return self._alphas_by_device[device]

    def signal_and_noise_rates(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        alphas = self._device_alphas_cumprod(t.device)[t.clamp(min=0)].masked_fill(t < 0, 1.0)
        alpha = expand_like(alphas.to(x.device, non_blocking=True), x)
        return alpha.sqrt(), (1 - alpha).sqrt()

    def _build_solver(self, sampler: str, steps: int, strength: float) -> Solver:
        """Build a solver for the lowest ``strength`` * steps noise levels, with unchanged betas."""
        count = max(1, round(strength * self.steps))
        config = self._scheduler_config()
        if count < self.steps:
            betas = self._ddpm_scheduler(config).betas[:count].tolist()
            config |= {"num_train_timesteps": count, "trained_betas": betas, "rescale_betas_zero_snr": False}
        entry, steps = SAMPLERS[self.name][sampler], min(steps, count)
        converts = self.prediction == "sample" and not entry.predicts_x0
        if converts:
            config |= {"prediction_type": PREDICTION_TYPES["v"]}
        scheduler = self._ddpm_scheduler(config) if entry.subsampled_schedule else entry.build(**config)
        scheduler.set_timesteps(steps)
        rounded = scheduler.timesteps.tolist()
        # Rounding by diffusers can repeat a timestep, or end with -1 (trailing, 61 steps).
        valid = sorted({int(time) for time in rounded if time >= 0}, reverse=True)
        times = quadratic_timesteps(count, steps) if self.spacing == "quadratic" else valid
        if times != rounded:
            _set_timesteps(scheduler, times)
        if entry.subsampled_schedule:
            scheduler = _subsampled_scheduler(entry, scheduler, times)
        return Solver(scheduler, times, entry.stochastic, **({"convert_prediction": self._x0_to_v} if converts else {}))

    def _x0_to_v(self, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        signal, sigma = self.signal_and_noise_rates(t, x_t)
        return (signal * x_t - x_0) / sigma


def quadratic_timesteps(count: int, steps: int) -> list[int]:
    """Decreasing timesteps from ``count`` - 1 with linearly decreasing distances (most steps at low noise)."""
    times = [count]
    for remaining in range(steps, 0, -1):
        time = round(count * (remaining / steps) ** 2) - 1
        times.append(max(remaining - 1, min(times[-1] - 1, time)))
    return times[1:]


def _subsampled_scheduler(entry: Sampler, scheduler: Any, times: list[int]) -> Any:
    """Build the scheduler of ``entry``, with the noise schedule of ``scheduler`` reduced to the levels at ``times``."""
    alphas = scheduler.alphas_cumprod[times[::-1]].double()
    betas = 1 - alphas / torch.cat([alphas.new_ones(1), alphas[:-1]])
    kind = scheduler.config.prediction_type
    subsampled = entry.build(num_train_timesteps=len(times), trained_betas=betas.tolist(), prediction_type=kind)
    subsampled.set_timesteps(len(times))
    return subsampled


def _set_timesteps(scheduler: Any, times: list[int]) -> None:
    """Set the timesteps of ``scheduler`` to ``times``, and its sigmas accordingly."""
    scheduler.timesteps = torch.tensor(times, dtype=scheduler.timesteps.dtype)
    if hasattr(scheduler, "sigmas"):
        alphas = scheduler.alphas_cumprod[times]
        scheduler.sigmas = torch.cat([((1 - alphas) / alphas).sqrt(), torch.zeros(1)])
