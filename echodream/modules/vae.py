"""Training of the autoencoder of frames (``model=vae``), and modules that encode and decode stores."""

import itertools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from zlib import crc32

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from echodream import validation
from echodream.artifact import METADATA_FILE, Artifact, read_artifact, write_artifact
from echodream.datamodules.datamodule import StoreData
from echodream.datamodules.dataset import EpochSampler, ViewDataset
from echodream.datamodules.frame_budget_batches import FrameBatch
from echodream.datamodules.normalization import PosteriorMoments, from_uint8, to_uint8
from echodream.datamodules.recordings import Recordings
from echodream.errors import UserError
from echodream.losses.adversarial import PatchAdversarial
from echodream.losses.autoencoder import LossTerm, adaptive_adversarial_weight
from echodream.losses.perceptual import Lite0EnergyScore
from echodream.metrics.image_quality import bicubic_round_trip, mae, moving_pixels, psnr, ssim
from echodream.metrics.texture import log_spectral_estimate, radial_power, temporal_power
from echodream.modules.trainable import OptimizerGroup, Trainable
from echodream.networks.acceleration import compile_in_place, use_channels_last
from echodream.networks.autoencoder import check_frame_size, downsampling_factor, load_frozen_autoencoder, reconstruct
from echodream.networks.decoder_noise import (
    add_static_share,
    decode_without_noise,
    decoder_noise,
    noise_seeds,
    set_noise_correlation,
)
from echodream.types import Batch
from echodream.weights import fingerprint

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

log = logging.getLogger(__name__)


