"""Training of latent diffusion models of images (``model=lidm``) and clips (``model=lvdm``)."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
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
"""Lower bound of the standard deviation of residuals, because channels without motion have residual 0."""
NOISE_BAND_COUNT = 4
"""Number of bands of noise levels. The error of each band is logged separately."""
_ESTIMATION_SAMPLES = 256
"""Number of training samples from which reference times and standard deviations of residuals are estimated."""


class PrivateSteps(Protocol):
    """Protocol of differentially private training steps (``modules.private_training``)."""

    def choose_noise_multiplier(self, steps: int) -> None:
        """Choose the noise multiplier of DP-SGD for a training run of ``steps`` steps."""

    def private_optimizer_step(self, module: "LatentDiffusion", batch: Mapping[str, Any]) -> None:
        """Update ``module`` by one optimizer step with clipped, noisy gradients of ``batch``."""


class LatentDiffusion(Trainable):
    """Train a latent diffusion model of images (B, C, H, W) or clips (B, C, F, H, W).

    ``denoiser`` is a ``functools.partial`` with arguments ``channels``, ``extra_channels`` and ``token_width``.
    ``conditions``, ``width``, ``joint_dropout``: see ``Conditioner``. ``optimizer``, ``schedule``: see ``Trainable``.
    ``checkpointing`` enables gradient checkpointing. ``compile``, ``channels_last``: see ``Denoiser.accelerate``.
    ``shared_noise``, ``noise_offset``: see ``diffusion.noise``. With ``residual``, the model generates residuals
    (``ModelMetadata.residual``). ``auxiliary`` is an additional loss on the estimate of x_0 of clips. ``initial`` is an
    artifact with equal settings: training starts with its weights, and uses its metadata and normalization statistics.
    """

    auto_precision: ClassVar[str] = "bf16-mixed"

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
        self.initial, self.auxiliary, self.residual = initial, auxiliary, residual
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
        """Sum and number of errors in each band of noise levels, (2, ``NOISE_BAND_COUNT``), since the last log."""
        self.private: PrivateSteps | None = None

    def use_private_steps(self, steps: "PrivateSteps") -> None:
        """Replace the training steps of Lightning by the differentially private ``steps``."""
        self.private, self.automatic_optimization = steps, False

    @property
    def cpu_precision(self) -> str:
        if self.model.is_video:
            return "32-true"
        strided = [x for x in self.model.modules() if isinstance(x, nn.Conv2d) and x.stride[0] > 1]
        side = min(self.model.metadata.height, self.model.metadata.width)
        return "bf16-mixed" if side >= 2 ** len(strided) else "32-true"

    def configure_optimizers(self) -> Any:
        if self.private is not None:
            self.private.choose_noise_multiplier(int(self.trainer.estimated_stepping_batches))
        return super().configure_optimizers()

    def configure_from_data(self, data: StoreData) -> None:
        """Build the network for the latents and conditions of ``data``. Raises ``UserError`` for unsuitable data."""
        store, view = data.store, data.view
        if store.dataset.kind != "latent":
            raise UserError(f"{store.root} holds videos: encode them (stage=encode), or give src= a store of latents")
        if ("reference" in self.conditioner.names) != (isinstance(view, Clips) and view.reference != "none"):
            remedy = "set both, or neither (conditioning=[class_id] view.reference=none)"
            raise UserError(f"conditioning=reference and view.reference need each other: {remedy}")
        network, metadata = self._build_network(data) if self.initial is None else self._load_initial_network(data)
        self.model = DiffusionModel(network, self.conditioner, self.process, metadata)
        if self.checkpointing:
            network.enable_gradient_checkpointing()
        network.accelerate(self.compiled, self.channels_last, "model.")

    def _build_network(self, data: StoreData) -> tuple[Denoiser, ModelMetadata]:
        """Build the untrained network, and the metadata of the model, for ``data``."""
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

    def _load_initial_network(self, data: StoreData) -> tuple[Denoiser, ModelMetadata]:
        """Load network and metadata of the artifact ``initial``, and copy the weights of its conditions."""
        folder, video, dataset = str(self.initial), isinstance(data.view, Clips), data.store.dataset
        model = load_diffusion_model(folder, "lvdm" if video else "lidm")
        same_view = video or model.metadata.frames == (3 if isinstance(data.view, Triplet) else 1)
        same_process = model.process.settings() == self.process.settings()
        if not (same_view and same_process and model.metadata.encoder == dataset.encoder):
            problem = f"initial={folder} has another process, view or autoencoder"
            raise UserError(f"{problem}: give a model with the settings of this training")
        self.conditioner.copy_from(model.conditioner)
        data.store.dataset = replace(dataset, statistics=model.metadata.statistics)
        return model.denoiser.requires_grad_(True).train(), model.metadata

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """Training loss, scalar. A differentially private step updates the weights itself, and returns None."""
        if self.private is not None:
            self.private.private_optimizer_step(self, batch)
            return None
        return self.log_training_loss(self.training_loss(batch), batch["name"], len(batch["x"]))

    def training_loss(self, batch: Batch) -> Tensor:
        """Loss, scalar: squared error of the prediction, weighted by noise level, plus the weighted auxiliary loss."""
        values = self.model.condition_values(batch)
        x = self.model.to_residual(batch["x"], values)
        noise = add_noise_offset(sample_noise(x.shape, self.shared_noise, device=x.device), self.noise_offset)
        noised = self.process.corrupt(x, self.process.sample_t(len(x), device=x.device), noise.to(x.dtype))
        dropout = self.conditioner.sample_dropout(len(x))
        keep = {name: kept.to(x.device, non_blocking=True) for name, kept in dropout.items()}
        with nullcontext() if self.checkpointing else attention_kernel(x.device):  # not known in the recomputation
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
        """Log the loss on validation patients at fixed noise levels. The noise is equal in every epoch."""
        self._log_held_out_errors("val", batch, batch_idx)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._log_held_out_errors("test", batch, batch_idx)

    def export(self, root: Path, data: StoreData, artifact: Artifact, config: str) -> None:
        artifact = replace(artifact, fingerprint=self.model.fingerprint())
        write_artifact(root, artifact, config, self.model.save)

    @torch.no_grad()
    def preview(self, batch: Batch, count: int, steps: int) -> Tensor:
        """Sample unscaled latents, (N, C, F, H, W), with the conditions of the first ``count`` samples of ``batch``."""
        values = {name: value[:count] for name, value in self.model.condition_values(batch).items()}
        sampler = SamplingModule(self.model, SamplingConfig(0, steps, None, Guidance())).to(self.device)
        return sampler.sample_latents(list(range(min(count, len(batch["x"])))), values)

    def _log_held_out_errors(self, stage: str, batch: Batch, batch_idx: int) -> None:
        x, values, mask = self._held_out_inputs(batch)
        x = self.model.to_residual(x, values)
        generator = torch.Generator().manual_seed(batch_idx)
        keep = {name: torch.ones(len(x), dtype=torch.bool, device=x.device) for name in self.conditioner.names}
        for band, t in enumerate(self.process.evenly_spaced_times(NOISE_BAND_COUNT).to(x.device), 1):
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
        """Log the mean unweighted error since the last log, by band of noise levels; band 1 has the least noise."""
        band = (self.process.relative_time(t) * NOISE_BAND_COUNT).long().clamp(max=NOISE_BAND_COUNT - 1)
        inside = (band[:, None] == torch.arange(NOISE_BAND_COUNT, device=t.device)).float()
        sums = torch.stack([(errors[:, None] * inside).sum(dim=0), inside.sum(dim=0)])
        self._band_sums = sums if self._band_sums is None else self._band_sums + sums
        if self.logs_this_step:
            for number, (total, count) in enumerate(self._band_sums.T.tolist(), 1):
                if count:
                    self.log(f"train/error_band{number}", total / count, batch_size=int(count))
            self._band_sums = None


def _select_training_samples(data: StoreData) -> list[dict[str, Any]]:
    """Training samples, evenly spaced over an epoch, to estimate the metadata of a model."""
    samples = data.samples("TRAIN")
    count = min(len(samples), _ESTIMATION_SAMPLES)
    indices = np.linspace(0, len(samples) - 1, count).round().astype(int)
    return [samples[int(index)] for index in indices]


def _reference_times(data: StoreData) -> tuple[tuple[float, ...], float | None]:
    """Mean times of references in training clips; with key frames, also coefficient of variation of beat lengths."""
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
    """Root mean square, per channel, of training clips minus their interpolated references."""
    squares = []
    for sample in _select_training_samples(data):
        x, reference, time = sample["x"], sample["reference"][None], sample["reference_time"][None]
        if has_key_frames:
            reference, time = repeat_key_frames(reference, time, x.shape[1])
        residual = x - interpolate_references(reference, time, x.shape[1])[0]
        squares.append(residual[:, sample["mask"]].double().square().flatten(1))
    return tuple(torch.cat(squares, dim=1).mean(dim=1).sqrt().clamp(min=_MIN_RESIDUAL_STD).tolist())


def _key_frame_std(data: StoreData, channels: int) -> tuple[float, ...]:
    """Scale of each channel of three key frames: 1 for the first, RMS of second minus first for second and third."""
    x = torch.stack([sample["x"] for sample in _select_training_samples(data)]).double()
    difference = x[:, channels : 2 * channels] - x[:, :channels]
    std = difference.square().mean(dim=(0, 2, 3)).sqrt().clamp(min=_MIN_RESIDUAL_STD).tolist()
    return (*[1.0] * channels, *std, *std)
