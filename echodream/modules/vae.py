"""``model=vae``: training an autoencoder of frames, and carrying videos to latents and back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from echodream.artifact import Artifact, write_artifact
from echodream.datamodules.datamodule import StoreData
from echodream.datamodules.packs import Pack
from echodream.errors import UserError
from echodream.losses.adversarial import PatchAdversarial
from echodream.losses.autoencoder import adaptive_weight
from echodream.metrics.image import bicubic_round_trip, mae, moving, psnr, ssim
from echodream.networks.autoencoder import check_frames, factor
from echodream.store import Store
from echodream.types import Batch
from echodream.weights import fingerprint

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


@dataclass(frozen=True)
class Term:
    """One term of the loss: weight times ``loss(x, reconstruction, posterior)``."""

    weight: float
    loss: nn.Module

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise UserError(f"a loss weight is {self.weight}; give a number above 0, or null to leave the term out")


class VAE(pl.LightningModule):
    """Reconstruct frames, (B, C, H, W) in [-1, 1], through a diagonal Gaussian posterior.

    ``terms`` are the losses by name (None: switched off); ``adversarial`` adds a discriminator with its own optimiser.
    ``optimizer`` is a partial that takes parameters. Gradients are clipped to the norm ``clip`` (0: not).
    """

    def __init__(
        self,
        network: "AutoencoderKL",
        terms: Mapping[str, Term | None],
        optimizer: Callable[..., torch.optim.Optimizer],
        adversarial: PatchAdversarial | None = None,
        clip: float = 1.0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.network = network
        self.weights = {name: term.weight for name, term in terms.items() if term is not None}
        self.terms = nn.ModuleDict({name: term.loss for name, term in terms.items() if term is not None})
        if not {"l1", "l2"} & set(self.terms):
            raise UserError("the loss has neither l1 nor l2: switch one of them on")
        self.adversarial = adversarial
        self.make_optimizer = optimizer
        self.clip = clip

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """One optimiser for the autoencoder, one for the discriminator if there is one."""
        owners: list[nn.Module] = [self.network]
        if self.adversarial is not None:
            owners.append(self.adversarial.discriminator)
        return [self.make_optimizer(owner.parameters()) for owner in owners]

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip the gradient norm, after mixed precision has unscaled it."""
        if self.clip > 0:
            nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], self.clip)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Corrupt nothing, reconstruct, compare, log; then the discriminator's turn."""
        x = batch["x"]
        optimizers = self.optimizers()
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        posterior = self.network.encode(x).latent_dist
        reconstruction = self.network.decode(posterior.sample()).sample
        losses = {name: term(x, reconstruction, posterior) for name, term in self.terms.items()}
        total = sum((self.weights[name] * value for name, value in losses.items()), x.new_zeros(()))
        turn = self.adversarial is not None and self._batches(batch_idx) >= self.adversarial.start
        if self.adversarial is not None and turn:
            losses["adversarial"] = self.adversarial.generator(reconstruction)
            total = total + self._adversarial_weight(total, losses["adversarial"]) * losses["adversarial"]
        self._refuse_nan(total, losses, batch)
        self._step(optimizers[0], total)
        if self.adversarial is not None and turn:
            losses["discriminator"] = self.adversarial.critic(x, reconstruction)
            self._step(optimizers[1], losses["discriminator"])
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

    def check(self, store: Store) -> None:
        """Raise ``UserError`` when the frames of ``store`` do not fit this network."""
        check_frames(store, self.network.config.in_channels, factor(self.network))

    @torch.no_grad()
    def export(self, root: Path, data: StoreData, artifact: Artifact, config: str, batches: int = 64) -> None:
        """Write the network as a diffusers folder, with the latents' statistics over ``batches`` of training frames.

        They are those of draws from the posterior: mean and std per channel, ``latents_mean`` and ``latents_std`` in
        config.json.
        """
        moments = []
        for _, batch in zip(range(batches), data.train_dataloader(), strict=False):
            posterior = self.network.encode(batch["x"].to(self.device)).latent_dist
            mean, square = posterior.mean.double(), posterior.mean.double() ** 2 + posterior.var.double()
            moments.append(torch.stack([mean.mean(dim=(0, 2, 3)), square.mean(dim=(0, 2, 3))]).cpu())
        mean, square = torch.stack(moments).mean(dim=0)
        std = (square - mean**2).clamp(min=1e-12).sqrt()
        self.network.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())
        made = replace(artifact, fingerprint=fingerprint(self.network))
        write_artifact(root, made, config, self.network.save_pretrained)

    def _measure(self, batch: Batch, stage: str) -> Tensor:
        clips = batch["x"]
        mask = moving(clips).flatten(0, 1)
        x = clips.transpose(1, 2).flatten(0, 1)
        reconstruction = self.reconstruct(x).float()
        for suffix, where in (("", None), ("_moving", mask)):
            for name, metric in (("psnr", psnr), ("ssim", ssim), ("mae", mae)):
                self._log_mean(f"{stage}/{name}{suffix}", metric(x, reconstruction, where))
        bicubic = bicubic_round_trip(x, factor(self.network))
        self._log_mean(f"{stage}/psnr_bicubic", psnr(x, bicubic))
        self._log_mean(f"{stage}/ssim_bicubic", ssim(x, bicubic))
        return reconstruction

    def _log_mean(self, name: str, values: Tensor) -> None:
        """The mean over the images that have a value (a still image has none on moving tissue)."""
        known = values[~values.isnan()]
        if len(known):
            self.log(
                name, known.mean(), batch_size=len(known), on_epoch=True, sync_dist=True, prog_bar=name == "val/psnr"
            )

    def _step(self, optimizer: Any, loss: Tensor) -> None:
        self.toggle_optimizer(optimizer)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        self.untoggle_optimizer(optimizer)

    def _adversarial_weight(self, total: Tensor, adversarial: Tensor) -> Tensor | float:
        assert self.adversarial is not None
        if not self.adversarial.adaptive:
            return self.adversarial.weight
        return self.adversarial.weight * adaptive_weight(total, adversarial, self.network.decoder.conv_out.weight)

    def _batches(self, batch_idx: int) -> int:
        """Batches trained on so far."""
        return self.current_epoch * int(self.trainer.num_training_batches) + batch_idx

    def _refuse_nan(self, total: Tensor, losses: Mapping[str, Tensor], batch: Batch) -> None:
        if torch.isfinite(total):
            return
        wrong = [name for name, value in losses.items() if not torch.isfinite(value)] or ["the sum"]
        names = ", ".join(dict.fromkeys(batch["name"]))
        raise UserError(
            f"the loss is not finite ({', '.join(wrong)}) on a batch of {names}: look at these recordings, or lower "
            "model.lr; the last good checkpoint is kept, and the same command goes on from it"
        )