class VAE(Trainable):
    """Train an autoencoder of frames, (B, C, H, W) in [-1, 1], with a diagonal Gaussian posterior.

    ``losses`` are loss terms by name (conf/loss/autoencoder.yaml); None or weight 0 disables a term. A
    ``PatchAdversarial`` adds a discriminator with its own optimizer. A ``Lite0EnergyScore`` only trains the decoder
    noise. ``clip`` is the maximum gradient norm; 0 disables clipping. ``optimizer`` and ``schedule``: see
    ``Trainable``. ``compile`` compiles encoder and decoder with torch.compile. ``channels_last`` selects the
    channels-last memory format.
    """

    auto_precision: ClassVar[str] = "bf16-mixed"
    metrics_without_value: ClassVar[tuple[str, ...]] = ("psnr_moving", "ssim_moving", "mae_moving")
    """These metrics of moving pixels are NaN if no pixel moves."""

    def __init__(
        self,
        network: "AutoencoderKL",
        losses: Mapping[str, LossTerm | PatchAdversarial | None],
        optimizer: Callable[..., torch.optim.Optimizer],
        clip: float = 1.0,
        schedule: Callable[..., torch.optim.lr_scheduler.LRScheduler] | None = None,
        compile: bool = False,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.network = network
        active = {name: term for name, term in losses.items() if term is not None and term.weight}
        adversarial = [active.pop(name) for name in list(active) if isinstance(active[name], PatchAdversarial)]
        scores = [active.pop(name) for name in list(active) if isinstance(active[name], Lite0EnergyScore)]
        self.energy_score: Any = scores[0] if scores else None
        self.terms = nn.ModuleDict(active)
        self.adversarial: Any = adversarial[0] if adversarial else None
        if not any(term.compares_pixels for term in self.terms.values()):
            raise UserError("the loss has neither l1 nor l2: give one of them a weight, for example loss.l1.weight=1")
        if not clip >= 0:
            raise UserError(f"model.clip is {clip}; give the maximum gradient norm, or 0 to disable clipping")
        trains_noise = decoder_noise(network) is not None and self.adversarial and self.adversarial.decoder_only
        if self.energy_score is not None and not trains_noise:
            remedy = "set vae.noise, loss.adversarial.weight and loss.adversarial.decoder_only=true"
            log.warning("train: loss.lite0_energy is not used, because it trains the decoder noise only: %s", remedy)
        self.has_unused_parameters = self.adversarial is not None
        self.make_optimizer, self.make_schedule, self.clip = optimizer, schedule, clip
        if validation.true_or_false("model.channels_last", channels_last):
            use_channels_last(network)
        if validation.true_or_false("model.compile", compile) and self.adversarial is not None:
            raise UserError("model.compile=true is not possible with loss.adversarial: give model.compile=false")
        compile_in_place([network.encoder, network.decoder], compile, "model.compile")
        self._smallest_side = 0
        self._recordings: list[str] = []
        """Names of the recordings of the current batch, for error messages."""

    @property
    def cpu_precision(self) -> str:
        return "bf16-mixed" if self._smallest_side >= MIN_BF16_SIDE else "32-true"

    def configure_optimizers(self) -> tuple[list[torch.optim.Optimizer], list[torch.optim.lr_scheduler.LRScheduler]]:
        """Build optimizers and schedules for autoencoder, discriminator and, if ``decoder_only``, decoder."""
        adversarial = self.adversarial
        if adversarial is None:
            return self.build_optimizers([OptimizerGroup(self.network.parameters())])
        if (steps := int(self.trainer.estimated_stepping_batches)) <= adversarial.start:
            problem = f"the loss starts at batch {adversarial.start}, and the training has {steps} batches"
            log.warning("train: the adversarial loss is not used; %s; lower loss.adversarial.start", problem)
        settings = adversarial.optimizer_settings(discriminator=True)
        discriminator = OptimizerGroup(adversarial.discriminator.parameters(), settings)
        if not adversarial.decoder_only:
            return self.build_optimizers([OptimizerGroup(self.network.parameters()), discriminator])
        autoencoder = OptimizerGroup(self.network.parameters(), {}, lambda steps: min(adversarial.start, steps))
        noise = decoder_noise(self.network)
        modules = (self.network.post_quant_conv, self.network.decoder) if noise is None else (noise,)
        parameters = itertools.chain(*(module.parameters() for module in modules if module is not None))
        settings = adversarial.optimizer_settings(discriminator=False)
        decoder = OptimizerGroup(parameters, settings, lambda steps: max(steps - adversarial.start, 1))
        discriminator = replace(discriminator, schedule_steps=decoder.schedule_steps)
        return self.build_optimizers([autoencoder, discriminator, decoder])

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip the norm of unscaled gradients. Raises ``UserError`` if the norm is infinite or NaN."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, self.clip or torch.inf)
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is None and not torch.isfinite(norm):  # a gradient scaler skips steps that are not finite
            self.raise_not_finite("gradient", self._recordings)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Train the autoencoder and then the discriminator on one batch, and log the losses."""
        x, self._recordings = batch["x"], batch["name"]
        optimizers = self.optimizers()
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        trained_batches = self.current_epoch * int(self.trainer.num_training_batches) + batch_idx
        started = self.adversarial is not None and trained_batches >= self.adversarial.start
        adversarial = self.adversarial if started else None
        decoder_only = adversarial is not None and adversarial.decoder_only
        generator = optimizers[2 if decoder_only else 0]
        noise = decoder_noise(self.network)
        if noise is not None:
            noise.active.fill_(started)
            noise.train()  # in eval mode, both versions of a frame would have equal noise
        with self.toggled_optimizer(generator):
            noisy = self.adversarial is not None and trained_batches >= self.adversarial.decoder_start
            with torch.set_grad_enabled(not (noisy and self.adversarial.decoder_only)):
                posterior = self.network.encode(x).latent_dist
            latents = posterior.sample()
            if noisy:
                latents = self.adversarial.add_latent_noise(latents)
            noise_only = decoder_only and noise is not None
            versions = 2 if noise_only and self.energy_score is not None else 1
            with noise_seeds(self.network, [0] * (versions * len(x))):  # only their number counts in training mode
                reconstruction, *others = self.network.decode(latents).sample.unflatten(0, (-1, versions)).unbind(1)
            terms = {name: term for name, term in self.terms.items() if not noise_only or term.compares_pixels}
            losses = {name: term(x, reconstruction, posterior) for name, term in terms.items()}
            if adversarial is not None and adversarial.local_share:
                smooth = adversarial.local_means(x), adversarial.local_means(reconstruction)
                for name in (name for name, term in terms.items() if term.compares_pixels):
                    losses[name] = losses[name].lerp(terms[name](*smooth, posterior), adversarial.local_share)
            total = torch.stack([self.terms[name].weight * value for name, value in losses.items()]).sum()
            if others:
                losses["lite0_energy"] = self.energy_score(x, reconstruction, *others)
                total = total + self.energy_score.weight * losses["lite0_energy"]
            if adversarial is not None:
                losses["adversarial"] = adversarial.generator_loss(reconstruction)
                last_layer: Any = self.network.decoder.conv_out if noise is None else noise.last
                weight = adversarial.weight
                if adversarial.adaptive:
                    weight = weight * adaptive_adversarial_weight(total, losses["adversarial"], last_layer.weight)
                total = total + weight * losses["adversarial"]
            self._optimizer_step(generator, total, losses)
        if adversarial is not None:
            with self.toggled_optimizer(optimizers[1]):
                losses["discriminator"] = adversarial.discriminator_loss(x, reconstruction)
                self._optimizer_step(optimizers[1], losses["discriminator"], losses)
        schedules: Any = self.lr_schedulers() or []
        schedules = schedules if isinstance(schedules, list) else [schedules]
        if self.adversarial is not None and self.adversarial.decoder_only:
            schedules = schedules[1:] if decoder_only else schedules[:1]
        for scheduler in schedules:
            scheduler.step()
        self.log_dict({f"train/{name}": value.detach() for name, value in losses.items()}, batch_size=len(x))
        self.log("train/loss", total.detach(), prog_bar=True, batch_size=len(x))

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Log the reconstruction quality of clips (B, C, F, H, W), and return reconstructions (B * F, C, H, W)."""
        return self._log_reconstruction_quality(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Log the reconstruction quality of clips of test patients, and return reconstructions (B * F, C, H, W)."""
        return self._log_reconstruction_quality(batch, "test")

    def configure_from_data(self, data: StoreData) -> None:
        """Fit the scaling of the discriminator's input. Raises ``UserError`` for an unsuitable frame size."""
        self._smallest_side = int(data.store.table[["FrameHeight", "FrameWidth"]].to_numpy().min())
        check_frame_size(data.store, self.network.config.in_channels, downsampling_factor(self.network))
        if self.adversarial is not None:
            samples = ViewDataset(Recordings(data.store, "TRAIN"), data.view, data.seed)
            frames = [sample["x"] for sample in itertools.islice(map(samples.__getitem__, EpochSampler(samples)), 256)]
            self.adversarial.fit_residual_std(torch.stack(frames))

    def finish_training(self, data: StoreData) -> None:
        """Fit scale, static share and correlation of the decoder noise to training recordings."""
        noise = decoder_noise(self.network)
        if noise is not None and not noise.active:
            reason = "the decoder noise (vae.noise) was not trained"
            log.warning("train: frames are decoded without speckle, because %s", reason)
        elif noise is not None:
            self.network.eval()
            recordings = Recordings(data.store, "TRAIN")
            add_noise = None if self.adversarial is None else self.adversarial.add_latent_noise
            fit_noise_scale(self.network, training_frames(recordings).to(self.device), add_noise)
            clips = [clip.to(self.device) for clip in training_clips(recordings)]
            fit_static_share(self.network, clips)
            set_noise_correlation(self.network, fit_noise_correlation(self.network, clips))
            fit_static_factor(self.network, clips)

    @torch.no_grad()
    def export(self, root: Path, data: StoreData, artifact: Artifact, config: str, frames: int = 1024) -> None:
        """Write the network to a diffusers folder, with mean and std of the latents of ``frames`` training frames."""
        samples = ViewDataset(Recordings(data.store, "TRAIN"), data.view, data.seed)
        selected = list(itertools.islice(EpochSampler(samples), frames))
        moments = PosteriorMoments()
        for batch in DataLoader(samples, data.batch_size, sampler=selected, num_workers=data.workers):
            posterior = self.network.encode(batch["x"].to(self.device)).latent_dist
            moments.add(posterior.mean, posterior.std)
        self.network.register_to_config(latents_mean=moments.mean(), latents_std=moments.std())
        artifact = replace(artifact, fingerprint=fingerprint(self.network))
        write_artifact(root, artifact, config, self.network.save_pretrained)

    def _log_reconstruction_quality(self, batch: Batch, stage: str) -> Tensor:
        with torch.autocast(self.device.type, enabled=False):  # in bf16, SSIM is too low by several hundredths
            clips = batch["x"]
            mask = moving_pixels(clips).flatten(0, 1)
            x = clips.transpose(1, 2).flatten(0, 1)
            reconstruction = reconstruct(self.network, x).float()
            bicubic = bicubic_round_trip(x, downsampling_factor(self.network))
            has_motion = mask.float().mean(dim=(1, 2)) >= 0.01  # with fewer pixels, metrics are too noisy
            for name, metric in (("psnr", psnr), ("ssim", ssim), ("mae", mae)):
                self._log_frame_mean(f"{stage}/{name}", metric(x, reconstruction))
                self._log_frame_mean(f"{stage}/{name}_moving", metric(x, reconstruction, mask)[has_motion])
            self._log_frame_mean(f"{stage}/psnr_bicubic", psnr(x, bicubic))
            self._log_frame_mean(f"{stage}/ssim_bicubic", ssim(x, bicubic))
        return reconstruction

    def _log_frame_mean(self, name: str, values: Tensor) -> None:
        """Log the mean of ``values`` over the frames of all batches and devices; NaN if there are no frames."""
        mean = values.mean() if len(values) else torch.zeros((), device=self.device)
        self.log(name, mean, batch_size=len(values), on_epoch=True, sync_dist=True, prog_bar=name == "val/psnr")

    def _optimizer_step(self, optimizer: Any, loss: Tensor, losses: Mapping[str, Tensor]) -> None:
        if not torch.isfinite(loss):
            not_finite = [name for name, value in losses.items() if not torch.isfinite(value)]
            self.raise_not_finite(f"loss ({', '.join(not_finite)})", self._recordings)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()


MIN_BF16_SIDE = 64
"""Smallest height and width of frames for training in bf16 on a CPU (``Trainable.cpu_precision``)."""
NOISE_FACTORS = tuple(percent / 100 for percent in range(50, 151, 2))
"""Candidates for the scale of the decoder noise (``fit_noise_scale``)."""
NOISE_CORRELATIONS = (0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Candidates for the correlation of the decoder noise (``fit_noise_correlation``)."""
STATIC_FACTORS = (0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Candidates for the factor of the static share (``fit_static_factor``)."""
MAX_SHARE_PIXELS = 2**17
"""Largest number of pixels of a clip to which the static share is fitted."""
FLICKER_TOLERANCE = 0.1
"""Difference of log-spectral distances, in dB, that does not decide between two static factors."""


def training_frames(recordings: Recordings, count: int = 32, per_recording: int = 4) -> Tensor:
    """Frames (N, C, H, W): ``per_recording`` evenly spaced frames of each of ``count`` evenly spaced recordings."""
    rows = np.unique(np.linspace(0, len(recordings) - 1, min(count, len(recordings))).round().astype(int))
    rng, frames = np.random.default_rng(0), []
    for row in rows.tolist():
        indices = np.linspace(0, recordings.frames[row] - 1, per_recording).round().astype(int).tolist()
        frames += [recordings.read(row, range(index, index + 1), rng)[:, 0] for index in indices]
    return torch.stack(frames)


@torch.no_grad()
def fit_noise_scale(
    network: "AutoencoderKL", frames: Tensor, add_noise: Callable[[Tensor], Tensor] | None = None
) -> None:
    """Scale the decoder noise, in place, so that reconstructions have the power spectrum of the originals.

    The scale is the value of ``NOISE_FACTORS`` with the smallest log-spectral distance between ``frames``, (N, C, H, W)
    in [-1, 1], and their reconstructions. Training with a discriminator determines the amount of noise only roughly.
    ``add_noise`` adds noise to latents, because latents of a diffusion model have errors, which reduce the speckle.
    """
    noise = decoder_noise(network)
    assert noise is not None
    target = radial_power(frames.mean(dim=1).cpu().numpy())
    latents = torch.cat([network.encode(part).latent_dist.mode() for part in split_into_chunks(frames, 64)])
    if add_noise is not None:
        with torch.random.fork_rng(devices=[latents.device] if latents.is_cuda else []):
            torch.manual_seed(0)
            latents = add_noise(latents)

    def decode(factor: float) -> Tensor:
        noise.scale.fill_(factor)
        parts, numbers = [], itertools.count()
        for part in split_into_chunks(latents, 64):
            with noise_seeds(network, list(itertools.islice(numbers, len(part)))):
                parts.append(network.decode(part).sample.float())
        return torch.cat(parts)

    smooth, speckled = decode(0), decode(1)
    distances = {}
    for factor in NOISE_FACTORS:  # two decodings suffice: before clamping, decoded frames are linear in the factor
        decoded = torch.lerp(smooth, speckled, factor).clamp(-1, 1)
        power = radial_power(decoded.mean(dim=1).cpu().numpy())
        distances[factor] = log_spectral_estimate(power, target).value
    noise.scale.fill_(min(distances, key=distances.__getitem__))


def training_clips(recordings: Recordings, count: int = 8, length: int = 32) -> list[Tensor]:
    """Clips, each (F, C, H, W), of the first ``length`` frames of ``count`` recordings of at least ``length`` frames.

    The recordings are evenly spaced in the table. If fewer recordings are long enough, there are fewer clips.
    """
    rows = np.flatnonzero(recordings.frames >= length)
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int))]
    rng = np.random.default_rng(0)
    return [recordings.read(int(row), range(length), rng).transpose(0, 1) for row in rows]


