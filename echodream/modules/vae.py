"""``model=vae``: training an autoencoder of frames, and carrying videos to latents and back."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from echodream.artifact import FACTS, Artifact, read_artifact, write_artifact
from echodream.datamodules.datamodule import StoreData
from echodream.datamodules.dataset import EpochSampler, ViewDataset, collate
from echodream.datamodules.frame_budget_batches import FrameBatch
from echodream.datamodules.normalization import from_uint8, to_uint8
from echodream.datamodules.recordings import Recordings
from echodream.errors import UserError
from echodream.losses.adversarial import PatchAdversarial
from echodream.losses.autoencoder import Term, adaptive_weight
from echodream.metrics.image_quality import bicubic_round_trip, mae, moving, psnr, ssim
from echodream.metrics.moments import PosteriorMoments
from echodream.modules.trainable import Trainable
from echodream.networks.autoencoder import check_frames, factor, load_frozen
from echodream.types import Batch
from echodream.weights import fingerprint

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


class VAE(Trainable):
    """Reconstruct frames, (B, C, H, W) in [-1, 1], through a diagonal Gaussian posterior.

    ``terms`` are the losses by name (None or weight 0: switched off); ``adversarial`` adds a discriminator with its own
    optimiser. ``optimizer`` is a partial that takes parameters. Gradients are clipped to the norm ``clip`` (0: not).
    ``schedule`` is a partial that takes ``optimizer`` and ``num_training_steps``; without one the rate is constant.
    """

    undefined: ClassVar[tuple[str, ...]] = ("psnr_moving", "ssim_moving", "mae_moving")
    """Where nothing moves."""

    def __init__(
        self,
        network: "AutoencoderKL",
        terms: Mapping[str, Term | None],
        optimizer: Callable[..., torch.optim.Optimizer],
        adversarial: PatchAdversarial | None = None,
        clip: float = 1.0,
        schedule: Callable[..., torch.optim.lr_scheduler.LRScheduler] | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.network = network
        self.terms = nn.ModuleDict({name: term for name, term in terms.items() if term is not None and term.weight})
        if not {"l1", "l2"} & set(self.terms):
            raise UserError("the loss has neither l1 nor l2: give one of them a weight, for example loss.l1.weight=1")
        if not clip >= 0:
            raise UserError(f"model.clip is {clip}; give the largest norm of the gradient, or 0 not to clip it")
        self.adversarial = adversarial if adversarial is not None and adversarial.weight else None
        self.some_unused = self.adversarial is not None
        self.make_optimizer = optimizer
        self.clip = clip
        self.make_schedule = schedule
        self._names: list[str] = []

    def configure_optimizers(self) -> tuple[list[torch.optim.Optimizer], list[torch.optim.lr_scheduler.LRScheduler]]:
        """One optimiser for the autoencoder, one for the discriminator if there is one, each with its schedule."""
        owners: list[nn.Module] = [self.network]
        if self.adversarial is not None:
            owners.append(self.adversarial.discriminator)
        return self.optimizers_of(self.make_optimizer, self.make_schedule, [owner.parameters() for owner in owners])

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip the gradient norm, after mixed precision has unscaled it."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, self.clip or torch.inf)
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is None and not torch.isfinite(norm):  # a scaler leaves such a step out by itself
            self.refuse("gradient", self._names)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Corrupt nothing, reconstruct, compare, log; then the discriminator's turn."""
        x, self._names = batch["x"], batch["name"]
        found = self.optimizers()
        optimizers = found if isinstance(found, list) else [found]
        judge = self.adversarial if self.adversarial and self._batches(batch_idx) >= self.adversarial.start else None
        with self.toggled_optimizer(optimizers[0]):
            posterior = self.network.encode(x).latent_dist
            reconstruction = self.network.decode(posterior.sample()).sample
            losses = {name: term(x, reconstruction, posterior) for name, term in self.terms.items()}
            total = torch.stack([self.terms[name].weight * value for name, value in losses.items()]).sum()
            if judge is not None:
                losses["adversarial"] = judge.generator(reconstruction)
                balance = self._balance(total, losses["adversarial"]) if judge.adaptive else 1.0
                total = total + judge.weight * balance * losses["adversarial"]
            self._step(optimizers[0], total, losses)
        if judge is not None:
            with self.toggled_optimizer(optimizers[1]):
                losses["discriminator"] = judge.critic(x, reconstruction)
                self._step(optimizers[1], losses["discriminator"], losses)
        schedules = self.lr_schedulers() or []
        for item in schedules if isinstance(schedules, list) else [schedules]:
            item.step()  # type: ignore[call-arg]
        self.log_dict({f"train/{name}": value.detach() for name, value in losses.items()}, batch_size=len(x))
        self.log("train/loss", total.detach(), prog_bar=True, batch_size=len(x))

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Fidelity on held-out patients. Clips (B, C, F, H, W); returns the reconstructions, (B * F, C, H, W)."""
        return self._measure(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """As in validation, on the test patients."""
        return self._measure(batch, "test")

    def reconstruct(self, x: Tensor) -> Tensor:
        """Through the mean of the posterior, without noise: (B, C, H, W) to the same, in [-1, 1]."""
        return self.network.decode(self.network.encode(x).latent_dist.mode()).sample.clamp(-1, 1)

    def adapt(self, data: StoreData) -> None:
        """Raise ``UserError`` when the frames do not fit this network."""
        check_frames(data.store, self.network.config.in_channels, factor(self.network))

    @torch.no_grad()
    def export(self, root: Path, data: StoreData, artifact: Artifact, config: str, frames: int = 1024) -> None:
        """Write the network as a diffusers folder, with the latents' statistics over ``frames`` of training.

        They are those of draws from the posterior: mean and std per channel, ``latents_mean`` and ``latents_std`` in
        config.json.
        """
        samples = ViewDataset(Recordings(data.store, "TRAIN"), data.view, data.seed)
        picked = list(itertools.islice(EpochSampler(samples), frames))
        moments = PosteriorMoments()
        for batch in DataLoader(samples, data.batch_size, sampler=picked, num_workers=data.workers, collate_fn=collate):
            posterior = self.network.encode(batch["x"].to(self.device)).latent_dist
            moments.add(posterior.mean, posterior.std)
        self.network.register_to_config(latents_mean=moments.mean(), latents_std=moments.std())
        made = replace(artifact, fingerprint=fingerprint(self.network))
        write_artifact(root, made, config, self.network.save_pretrained)

    def _measure(self, batch: Batch, stage: str) -> Tensor:
        clips = batch["x"]
        mask = moving(clips).flatten(0, 1)
        x = clips.transpose(1, 2).flatten(0, 1)
        reconstruction = self.reconstruct(x).float()
        bicubic = bicubic_round_trip(x, factor(self.network))
        enough = mask.float().mean(dim=(1, 2)) >= 0.01  # a handful of moving pixels says nothing of an image
        for name, metric in (("psnr", psnr), ("ssim", ssim), ("mae", mae)):
            self._log_mean(f"{stage}/{name}", metric(x, reconstruction))
            self._log_mean(f"{stage}/{name}_moving", metric(x, reconstruction, mask)[enough])
        self._log_mean(f"{stage}/psnr_bicubic", psnr(x, bicubic))
        self._log_mean(f"{stage}/ssim_bicubic", ssim(x, bicubic))
        return reconstruction

    def _log_mean(self, name: str, values: Tensor) -> None:
        """The mean over all images of all batches and devices; NaN where there is none, as where nothing moves."""
        mean = values.mean() if len(values) else torch.zeros((), device=self.device)
        self.log(name, mean, batch_size=len(values), on_epoch=True, sync_dist=True, prog_bar=name == "val/psnr")

    def _step(self, optimizer: Any, loss: Tensor, losses: Mapping[str, Tensor]) -> None:
        if not torch.isfinite(loss):
            wrong = [name for name, value in losses.items() if not torch.isfinite(value)]
            self.refuse(f"loss ({', '.join(wrong)})", self._names)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()

    def _balance(self, total: Tensor, adversarial: Tensor) -> Tensor:
        last: nn.Parameter = self.network.decoder.conv_out.weight
        return adaptive_weight(total, adversarial, last)

    def _batches(self, batch_idx: int) -> int:
        """Batches trained on so far."""
        return self.current_epoch * int(self.trainer.num_training_batches) + batch_idx


CPU_FRAMES = 16
"""Frames that go through a network at once on a CPU, whose caches hold no more: 64 take 1.4 times as long."""


def chunks(frames: Tensor, budget: int) -> tuple[Tensor, ...]:
    """``frames``, (N, C, H, W), in parts of at most ``budget``, and on a CPU of at most ``CPU_FRAMES``."""
    return frames.split(min(budget, CPU_FRAMES) if frames.device.type == "cpu" else budget)


class Encoder(pl.LightningModule):
    """Frames to posteriors, ``budget`` frames at a time."""

    def __init__(self, network: "AutoencoderKL", budget: int) -> None:
        super().__init__()
        self.network, self.budget = network, budget

    def predict_step(self, batch: FrameBatch, batch_idx: int) -> list[tuple[Tensor, Tensor]]:
        """For each recording of the pack the posterior's mean and std, unscaled, float32 (F, D, h, w) on the CPU."""
        parts = [self._posterior(frames) for frames in chunks(batch.frames, self.budget)]
        mean, std = (torch.cat(tensors).float().cpu().split(batch.lengths) for tensors in zip(*parts, strict=True))
        return list(zip(mean, std, strict=True))

    def _posterior(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        x = from_uint8(frames).to(self.network.dtype).contiguous(memory_format=torch.channels_last)
        posterior = self.network.encode(x).latent_dist
        return posterior.mean, posterior.std


class Decoder(pl.LightningModule):
    """Latents to pixels, ``budget`` frames at a time."""

    def __init__(self, network: "AutoencoderKL", budget: int, grey: bool) -> None:
        super().__init__()
        self.network, self.budget, self.grey = network, budget, grey

    def predict_step(self, batch: FrameBatch, batch_idx: int) -> list[Tensor]:
        """For each recording of the pack its pixels: uint8, (F, H, W, C) on the CPU; C is 1 if ``grey``."""
        parts = [self._pixels(latents) for latents in chunks(batch.frames, self.budget)]
        return list(torch.cat(parts).cpu().split(batch.lengths))

    def _pixels(self, latents: Tensor) -> Tensor:
        x = self.network.decode(latents.to(self.network.dtype)).sample.float()
        x = x.mean(dim=1, keepdim=True) if self.grey else x
        return to_uint8(x).permute(0, 2, 3, 1)


def load_vae(folder: str) -> Any:
    """The network of the VAE artifact at ``folder``, or of a diffusers folder that was not trained here.

    Raises ``UserError`` when there is neither, or when an artifact's weights are not the trained ones.
    """
    trained = (Path(folder) / FACTS).is_file() or not (Path(folder) / "config.json").is_file()
    artifact, network = read_artifact(folder, "vae") if trained else None, load_frozen(folder)
    if artifact is not None and fingerprint(network) != artifact.fingerprint:
        raise UserError(f"{folder}: the weights have changed since training: train the vae again")
    return network
