"""Training of latent diffusion models of images (``model=lidm``) and clips (``model=lvdm``)."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from echodream import validation
from echodream.artifact import Artifact, write_artifact
from echodream.datamodules.datamodule import StoreData
from echodream.datamodules.normalization import unwhiten
from echodream.datamodules.views import Clips, Triplet
from echodream.diffusion.conditioning.conditioner import Conditioner
from echodream.diffusion.conditioning.reference import interpolate_references, repeat_key_frames
from echodream.diffusion.guidance import Guidance
from echodream.diffusion.model import DiffusionModel, ModelMetadata, load_diffusion_model
from echodream.diffusion.noise import add_noise_offset, sample_noise
from echodream.diffusion.processes.base import Process
from echodream.errors import UserError
from echodream.losses.auxiliary import AuxiliaryClassifier
from echodream.losses.denoising import mean_squared_errors
from echodream.modules.trainable import Trainable
from echodream.networks.acceleration import attention_kernel
from echodream.networks.denoisers.base import Denoiser
from echodream.networks.denoisers.registry import check_registered
from echodream.sampling.sampling_module import SamplingConfig, SamplingModule
from echodream.types import Batch

_MIN_RESIDUAL_STD = 1e-3
"""Lower bound of the standard deviation of residuals, for channels without motion."""
NOISE_BANDS = 4
"""Number of bands of noise levels with separately logged errors."""
_ESTIMATION_SAMPLES = 256
"""Number of training samples for estimates of reference times and standard deviations of residuals."""


class PrivateSteps(Protocol):
    """Training steps that are differentially private (``modules.private_training``)."""

    def plan(self, steps: int) -> None:
        """Choose the noise multiplier of DP-SGD for a training run of ``steps`` steps."""

    def private_optimizer_step(self, module: "LatentDiffusion", batch: Mapping[str, Any]) -> None:
        """Update ``module`` by one optimizer step with clipped, noisy gradients of ``batch``."""


class LatentDiffusion(Trainable):
    """Train a latent diffusion model of images (B, C, H, W) or clips (B, C, F, H, W).

    ``denoiser`` is a partial that builds the network from ``channels``, ``extra_channels`` and ``token_width``.
    ``conditions``, ``width``, ``joint_dropout``: see ``Conditioner``. ``optimizer``, ``schedule``: see ``Trainable``.
    ``checkpointing`` enables gradient checkpointing. ``compile``, ``channels_last``: see ``Denoiser.accelerate``.
    ``shared_noise``, ``noise_offset``: see ``diffusion.noise``. With ``residual``, the process models residuals
    (``ModelMetadata.residual``). ``auxiliary`` is an additional loss on the denoised estimate of clips. ``initial`` is
    the folder of an artifact with the same settings, whose weights and metadata the training starts with; data are
    normalized by its statistics.
    """

    bf16_precision: ClassVar[str] = "bf16-mixed"

    def __init__(
        self,
        denoiser: Callable[..., Denoiser],
        conditions: Mapping[str, nn.Module],
        width: int,
        process: Process,
        optimizer: Callable[..., torch.optim.Optimizer],
        schedule: Callable[..., torch.optim.lr_scheduler.LRScheduler] | None = None,
        checkpointing: bool = False,
        compile: bool | str = False,
        channels_last: bool = False,
        shared_noise: float = 0.0,
        residual: bool = False,
        joint_dropout: float = 0.0,
        noise_offset: float = 0.0,
        auxiliary: AuxiliaryClassifier | None = None,
        initial: str | None = None,
    ) -> None:
        super().__init__()
        self.initial = initial
        self.auxiliary = auxiliary
        self.residual = residual
        note = ", for example 0.5"
        self.shared_noise = float(validation.number("model.shared_noise", shared_noise, 0, below=1, note=note))
        self.noise_offset = validation.number("model.noise_offset", noise_offset, 0, note=", for example 0.1")
        self.make_denoiser, self.process = denoiser, process
        self.conditioner = Conditioner(conditions, width, joint_dropout)
        self.columns = tuple(dict.fromkeys([*self.conditioner.columns, *(["class_id"] if auxiliary else [])]))
        self.make_optimizer, self.make_schedule = optimizer, schedule
        self.checkpointing, self.compiled, self.channels_last = checkpointing, compile, channels_last
        self.model: DiffusionModel
        self._band_sums: Tensor | None = None
        """Sum and number of the errors in each band of noise levels since the last log, (2, ``NOISE_BANDS``)."""
        self.private: PrivateSteps | None = None

    def make_private(self, steps: "PrivateSteps") -> None:
        """Train with ``steps`` in place of the steps of Lightning."""
        self.private, self.automatic_optimization = steps, False

    def configure_optimizers(self) -> Any:
        if self.private is not None:
            self.private.plan(int(self.trainer.estimated_stepping_batches))
        return super().configure_optimizers()

    def configure_from_data(self, data: StoreData) -> None:
        """Build the network for the latents and conditions of ``data``. Raises ``UserError`` for unsuitable data."""
        store, view = data.store, data.view
        if store.dataset.kind != "latent":
            raise UserError(f"{store.root} holds videos: encode them (stage=encode), or give src= a store of latents")
        if ("reference" in self.conditioner.names) != (isinstance(view, Clips) and view.reference != "none"):
            remedy = "set both, or neither (conditioning=[class_id] view.reference=none)"
            raise UserError(f"conditioning=reference and view.reference need each other: {remedy}")
        network, metadata = self._new_network(data) if self.initial is None else self._initial_network(data)
        self.model = DiffusionModel(network, self.conditioner, self.process, metadata)
        if self.checkpointing:
            network.enable_gradient_checkpointing()
        network.accelerate(self.compiled, self.channels_last, "model.")

    def _new_network(self, data: StoreData) -> tuple[Denoiser, ModelMetadata]:
        """Untrained network for ``data``, and the metadata of ``data``."""
        store, view, rows = data.store, data.view, data.recordings("TRAIN")
        channels, statistics = store.dataset.channels, store.dataset.statistics
        assert statistics is not None
        times, spread = _reference_times(data)
        self.conditioner.fit(rows.table, channels)
        stride = view.stride if isinstance(view, Clips) else 1
        residual = None
        if self.residual and self.conditioner.interpolates_references:
            residual = _residual_std(data, spread is not None)
        elif self.residual and isinstance(view, Triplet):
            residual = _key_frame_std(data, channels)
        metadata = ModelMetadata(
            channels=channels,
            height=int(rows.table["FrameHeight"].iloc[0]),
            width=int(rows.table["FrameWidth"].iloc[0]),
            frames=view.frames if isinstance(view, Clips) else 3 if isinstance(view, Triplet) else 1,
            fps=float(np.median(rows.table["FPS"])) / stride,
            statistics=statistics,
            encoder=store.dataset.encoder or "",
            reference_times=times,
            beat_spread=spread,
            shared_noise=self.shared_noise,
            residual=residual,
        )
        sample_channels = channels * 3 if isinstance(view, Triplet) else channels
        extra_channels, token_width = self.conditioner.extra_channels, self.conditioner.width
        network = self.make_denoiser(channels=sample_channels, extra_channels=extra_channels, token_width=token_width)
        check_registered(network)
        return network, metadata

    def _initial_network(self, data: StoreData) -> tuple[Denoiser, ModelMetadata]:
        """Trained network and metadata of the artifact ``initial``, whose conditions are copied."""
        folder, video, found = str(self.initial), isinstance(data.view, Clips), data.store.dataset
        model = load_diffusion_model(folder, "lvdm" if video else "lidm")
        same_view = video or model.metadata.frames == (3 if isinstance(data.view, Triplet) else 1)
        same_process = model.process.settings() == self.process.settings()
        if not (same_view and same_process and model.metadata.encoder == found.encoder):
            raise UserError(
                f"initial={folder} has another process, view or autoencoder: give a model that has the same"
            )
        self.conditioner.copy_from(model.conditioner)
        data.store.dataset = replace(found, statistics=model.metadata.statistics)
        return model.denoiser.requires_grad_(True).train(), model.metadata

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """Training loss, scalar; None after a differentially private step, which updates the weights itself."""
        if self.private is not None:
            self.private.private_optimizer_step(self, batch)
            return None
        return self.log_training_loss(self.training_loss(batch), batch["name"], len(batch["x"]))

    def training_loss(self, batch: Batch) -> Tensor:
        """Weighted squared error of the prediction from corrupted latents, scalar, plus the auxiliary loss."""
        values = self.model.condition_values(batch)
        x = self.model.to_residual(batch["x"], values)
        noise = add_noise_offset(sample_noise(x.shape, self.shared_noise, device=x.device), self.noise_offset)
        noised = self.process.corrupt(x, self.process.sample_t(len(x), device=x.device), noise.to(x.dtype))
        dropout = self.conditioner.sample_dropout(len(x))
        keep = {name: kept.to(x.device, non_blocking=True) for name, kept in dropout.items()}
        with attention_kernel(x.device):
            prediction = self.model(noised.x_t, noised.t, values, keep)
        errors = mean_squared_errors(prediction, noised.target, batch.get("mask"))
        loss = (noised.weight * errors).mean()
        if self.auxiliary is not None:
            estimate = self.model.from_residual(self.process.predict_x0(noised.x_t, noised.t, prediction), values)
            latents = unwhiten(estimate, self.model.metadata.statistics, dim=1)
            signal = torch.sigmoid(self.process.log_snr(noised.t))
            term = self.auxiliary(latents, torch.as_tensor(batch["columns"]["class_id"]), signal)
            self.log("train/auxiliary", term.detach(), batch_size=len(x))
            loss = loss + self.auxiliary.weight * term
        self._log_noise_band_errors(noised.t, errors.detach())
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the loss of validation patients at fixed noise levels, with equal noise in every epoch."""
        self._evaluate("val", batch, batch_idx)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("test", batch, batch_idx)

    def export(self, root: Path, data: StoreData, artifact: Artifact, config: str) -> None:
        artifact = replace(artifact, fingerprint=self.model.fingerprint())
        write_artifact(root, artifact, config, self.model.save)

    @torch.no_grad()
    def preview(self, batch: Batch, count: int, steps: int) -> Tensor:
        """Sample unscaled latents, (N, C, F, H, W), with the conditions of the first ``count`` rows of ``batch``."""
        values = {name: value[:count] for name, value in self.model.condition_values(batch).items()}
        sampler = SamplingModule(self.model, SamplingConfig(0, steps, None, Guidance())).to(self.device)
        return sampler.sample_latents(list(range(min(count, len(batch["x"])))), values)

    def _evaluate(self, stage: str, batch: Batch, batch_idx: int) -> None:
        x, values, mask = self._held_out_inputs(batch)
        x = self.model.to_residual(x, values)
        generator = torch.Generator().manual_seed(batch_idx)
        keep = {name: torch.ones(len(x), dtype=torch.bool, device=x.device) for name in self.conditioner.names}
        for band, t in enumerate(self.process.evenly_spaced_times(NOISE_BANDS).to(x.device), 1):
            noise = sample_noise(x.shape, self.shared_noise, generator).to(x.device)
            noised = self.process.corrupt(x, t.expand(len(x)), noise)
            errors = mean_squared_errors(self.model(noised.x_t, noised.t, values, keep), noised.target, mask)
            options: dict[str, Any] = {"batch_size": len(x), "on_epoch": True, "sync_dist": True}
            self.log(f"{stage}/loss", (noised.weight * errors).mean(), **options)
            self.log(f"{stage}/error_band{band}", errors.mean(), on_step=False, **options)

    def _held_out_inputs(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor], Tensor | None]:
        """Latents, condition values and mask of a held-out batch. An image model gets all recorded frames of clips."""
        x, values = batch["x"], self.model.condition_values(batch)
        if self.model.is_video or x.ndim == 4:
            return x, values, batch.get("mask")
        clip, frame = batch["mask"].nonzero(as_tuple=True)
        return x[clip, :, frame], {name: value[clip] for name, value in values.items()}, None

    def _log_noise_band_errors(self, t: Tensor, errors: Tensor) -> None:
        """Log the unweighted error in each band of noise levels, from band 1 (lowest noise), since the last log."""
        band = (self.process.relative_time(t) * NOISE_BANDS).long().clamp(max=NOISE_BANDS - 1)
        inside = (band[:, None] == torch.arange(NOISE_BANDS, device=t.device)).float()
        sums = torch.stack([(errors[:, None] * inside).sum(dim=0), inside.sum(dim=0)])
        self._band_sums = sums if self._band_sums is None else self._band_sums + sums
        if self.logs_this_step:
            for number, (total, count) in enumerate(self._band_sums.T.tolist(), 1):
                if count:
                    self.log(f"train/error_band{number}", total / count, batch_size=int(count))
            self._band_sums = None