@torch.no_grad()
def fit_noise_correlation(network: "AutoencoderKL", clips: Sequence[Tensor]) -> float:
    """Correlation of the decoder noise of consecutive frames with which reconstructions flicker like the originals.

    Returns the value of ``NOISE_CORRELATIONS`` with the smallest ``flicker_distances``; 1 (static noise) without clips.
    """
    if not clips:
        return 1.0
    settings = [partial(set_noise_correlation, network, value) for value in NOISE_CORRELATIONS]
    return NOISE_CORRELATIONS[int(np.argmin(flicker_distances(network, clips, settings)))]


def flicker_distances(
    network: "AutoencoderKL", clips: Sequence[Tensor], settings: Iterable[Callable[[], object]]
) -> list[float]:
    """Log-spectral distance in dB of the temporal power spectra of ``clips`` and their reconstructions, per setting.

    ``clips``: (F, C, H, W) in [-1, 1] each. Each of ``settings`` changes the decoder noise of ``network`` in place.
    """
    noise, settings = decoder_noise(network), list(settings)
    assert noise is not None
    target, powers = [], [list[np.ndarray]() for _ in settings]
    for seed, clip in enumerate(clips):
        target.append(temporal_power(clip.mean(dim=1).cpu().numpy()))
        smooth, features = _reconstruct_without_noise(network, clip)
        for change, power in zip(settings, powers, strict=True):
            change()
            frames, numbers = [], iter(range(len(clip)))
            for part in features.split(MAX_CPU_FRAMES):
                with noise_seeds(network, [seed] * len(part), list(itertools.islice(numbers, len(part)))):
                    frames.append(noise(part))
            power.append(temporal_power((smooth + torch.cat(frames)).clamp(-1, 1).mean(dim=1).cpu().numpy()))
    return [log_spectral_estimate(np.stack(power), np.stack(target)).value for power in powers]


