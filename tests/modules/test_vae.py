"""model=vae: training steps compared with manual steps, metrics, and encoding and decoding in chunks."""

import copy
import itertools
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from diffusers.optimization import get_scheduler
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader

from echodream.datamodules.frame_budget_batches import FrameBatch
from echodream.errors import UserError
from echodream.losses.adversarial import PatchAdversarial
from echodream.losses.autoencoder import KL, L1, L2, LossTerm, MultiScaleSSIM, adaptive_adversarial_weight
from echodream.losses.perceptual import Lite0EnergyScore
from echodream.metrics.image_quality import mae, psnr, ssim
from echodream.modules.vae import (
    VAE,
    VaeDecoder,
    VaeEncoder,
    fit_noise_correlation,
    fit_noise_scale,
    fit_static_factor,
    fit_static_share,
    split_into_chunks,
)
from echodream.networks.autoencoder import build_autoencoder, reconstruct
from echodream.networks.decoder_noise import (
    DecoderNoise,
    add_decoder_noise,
    decoder_noise,
    noise_seeds,
    set_noise_correlation,
)
from tests.support.tiny_vae import activate_noise, moving_disc_store, tiny_autoencoder

B, C, H, W = 2, 1, 16, 24
LR = 0.1


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=LR)


def network(seed: int = 0, channels: int = C) -> Any:
    torch.manual_seed(seed)
    return build_autoencoder(channels, [4], layers=1, latent=2, groups=2)


def discriminator(start: int = 0, weight: float = 0.5, *, adaptive: bool = True) -> PatchAdversarial:
    torch.manual_seed(1)
    return PatchAdversarial(C, width=4, layers=1, start=start, weight=weight, adaptive=adaptive)


def batches(count: int, size: int = B) -> list[dict[str, Any]]:
    random = torch.Generator().manual_seed(0)
    x = torch.rand(count, size, C, H, W, generator=random) * 2 - 1
    return [{"x": x[k], "name": [f"r{k}-{i}" for i in range(size)], "columns": {}} for k in range(count)]


def loader(items: Sequence[Any]) -> DataLoader[Any]:
    return DataLoader(list(items), batch_size=None)  # type: ignore[arg-type]


def trainer(*callbacks: Callback, epochs: int = 1, precision: Any = "32-true") -> pl.Trainer:
    return pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        precision=precision,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
    )


class Seed(Callback):
    """Sets a seed before each batch, for the posterior samples."""

    def on_train_batch_start(self, *args: Any) -> None:
        torch.manual_seed(5)


def fit(module: VAE, items: Sequence[Any], *callbacks: Callback, **more: Any) -> pl.Trainer:
    made = trainer(Seed(), *callbacks, **more)
    made.fit(module, loader(items))
    return made


def test_quality_is_measured_in_float32_in_mixed_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    module, logged = VAE(network(), {"l1": L1(1.0)}, sgd).eval(), list[tuple[str, float]]()
    monkeypatch.setattr(module, "log", lambda name, value, **options: logged.append((name, float(value))))
    with torch.no_grad():
        for enabled in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                module.validation_step({"x": batches(1)[0]["x"][:, :, None].repeat(1, 1, 2, 1, 1)}, 0)
    half = len(logged) // 2
    assert {"val/psnr", "val/ssim", "val/ssim_bicubic"} <= dict(logged).keys()
    np.testing.assert_array_equal([value for _, value in logged[:half]], [value for _, value in logged[half:]])


