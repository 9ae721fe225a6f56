"""Published UNet folders in the format of diffusers: imported by train.py without training, then sampled."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DConditionModel, UNet2DModel, UNetSpatioTemporalConditionModel
from omegaconf import DictConfig
from torch import Tensor

from echodream import engine
from echodream.diffusion.model import load_diffusion_model
from echodream.errors import UserError
from echodream.sampling.sampling_module import row_generator
from echodream.store import Store
from tests.support.tiny_diffusion import STATISTICS, WINDOW, C, H, W, latent_store, sample_cfg, train_cfg

CONDITIONS = {"lidm": "[published]", "lvdm": "[published,published_reference]"}


def unet(kind: str, width: int = 1) -> Any:
    """A diffusers UNet with random weights."""
    torch.manual_seed(3)
    net: dict[str, Any] = {"block_out_channels": (32,), "layers_per_block": 1, "cross_attention_dim": width}
    if kind == "lidm":
        blocks = {"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",)}
        made: Any = UNet2DConditionModel(in_channels=C, out_channels=C, attention_head_dim=2, **blocks, **net)
    else:
        blocks = {
            "down_block_types": ("CrossAttnDownBlockSpatioTemporal",),
            "up_block_types": ("CrossAttnUpBlockSpatioTemporal",),
        }
        ids = {"addition_time_embed_dim": 1, "projection_class_embeddings_input_dim": 1}
        made = UNetSpatioTemporalConditionModel(
            in_channels=2 * C, out_channels=C, num_attention_heads=2, **ids, **blocks, **net
        )
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return made.eval()


def import_cfg(folder: Path, kind: str, *overrides: str) -> DictConfig:
    others = ["process.zero_snr=false", "process.spacing=leading", "trainer.max_epochs=0"]
    given = ["denoiser=imported", f"denoiser.weights={folder}/unet"]
    if not any(override.startswith("conditioning=") for override in overrides):
        given.append(f"conditioning={CONDITIONS[kind]}")
    return train_cfg(folder, kind, *given, *others, *overrides, net=False)


def imported(folder: Path, kind: str, bin_: bool = False, **net: Any) -> Any:
    """Save a UNet with diffusers, import the saved folder as an artifact, and return the UNet."""
    latent_store(folder / "latents")
    made = unet(kind, **net)
    made.save_pretrained(folder / "unet", safe_serialization=not bin_)
    engine.train(import_cfg(folder, kind))
    return made


@pytest.mark.parametrize("bin_", [False, True])
@pytest.mark.slow
def test_an_imported_image_model_draws_what_a_loop_of_diffusers_draws(tmp_path: Path, bin_: bool) -> None:
    net = imported(tmp_path, "lidm", bin_)
    engine.sample(sample_cfg(tmp_path, "image", "n=3", "sampler=ddim", "steps=4", "spacing=leading"))
    store = Store(tmp_path / "images")
    schedule = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 2e-2, "prediction_type": "v_prediction"}
    mean, std = (torch.tensor(part).view(C, 1, 1) for part in (STATISTICS.mean, STATISTICS.std))
    for row, class_id in enumerate(store.table["class_id"]):
        scheduler = DDIMScheduler(**schedule, timestep_spacing="leading", clip_sample=False)
        scheduler.set_timesteps(4)
        x = torch.randn((1, C, H, W), generator=row_generator(0, row))
        for t in scheduler.timesteps:
            with torch.no_grad():
                predicted = net(x, t, torch.full((1, 1, 1), float(class_id))).sample
            x = scheduler.step(predicted, t, x).prev_sample
        found = store.latents(f"image-{row:06d}")[0][0].float()
        truth = x[0] * std + mean
        assert np.allclose(found, truth, rtol=2e-3, atol=2e-3 * float(truth.abs().max()))


def unconditional_unet(folder: Path) -> Any:
    """A UNet2DModel with random weights, saved to ``folder``/unet; also writes a store of latents."""
    latent_store(folder / "latents")
    torch.manual_seed(3)
    blocks = {"down_block_types": ("AttnDownBlock2D",), "up_block_types": ("AttnUpBlock2D",)}
    made: Any = UNet2DModel(
        in_channels=C, out_channels=C, block_out_channels=(32,), layers_per_block=1, attention_head_dim=8, **blocks
    )
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    made.eval().save_pretrained(folder / "unet")
    return made


@pytest.mark.slow
def test_an_imported_image_model_without_conditions_draws_what_a_loop_of_diffusers_draws(tmp_path: Path) -> None:
    """Settings of EchoNet-Synthetic: DDPM, leading timesteps, and a limit of predicted latents that has an effect."""
    net = unconditional_unet(tmp_path)
    engine.train(import_cfg(tmp_path, "lidm", "conditioning=[]"))
    engine.sample(sample_cfg(tmp_path, "image", "n=3", "sampler=ddpm", "steps=4", "spacing=leading", "clip=0.5"))
    store = Store(tmp_path / "images")
    assert store.dataset.settings["clip"] == 0.5
    assert "class_id" not in store.table
    schedule = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 2e-2, "prediction_type": "v_prediction"}
    scheduler = DDPMScheduler(**schedule, timestep_spacing="leading", clip_sample=True, clip_sample_range=0.5)
    scheduler.set_timesteps(4)
    mean, std = (torch.tensor(part).view(C, 1, 1) for part in (STATISTICS.mean, STATISTICS.std))
    for row in range(3):
        generator = row_generator(0, row)
        x = torch.randn((1, C, H, W), generator=generator)
        for t in scheduler.timesteps:
            with torch.no_grad():
                x = scheduler.step(net(x, t).sample, t, x, generator=generator).prev_sample
        found = store.latents(f"image-{row:06d}")[0][0].float()
        truth = x[0] * std + mean
        assert np.allclose(found, truth, rtol=2e-3, atol=2e-3 * float(truth.abs().max()))
        assert x.abs().max() == pytest.approx(0.5, abs=1e-5)


def test_a_model_without_conditions_is_given_none(tmp_path: Path) -> None:
    unconditional_unet(tmp_path)
    with pytest.raises(UserError, match=r"no input for conditions, but the model has class_id: give conditioning=\[\]"):
        engine.train(import_cfg(tmp_path, "lidm", "conditioning=[class_id]"))
    assert not (tmp_path / "lidm").exists()


@pytest.mark.slow
def test_an_imported_video_model_is_given_its_reference_and_its_number(tmp_path: Path) -> None:
    net = imported(tmp_path, "lvdm")
    made = load_diffusion_model(str(tmp_path / "lvdm"), "lvdm")
    x, reference = torch.randn(2, C, WINDOW, H, W), torch.randn(2, C, 1, H, W)
    values: dict[str, Tensor] = {
        "class_id": torch.tensor([3.0, 0.0]),
        "reference": reference,
        "reference_time": torch.zeros(2, 1),
    }
    found = made.predictor(values)(x, torch.tensor([7, 500]), [frozenset({"class_id", "reference"}), frozenset()])
    for row, (number, given) in enumerate([([3.0, 0.0], 1.0), ([0.0, 0.0], 0.0)]):
        with torch.no_grad():
            both = torch.cat([x, given * reference.expand(-1, -1, WINDOW, -1, -1)], dim=1).transpose(1, 2)
            tokens = torch.tensor(number).view(2, 1, 1)
            truth = net(both, torch.tensor([7, 500]), tokens, added_time_ids=torch.zeros(2, 1)).sample
        assert torch.allclose(found[row], truth.transpose(1, 2), atol=1e-5)


@pytest.mark.slow
def test_an_import_is_done_once_and_again_for_other_weights(tmp_path: Path) -> None:
    net = imported(tmp_path, "lidm")
    before = (tmp_path / "lidm" / "artifact.json").read_bytes()
    engine.train(import_cfg(tmp_path, "lidm"))
    assert (tmp_path / "lidm" / "artifact.json").read_bytes() == before
    torch.nn.init.zeros_(net.conv_in.weight)
    net.save_pretrained(tmp_path / "unet")
    with pytest.raises(UserError, match="other settings"):
        engine.train(import_cfg(tmp_path, "lidm"))


@pytest.mark.parametrize(
    ("saved", "asked", "overrides", "told"),
    [
        ({"kind": "lvdm"}, "lidm", [], "is a denoiser of clips: give it to model=lvdm"),
        ({"kind": "lidm", "width": 8}, "lidm", [], "width of condition tokens of the denoiser is 8, and 1 is needed"),
        ({"kind": "lidm"}, "lidm", ["conditioning=[class_id]"], "conditioning= that it was trained with"),
        ({"kind": "lidm"}, "lidm", ["denoiser.weights=/nowhere"], "/nowhere/config.json is not of a diffusers"),
    ],
)
def test_a_folder_that_does_not_fit_is_one_sentence(
    tmp_path: Path, saved: dict[str, Any], asked: str, overrides: list[str], told: str
) -> None:
    latent_store(tmp_path / "latents")
    unet(**saved).save_pretrained(tmp_path / "unet")
    with pytest.raises(Exception) as raised:  # Hydra may wrap the error in another type
        engine.train(import_cfg(tmp_path, asked, *overrides))
    causes = [str(raised.value), str(raised.value.__cause__)]
    assert any(told in cause for cause in causes)
    assert not (tmp_path / asked).exists()