def _reconstruct_without_noise(network: "AutoencoderKL", frames: Tensor) -> tuple[Tensor, Tensor]:
    """``decode_without_noise`` of the posterior means of ``frames``, (N, C, H, W)."""
    with torch.no_grad():
        latents = torch.cat([network.encode(part).latent_dist.mode() for part in split_into_chunks(frames, 64)])
    return decode_without_noise(network, latents)


def fit_static_share(network: "AutoencoderKL", clips: Sequence[Tensor], steps: int = 300, pixels: int = 8192) -> None:
    """Fit the static share of the decoder noise, in place, to ``clips``, (F, C, H, W) in [-1, 1]; no change without.

    The target is the correlation between consecutive frames of the residual: the clip minus its reconstruction without
    noise, minus its mean over 7 x 7 pixels. The correlation in each pixel is computed over 5 x 5 pixels. The fit is by
    ``steps`` of weighted least squares with ``pixels`` random pixels each. Pixels without residual have no weight.
    """
    noise = decoder_noise(network)
    if not clips or noise is None:
        return

    def local_mean(x: Tensor, size: int) -> Tensor:
        return functional.avg_pool2d(x, size, stride=1, padding=size // 2, count_include_pad=False)

    samples: list[tuple[Tensor, Tensor, Tensor]] = []
    with torch.random.fork_rng(devices=[clips[0].device] if clips[0].is_cuda else []):
        torch.manual_seed(0)
        for clip in clips:
            smooth, features = _reconstruct_without_noise(network, clip)
            residual = (clip - smooth).mean(dim=1, keepdim=True)
            residual = residual - local_mean(residual, 7)
            energy = local_mean((residual[:-1].square() + residual[1:].square()) / 2, 5)
            correlation = local_mean(residual[:-1] * residual[1:], 5) / energy.clamp(min=1e-8)
            chosen = torch.randperm(energy.numel())[:MAX_SHARE_PIXELS].to(clip.device)
            inputs = noise.modulation_inputs(features[:-1]).movedim(1, -1).flatten(0, 2)[chosen]
            energy = energy.flatten()[chosen]
            samples.append((inputs, correlation.flatten()[chosen], energy / (energy + 1e-4)))
        x, target, weight = (torch.cat(parts) for parts in zip(*samples, strict=True))
        share = add_static_share(network)
        optimizer = torch.optim.Adam(share.parameters(), lr=0.01)
        for _ in range(steps):
            rows = torch.randint(len(x), (pixels,)).to(x.device)
            predicted = share(x[rows, :, None, None]).flatten()
            loss = (weight[rows] * (predicted - target[rows]).square()).sum() / weight[rows].sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    share.requires_grad_(False)


@torch.no_grad()
def fit_static_factor(network: "AutoencoderKL", clips: Sequence[Tensor]) -> None:
    """Fit the factor of the static share, in place, so that reconstructions of ``clips`` flicker like the originals.

    The factor is the largest of ``STATIC_FACTORS`` whose flicker distance is at most ``FLICKER_TOLERANCE`` above the
    smallest distance.
    """
    noise = decoder_noise(network)
    if noise is None or noise.static_share is None:
        return
    factor = noise.static_share.factor
    distances = flicker_distances(network, clips, [partial(factor.fill_, value) for value in STATIC_FACTORS])
    limit = min(distances) + FLICKER_TOLERANCE
    factor.fill_(max(value for value, each in zip(STATIC_FACTORS, distances, strict=True) if each <= limit))


MAX_CPU_FRAMES = 16
"""Maximum number of frames per forward pass on a CPU. 64 frames exceed the cache, which is slower."""


def split_into_chunks(frames: Tensor, budget: int) -> tuple[Tensor, ...]:
    """Split ``frames`` (N, C, H, W) into chunks of at most ``budget`` frames, on a CPU at most ``MAX_CPU_FRAMES``."""
    return frames.split(min(budget, MAX_CPU_FRAMES) if frames.device.type == "cpu" else budget)


class VaeEncoder(pl.LightningModule):
    """Encode frames as Gaussian posteriors, with at most ``budget`` frames per forward pass."""

    def __init__(self, network: "AutoencoderKL", budget: int) -> None:
        super().__init__()
        self.network, self.budget = network, budget

    def predict_step(self, batch: FrameBatch, batch_idx: int) -> list[tuple[Tensor, Tensor]]:
        """Unscaled posterior mean and std of each recording in the batch, each float32 (F, D, h, w) on the CPU."""
        moments = []
        for frames in split_into_chunks(batch.frames, self.budget):
            x = from_uint8(frames).to(self.network.dtype).contiguous(memory_format=torch.channels_last)
            posterior = self.network.encode(x).latent_dist
            moments.append((posterior.mean, posterior.std))
        mean, std = (torch.cat(tensors).float().cpu().split(batch.lengths) for tensors in zip(*moments, strict=True))
        return list(zip(mean, std, strict=True))


class VaeDecoder(pl.LightningModule):
    """Decode latents to pixels, with at most ``budget`` frames per forward pass."""

    def __init__(self, network: "AutoencoderKL", budget: int, grey: bool) -> None:
        super().__init__()
        self.network, self.budget, self.grey = network, budget, grey

    def predict_step(self, batch: FrameBatch, batch_idx: int) -> list[Tensor]:
        """Pixels of each recording in the batch, uint8 (F, H, W, C) on the CPU. If ``grey``, C is 1."""
        named_lengths = list(zip(batch.names, batch.lengths, strict=True))
        seeds = iter([crc32(name.encode()) for name, length in named_lengths for _ in range(length)])
        numbers = iter([number for _, length in named_lengths for number in range(length)])
        pixels = []
        for latents in split_into_chunks(batch.frames, self.budget):
            n = len(latents)
            with noise_seeds(self.network, list(itertools.islice(seeds, n)), list(itertools.islice(numbers, n))):
                x = self.network.decode(latents.to(self.network.dtype)).sample.float()
            x = x.mean(dim=1, keepdim=True) if self.grey else x
            pixels.append(to_uint8(x).permute(0, 2, 3, 1))
        return list(torch.cat(pixels).cpu().split(batch.lengths))


def load_vae(folder: str) -> Any:
    """Load a VAE from an artifact or a diffusers folder. Raises ``UserError`` if an artifact's weights changed."""
    is_artifact = (Path(folder) / METADATA_FILE).is_file() or not (Path(folder) / "config.json").is_file()
    artifact, network = read_artifact(folder, "vae") if is_artifact else None, load_frozen_autoencoder(folder)
    if artifact is not None and fingerprint(network) != artifact.fingerprint:
        raise UserError(f"{folder}: the weights have changed since training: train the vae again")
    return network
