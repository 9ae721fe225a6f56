"""``model=lidm`` and ``model=lvdm``: diffusion of latent images and clips."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from echodream.artifact import Artifact, write_artifact
from echodream.datamodules.datamodule import StoreData
from echodream.datamodules.recordings import Recordings
from echodream.datamodules.views import Clips, Triplet
from echodream.diffusion.conditioning import Conditioner, beating, between
from echodream.diffusion.guidance import Guidance
from echodream.diffusion.model import DiffusionModel, ModelMetadata
from echodream.diffusion.noise import add_offset, check_offset, check_shared, draw
from echodream.diffusion.processes.base import Process
from echodream.errors import UserError
from echodream.losses.denoising import mean_squares
from echodream.modules.trainable import Trainable
from echodream.sampling.sampling_module import SamplingConfig, SamplingModule
from echodream.types import Batch

_LEAST = 1e-3
"""Of a residual's standard deviation, in whitened units: where nothing moves there is still something to draw."""
LEVELS = 4
"""Bands of noise, from little to much, in which the loss is logged apart."""


class LatentDiffusion(Trainable):
    """Predict what ``process`` asks for from noised latents and conditions: images (B, C, H, W), clips (B, C, F, H, W).

    ``denoiser`` is a partial that builds the network from ``channels``, ``extra`` and ``width``; ``conditions`` go by
    name, their tokens are ``width`` wide; ``joint_dropout`` is the conditioner's. ``optimizer`` takes parameters,
    ``schedule`` takes ``optimizer`` and ``num_training_steps``. ``checkpointing`` saves memory for time, ``compile``
    compiles the network in place, ``channels_last`` orders its weights so. The frames of a clip have ``shared_noise``
    of their noise in common; ``noise_offset`` is what training adds to that of a whole channel. With ``residual``, and
    reference frames, what is drawn is how a clip differs from what lies between these.
    """

    def __init__(
        self,
        denoiser: Callable[..., nn.Module],
        conditions: Mapping[str, nn.Module],
        width: int,
        process: Process,
        optimizer: Callable[..., torch.optim.Optimizer],
        schedule: Callable[..., torch.optim.lr_scheduler.LRScheduler] | None = None,
        checkpointing: bool = False,
        compile: bool = False,
        channels_last: bool = False,
        shared_noise: float = 0.0,
        residual: bool = False,
        joint_dropout: float = 0.0,
        noise_offset: float = 0.0,
    ) -> None:
        super().__init__()
        self.shared_noise, self.residual = check_shared(shared_noise), residual
        self.noise_offset = check_offset(noise_offset)
        self.make_denoiser, self.process = denoiser, process
        self.conditioner = Conditioner(conditions, width, joint_dropout)
        self.columns = tuple(self.conditioner.columns)
        self.make_optimizer, self.make_schedule = optimizer, schedule
        self.checkpointing, self.compiled, self.channels_last = checkpointing, compile, channels_last
        self.model: DiffusionModel

    def configure_from_data(self, data: StoreData) -> None:
        """Build the network for the latents and the conditions that ``data`` has."""
        store, view = data.store, data.view
        if store.dataset.kind != "latent":
            raise UserError(f"{store.root} holds videos: encode them first (stage=encode), or give src= a latent store")
        rows = Recordings(store, "TRAIN")
        channels, statistics = store.dataset.channels, store.dataset.statistics
        assert statistics is not None
        times, spread = _reference_times(data)
        if ("reference" in self.conditioner.names) != (isinstance(view, Clips) and view.reference != "none"):
            raise UserError(
                "conditioning with reference and view.reference go together: set both, or neither "
                "(conditioning=[class_id] view.reference=none)"
            )
        self.conditioner.adapt(rows.table, channels)
        stride = view.stride if isinstance(view, Clips) else 1
        facts = ModelMetadata(
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
            residual=_residual(data, spread is not None) if self.residual and self.conditioner.interpolates else None,
        )
        drawn = channels * 3 if isinstance(view, Triplet) else channels
        network = self.make_denoiser(channels=drawn, extra=self.conditioner.extra, width=self.conditioner.width)
        self.model = DiffusionModel(network, self.conditioner, self.process, facts)  # type: ignore[arg-type]
        self._prepare(self.model.denoiser)

    def _prepare(self, network: Any) -> None:
        if self.checkpointing:
            network.unet.enable_gradient_checkpointing()
        if self.channels_last:
            for module in network.modules():
                if isinstance(module, nn.Conv2d):  # those over time have weights of five dimensions, and no such order
                    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.compiled:
            network.compile()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Corrupt, denoise, compare, log."""
        values = self.model.values(batch)
        x = self.model.drawn(batch["x"], values)
        noise = add_offset(draw(x.shape, self.shared_noise, device=x.device), self.noise_offset).to(x.dtype)
        noised = self.process.corrupt(x, self.process.sample_t(len(x), device=x.device), noise)
        keep = {name: kept.to(x.device) for name, kept in self.conditioner.drop(len(x)).items()}
        prediction = self.model(noised.x_t, noised.t, values, keep)
        errors = mean_squares(prediction, noised.target, batch.get("mask"))
        loss = (noised.weight * errors).mean()
        if not torch.isfinite(loss):
            self.raise_not_finite("loss", batch["name"])
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(x))
        self._log_bands("train", noised.t, errors.detach())
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The loss on held-out patients at fixed noise levels, with the same noise every time."""
        self._measure("val", batch, batch_idx)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """As in validation, on the test patients."""
        self._measure("test", batch, batch_idx)

    def export(self, root: Path, data: StoreData, artifact: Artifact, config: str) -> None:
        """Write network, conditioner and facts as an artifact."""
        made = replace(artifact, fingerprint=self.model.fingerprint())
        write_artifact(root, made, config, self.model.save)

    @torch.no_grad()
    def preview(self, batch: Batch, count: int, steps: int) -> Tensor:
        """Samples with the conditions of the first ``count`` of ``batch``: unscaled latents, (N, C, F, H, W)."""
        values = {name: value[:count] for name, value in self.model.values(batch).items()}
        drawer = SamplingModule(self.model, SamplingConfig(0, steps, None, Guidance())).to(self.device)
        return drawer.draw(list(range(min(count, len(batch["x"])))), values)

    def _measure(self, stage: str, batch: Batch, batch_idx: int) -> None:
        x, values, mask = self._held_out(batch)
        x = self.model.drawn(x, values)
        generator = torch.Generator().manual_seed(batch_idx)
        keep = {name: torch.ones(len(x), dtype=torch.bool, device=x.device) for name in self.conditioner.names}
        for t in self.process.levels(LEVELS).to(x.device):
            noise = draw(x.shape, self.shared_noise, generator).to(x.device)
            noised = self.process.corrupt(x, t.expand(len(x)), noise)
            errors = mean_squares(self.model(noised.x_t, noised.t, values, keep), noised.target, mask)
            weighted = (noised.weight * errors).mean()
            self.log(f"{stage}/loss", weighted, batch_size=len(x), on_epoch=True, sync_dist=True)
            self._log_bands(stage, noised.t, errors, on_step=False, on_epoch=True, sync_dist=True)

    def _held_out(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor], Tensor | None]:
        """Clips for a video model; for a model of images their real frames, each with the conditions of its clip."""
        x, values = batch["x"], self.model.values(batch)
        if self.model.is_video or x.ndim == 4:
            return x, values, batch.get("mask")
        clip, frame = batch["mask"].nonzero(as_tuple=True)
        return x[clip, :, frame], {name: value[clip] for name, value in values.items()}, None

    def _log_bands(self, stage: str, t: Tensor, errors: Tensor, **how: Any) -> None:
        """The unweighted error by noise level: band 1 has the least noise."""
        band = (self.process.level(t) * LEVELS).long().clamp(max=LEVELS - 1)
        for number in range(LEVELS):
            chosen = errors[band == number]
            if len(chosen):
                self.log(f"{stage}/error_band{number + 1}", chosen.mean(), batch_size=len(chosen), **how)


