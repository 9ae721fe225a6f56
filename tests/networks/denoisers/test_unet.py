"""UNets as denoisers: size of the presets, padding, independence of the rows of a batch, and loading of folders."""

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from echodream.config.paths import CONF_DIR
from echodream.errors import UserError
from echodream.networks.denoisers.base import Denoiser, padding_to_multiple
from echodream.networks.denoisers.registry import load_denoiser
from echodream.networks.denoisers.unet import (
    ImageUNet,
    VideoUNet,
    build_unconditional_unet,
    build_unet,
)
from echodream.types import Condition
from echodream.weights import fingerprint

B, C, E, D, F, H, W = 2, 4, 3, 6, 3, 5, 7


def preset(group: str, name: str) -> Callable[..., Denoiser]:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose(overrides=[f"+denoiser@_global_={group}/{name}"])
    return instantiate(cfg)


def image(seed: int = 0, width: int = D, extra: int = E, levels: int = 2) -> ImageUNet:
    torch.manual_seed(seed)
    return build_unet(C, extra, width, False, [4, 8, 8][:levels], 1, ["cross"] * levels, heads=2, groups=4).eval()


def video(seed: int = 0, width: int = D, extra: int = E, levels: int = 2) -> VideoUNet:
    torch.manual_seed(seed)
    made = build_unet(C, extra, width, True, [32, 64, 64][:levels], 1, ["cross"] * levels, heads=2)
    with torch.no_grad():  # untrained temporal layers have almost no effect; this mix factor makes their effect visible
        for name, weight in made.named_parameters():
            if name.endswith("mix_factor"):
                weight.zero_()
    return made.eval()


MAKERS = pytest.mark.parametrize("make", [image, video])


def inputs(make: Any, count: int = B, length: int = 2, frames: int = F) -> tuple[Tensor, Tensor, Condition]:
    rest = (H, W) if make is image else (frames, H, W)
    rng = torch.Generator().manual_seed(1)
    x, extra = (torch.randn(count, channels, *rest, generator=rng) for channels in (C, E))
    tokens = 3 * torch.randn(count, length, D, generator=rng)
    return x, torch.randint(0, 1000, (count,), generator=rng), Condition(tokens, extra)


# ---------------------------------------------------------------------------------------------------------- presets


@pytest.mark.slow
@pytest.mark.parametrize(
    ("group", "name", "extra", "count", "factor"),
    [
        ("image_unet", "published", 0, 74_648_324, 8),
        ("image_unet", "grey", 0, 74_648_324, 8),
        ("image_unet", "small", 0, 10_129_348, 4),
        ("image_unet", "tiny", 0, 1_694_852, 4),
        ("video_unet", "published", 4, 143_830_186, 8),
        ("video_unet", "grey", 4, 143_830_186, 8),
        ("video_unet", "small", 4, 11_747_675, 2),
        ("video_unet", "tiny", 4, 2_431_568, 2),
    ],
)
def test_presets_on_meta(group: str, name: str, extra: int, count: int, factor: int) -> None:
    with torch.device("meta"):
        made = preset(group, name)(channels=4, extra_channels=extra, token_width=1).to(
            "meta"
        )  # torch.Tensor([...]) ignores the default device and is on the CPU
        rest = (14, 18) if group == "image_unet" else (5, 14, 18)
        x = torch.empty(2, 4, *rest)
        channels = torch.empty(2, extra, *rest) if extra else None
        found = made(x, torch.empty(2), Condition(torch.empty(2, 1, 1), channels))
    assert found.shape == x.shape
    assert sum(weight.numel() for weight in made.parameters()) == count
    assert (made.size_multiple, made.channels, made.extra_channels, made.token_width) == (factor, 4, extra, 1)


@pytest.mark.parametrize("group", ["image_unet", "video_unet"])
def test_every_preset_is_tested(group: str) -> None:
    presets = ["grey", "published", "small", "tiny"]
    assert sorted(path.stem for path in (CONF_DIR / "denoiser" / group).glob("*.yaml")) == presets


