"""Differentially private training (DP-SGD) of a diffusion model. The unit of privacy is the patient."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from echodream.modules.latent_diffusion import LatentDiffusion
from echodream.privacy.private_steps import PrivacyBudget, PrivacySettings, plan_budget, private_gradient, secret_seed


class PrivateTraining:
    """Differentially private training steps, which replace the normal training steps of a ``LatentDiffusion``.

    ``sampling_rate`` is the probability that a patient is sampled in a step. All random numbers come from the secret
    ``key``: an attacker who knows the noise can subtract it, and sampling adds privacy only if its result is secret.
    """

    def __init__(self, settings: PrivacySettings, sampling_rate: float, key: bytes) -> None:
        self.settings, self.sampling_rate, self.key = settings, sampling_rate, key
        self.budget: PrivacyBudget | None = None

    def choose_noise_multiplier(self, steps: int) -> None:
        """Choose the noise multiplier of DP-SGD for ``steps`` training steps. Raises ``UserError``."""
        self.budget = plan_budget(self.settings, self.sampling_rate, steps)

    def private_optimizer_step(self, module: LatentDiffusion, batch: Mapping[str, Any]) -> None:
        """Update ``module`` by one DP-SGD step. ``batch``: an item of ``PatientBatches``."""
        assert self.budget is not None
        optimizer: Any = module.optimizers()
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        step = module.trainer.global_step
        private_gradients = private_gradient(
            self._patient_gradients(module, batch, parameters, step),
            parameters,
            self.settings.clip,
            self.budget.noise,
            self.settings.patients,
            secret_seed(self.key, "noise", step),
        )
        for parameter, gradient in zip(parameters, private_gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        optimizer.zero_grad()
        schedule: Any = module.lr_schedulers()
        if schedule is not None:
            schedule.step()

    def _patient_gradients(
        self, module: LatentDiffusion, batch: Mapping[str, Any], parameters: list[Tensor], step: int
    ) -> Iterator[list[Tensor]]:
        """For each patient of ``batch``: gradients of the mean loss of the patient's samples, one per parameter."""
        for patient in batch["patients"]:
            name = patient["name"][0]
            torch.manual_seed(secret_seed(self.key, "training", step, name))
            loss = module.log_training_loss(module.training_loss(patient), patient["name"], len(patient["name"]))
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            yield [
                torch.zeros_like(parameter) if gradient is None else gradient
                for parameter, gradient in zip(parameters, gradients, strict=True)
            ]

    def guarantee_record(self, initial: str) -> dict[str, Any]:
        """Privacy guarantee for artifact.json. ``initial`` is the fingerprint of the public initial weights."""
        assert self.budget is not None
        return {**asdict(self.budget), "unit": "patient", "clip": self.settings.clip, "initial": initial}
