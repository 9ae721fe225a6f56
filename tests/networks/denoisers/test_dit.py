"""Diffusion transformers as denoisers: full size of the configurations, conditions, frames, training and sampling."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import LatteTransformer3DModel
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor

from echodream import engine
from echodream.config.paths import CONF_DIR
from echodream.errors import UserError
from echodream.networks import denoisers
from echodream.networks.denoisers.base import Denoiser
from echodream.networks.denoisers.dit import ImageTransformer, VideoTransformer, build_transformer
from echodream.networks.denoisers.registry import DENOISERS, check_registered, denoisers_by_network, load_denoiser
from echodream.store import Store
from echodream.types import Condition
from tests.support.tiny_diffusion import latent_store, sample_cfg, train_cfg

B, C, E, D, F, H, W = 2, 4, 3, 6, 3, 5, 7
SIZES = {"layers": 2, "heads": 2, "head_width": 4, "patch_size": 2, "sample_size": 4}
TINY = [f"denoiser.{key}={value}" for key, value in SIZES.items()]


def transformer(video: bool, seed: int = 0) -> Denoiser:
    """Small transformer with random weights, none of which is zero."""
    torch.manual_seed(seed)
    denoiser = build_transformer(C, E, D, video, **SIZES).eval()
    for weight in denoiser.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return denoiser


def inputs(video: bool, frames: int = F) -> tuple[Tensor, Tensor, Condition]:
    rng = torch.Generator().manual_seed(1)
    rest = (frames, H, W) if video else (H, W)
    x, extra = (torch.randn(B, channels, *rest, generator=rng) for channels in (C, E))
    tokens = torch.randn(B, 2, D, generator=rng)
    return x, torch.tensor([3.0, 700.5]), Condition(tokens, extra)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "name", "extra", "count"),
    [
        ("lidm", "dit", 0, 118_420_240),
        ("lidm", "dit/small", 0, 29_718_928),
        ("lidm", "dit/tiny", 0, 1_233_028),
        ("lvdm", "dit", 4, 203_505_424),
        ("lvdm", "dit/small", 4, 51_027_856),
        ("lvdm", "dit/tiny", 4, 2_027_652),
    ],
)
def test_every_size_on_meta(model: str, name: str, extra: int, count: int) -> None:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose("train", [f"model={model}", "data=phantom", f"denoiser={name}"])
    video = model == "lvdm"
    with torch.device("meta"):
        denoiser = instantiate(cfg.denoiser)(channels=4, extra_channels=extra, token_width=64).to("meta")
        x = torch.empty(2, 4, *((5, 14, 18) if video else (14, 18)))
        channels = torch.empty(2, extra, *x.shape[2:]) if extra else None
        prediction = denoiser(x, torch.empty(2), Condition(torch.empty(2, 3, 64), channels))
    assert prediction.shape == x.shape
    assert isinstance(denoiser, VideoTransformer if video else ImageTransformer)
    assert sum(weight.numel() for weight in denoiser.parameters()) == count


@pytest.mark.parametrize("video", [False, True])
def test_each_row_depends_on_its_own_time_tokens_and_channels(video: bool) -> None:
    denoiser = transformer(video)
    x, t, condition = inputs(video)
    assert condition.channels is not None
    with torch.no_grad():
        together = denoiser(x, t, condition)
        for row in range(B):
            one = slice(row, row + 1)
            alone = denoiser(x[one], t[one], Condition(condition.tokens[one], condition.channels[one]))
            torch.testing.assert_close(together[one], alone, rtol=1e-4, atol=1e-4)
        changes = (
            denoiser(x, t.flip(0), condition),
            denoiser(x, t, Condition(condition.tokens.flip(0), condition.channels)),
            denoiser(x, t, Condition(condition.tokens, condition.channels.flip(0))),
        )
    assert all((changed - together).abs().flatten(1).amax(1).min() > 1e-4 for changed in changes)


@pytest.mark.parametrize("frames", [1, 2, 16, 21])
def test_clips_of_any_number_of_frames(frames: int) -> None:
    """Predictions equal those of diffusers for any number of frames, also after a clip of another length."""
    denoiser = transformer(True)
    x, t, condition = inputs(True, frames)
    even = [part[..., :4, :6] for part in (x, condition.channels)]
    with torch.no_grad():
        denoiser(*inputs(True, 5))
        prediction = denoiser(even[0], t, Condition(condition.tokens, even[1]))
        config = {key: value for key, value in denoiser.network.config.items() if not key.startswith("_")}
        network = LatteTransformer3DModel(**{**config, "video_length": frames}).eval()
        network.load_state_dict(denoiser.network.state_dict())
        truth = network(torch.cat(even, dim=1), t, condition.tokens).sample
    assert denoiser(x, t, condition).shape == (B, C, frames, H, W)
    torch.testing.assert_close(prediction, truth)


def test_a_network_that_diffusers_does_not_have_is_refused_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    denoiser = transformer(False)
    denoiser.network.__class__ = type("OwnNet", (type(denoiser.network),), {})
    monkeypatch.setitem(DENOISERS, "OwnNet", type(denoiser))
    with pytest.raises(UserError, match=r"has a network OwnNet, which is not a class of diffusers"):
        check_registered(denoiser)


@pytest.mark.parametrize("video", [False, True])
def test_saved_and_loaded(video: bool, tmp_path: Path) -> None:
    denoiser = transformer(video)
    denoiser.save(tmp_path)
    loaded = load_denoiser(tmp_path)
    check_registered(loaded)
    assert (loaded.channels, loaded.extra_channels, loaded.token_width, loaded.size_multiple) == (C, E, D, 2)
    with torch.no_grad():
        assert torch.equal(loaded(*inputs(video)), denoiser(*inputs(video)))


@pytest.mark.parametrize("video", [False, True])
def test_dropout_is_for_training_only(video: bool) -> None:
    made, without = (build_transformer(C, E, D, video, **SIZES, dropout=share) for share in (0.5, 0.0))
    for weight in made.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    without.load_state_dict(made.state_dict())
    with torch.no_grad():
        assert torch.equal(made.eval()(*inputs(video)), without.eval()(*inputs(video)))
        assert not torch.equal(made.train()(*inputs(video)), made(*inputs(video)))


def test_every_denoiser_of_images_goes_with_the_dropout_of_the_demo(tmp_path: Path) -> None:
    """The dropout of experiment=demo applies to all image denoisers; an imported denoiser refuses a dropout."""
    common = ["model=lidm", "data=phantom", "experiment=demo"]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        dit = compose("train", [*common, "denoiser=dit/tiny"]).denoiser
        imported = compose("train", [*common, "denoiser=imported", f"denoiser.weights={tmp_path}"]).denoiser
    with torch.device("meta"):
        network = instantiate(dit)(channels=4, extra_channels=0, token_width=8).network
    assert network.config.dropout == dit.dropout > 0
    with pytest.raises(UserError, match=r"an imported denoiser keeps its dropout; give denoiser\.dropout=0"):
        instantiate(imported)(channels=4, extra_channels=0, token_width=8)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lidm", "lvdm"])
def test_trained_exported_and_sampled(kind: str, tmp_path: Path) -> None:
    latent_store(tmp_path / "latents")
    overrides = ["denoiser=dit", *TINY, "model.checkpointing=true", "callbacks.pictures=null"]
    engine.train(train_cfg(tmp_path, kind, *overrides, net=False))
    if kind == "lidm":
        engine.sample(sample_cfg(tmp_path, "image", "n=2", "guidance.class_id=2"))
        store = Store(tmp_path / "images")
    else:
        engine.sample(sample_cfg(tmp_path, "video", f"src={tmp_path}/latents", "n=2", "frames=11"))
        store = Store(tmp_path / "videos")
    assert store.table["NumberOfFrames"].tolist() == [1, 1] if kind == "lidm" else [11, 11]


def test_a_denoiser_that_is_not_registered_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(DENOISERS, "PixArtTransformer2DModel")
    latent_store(tmp_path / "latents")
    with pytest.raises(UserError, match="ImageTransformer with PixArtTransformer2DModel cannot be loaded after train"):
        engine.train(train_cfg(tmp_path, "lidm", "denoiser=dit", *TINY, net=False))
    assert not (tmp_path / "lidm").exists()


def test_a_new_file_registers_its_denoiser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A denoiser class in a new file of the folder is registered by its ``network_class``; base classes are not."""
    code = "from echodream.networks.denoisers.dit import _Transformer\n\n\nclass Hunyuan(_Transformer):\n"
    code += '    """A denoiser."""\n\n    is_video = False\n    network_class = "HunyuanDiT2DModel"\n'
    (tmp_path / "hunyuan.py").write_text(code)
    monkeypatch.setattr(denoisers, "__path__", [*denoisers.__path__, str(tmp_path)])
    found = denoisers_by_network(denoisers)
    assert {name: kind for name, kind in found.items() if name in DENOISERS} == DENOISERS
    assert [found[name].__name__ for name in found.keys() - DENOISERS.keys()] == ["Hunyuan"]
    (tmp_path / "again.py").write_text(code.replace("Hunyuan(", "Again("))
    with pytest.raises(TypeError, match="needs another network_class"):
        denoisers_by_network(denoisers)


@pytest.mark.parametrize(("key", "value"), [("layers", 0), ("heads", 1.5), ("patch_size", None), ("sample_size", True)])
def test_settings_that_are_no_whole_numbers(key: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"^denoiser\.{key} is .*: give a whole number from 1"):
        build_transformer(C, E, D, False, **{**SIZES, key: value})


def test_a_width_that_positions_do_not_fit() -> None:
    with pytest.raises(UserError, match=r"denoiser.heads=2 times denoiser.head_width=3 is 6: give a multiple of 4"):
        build_transformer(C, E, D, False, **{**SIZES, "head_width": 3})