def _some(data: StoreData, count: int = 256) -> list[dict[str, Any]]:
    """Training samples, evenly spread over an epoch."""
    samples = data.samples("TRAIN")
    places = np.linspace(0, len(samples) - 1, min(len(samples), count)).round().astype(int)
    return [samples[int(number)] for number in places]


def _reference_times(data: StoreData) -> tuple[tuple[float, ...], float | None]:
    """Where references lie in training clips on average, and how a beat's length varies, if they are key frames."""
    view = data.view
    if not isinstance(view, Clips) or view.reference not in ("first", "even", "keyframes"):
        return (), None
    times = np.stack([sample["reference_time"].numpy() for sample in _some(data)])
    if view.reference != "keyframes":
        return tuple(times.mean(axis=0).tolist()), None
    times = times - times[:, :1]
    beats = times[:, -1]
    return tuple(times.mean(axis=0).tolist()), float(beats.std() / beats.mean())


def _residual(data: StoreData, beat: bool) -> tuple[float, ...]:
    """For each channel the standard deviation of clips from what lies between their references."""
    squares = []
    for sample in _some(data):
        x, reference, time = sample["x"], sample["reference"][None], sample["reference_time"][None]
        if beat:
            reference, time = beating(reference, time, x.shape[1])
        apart = x - between(reference, time, x.shape[1])[0]
        squares.append(apart[:, sample["mask"]].double().square().flatten(1))
    spread = torch.cat(squares, dim=1).mean(dim=1).sqrt().clamp(min=_LEAST)
    return tuple(spread.tolist())