@pytest.mark.parametrize("adaptive", [True, False])
def test_a_step_of_both_optimizers_matches_a_manual_step(adaptive: bool) -> None:
    """Each optimizer step uses only the gradient of its own loss."""
    module = VAE(
        network(),
        {"l1": L1(0.7), "l2": None, "kl": KL(0.1), "adversarial": discriminator(adaptive=adaptive)},
        sgd,
        clip=0,
    )
    own, critic = copy.deepcopy(module.network), copy.deepcopy(module.adversarial)
    assert critic is not None
    batch = batches(1)[0]
    fit(module, [batch])

    torch.manual_seed(5)
    x = batch["x"]
    posterior = own.encode(x).latent_dist
    y = own.decode(posterior.sample()).sample
    total = 0.7 * L1(1)(x, y, posterior) + 0.1 * KL(1)(x, y, posterior)
    generator_loss = critic.generator_loss(y)
    balance = adaptive_adversarial_weight(total, generator_loss, own.decoder.conv_out.weight) if adaptive else 1.0
    parameters = dict(own.named_parameters())
    gradients = torch.autograd.grad(total + 0.5 * balance * generator_loss, list(parameters.values()))
    for (name, value), gradient in zip(parameters.items(), gradients, strict=True):
        assert torch.allclose(module.network.state_dict()[name], value - LR * gradient, atol=1e-6), name
    critic_loss = critic.discriminator_loss(x, y)
    critic_weights = dict(critic.discriminator.named_parameters())
    gradients = torch.autograd.grad(critic_loss, list(critic_weights.values()))
    assert max(gradient.abs().max() for gradient in gradients) > 1e-4
    assert module.adversarial is not None
    for (name, value), gradient in zip(critic_weights.items(), gradients, strict=True):
        assert torch.allclose(module.adversarial.discriminator.state_dict()[name], value - LR * gradient, atol=1e-6)


