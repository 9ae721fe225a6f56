"""The DDPM family: a thousand noise levels, from data to noise of the same variance (2006.11239)."""

from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from echodream import validation
from echodream.diffusion.processes.base import Noised, Process, expand
from echodream.diffusion.samplers import Solver
from echodream.errors import UserError

PREDICTIONS = {"v": "v_prediction", "epsilon": "epsilon", "sample": "sample"}
SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}
SPACINGS = ("trailing", "quadratic", "leading")


class DDPM(Process):
    """x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) noise, t = 0 .. steps - 1, with a_t the cumulative product of 1 - beta.

    ``prediction`` is what networks return: ``v`` = sqrt(a_t) noise - sqrt(1 - a_t) x_0 (2202.00512), ``epsilon`` (the
    noise) or ``sample`` (x_0). ``zero_snr`` rescales the betas so that the last level is nothing but noise, and
    ``spacing`` says where sampling steps: ``trailing`` evenly from there on (2305.08891), ``quadratic`` from there too,
    but more where there is little noise (2010.02502, appendix D.2). ``min_snr`` bounds how much a level counts by its
    signal-to-noise ratio (2303.09556); None: all count the same. With zero SNR that weight falls to 0 at the last
    level, and half of all levels count for next to nothing: ``least_weight`` is what each counts for at least.
    """

    name: ClassVar[str] = "ddpm"
    samplers: ClassVar[tuple[str, ...]] = ("dpmpp_2m", "unipc", "ddim", "ddpm")

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
        self.prediction = validation.one_of("process.prediction", prediction, tuple(PREDICTIONS))
        self.schedule = validation.one_of("process.schedule", schedule, tuple(SCHEDULES))
        self.spacing = validation.one_of("process.spacing", spacing, SPACINGS)
        if not (validation.is_finite(beta_start) and validation.is_finite(beta_end) and 0 < beta_start <= beta_end < 1):
            raise UserError(
                f"process.beta_start={beta_start} and process.beta_end={beta_end} make no schedule; "
                "give two rising numbers between 0 and 1, for example 0.0001 and 0.02"
            )
        validation.whole_number("process.steps", steps, 2, note=", for example 1000")
        if min_snr is not None:
            validation.positive_number("process.min_snr", min_snr, note=", or null for no weights")
        validation.true_or_false("process.zero_snr", zero_snr)
        if prediction == "epsilon" and zero_snr:
            raise UserError(
                "process.prediction=epsilon cannot go with process.zero_snr=true, because noise alone says nothing of "
                "the data; take process.prediction=v, or process.zero_snr=false"
            )
        validation.share("process.least_weight", least_weight)
        self.least_weight = float(least_weight)
        self.beta_start, self.beta_end, self.steps = float(beta_start), float(beta_end), steps
        self.zero_snr, self.min_snr = zero_snr, None if min_snr is None else float(min_snr)
        self.most_steps = steps
        self._tables: dict[torch.device, Tensor] = {}

    def settings(self) -> dict[str, Any]:
        keys = (
            "prediction",
            "schedule",
            "beta_start",
            "beta_end",
            "steps",
            "zero_snr",
            "spacing",
            "min_snr",
            "least_weight",
        )
        return {"name": self.name, **{key: getattr(self, key) for key in keys}}

    def sample_t(self, count: int, generator: Generator | None = None, device: Any = None) -> Tensor:
        """Uniform over all levels: int64, (count,)."""
        where = device if generator is None else generator.device
        return torch.randint(0, self.steps, (count,), generator=generator, device=where).to(device)

    def levels(self, count: int) -> Tensor:
        """The middle of each of ``count`` equal parts: int64, (count,)."""
        return ((torch.arange(count, dtype=torch.float64) + 0.5) / count * self.steps).long()

    def level(self, t: Tensor) -> Tensor:
        """(t + 1) / steps."""
        return (t.float() + 1) / self.steps

    def corrupt(self, x_0: Tensor, t: Tensor, noise: Tensor) -> Noised:
        signal, sigma = self._rates(t, x_0)
        targets = {"epsilon": lambda: noise, "sample": lambda: x_0, "v": lambda: signal * noise - sigma * x_0}
        x_t = signal * x_0 + sigma * noise
        return Noised(x_t.to(x_0.dtype), t, targets[self.prediction]().to(x_0.dtype), self.weight(t))

    def denoised(self, x_t: Tensor, t: Tensor, prediction: Tensor) -> Tensor:
        if self.prediction == "sample":
            return prediction
        signal, sigma = self._rates(t, x_t)
        if self.prediction == "v":
            return (signal * x_t - sigma * prediction).to(x_t.dtype)
        return ((x_t - sigma * prediction) / signal).to(x_t.dtype)

    def weight(self, t: Tensor) -> Tensor:
        """Of the squared error at each time of ``t``, (B,): min(snr, min_snr) of x_0's error, said of the prediction's.

        x_0's error is 1 / snr times epsilon's, and 1 / (snr + 1) times v's (2303.09556, section 3.4).
        """
        if self.min_snr is None:
            return torch.ones(len(t), device=t.device)
        signal = self._table(t.device)[t]
        snr = signal / (1 - signal)
        bounded = snr.clamp(max=self.min_snr)
        weight = bounded / {"v": snr + 1, "epsilon": snr, "sample": torch.ones_like(snr)}[self.prediction]
        return weight.clamp(min=self.least_weight)

    @cached_property
    def alphas_cumprod(self) -> Tensor:
        """Share of the data's variance at each level: float32, (steps,), from almost 1 to 0."""
        return self._schedule().alphas_cumprod

    def _schedule(self) -> Any:
        from diffusers import DDPMScheduler

        return DDPMScheduler(**self._config(), clip_sample=False)

    def _config(self) -> dict[str, Any]:
        return {
            "num_train_timesteps": self.steps,
            "beta_schedule": SCHEDULES[self.schedule],
            "beta_start": self.beta_start,
            "beta_end": self.beta_end,
            "prediction_type": PREDICTIONS[self.prediction],
            "rescale_betas_zero_snr": self.zero_snr,
            "timestep_spacing": "trailing" if self.spacing == "quadratic" else self.spacing,
        }

    def _table(self, device: torch.device) -> Tensor:
        if device not in self._tables:
            self._tables[device] = self.alphas_cumprod.to(device)
        return self._tables[device]

    def _rates(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the data and the noise are multiplied by, each (B, 1, ..., 1)."""
        share = expand(self._table(x.device)[t.to(x.device)], x)
        return share.sqrt(), (1 - share).sqrt()

    def _solver(self, sampler: str, steps: int, strength: float) -> Solver:
        """On the first ``strength`` of the schedule, which is itself a schedule: of its own length, with its betas."""
        from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler

        count = max(1, round(strength * self.steps))
        config = self._config()
        if count < self.steps:
            betas = self._schedule().betas[:count].tolist()
            config |= {"num_train_timesteps": count, "trained_betas": betas, "rescale_betas_zero_snr": False}
        scheduler = {
            "dpmpp_2m": lambda: DPMSolverMultistepScheduler(**config, algorithm_type="dpmsolver++", solver_order=2),
            "unipc": lambda: UniPCMultistepScheduler(**config, solver_order=2),
            "ddim": lambda: DDPMScheduler(**config, clip_sample=False),
            "ddpm": lambda: DDPMScheduler(**config, clip_sample=False),
        }[sampler]()
        steps = min(steps, count)
        scheduler.set_timesteps(steps)
        own = scheduler.timesteps.tolist()
        # Spacing by rounding gives, for some numbers of steps, one time twice, or -1 at the end (trailing, 61 steps).
        sound = sorted({time for time in own if time >= 0}, reverse=True)
        times = quadratically(count, steps) if self.spacing == "quadratic" else sound
        if times != own:
            _place(scheduler, times)
        if sampler == "ddim":
            scheduler = _ddim(scheduler, times)
        return Solver(scheduler, times, stochastic=sampler == "ddpm")


def quadratically(count: int, steps: int) -> list[int]:
    """Falling times from ``count`` - 1, with distances that fall evenly too: most steps where there is little noise."""
    times = [count]
    for left in range(steps, 0, -1):
        wanted = round(count * (left / steps) ** 2) - 1
        times.append(max(left - 1, min(times[-1] - 1, wanted)))
    return times[1:]


def _ddim(scheduler: Any, times: list[int]) -> Any:
    """DDIM's scheduler on a schedule of only the levels at ``times``, each of which it then visits.

    On the whole schedule it steps by the whole part of 1000 / steps, and misses its own times where there is a rest.
    """
    from diffusers import DDIMScheduler

    share = scheduler.alphas_cumprod[times[::-1]].double()
    betas = 1 - share / torch.cat([share.new_ones(1), share[:-1]])
    kind = scheduler.config.prediction_type
    ddim = DDIMScheduler(len(times), trained_betas=betas.tolist(), prediction_type=kind, clip_sample=False)
    ddim.set_timesteps(len(times))
    return ddim


def _place(scheduler: Any, times: list[int]) -> None:
    """Let ``scheduler`` step through ``times`` of its schedule."""
    scheduler.timesteps = torch.tensor(times)
    if hasattr(scheduler, "sigmas"):
        share = scheduler.alphas_cumprod[times]
        scheduler.sigmas = torch.cat([((1 - share) / share).sqrt(), torch.zeros(1)])
