"""The diffusion model: denoiser, conditions, noise process and metadata, and its files in an artifact."""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from echodream import validation
from echodream.artifact import read_artifact
from echodream.diffusion.conditioning.conditioner import Conditioner
from echodream.diffusion.conditioning.reference import interpolate_references, repeat_key_frames
from echodream.diffusion.few_step_input import FewStepInput
from echodream.diffusion.few_steps import FewStepConfig
from echodream.diffusion.guidance import Guidance, Predict
from echodream.diffusion.processes import read_process
from echodream.diffusion.processes.base import Denoise, Process
from echodream.errors import UserError
from echodream.networks.denoisers.base import Denoiser
from echodream.networks.denoisers.registry import load_denoiser
from echodream.store import Statistics
from echodream.types import Batch
from echodream.weights import fingerprint, load_strictly, read_weights, save_weights

METADATA_FILE = "diffusion.json"
CONDITIONER_FILE = "conditioner.safetensors"
FEW_STEPS_FILE = "few_steps.safetensors"


@dataclass(frozen=True)
class ModelMetadata:
    """Metadata of the training data of a diffusion model, such as shape and statistics of the latents."""

    channels: int
    """Number of channels of one latent frame."""
    height: int
    width: int
    frames: int
    """Number of frames of a training sample; 1 for an image, 3 for jointly generated key frames."""
    fps: float
    """Frames per second of a training clip, including the stride of the view."""
    statistics: Statistics
    """Mean and standard deviation of each latent channel, by which latents are whitened."""
    encoder: str
    """Fingerprint of the autoencoder that encoded the latents."""
    reference_times: tuple[float, ...] = ()
    """Mean time of each reference frame, in frames (key frames: since the first one); empty for random times."""
    beat_spread: float | None = None
    """Coefficient of variation of the beat length; None if the references are not key frames of a beat."""
    shared_noise: float = 0.0
    """Correlation between the noise of two frames of a clip."""
    residual: tuple[float, ...] | None = None
    """Standard deviation of residuals, per channel (of each key frame); None if the process models latents.

    Residuals are clips minus interpolated references, or key frames minus the first key frame, whose entry is 1.
    """

    def __post_init__(self) -> None:
        sizes, numbers = (self.channels, self.height, self.width, self.frames), (self.fps, self.beat_spread or 0.0)
        if not all(validation.is_whole(size, 1) for size in sizes) or not 0 <= float(self.shared_noise) < 1:
            raise ValueError(f"invalid sizes {sizes} or shared noise {self.shared_noise}")
        if not all(map(math.isfinite, (*numbers, *self.reference_times))) or self.fps <= 0 or numbers[1] < 0:
            raise ValueError(f"invalid times: {numbers}, {self.reference_times}")
        if self.beat_spread is not None and len(self.reference_times) != 3:
            raise ValueError(f"a beat has 3 key frames, not {len(self.reference_times)}")
        if not re.fullmatch(r"([0-9a-f]{64})?", self.encoder):
            raise ValueError(f"{self.encoder[:80]!r} is not a fingerprint of an encoder")
        if len(self.statistics.mean) != self.channels:
            raise ValueError(f"statistics of {len(self.statistics.mean)} channels, not of {self.channels}")
        stds = self.residual or (1.0,) * self.channels
        if len(stds) not in (self.channels, self.channels * self.frames) or not all(
            math.isfinite(std) and std > 0 for std in stds
        ):
            raise ValueError(f"invalid standard deviations of residuals: {stds}")