class Watch(Callback):
    """The discriminator's weights, and the logged values, after each batch."""

    def __init__(self) -> None:
        self.weights: list[Tensor] = []
        self.logged: list[set[str]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        weights = [parameter.detach().flatten() for parameter in pl_module.adversarial.discriminator.parameters()]
        self.weights.append(torch.cat(weights))
        self.logged.append({name for name in trainer.callback_metrics if name.startswith("train/")})


def test_the_discriminator_starts_late_counting_over_epochs() -> None:
    watch = Watch()
    module = VAE(network(), {"l1": L1(1), "adversarial": discriminator(start=3)}, sgd)
    first = torch.cat([p.detach().flatten() for p in discriminator().discriminator.parameters()])
    fit(module, batches(2), watch, epochs=3)
    changed = [not torch.equal(a, b) for a, b in zip([first, *watch.weights], watch.weights, strict=False)]
    assert changed == [False, False, False, True, True, True]
    assert "train/discriminator" not in watch.logged[2]
    assert "train/discriminator" in watch.logged[3]


def test_the_discriminator_has_no_effect_before_its_start() -> None:
    with_late, without = (
        VAE(network(), {"l1": L1(1), "adversarial": term}, sgd)
        for term in (discriminator(start=99), discriminator(weight=0.0))
    )
    assert without.adversarial is None
    for module in (with_late, without):
        fit(module, batches(3))
    for left, right in zip(with_late.network.parameters(), without.network.parameters(), strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize("clip", [1e-3, 0.0])
def test_the_gradient_norm_is_clipped(clip: float) -> None:
    module = VAE(network(), {"l1": L1(1)}, sgd, clip=clip)
    before = nn.utils.parameters_to_vector(module.network.parameters()).detach().clone()
    fit(module, batches(1))
    moved = (nn.utils.parameters_to_vector(module.network.parameters()).detach() - before).norm().item() / LR
    assert moved == pytest.approx(1e-3, rel=1e-3) if clip else moved > 2e-3


def test_weight_zero_disables_a_loss_term() -> None:
    module = VAE(network(), {"l1": L1(0), "l2": L2(2), "ms_ssim": MultiScaleSSIM(0), "kl": None}, sgd)
    assert set(module.terms) == {"l2"}
    with pytest.raises(UserError, match="neither l1 nor l2"):
        VAE(network(), {"l1": L1(0), "kl": KL(1)}, sgd)
    assert set(VAE(network(), {"of_another_name": L2(1)}, sgd).terms) == {"of_another_name"}
    with pytest.raises(UserError, match=r"model.clip is -1"):
        VAE(network(), {"l1": L1(1)}, sgd, clip=-1)


def check_rounding_only(key: str) -> Any:
    """Training with ``key=true`` gives the weights of training without it; returns the first network."""
    found = []
    for value in (True, False):
        torch.manual_seed(0)
        module = VAE(network(), {"l1": L1(1), "kl": KL(1e-6)}, sgd, **{key: value})
        fit(module, batches(2))
        found.append(module.network)
    for one, other in zip(*(part.parameters() for part in found), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    return found[0]


def test_channels_last_changes_rounding_only() -> None:
    made = check_rounding_only("channels_last")
    assert made.encoder.conv_in.weight.is_contiguous(memory_format=torch.channels_last)


def test_encoder_and_decoder_are_compiled_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: asked.append(self))
    plain = VAE(network(), {"l1": L1(1)}, sgd)
    assert not asked
    module = VAE(network(), {"l1": L1(1)}, sgd, compile=True)
    assert asked == [module.network.encoder, module.network.decoder]
    assert module.state_dict().keys() == plain.state_dict().keys()
    with pytest.raises(UserError, match=r"^model.compile=true is not possible with loss.adversarial: give"):
        VAE(network(), {"l1": L1(1), "adversarial": discriminator()}, sgd, compile=True)
    for key in ("compile", "channels_last"):
        with pytest.raises(UserError, match=rf"^model.{key} is 'yes': give true or false$"):
            VAE(network(), {"l1": L1(1)}, sgd, **{key: "yes"})  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_compiled_autoencoder_trains_to_the_same_weights() -> None:
    check_rounding_only("compile")


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_a_step_in_half_precision(precision: str) -> None:
    module = VAE(
        network(),
        {"l1": L1(1), "kl": KL(1e-6), "ms_ssim": MultiScaleSSIM(0.5, scales=1), "adversarial": discriminator()},
        sgd,
    )
    before = copy.deepcopy(module.network.state_dict())
    items = [{**batch, "x": batch["x"].bfloat16()} for batch in batches(2)] if precision == "bf16-true" else batches(2)
    made = fit(module, items, precision=precision)
    assert all(math.isfinite(value) for value in made.callback_metrics.values())
    assert any(not torch.equal(value, before[name]) for name, value in module.network.state_dict().items())


def test_a_loss_that_is_not_finite_names_term_and_recordings() -> None:
    items = batches(2)
    items[1]["x"][1, 0, 3, 3] = torch.nan
    with pytest.raises(UserError, match=r"^the loss \(l1\) is not finite on a batch of r1-0, r1-1: look at") as caught:
        fit(VAE(network(), {"l1": L1(1), "kl": KL(0)}, sgd), items)
    assert "\n" not in str(caught.value)


def test_the_error_names_at_most_sixteen_recordings() -> None:
    items = batches(1, size=19)
    items[0]["x"][:] = torch.nan
    with pytest.raises(UserError, match=r"r0-15 and 3 more: look at"):
        fit(VAE(network(), {"l1": L1(1)}, sgd), items)


class Steep(LossTerm):
    """A loss of zero with an infinite gradient."""

    def forward(self, x: Tensor, reconstruction: Tensor, posterior: object) -> Tensor:
        return (reconstruction - reconstruction.detach()).abs().sum().sqrt()


def test_a_gradient_that_is_not_finite_stops_before_the_step() -> None:
    module = VAE(network(), {"l1": L1(1), "steep": Steep(1)}, sgd)
    before = copy.deepcopy(module.network.state_dict())
    with pytest.raises(UserError, match=r"^the gradient is not finite on a batch of r0-0, r0-1: look at"):
        fit(module, batches(1))
    assert all(torch.equal(value, before[name]) for name, value in module.network.state_dict().items())


def clips(count: int, frames: int = 3, *, still: bool = False) -> dict[str, Any]:
    x = torch.rand(count, C, frames, H, W, generator=torch.Generator().manual_seed(count)) * 2 - 1
    x = x[:, :, :1].expand(-1, -1, frames, -1, -1) if still else x
    return {"x": x, "name": [f"c{k}" for k in range(count)], "columns": {}}


def test_validation_metrics_are_means_over_all_frames() -> None:
    module = VAE(network().eval(), {"l1": L1(1)}, sgd)
    items = [clips(2), clips(3), clips(1, still=True)]
    (found,) = trainer().validate(module, loader(items), verbose=False)
    frames = torch.cat([item["x"].transpose(1, 2).flatten(0, 1) for item in items])
    with torch.no_grad():
        made = reconstruct(module.network, frames)
    assert found["val/psnr"] == pytest.approx(psnr(frames, made).mean().item(), rel=1e-5)
    assert found["val/ssim"] == pytest.approx(ssim(frames, made).mean().item(), rel=1e-4)
    assert found["val/mae"] == pytest.approx(mae(frames, made).mean().item(), rel=1e-5)
    frames, made = frames[:15], made[:15]  # the last three stand still
    moves = [(clip["x"].diff(dim=2).abs().amax(dim=1) * 127.5 > 16) for clip in items[:2]]
    mask = torch.cat([torch.cat([move[:, :1], move], dim=1).flatten(0, 1) for move in moves])
    assert found["val/mae_moving"] == pytest.approx(mae(frames, made, mask).mean().item(), rel=1e-5)
    assert {"val/psnr_bicubic", "val/ssim_bicubic", "val/psnr_moving", "val/ssim_moving"} <= found.keys()


def test_moving_metrics_are_nan_without_motion_and_nan_outputs_are_reported() -> None:
    module = VAE(network().eval(), {"l1": L1(1)}, sgd)
    (found,) = trainer().validate(module, loader([clips(2, still=True)]), verbose=False)
    assert math.isnan(found["val/psnr_moving"])
    assert math.isfinite(found["val/psnr"])
    with torch.no_grad():
        module.network.decoder.conv_out.bias.fill_(torch.nan)
    (found,) = trainer().validate(module, loader([clips(2)]), verbose=False)
    assert math.isnan(found["val/psnr"])


def test_single_held_out_frames_can_be_validated() -> None:
    (found,) = trainer().validate(VAE(network(), {"l1": L1(1)}, sgd), loader([clips(2, frames=1)]), verbose=False)
    assert math.isfinite(found["val/psnr"])


def pack(lengths: tuple[int, ...], channels: int = C) -> FrameBatch:
    random = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (sum(lengths), channels, H, W), dtype=torch.uint8, generator=random)
    return FrameBatch(tuple(f"r{k}" for k in range(len(lengths))), lengths, frames)


@pytest.mark.parametrize("budget", [1, 4, 512])
def test_encoding_in_chunks_equals_encoding_each_frame(budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    vae, calls = tiny_autoencoder(), []
    encode = vae.encode
    monkeypatch.setattr(vae, "encode", lambda x: (calls.append(len(x)), encode(x))[1])
    item = pack((3, 1, 6))
    with torch.no_grad():
        found = VaeEncoder(vae, budget).predict_step(item, 0)
        truth = [encode(frame[None].float() / 127.5 - 1).latent_dist for frame in item.frames]
    assert max(calls) <= budget
    assert sum(calls) == 10
    assert [len(mean) for mean, _ in found] == [3, 1, 6]
    assert torch.cat([mean for mean, _ in found]).sub(torch.cat([p.mean for p in truth])).abs().max() < 1e-5
    assert torch.cat([std for _, std in found]).sub(torch.cat([p.std for p in truth])).abs().max() < 1e-5


def test_chunk_size_is_limited_on_a_cpu_only() -> None:
    frames = torch.empty(70, 1, 2, 2)
    assert [len(part) for part in split_into_chunks(frames, 64)] == [16, 16, 16, 16, 6]
    assert [len(part) for part in split_into_chunks(frames, 40)] == [16, 16, 16, 16, 6]
    assert {len(part) for part in split_into_chunks(frames, 7)} == {7}
    assert [len(part) for part in split_into_chunks(frames.to("meta"), 64)] == [64, 6]


@pytest.mark.parametrize(("grey", "channels"), [(True, 1), (False, 3)])
def test_decoding_rounds_to_the_nearest_gray_level(grey: bool, channels: int) -> None:
    vae = tiny_autoencoder(channels=3)
    latents = torch.randn(5, 3, 8, 12, generator=torch.Generator().manual_seed(0)) * 3
    with torch.no_grad():
        found = VaeDecoder(vae, 2, grey).predict_step(FrameBatch(("a", "b"), (2, 3), latents), 0)
        exact = torch.cat([vae.decode(latent[None]).sample for latent in latents]).permute(0, 2, 3, 1)
    exact = exact.mean(dim=-1, keepdim=True) if grey else exact
    assert [tuple(part.shape) for part in found] == [(2, H, W, channels), (3, H, W, channels)]
    difference = torch.cat(found).float() - (exact.clamp(-1, 1) + 1) * 127.5
    assert difference.abs().max() <= 0.5 + 1e-3


@pytest.mark.slow
def test_the_published_network_trains_one_step_and_encodes() -> None:
    """At full size, 3 x 112 x 112 and 62 million parameters."""
    torch.manual_seed(0)
    module = VAE(build_autoencoder(3, [128, 256, 256, 512]), {"l1": L1(1), "kl": KL(1e-6)}, sgd)
    x = torch.rand(1, 3, 112, 112) * 2 - 1
    before = module.network.encoder.conv_in.weight.detach().clone()
    made = fit(module, [{"x": x, "name": ["a"], "columns": {}}])
    assert math.isfinite(made.callback_metrics["train/loss"])
    assert not torch.equal(module.network.encoder.conv_in.weight, before)
    frames = torch.randint(0, 256, (2, 3, 112, 112), dtype=torch.uint8)
    with torch.no_grad():
        ((mean, std),) = VaeEncoder(module.network, 1).predict_step(FrameBatch(("a",), (2,), frames), 0)
    assert mean.shape == std.shape == (2, 4, 14, 14)
    assert torch.isfinite(mean).all()
    assert (std > 0).all()


class DecoderWatch(Callback):
    """Encoder and decoder weights and the learning rates, after each batch."""

    def __init__(self) -> None:
        self.encoder: list[Tensor] = []
        self.decoder: list[Tensor] = []
        self.rates: list[list[float]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        for kept, part in ((self.encoder, "encoder"), (self.decoder, "decoder")):
            weights = getattr(pl_module.network, part).parameters()
            kept.append(nn.utils.parameters_to_vector(weights).detach().clone())
        self.rates.append([optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers])


def test_with_decoder_only_the_encoder_is_fixed_from_the_start_of_the_discriminator() -> None:
    """Latents stay what they are, and the schedule begins again with its own learning rates."""
    torch.manual_seed(1)
    judge = PatchAdversarial(C, width=4, layers=1, start=3, decoder_only=True, lr=0.03, discriminator_lr=0.07)
    watch = DecoderWatch()
    schedule = partial(get_scheduler, "cosine", num_warmup_steps=0)
    optimizer = partial(torch.optim.SGD, lr=LR)
    module = VAE(network(), {"l1": L1(1), "kl": KL(1e-3), "adversarial": judge}, optimizer, schedule=schedule)
    fit(module, batches(2), watch, epochs=3)
    changed = [not torch.equal(a, b) for a, b in itertools.pairwise(watch.encoder)]
    assert changed == [True, True, False, False, False]
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(watch.decoder))
    first, critic, decoder = zip(*watch.rates, strict=True)
    assert first == pytest.approx([LR * 0.75, LR * 0.25, 0, 0, 0, 0])
    assert critic == pytest.approx([0.07] * 3 + [0.07 * 0.75, 0.07 * 0.25, 0])
    assert decoder == pytest.approx([0.03] * 3 + [0.03 * 0.75, 0.03 * 0.25, 0])


class PixelEnergyScore(Lite0EnergyScore):
    """The energy score of pixels instead of activations."""

    def __init__(self) -> None:
        LossTerm.__init__(self, 0.6)

    def activations(self, frames: Tensor) -> list[Tensor]:
        return [frames]


@pytest.mark.parametrize(("maps", "versions"), [(0, 1), (2, 1), (2, 2)])
def test_a_step_of_decoder_or_decoder_noise_with_latent_noise_and_local_means(maps: int, versions: int) -> None:
    """The first step with decoder_only by hand. With decoder noise, only the noise is trained, without L_KL.

    With the energy score, two versions of each frame are decoded; the other losses are those of the first version.
    """
    torch.manual_seed(2)
    judge = PatchAdversarial(
        C,
        width=4,
        layers=1,
        start=0,
        decoder_only=True,
        local_mean=3,
        local_share=0.7,
        latent_noise=0.5,
        adaptive=False,
    )
    net = network()
    if maps:
        activate_noise(add_decoder_noise(net, maps), active=False)
    losses = {"l1": L1(1), "kl": KL(1), "adversarial": judge, "score": PixelEnergyScore() if versions == 2 else None}
    module = VAE(net.eval(), losses, sgd, clip=0)  # loaded networks are in eval mode
    own, critic, batch = copy.deepcopy(net), copy.deepcopy(judge), batches(1)[0]
    fit(module, [batch])

    torch.manual_seed(5)
    x = batch["x"]
    with torch.no_grad():
        z = own.encode(x).latent_dist.sample()
        level = 0.5 * torch.rand(len(z), 1, 1, 1)
        z = z + level * z.transpose(0, 1).flatten(1).std(dim=1).view(1, -1, 1, 1) * torch.randn(z.shape)
    if maps:
        features: list[Tensor] = []
        own.decoder.conv_out.register_forward_pre_hook(lambda layer, inputs: features.append(inputs[0]))
        noise = decoder_noise(own)
        assert noise is not None
        smooth = own.decode(z).sample
        y = smooth.repeat_interleave(versions, 0) + noise.train()(features[0].repeat_interleave(versions, 0))
        y, other = y[::versions], y[versions - 1 :: versions]
    else:
        y = own.decode(z).sample
    means = [nn.functional.avg_pool2d(nn.functional.pad(v, (1, 1, 1, 1), mode="reflect"), 3, 1) for v in (x, y)]
    loss = 0.3 * (x - y).abs().mean() + 0.7 * (means[0] - means[1]).abs().mean() + 0.5 * critic.generator_loss(y)
    if versions == 2:
        xy, xz, yz = ((a - b).square().sum(1).add(1e-6).sqrt().mean() for a, b in ((x, y), (x, other), (y, other)))
        loss = loss + 0.6 * (xy + xz - yz) / 2
    trained = "decoder_noise" if maps else ("decoder.", "post_quant")
    parameters = {name: p for name, p in own.named_parameters() if name.startswith(trained)}
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    for (name, value), gradient in zip(parameters.items(), gradients, strict=True):
        assert torch.allclose(module.network.state_dict()[name], value - LR * gradient, atol=1e-6), name
    for name, weight in own.named_parameters():
        assert name in parameters or torch.equal(module.network.state_dict()[name], weight), name


def test_an_energy_score_without_decoder_noise_is_not_used_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    module = VAE(network(), {"l1": L1(1), "score": PixelEnergyScore()}, sgd)
    assert "loss.lite0_energy is not used, because it trains the decoder noise only" in caplog.text
    assert "train/lite0_energy" not in fit(module, batches(1)).logged_metrics


def test_the_decoder_is_trained_with_latent_noise_before_the_discriminator_starts() -> None:
    """The first step after ``decoder_start`` by hand: L1 of pixels, noisy latents, fixed encoder."""
    torch.manual_seed(2)
    judge = PatchAdversarial(C, width=4, layers=1, start=5, decoder_start=0, decoder_only=True, latent_noise=0.5)
    net = network()
    own, batch = copy.deepcopy(net), batches(1)[0]
    module = VAE(net, {"l1": L1(1), "adversarial": judge}, sgd, clip=0)
    fit(module, [batch])

    torch.manual_seed(5)
    with torch.no_grad():
        z = own.encode(batch["x"]).latent_dist.sample()
        level = 0.5 * torch.rand(len(z), 1, 1, 1)
        z = z + level * z.transpose(0, 1).flatten(1).std(dim=1).view(1, -1, 1, 1) * torch.randn(z.shape)
    (batch["x"] - own.decode(z).sample).abs().mean().backward()
    for name, value in own.named_parameters():
        trained = name.startswith(("decoder.", "post_quant"))
        expected = value - LR * value.grad if trained and value.grad is not None else value
        assert torch.allclose(module.network.state_dict()[name], expected, atol=1e-6), name


def test_the_decoder_does_not_start_after_the_discriminator() -> None:
    with pytest.raises(UserError, match=r"loss.adversarial.decoder_start is 6"):
        PatchAdversarial(C, start=5, decoder_start=6)


class NoiseDecoder(nn.Module):
    """An autoencoder that decodes everything to decoder noise with the standard deviation 0.25."""

    class WhiteNoise(DecoderNoise):
        def forward(self, features: Tensor) -> Tensor:
            return 0.25 * self.scale * self.noise_maps(features, self.modulation_inputs(features))

    def __init__(self) -> None:
        super().__init__()
        self.decoder_noise = self.WhiteNoise(1, 1, 1)
        self.decoder_noise.active.fill_(True)
        self.decoder = nn.Module()
        self.decoder.conv_out = nn.Identity()
        self.config = SimpleNamespace(block_out_channels=[1])
        self.register_to_config = lambda **_: None

    def encode(self, x: Tensor) -> SimpleNamespace:
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: torch.zeros_like(x)))

    def decode(self, x: Tensor) -> SimpleNamespace:
        features = self.decoder.conv_out(torch.zeros_like(x))
        return SimpleNamespace(sample=self.decoder_noise(features) if self.decoder_noise.active else features)


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.8])
def test_the_noise_correlation_is_fitted_to_the_flicker_of_the_clips(correlation: float) -> None:
    rng = np.random.default_rng(0)
    frames = [rng.standard_normal((6, 1, 12, 12))]
    for _ in range(31):  # six clips of a first-order autoregressive process
        frames.append(correlation * frames[-1] + math.sqrt(1 - correlation**2) * rng.standard_normal((6, 1, 12, 12)))
    clips = list(torch.from_numpy(np.stack(frames, axis=1)).float() / 4)
    net: Any = NoiseDecoder().eval()
    assert fit_noise_correlation(net, clips) == correlation
    assert fit_noise_correlation(net, []) == 1


