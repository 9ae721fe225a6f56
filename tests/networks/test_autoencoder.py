"""Autoencoders: full size of the presets, and weights in all published layouts, loaded without any change."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from hydra.utils import instantiate
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from torch import Tensor

from echodream.config.paths import CONF_DIR
from echodream.errors import UserError
from echodream.networks.autoencoder import build_autoencoder, check_frame_size, downsampling_factor, load_autoencoder
from echodream.weights import fingerprint
from tests.support.tiny_vae import moving_disc_store
from tests.test_structure import composed

PRESETS = sorted(path.stem for path in (CONF_DIR / "vae").glob("*.yaml"))


def preset(name: str, *overrides: str) -> Any:
    return instantiate(composed("train", "model=vae", "data=phantom", f"vae={name}", *overrides).vae)


def network(seed: int = 0) -> AutoencoderKL:
    """Autoencoder with three levels of different widths, so that swapped weights are noticed."""
    torch.manual_seed(seed)
    return build_autoencoder(2, [4, 8, 12], layers=2, latent=3, groups=4).eval()


@pytest.mark.parametrize(
    ("name", "side", "shape"),
    [
        ("published", 112, (2, 3, 112, 112)),
        ("grey", 112, (2, 1, 112, 112)),
        ("small", 112, (2, 1, 112, 112)),
        ("tiny", 64, (2, 1, 64, 72)),
    ],
)
def test_every_preset_builds_and_encodes_on_the_meta_device(name: str, side: int, shape: tuple[int, ...]) -> None:
    with torch.device("meta"):
        vae = preset(name)
        x = torch.empty(shape)
        posterior = vae.encode(x).latent_dist
        assert vae.decode(posterior.mean).sample.shape == x.shape
    assert downsampling_factor(vae) == 8
    assert posterior.mean.shape == (2, 4, shape[2] // 8, shape[3] // 8)
    assert side == shape[2]


def test_every_preset_is_tested() -> None:
    assert PRESETS == ["grey", "published", "small", "tiny"]


def test_the_published_architecture_has_its_parameters() -> None:
    """Number of parameters counted by hand: convolutions, group norms, one attention in each middle block."""
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in preset("published").parameters())

    def conv(a: int, b: int, kernel: int = 3) -> int:
        return a * b * kernel**2 + b

    def resnet(a: int, b: int) -> int:
        return 2 * a + conv(a, b) + 2 * b + conv(b, b) + (conv(a, b, 1) if a != b else 0)

    def middle(width: int) -> int:
        return 2 * resnet(width, width) + 2 * width + 4 * conv(width, width, 1)

    widths = [128, 256, 256, 512]
    encoder = conv(3, 128) + middle(512) + 2 * 512 + conv(512, 8)
    for level, (before, width) in enumerate(zip([128, *widths], widths, strict=False)):
        encoder += resnet(before, width) + resnet(width, width) + (conv(width, width) if level < 3 else 0)
    decoder = conv(4, 512) + middle(512) + 2 * 128 + conv(128, 3)
    for level, (before, width) in enumerate(zip([512, *widths[::-1]], widths[::-1], strict=False)):
        decoder += resnet(before, width) + 2 * resnet(width, width) + (conv(width, width) if level < 3 else 0)
    assert count == encoder + decoder + conv(8, 8, 1) + conv(4, 4, 1) == 62_412_007


def compvis(vae: AutoencoderKL) -> dict[str, Tensor]:
    """The weights with the parameter names of CompVis (``ldm.models.autoencoder``)."""
    state = {}
    for name, value in vae.state_dict().items():
        parts = name.split(".")
        if parts[0] in ("quant_conv", "post_quant_conv"):
            state[name] = value
            continue
        side, *rest = parts
        if rest[0] in ("down_blocks", "up_blocks"):
            way = rest[0].removesuffix("_blocks")
            level = int(rest[1]) if way == "down" else 2 - int(rest[1])
            if rest[2] == "resnets":
                new = [side, way, str(level), "block", rest[3], *rest[4:]]
            else:
                new = [side, way, str(level), f"{way}sample", *rest[4:]]
        elif rest[0] == "mid_block" and rest[1] == "resnets":
            new = [side, "mid", f"block_{int(rest[2]) + 1}", *rest[3:]]
        elif rest[0] == "mid_block":
            renamed = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out": "proj_out"}[rest[3]]
            new = [side, "mid", "attn_1", renamed, rest[-1]]
            value = value[:, :, None, None] if value.ndim == 2 else value
        else:
            new = [side, *rest]
        new = [{"conv_shortcut": "nin_shortcut", "conv_norm_out": "norm_out"}.get(part, part) for part in new]
        state[".".join(new)] = value
    return state


def save_ckpt(path: Path, state: dict[str, Tensor]) -> Path:
    losses = {"loss.logvar": torch.zeros(()), "loss.discriminator.main.0.weight": torch.ones(4, 2, 4, 4)}
    counters = {"loss.perceptual_loss.lin0.model.1.weight": torch.ones(1, 64, 1, 1), "loss.step": torch.tensor(3)}
    torch.save({"state_dict": {**state, **losses, **counters}, "global_step": 7, "epoch": 1}, path)
    return path


def with_bin(folder: Path, vae: AutoencoderKL, state: dict[str, Tensor] | None = None) -> Path:
    vae.save_config(folder)
    torch.save(vae.state_dict() if state is None else state, folder / "diffusion_pytorch_model.bin")
    return folder


def assert_same(found: AutoencoderKL, truth: AutoencoderKL) -> None:
    assert found.state_dict().keys() == truth.state_dict().keys()
    for name, value in truth.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name


@pytest.mark.slow
def test_all_three_weight_layouts_give_bit_identical_networks(tmp_path: Path) -> None:
    truth = network()
    truth.save_pretrained(tmp_path / "folder")
    with_bin(tmp_path / "bin", truth)
    save_ckpt(tmp_path / "model.ckpt", compvis(truth))
    prints = {fingerprint(truth)}
    for weights in ("folder", "bin", "model.ckpt"):
        found = build_autoencoder(2, [4, 8, 12], layers=2, latent=3, groups=4, weights=str(tmp_path / weights))
        assert_same(found, truth)
        prints.add(fingerprint(found))
    assert len(prints) == 1
    assert fingerprint(network(1)) not in prints


def test_the_weight_names_of_this_test_are_those_of_diffusers() -> None:
    truth = network()
    converted = convert_ldm_vae_checkpoint(compvis(truth), truth.config)
    assert converted.keys() == truth.state_dict().keys()
    assert all(torch.equal(converted[name], value) for name, value in truth.state_dict().items())


def test_weights_of_diffusers_before_0_17_load(tmp_path: Path) -> None:
    truth = network()
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = {
        re.sub(r"to_(q|k|v|out\.0)", lambda found: old[found[0]], name): value
        for name, value in truth.state_dict().items()
    }
    assert "encoder.mid_block.attentions.0.query.weight" in state
    assert_same(load_autoencoder(with_bin(tmp_path / "old", truth, state)), truth)


def test_a_diffusers_folder_defines_the_architecture(tmp_path: Path) -> None:
    network().save_pretrained(tmp_path / "folder")
    found = build_autoencoder(2, [128, 256], weights=str(tmp_path / "folder"))
    assert_same(found, network())
    with pytest.raises(UserError, match=r"takes 2 channels, and vae.channels is 3: choose another vae=, or other"):
        build_autoencoder(3, [4, 8, 12], weights=str(tmp_path / "folder"))


def test_half_precision_weights_become_float32(tmp_path: Path) -> None:
    truth = network().half()
    truth.save_pretrained(tmp_path / "folder")
    found = load_autoencoder(tmp_path / "folder")
    assert {value.dtype for value in found.state_dict().values()} == {torch.float32}
    assert fingerprint(found) == fingerprint(truth)


def test_missing_and_extra_keys_of_a_ckpt_are_named_as_in_the_file(tmp_path: Path) -> None:
    state = compvis(network())
    del state["decoder.up.2.block.1.conv1.weight"]
    state["encoder.down.0.attn.0.q.weight"] = torch.ones(4, 4, 1, 1)
    path = save_ckpt(tmp_path / "model.ckpt", state)
    with pytest.raises(UserError, match=r"model.ckpt does not fit this architecture: .*") as caught:
        build_autoencoder(2, [4, 8, 12], layers=2, latent=3, groups=4, weights=str(path))
    assert "1 weights are missing (decoder.up.2.block.1.conv1.weight)" in str(caught.value)
    assert "1 weights are unknown (encoder.down.0.attn.0.q.weight)" in str(caught.value)


def test_a_ckpt_of_another_architecture_is_refused(tmp_path: Path) -> None:
    path = save_ckpt(tmp_path / "model.ckpt", compvis(network()))
    with pytest.raises(UserError, match=r"\w+.weight is \(4, .*\), this architecture has \(8, .*: check vae.channels"):
        build_autoencoder(2, [8, 12, 16], layers=2, latent=3, groups=4, weights=str(path))
    with pytest.raises(UserError, match=r"48 weights are unknown \(decoder.up.1.block.0.nin_shortcut.bias, "):
        build_autoencoder(2, [4, 8], layers=2, latent=3, groups=4, weights=str(path))


def test_missing_extra_and_misshapen_weights_of_a_folder(tmp_path: Path) -> None:
    network().save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    save_file({name: value for name, value in state.items() if name != "quant_conv.bias"}, file)
    with pytest.raises(UserError, match=r"1 weights are missing \(quant_conv.bias\)"):
        load_autoencoder(tmp_path)
    save_file({**state, "quant_conv.scale": torch.ones(1)}, file)
    with pytest.raises(UserError, match=r"1 weights are unknown \(quant_conv.scale\)"):
        load_autoencoder(tmp_path)
    save_file({**state, "quant_conv.bias": torch.ones(5)}, file)
    with pytest.raises(UserError, match=r"quant_conv.bias is \(5,\), this architecture has \(6,\)"):
        load_autoencoder(tmp_path)


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("layout", ["bin", "ckpt"])
def test_a_malicious_pickle_is_refused_and_not_run(tmp_path: Path, layout: str) -> None:
    vae = network()
    state: dict[str, Any] = {**compvis(vae), "loss.hook": Payload(tmp_path / "ran")}
    if layout == "bin":
        weights = with_bin(tmp_path / "bin", vae, {**vae.state_dict(), "hook": Payload(tmp_path / "ran")})
    else:
        weights = save_ckpt(tmp_path / "model.ckpt", state)
    with pytest.raises(UserError, match="contains more than weights"):
        build_autoencoder(2, [4, 8, 12], layers=2, latent=3, groups=4, weights=str(weights))
    assert not (tmp_path / "ran").exists()


def test_a_folder_without_an_autoencoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"vae.weights=.*none does not exist"):
        build_autoencoder(1, [4], weights=str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"config.json describes no AutoencoderKL"):
        load_autoencoder(tmp_path)
    for text in ("[]", "{", json.dumps({"block_out_channels": "wide"})):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UserError, match=r"config.json describes no AutoencoderKL"):
            load_autoencoder(tmp_path)
    network().save_config(tmp_path)
    with pytest.raises(UserError, match=r"has no diffusion_pytorch_model.safetensors or .bin"):
        load_autoencoder(tmp_path)


def test_frames_with_unsuitable_size_or_channels_are_refused(tmp_path: Path) -> None:
    store = moving_disc_store(tmp_path / "videos", [3, 2])  # frames of 16 x 24
    check_frame_size(store, 1, 8)
    with pytest.raises(UserError, match=r"has 1 channels, this vae takes 3: ingest with data.grey=false"):
        check_frame_size(store, 3, 8)
    with pytest.raises(UserError, match=r"r0 is 24x16, not divisible by 16: ingest with another data.size"):
        check_frame_size(store, 1, 16)


def test_invalid_settings_are_refused() -> None:
    with pytest.raises(UserError, match=r"vae.widths is \[8, 10\]: give multiples of vae.groups=4"):
        build_autoencoder(1, [8, 10], groups=4)


def test_published_weights_are_chosen_on_the_command_line(tmp_path: Path) -> None:
    network().save_pretrained(tmp_path / "folder")
    cfg = composed("train", "model=vae", "data=phantom", "vae.channels=2", f"vae.weights={tmp_path}/folder")
    assert OmegaConf.select(cfg, "model.module.network.weights") == f"{tmp_path}/folder"
    assert_same(instantiate(cfg.model.module.network), network())