class DiffusionModel(nn.Module):
    """Diffusion model of whitened latents: images (B, C, H, W), clips (B, C, F, H, W), or key frames (B, 3 C, H, W).

    A distilled model has a process with ``few_steps``, and a ``FewStepInput`` if ``few_steps.has_network_inputs``.
    """

    def __init__(self, denoiser: Denoiser, conditioner: Conditioner, process: Process, metadata: ModelMetadata) -> None:
        super().__init__()
        if conditioner.columns and not denoiser.takes_tokens:
            problem = f"the denoiser has no input for conditions, but the model has {', '.join(conditioner.columns)}"
            raise UserError(f"{problem}: give conditioning=[]")
        self.denoiser, self.conditioner, self.process, self.metadata = denoiser, conditioner, process, metadata
        self.is_video = denoiser.is_video
        self.few_step_input: FewStepInput | None = None
        if process.few_steps is not None:
            self._check_few_steps(process.few_steps)
            if process.few_steps.has_network_inputs:
                self.few_step_input = FewStepInput(process.few_steps, process, denoiser.time_embedding_width)

    def _check_few_steps(self, few_steps: FewStepConfig) -> None:
        """Raise ``UserError`` if ``few_steps`` has guidance for a condition that the model does not have."""
        if unknown := [name for name in few_steps.guidance if name not in self.conditioner.names]:
            known = ", ".join(self.conditioner.names) or "none"
            problem = f"distill.guidance.{unknown[0]} is not a condition of this model; its conditions are {known}"
            raise UserError(f"{problem}: give distill.guidance=null, or +distill.guidance.<condition>=[1,3]")

    def forward(self, x_t: Tensor, t: Tensor, values: Mapping[str, Tensor], keep: Mapping[str, Tensor]) -> Tensor:
        """Prediction for x_t (B, C, *rest) at t (B,). Conditions are null embeddings where ``keep`` is false."""
        t = t.to(x_t.device, non_blocking=True)
        condition = self.conditioner(values, keep, x_t.shape[2:])
        if self.few_step_input is not None:
            condition = replace(condition, time=self.few_step_input(t, values))
        prediction: Tensor = self.denoiser(x_t, t, condition)
        return prediction.clone() if self.denoiser.reuses_output_memory else prediction

    def condition_values(self, batch: Batch) -> dict[str, Tensor]:
        """Encoded conditions of a batch, by name. ``reference_time`` of the batch may be on the CPU."""
        values = self.repeat_key_frames(self.conditioner.encode_batch(batch), batch["x"].shape[2])
        return {name: value.to(batch["x"].device, non_blocking=True) for name, value in values.items()}

    def repeat_key_frames(self, values: dict[str, Tensor], frames: int) -> dict[str, Tensor]:
        """Repeat the references in ``values`` over ``frames`` frames if they are key frames of one beat."""
        if self.metadata.beat_spread is None:
            return values
        reference, time = repeat_key_frames(values["reference"], values["reference_time"], frames)
        return {**values, "reference": reference, "reference_time": time}

    def to_residual(self, x: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """Standardized residual of whitened latents ``x``; ``x`` if the process does not model residuals."""
        if self.metadata.residual is None:
            return x
        return (x - self._residual_baseline(x, values)) / self._residual_std(x)

    def from_residual(self, residual: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """Whitened latents from a standardized residual, the inverse of ``to_residual``."""
        if self.metadata.residual is None:
            return residual
        return residual * self._residual_std(residual) + self._residual_baseline(residual, values)

    def _residual_baseline(self, x: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """Baseline of residuals: interpolated references of a clip, or the first key frame in ``x``."""
        if self.is_video:
            return interpolate_references(values["reference"].to(x), values["reference_time"], x.shape[2])
        first = x[:, : self.metadata.channels]
        return torch.cat([torch.zeros_like(first), *[first] * (self.metadata.frames - 1)], dim=1)

    def _residual_std(self, x: Tensor) -> Tensor:
        std = torch.tensor(self.metadata.residual, dtype=x.dtype).to(x.device, non_blocking=True)
        return std.view(-1, *[1] * (x.ndim - 2))

    def predictor(self, values: Mapping[str, Tensor], inputs: Mapping[str, Tensor] | None = None) -> Predict:
        """Function that predicts with several sets of kept conditions in one network call, for condition ``values``.

        ``inputs`` are the inputs of a distilled model, (1, ...) each, the same for all rows.
        """
        values, inputs = self.conditioner.precompute(values), inputs or {}

        def predict(x_t: Tensor, t: Tensor, kept: Sequence[frozenset[str]]) -> Tensor:
            sets, rows, keep = len(kept), len(x_t), {}
            for name in self.conditioner.names:  # created on the device, without a copy from the CPU
                keep[name] = torch.cat([torch.full((rows,), name in subset, device=x_t.device) for subset in kept])
            x = x_t.repeat(sets, *[1] * (x_t.ndim - 1))
            given = {**repeat_values(values, sets), **repeat_values(inputs, len(x))}
            return self(x, t.repeat(sets), given, keep).unflatten(0, (sets, rows))

        return predict

    def guided_denoiser(
        self, guidance: Guidance, values: Mapping[str, Tensor], steps: int | None = None, weak: Predict | None = None
    ) -> Denoise:
        """Denoiser with condition ``values`` and ``guidance``, for sampling in ``steps`` steps.

        A distilled model takes guidance scales as an input, so that each step is one evaluation. ``steps`` None: the
        largest number of steps of a distilled model. ``weak`` is the weaker model of autoguidance.
        """
        names, few_steps, inputs = self.conditioner.names, self.process.few_steps, {}
        if few_steps is not None:
            guidance.check_distilled(few_steps)
            inputs, guidance = few_steps.encode(guidance.scales, steps, next(self.parameters()).device), Guidance()
        return guidance.guided_denoiser(self.predictor(values, inputs), names, self.process, weak)

    def fingerprint(self) -> str:
        """SHA-256 of all weights and of the JSON text of ``settings``."""
        settings = json.dumps(self.settings(), sort_keys=True)
        return hashlib.sha256(f"{fingerprint(self)}\n{settings}".encode()).hexdigest()

    def settings(self) -> dict[str, Any]:
        """Settings of the process and the conditions, and the metadata, as JSON values."""
        process, conditioning = self.process.settings(), self.conditioner.settings()
        few_steps = self.process.few_steps
        distilled = {} if few_steps is None else {"few_steps": few_steps.settings()}
        return {"process": process, "conditioning": conditioning, "facts": asdict(self.metadata), **distilled}

    def save(self, folder: Path) -> None:
        """Write the denoiser in the format of diffusers, the conditioner weights, and ``settings`` as JSON."""
        self.denoiser.save(folder)
        save_weights(self.conditioner, folder / CONDITIONER_FILE)
        if self.few_step_input is not None:
            save_weights(self.few_step_input, folder / FEW_STEPS_FILE)
        (folder / METADATA_FILE).write_text(json.dumps(self.settings(), indent=2) + "\n", encoding="utf-8")


def repeat_values(values: Mapping[str, Tensor], times: int) -> dict[str, Tensor]:
    """Repeat condition ``values``, (B, ...), ``times`` times along the batch dimension."""
    return {name: value.repeat(times, *[1] * (value.ndim - 1)) for name, value in values.items()}


def load_diffusion_model(folder: str, name: str) -> DiffusionModel:
    """Load the artifact ``folder`` of train.py model=``name``. Raises ``UserError`` for an invalid artifact."""
    artifact, root, denoiser = read_artifact(folder, name), Path(folder), load_denoiser(folder)
    try:
        settings: Any = json.loads((root / METADATA_FILE).read_text(encoding="utf-8"))
        fields = dict(settings["facts"])
        fields["statistics"] = Statistics(*(tuple(fields["statistics"][key]) for key in ("mean", "std")))
        fields["reference_times"] = tuple(fields["reference_times"])
        fields["residual"] = fields.get("residual") and tuple(fields["residual"])
        metadata = ModelMetadata(**fields)
        process, conditioner = read_process(settings), Conditioner.from_settings(settings["conditioning"])
        model = DiffusionModel(denoiser, conditioner, process, metadata)
        channels = metadata.channels * (1 if model.is_video else metadata.frames)
        denoiser.check_dimensions(channels, conditioner.extra_channels, conditioner.width)
    except UserError as error:
        raise UserError(f"{root / METADATA_FILE}: {error}") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{root / METADATA_FILE} is not readable: train the {name} again") from error
    parts = {CONDITIONER_FILE: conditioner, FEW_STEPS_FILE: model.few_step_input}
    for part, module in parts.items():
        if module is not None:
            file = str(root / part)
            load_strictly(
                module, read_weights(file), file, f"{METADATA_FILE} has other conditions: train the {name} again"
            )
    if model.fingerprint() != artifact.fingerprint:
        raise UserError(f"{folder}: weights or {METADATA_FILE} have changed since training: train the {name} again")
    return model.requires_grad_(False).eval()