def half_static_clips(static_share: float) -> list[Tensor]:
    """Clips of noise with ``static_share`` of static noise in the left half, and new noise per frame in the right."""
    rng, share = np.random.default_rng(0), np.where(np.arange(32) < 16, static_share, 0.0)
    return [
        torch.from_numpy(
            np.sqrt(share) * rng.standard_normal((1, 1, 24, 32))
            + np.sqrt(1 - share) * rng.standard_normal((32, 1, 24, 32))
        ).float()
        / 4
        for _ in range(4)
    ]


def test_the_static_share_is_fitted_where_the_noise_of_the_clips_is_static() -> None:
    net: Any = NoiseDecoder().eval()
    state = torch.get_rng_state()
    fit_static_share(net, half_static_clips(0.9))
    assert torch.equal(torch.get_rng_state(), state)
    noise = net.decoder_noise
    share = noise.static_share(noise.modulation_inputs(torch.zeros(1, 1, 24, 32)))[0, 0]
    assert float(share[:, :14].mean()) == pytest.approx(0.9, abs=0.08)
    assert float(share[:, 18:].mean()) < 0.1
    set_noise_correlation(net, 0.0)
    with noise_seeds(net, [3] * 40, range(40)):
        maps = noise(torch.zeros(40, 1, 24, 32))[:, 0] / 0.25
    assert float(maps.std()) == pytest.approx(1, abs=0.05)
    lagged = (maps[5:] * maps[:-5]).mean(dim=(0, 1))
    assert float(lagged[:14].mean()) == pytest.approx(0.9, abs=0.2)  # of one static noise, whose energy is random
    assert float(lagged[18:].mean()) < 0.2