def _select_training_samples(data: StoreData) -> list[dict[str, Any]]:
    """Training samples, evenly spaced over an epoch, for estimates."""
    samples = data.samples("TRAIN")
    count = min(len(samples), _ESTIMATION_SAMPLES)
    indices = np.linspace(0, len(samples) - 1, count).round().astype(int)
    return [samples[int(index)] for index in indices]


def _reference_times(data: StoreData) -> tuple[tuple[float, ...], float | None]:
    """Mean times of references in training clips; and, for key frames, coefficient of variation of the beat length."""
    view = data.view
    if not isinstance(view, Clips) or view.reference not in ("first", "even", "keyframes"):
        return (), None
    times = np.stack([sample["reference_time"].numpy() for sample in _select_training_samples(data)])
    if view.reference != "keyframes":
        return tuple(times.mean(axis=0).tolist()), None
    times = times - times[:, :1]
    lengths = times[:, -1]
    return tuple(times.mean(axis=0).tolist()), float(lengths.std() / lengths.mean())


def _residual_std(data: StoreData, has_key_frames: bool) -> tuple[float, ...]:
    """Standard deviation, per channel, of clips minus their interpolated references."""
    squares = []
    for sample in _select_training_samples(data):
        x, reference, time = sample["x"], sample["reference"][None], sample["reference_time"][None]
        if has_key_frames:
            reference, time = repeat_key_frames(reference, time, x.shape[1])
        residual = x - interpolate_references(reference, time, x.shape[1])[0]
        squares.append(residual[:, sample["mask"]].double().square().flatten(1))
    return tuple(torch.cat(squares, dim=1).mean(dim=1).sqrt().clamp(min=_MIN_RESIDUAL_STD).tolist())


def _key_frame_std(data: StoreData, channels: int) -> tuple[float, ...]:
    """Standard deviation per channel: 1 for the first key frame; that of the second minus the first for the others."""
    x = torch.stack([sample["x"] for sample in _select_training_samples(data)]).double()
    difference = x[:, channels : 2 * channels] - x[:, :channels]
    std = difference.square().mean(dim=(0, 2, 3)).sqrt().clamp(min=_MIN_RESIDUAL_STD).tolist()
    return (*[1.0] * channels, *std, *std)