def test_the_published_blocks() -> None:
    with torch.device("meta"):
        made = [
            preset(group, "published")(channels=4, extra_channels=0, token_width=1)
            for group in ("image_unet", "video_unet")
        ]
    image_config, video_config = (item.unet.config for item in made)
    assert image_config.down_block_types == ("AttnDownBlock2D",) * 3 + ("DownBlock2D",)
    assert image_config.up_block_types == ("UpBlock2D",) + ("AttnUpBlock2D",) * 3
    assert image_config.block_out_channels == video_config.block_out_channels == (128, 256, 256, 512)
    assert image_config.layers_per_block == video_config.layers_per_block == 2
    assert video_config.num_attention_heads == (8, 16, 16, 32)
    assert video_config.down_block_types[3] == "DownBlockSpatioTemporal"
    assert video_config.up_block_types[0] == "UpBlockSpatioTemporal"


# ---------------------------------------------------------------------------------------------- padding and layout


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_borders_are_the_least_that_does(factor: int) -> None:
    for size in range(1, 18):
        before, after = padding_to_multiple(size, factor)
        assert before + size + after == next(n for n in range(size, 100) if n % factor == 0), size
        assert after - before in (0, 1), size


class Recorder(torch.nn.Module):
    """Replacement for a UNet: records its inputs and returns the first channels of its input."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    def forward(self, x: Tensor, t: Tensor, *tokens: Tensor, **named: Tensor) -> Any:
        self.x, self.t, self.named = x, t, named
        self.tokens = tokens[0] if tokens else named["encoder_hidden_states"]
        channels = self.config.out_channels
        return type("Output", (), {"sample": x[:, :channels] if x.ndim == 4 else x[:, :, :channels]})


@MAKERS
def test_the_unet_sees_the_sample_and_its_condition_padded_with_their_border(make: Any) -> None:
    made = make(levels=3)  # three levels need multiples of 4: 5 x 7 is padded to 8 x 8
    made.unet = Recorder(made.unet.config)
    x, t, condition = inputs(make)
    assert torch.equal(made(x, t, condition), x)
    both = torch.cat([x, condition.channels], dim=1).numpy()
    truth = np.pad(both, [(0, 0)] * (both.ndim - 2) + [(1, 2), (0, 1)], mode="edge")
    seen = made.unet.x.numpy()
    assert np.array_equal(seen if make is image else seen.transpose(0, 2, 1, 3, 4), truth)
    assert torch.equal(made.unet.t, t)
    assert torch.equal(made.unet.tokens, condition.tokens)
    if make is video:
        assert torch.equal(made.unet.named["added_time_ids"], torch.zeros(B, 1))


@MAKERS
def test_nothing_is_padded_where_nothing_is_needed(make: Any) -> None:
    made = make(levels=2)
    made.unet = Recorder(made.unet.config)
    x, t, condition = inputs(make)
    even = Condition(condition.tokens, condition.channels[..., :4, :6])
    made(x[..., :4, :6], t, even)
    assert made.unet.x.shape[-2:] == (4, 6)


def test_the_published_padding_of_14_to_16() -> None:
    with torch.device("meta"):
        made = preset("image_unet", "published")(channels=4, extra_channels=0, token_width=1)
    made.unet = Recorder(made.unet.config)
    x = torch.randn(2, 4, 14, 14)
    assert torch.equal(made(x, torch.tensor([3, 4]), Condition(torch.zeros(2, 1, 1))), x)
    assert np.array_equal(made.unet.x.numpy(), np.pad(x.numpy(), [(0, 0), (0, 0), (1, 1), (1, 1)], mode="edge"))


@MAKERS
def test_a_sample_that_fits_goes_through_the_unet_as_it_is(make: Any) -> None:
    made = make()
    x, t, condition = inputs(make)
    x, channels = x[..., :4, :6], condition.channels[..., :4, :6]
    given = torch.cat([x, channels], dim=1)
    if make is image:
        truth = made.unet(given, t, encoder_hidden_states=condition.tokens).sample
    else:
        truth = made.unet(given.permute(0, 2, 1, 3, 4), t, condition.tokens, torch.zeros(B, 1)).sample
        truth = truth.permute(0, 2, 1, 3, 4)
    assert torch.equal(made(x, t, Condition(condition.tokens, channels)), truth)


# ------------------------------------------------------------------------------------------------ rows and times


@MAKERS
@pytest.mark.parametrize("length", [1, 3])
def test_a_row_does_not_depend_on_its_batch(make: Any, length: int) -> None:
    """Tokens, times and channels differ between rows; each prediction depends on the values of its own row only."""
    made = make()
    x, t, condition = inputs(make, 3, length)
    with torch.no_grad():
        together = made(x, t, condition)
        for row in range(3):
            one = slice(row, row + 1)
            alone = made(x[one], t[one], Condition(condition.tokens[one], condition.channels[one]))
            assert torch.allclose(together[one], alone, atol=1e-5), row
        swapped = made(x, t, Condition(condition.tokens.roll(1, 0), condition.channels))
        later = made(x, t.roll(1, 0), condition)
    for changed in (swapped, later):
        assert ((changed - together).abs().flatten(1).amax(1) > 1e-4).all()


@MAKERS
def test_all_tokens_are_heard_in_any_order(make: Any) -> None:
    made = make()
    x, t, condition = inputs(make, length=3)
    with torch.no_grad():
        truth = made(x, t, condition)
        turned = made(x, t, Condition(condition.tokens.flip(1), condition.channels))
        assert torch.allclose(turned, truth, atol=1e-5)
        for number in range(3):
            tokens = condition.tokens.clone()
            tokens[:, number] += 1
            assert not torch.allclose(made(x, t, Condition(tokens, condition.channels)), truth, atol=1e-4)


@MAKERS
def test_one_token_for_all_rows_and_times_as_float(make: Any) -> None:
    made = make()
    x, t, condition = inputs(make)
    one = condition.tokens[:1]
    with torch.no_grad():
        truth = made(x, t, Condition(one.repeat(B, 1, 1), condition.channels))
        assert torch.equal(made(x, t.double(), Condition(one, condition.channels)), truth)
        assert not torch.equal(made(x, t + 0.5, Condition(one, condition.channels)), truth)


@pytest.mark.parametrize("frames", [1, 9])
def test_any_number_of_frames(frames: int) -> None:
    x, t, condition = inputs(video, frames=frames)
    with torch.no_grad():
        found = video()(x, t, condition)
    assert found.shape == (B, C, frames, H, W)
    assert torch.isfinite(found).all()


def test_frames_know_of_each_other() -> None:
    x, t, condition = inputs(video)
    changed = x.clone()
    changed[:, :, 0] += 1
    with torch.no_grad():
        made = video()
        assert (made(x, t, condition) - made(changed, t, condition))[:, :, 2].abs().max() > 1e-4


@MAKERS
def test_batch_equal_to_width_and_frames(make: Any) -> None:
    """Equal sizes of batch, width and frames: a time or a token on the wrong axis would give no shape error."""
    made = make(extra=0)
    rest = (4, 4) if make is image else (4, 4, 4)
    x, t, tokens = torch.randn(4, C, *rest), torch.tensor([0, 100, 500, 999]), torch.randn(4, 4, D)
    with torch.no_grad():
        together = made(x, t, Condition(tokens))
        for row in range(4):
            one = slice(row, row + 1)
            assert torch.allclose(together[one], made(x[one], t[one], Condition(tokens[one])), atol=1e-5)


def counted(kept: list[int], tensor: Tensor) -> Tensor:
    kept.append(tensor.numel())
    return tensor


@MAKERS
def test_gradient_checkpointing_changes_no_gradient(make: Any) -> None:
    x, t, condition = inputs(make)
    grads, saved = [], []
    for checkpointing in (False, True):
        made = make().train()
        if checkpointing:
            made.enable_gradient_checkpointing()
        kept: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(partial(counted, kept), lambda tensor: tensor):
            loss = made(x, t, condition).square().sum()
        loss.backward()
        saved.append(sum(kept))
        grads.append(torch.cat([weight.grad.flatten() for weight in made.parameters()]))
    assert torch.allclose(grads[0], grads[1], rtol=1e-4, atol=1e-5)
    assert saved[1] < 0.7 * saved[0]


# --------------------------------------------------------------------------------------------------------- folders


@pytest.mark.parametrize(("make", "form"), [(image, "safetensors"), (video, "safetensors"), (image, "bin")])
def test_saved_and_loaded(make: Any, form: str, tmp_path: Path) -> None:
    truth = make(width=1)
    truth.save(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    if form == "bin":
        torch.save(load_file(file), file.with_suffix(".bin"))
        file.unlink()
    found = load_denoiser(tmp_path)
    assert type(found) is type(truth)
    assert fingerprint(found) == fingerprint(truth) != fingerprint(make(1, width=1))
    assert not found.training
    assert (found.channels, found.extra_channels, found.token_width, found.size_multiple) == (C, E, 1, 2)
    x, t, condition = inputs(make)
    condition = Condition(condition.tokens[..., :1], condition.channels)
    with torch.no_grad():
        assert torch.equal(found(x, t, condition), truth(x, t, condition))


def edit(folder: Path, **changes: Any) -> Path:
    file = folder / "config.json"
    config = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in config.items() if value != "gone"}))
    return folder


def test_folders_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config.json is not of a diffusers model: give the folder of a model"):
        load_denoiser(tmp_path)
    for text in ("[]", "{", "{}", "3"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UserError, match=r"config.json is not of a diffusers model"):
            load_denoiser(tmp_path)
    (tmp_path / "config.json").write_text('{"_class_name": "UNet1DModel"}')
    with pytest.raises(
        UserError, match=r"describes a UNet1DModel: give the folder of a LatteTransformer3DModel, PixArtT"
    ):
        load_denoiser(tmp_path)
    image().unet.save_config(tmp_path)
    with pytest.raises(UserError, match=r"has no diffusion_pytorch_model.safetensors or .bin"):
        load_denoiser(tmp_path)
    with pytest.raises(UserError, match=r"config.json sets class_embed_type, which is not supported"):
        load_denoiser(edit(tmp_path, class_embed_type="timestep"))
    with pytest.raises(UserError, match=r"config.json does not fit a UNet2DConditionModel: "):
        load_denoiser(edit(tmp_path, class_embed_type=None, down_block_types=["NoBlock"] * 2))


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    image().save(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    remedy = "its config.json describes another network"
    save_file({name: value for name, value in state.items() if name != "conv_in.bias"}, file)
    with pytest.raises(UserError, match=rf"1 weights are missing \(conv_in.bias\); {remedy}$"):
        load_denoiser(tmp_path)
    save_file({**state, "conv_in.scale": torch.ones(1)}, file)
    with pytest.raises(UserError, match=rf"1 weights are unknown \(conv_in.scale\); {remedy}$"):
        load_denoiser(tmp_path)
    save_file({**state, "conv_in.bias": torch.full((4,), torch.nan)}, file)
    with pytest.raises(UserError, match=r"conv_in.bias is not finite: the training failed"):
        load_denoiser(tmp_path)
    save_file(state, file)
    edit(tmp_path, in_channels=9)
    with pytest.raises(UserError, match=rf"conv_in.weight is \(4, 7, .*, this architecture has \(4, 9, .*: {remedy}$"):
        load_denoiser(tmp_path)


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.path}",)


def test_a_pickle_with_code_is_not_run(tmp_path: Path) -> None:
    made = image()
    made.unet.save_config(tmp_path)
    torch.save({**made.unet.state_dict(), "hook": Payload(tmp_path / "ran")}, tmp_path / "diffusion_pytorch_model.bin")
    with pytest.raises(UserError, match=r"contains more than weights"):
        load_denoiser(tmp_path)
    assert not (tmp_path / "ran").exists()


# -------------------------------------------------------------------------------------------------------- settings


def test_what_is_asked_of_a_loaded_network_is_checked() -> None:
    made = image()
    made.check_dimensions(C, E, D)
    with pytest.raises(UserError, match=r"the number of latent channels of the denoiser is 4, and 5 is needed"):
        made.check_dimensions(5, E, D)
    with pytest.raises(UserError, match=r"number of reference channels of the denoiser is 3, and 0 is"):
        made.check_dimensions(C, 0, D)
    with pytest.raises(UserError, match=r"width of condition tokens of the denoiser is 6, and 1 is"):
        made.check_dimensions(C, E, 1)


def test_settings_that_cannot_be() -> None:
    with pytest.raises(UserError, match=r"denoiser.attention is \['cross', 'self'\]: give one of none, self, cross"):
        build_unet(4, 0, 8, False, [32, 32, 32], 1, ["cross", "self"])
    with pytest.raises(UserError, match=r"denoiser.attention is \['self', 'none'\]: give one of none, cross for"):
        build_unet(4, 0, 8, True, [32, 32], 1, ["self", "none"])
    with pytest.raises(UserError, match=r"denoiser.widths is \[32, 48\]: give multiples of denoiser.groups 32"):
        build_unet(4, 0, 8, False, [32, 48], 1, ["cross", "cross"])
    with pytest.raises(UserError, match=r"denoiser.widths is \[16, 32\]: give multiples of the groups of GroupNorm"):
        build_unet(4, 0, 8, True, [16, 32], 1, ["cross", "cross"])
    for heads in (3, [4, 3], [4], 0):
        with pytest.raises(UserError, match=r"denoiser.heads is .*: give a divisor of each of denoiser.widths"):
            build_unet(4, 0, 8, True, [32, 64], 1, ["cross", "none"], heads)


@pytest.mark.parametrize("is_video", [False, True])
def test_patches_of_latents_are_pixels_of_the_network(is_video: bool, tmp_path: Path) -> None:
    """Patches of latents equal a rearrangement by hand; the patch size is saved and loaded."""
    torch.manual_seed(0)
    widths, groups = ([32, 64], 32) if is_video else ([4, 8], 4)
    made = build_unet(C, E, D, is_video, widths, 1, ["cross"] * 2, heads=2, groups=groups, patch=2).eval()
    assert (made.channels, made.extra_channels, made.size_multiple) == (C, E, 4)
    assert made.network.config.in_channels == 4 * (C + E)
    rest = (F, 8, 12) if is_video else (8, 12)
    x, extra, tokens = torch.randn(B, C, *rest), torch.randn(B, E, *rest), torch.randn(B, 2, D)
    t = torch.tensor([3, 500])
    with torch.no_grad():
        found = made(x, t, Condition(tokens, extra))
        joined = torch.cat([x, extra], dim=1)
        small = torch.stack(
            [joined[:, c, ..., row::2, column::2] for c in range(C + E) for row in (0, 1) for column in (0, 1)], dim=1
        )
        plain = type(made)(made.network)
        made.network.register_to_config(latent_patch=1)
        output = plain.predict(small, t, tokens)
        expected = torch.empty_like(x)
        for number in range(4 * C):
            c, row, column = number // 4, number // 2 % 2, number % 2
            expected[:, c, ..., row::2, column::2] = output[:, number]
        made.network.register_to_config(latent_patch=2)
    assert torch.allclose(found, expected, atol=1e-6)
    made.save(tmp_path)
    loaded = load_denoiser(tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(x, t, Condition(tokens, extra)), found)


@pytest.mark.parametrize("patch", [1, 2])
def test_a_unet_without_conditions_is_that_of_diffusers_and_is_found_again(tmp_path: Path, patch: int) -> None:
    """Predictions equal those of UNet2DModel; tokens have no effect, odd sizes are padded, and a saved folder loads."""
    torch.manual_seed(0)
    levels = {"widths": [16, 32], "layers": 1, "attention": ["cross", "none"], "groups": 8, "patch": patch}
    made = build_unconditional_unet(C, 0, D, False, **levels).eval()  # type: ignore[arg-type]
    assert isinstance(made.network, UNet2DModel)
    assert made.network.config.down_block_types == ("AttnDownBlock2D", "DownBlock2D")
    x, t = torch.randn(B, C, 4 * patch, 8 * patch), torch.tensor([3, 700])
    tokens = [Condition(torch.randn(B, 2, D)) for _ in range(2)]
    with torch.no_grad():
        found = made(x, t, tokens[0])
        assert torch.equal(found, made(x, t, tokens[1]))
        assert not torch.allclose(found, made(x, t.flip(0), tokens[0]))
        if patch == 1:
            assert torch.equal(found, made.network(x, t).sample)
        assert made(x[..., :-1, :], t, tokens[0]).shape == x[..., :-1, :].shape
        made.save(tmp_path)
        assert torch.equal(load_denoiser(tmp_path)(x, t, tokens[0]), found)
    made.check_dimensions(C, 0, 17)
    with pytest.raises(UserError, match="number of reference channels"):
        made.check_dimensions(C, C, D)
    with pytest.raises(UserError, match="use it with model=lidm"):
        build_unconditional_unet(C, 0, D, True, [32], 1, ["cross"], heads=2)


@pytest.mark.parametrize("build", [build_unet, build_unconditional_unet])
def test_dropout_is_for_training_only(build: Callable[..., Denoiser], tmp_path: Path) -> None:
    """In training mode, outputs are random; in evaluation mode, they equal a network without dropout."""
    levels: dict[str, Any] = {"widths": [16, 32], "layers": 1, "attention": ["cross", "none"], "groups": 8}
    made, without = (build(C, 0, D, False, **levels, dropout=p).eval() for p in (0.5, 0.0))
    without.load_state_dict(made.state_dict())
    x, t, condition = torch.randn(B, C, 8, 8), torch.tensor([3, 700]), Condition(torch.randn(B, 2, D))
    with torch.no_grad():
        found = made(x, t, condition)
        assert torch.equal(found, without(x, t, condition))
        made.train()
        assert not torch.equal(made(x, t, condition), made(x, t, condition))
        made.save(tmp_path)
        loaded = load_denoiser(tmp_path)
        assert torch.equal(loaded.eval()(x, t, condition), found)
        assert not torch.equal(loaded.train()(x, t, condition), found)


def test_dropout_that_is_not_possible_is_refused() -> None:
    with pytest.raises(UserError, match=r"denoiser\.dropout=0\.1: the U-Net for clips has no dropout"):
        build_unet(C, 0, D, True, [32], 1, ["cross"], heads=2, dropout=0.1)
    with pytest.raises(UserError, match=r"denoiser\.dropout"):
        build_unet(C, 0, D, False, [32], 1, ["cross"], heads=2, dropout=1)


def test_temporal_convolutions_are_those_of_diffusers() -> None:
    """Computed as 2D convolutions: outputs, gradients and parameter names equal Conv3d, for any number of frames."""
    made = video()
    ours = [module for module in made.modules() if isinstance(module, nn.Conv3d)]
    assert ours
    assert all(type(module) is not nn.Conv3d and module.kernel_size == (3, 1, 1) for module in ours)
    for frames in (1, 2, 5):
        x = torch.randn(2, ours[0].in_channels, frames, 3, 4).transpose(1, 2).contiguous().transpose(1, 2)
        found, truth = (each.requires_grad_() for each in (x.clone(), x.clone()))
        outputs = ours[0](found), nn.Conv3d.forward(ours[0], truth)
        torch.testing.assert_close(*outputs, rtol=0, atol=2e-6)
        weight = torch.randn_like(outputs[0])
        for output in outputs:
            (output * weight).sum().backward()
        torch.testing.assert_close(found.grad, truth.grad, rtol=0, atol=2e-5)