class Encoder(pl.LightningModule):
    """Frames to posteriors, ``budget`` frames at a time."""

    def __init__(self, network: "AutoencoderKL", budget: int) -> None:
        super().__init__()
        self.network, self.budget = network, budget

    def predict_step(self, batch: Pack, batch_idx: int) -> list[tuple[Tensor, Tensor]]:
        """For each recording of the pack the posterior's mean and std, unscaled, float32 (F, D, h, w) on the CPU."""
        parts = [self._posterior(frames) for frames in batch.frames.split(self.budget)]
        mean, std = (torch.cat(tensors).float().cpu().split(batch.lengths) for tensors in zip(*parts, strict=True))
        return list(zip(mean, std, strict=True))

    def _posterior(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        x = (frames.to(self.network.dtype) / 127.5 - 1).contiguous(memory_format=torch.channels_last)
        posterior = self.network.encode(x).latent_dist
        return posterior.mean, posterior.std


class Decoder(pl.LightningModule):
    """Latents to pixels, ``budget`` frames at a time."""

    def __init__(self, network: "AutoencoderKL", budget: int, grey: bool) -> None:
        super().__init__()
        self.network, self.budget, self.grey = network, budget, grey

    def predict_step(self, batch: Pack, batch_idx: int) -> list[Tensor]:
        """For each recording of the pack its pixels: uint8, (F, H, W, C) on the CPU; C is 1 if ``grey``."""
        parts = [self._pixels(latents) for latents in batch.frames.split(self.budget)]
        return list(torch.cat(parts).cpu().split(batch.lengths))

    def _pixels(self, latents: Tensor) -> Tensor:
        x = self.network.decode(latents.to(self.network.dtype)).sample.float()
        x = x.mean(dim=1, keepdim=True) if self.grey else x
        return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