def test_the_factor_of_the_static_share_is_fitted_to_the_flicker() -> None:
    net: Any = NoiseDecoder().eval()
    clips = half_static_clips(0.9)
    set_noise_correlation(net, 0.0)
    fit_static_factor(net, clips)  # without a static share
    fit_static_share(net, clips)
    fit_static_factor(net, clips)
    assert float(net.decoder_noise.static_share.factor) >= 0.9
    fit_static_factor(net, half_static_clips(0.0))
    assert float(net.decoder_noise.static_share.factor) == pytest.approx(0, abs=0.21)


@pytest.mark.parametrize("factor", [0.64, 0.7, 1.0, 1.38])
def test_the_noise_scale_is_fitted_to_the_spectrum_of_the_frames(factor: float) -> None:
    frames = 0.25 * factor * torch.randn(600, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    net: Any = NoiseDecoder().eval()
    fit_noise_scale(net, frames)
    assert float(net.decoder_noise.scale) == pytest.approx(factor, abs=0.021)


def test_the_noise_scale_is_fitted_with_latents_that_have_errors() -> None:
    """Here errors of the latents reduce the decoded noise to 70 %. The fit does not change the global random state."""

    class Fading(NoiseDecoder):
        def decode(self, x: Tensor) -> SimpleNamespace:
            share = torch.where(x.abs().amax(dim=(1, 2, 3), keepdim=True) > 0, 0.7, 1.0)
            return SimpleNamespace(sample=super().decode(x).sample * share)

    frames = 0.175 * torch.randn(600, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    net: Any = Fading().eval()
    state = torch.get_rng_state()
    for disturb, expected in ((None, 0.7), (lambda latents: latents + torch.randn_like(latents), 1.0)):
        fit_noise_scale(net, frames, disturb)
        assert float(net.decoder_noise.scale) == pytest.approx(expected, abs=0.021)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_noise_is_fitted_alike_in_training_mode_and_for_any_random_state(tmp_path: Path) -> None:
    """After ``trainer.test`` the module is in training mode again, in which the decoder noise is random."""
    data: Any = SimpleNamespace(store=moving_disc_store(tmp_path / "videos", lengths=(33,) * 7))
    fitted = []
    for seed, training in ((0, False), (1, True), (2, True)):
        noise = activate_noise(add_decoder_noise(net := network(), 2))
        module = VAE(net, {"l1": L1(1)}, sgd).train(training)
        torch.manual_seed(seed)
        module.finish_training(data)
        fitted.append((float(noise.scale), noise.correlation))
    assert fitted[0] == fitted[1] == fitted[2]


def test_decoder_noise_that_was_not_trained_is_said(caplog: pytest.LogCaptureFixture) -> None:
    noise = activate_noise(add_decoder_noise(net := network(), 2))
    module = VAE(net, {"l1": L1(1)}, sgd)
    fit(module, batches(1))
    assert not noise.active
    module.finish_training(None)  # type: ignore[arg-type]
    assert "decoded without speckle, because the decoder noise (vae.noise) was not trained" in caplog.text


def test_a_later_discriminator_leaves_the_reconstruction_phase_as_it_is() -> None:
    """With decoder_only, the steps before `start` are those of a training without a discriminator."""
    judge = PatchAdversarial(C, width=4, layers=1, start=99, decoder_only=True)
    modules = [VAE(network(), {"l1": L1(1), "adversarial": term}, sgd) for term in (judge, None)]
    for module in modules:
        fit(module, batches(3))
    for left, right in zip(*(module.network.parameters() for module in modules), strict=True):
        assert torch.equal(left, right)


def test_an_adversarial_loss_that_never_starts_is_said(caplog: pytest.LogCaptureFixture) -> None:
    for start in (3, 2):
        caplog.clear()
        fit(VAE(network(), {"l1": L1(1), "adversarial": discriminator(start=start)}, sgd), batches(3))
        assert ("the adversarial loss is not used; the loss starts at batch 3" in caplog.text) == (start == 3)
