"""DINOv2 and VideoMAE with small random networks; the tests need transformers, and are skipped otherwise."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from echodream.errors import UserError
from echodream.networks.extractors.hub import DinoV2, VideoMae

SMALL = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 32}


def dino(folder: Path) -> Path:
    from transformers import Dinov2Config, Dinov2Model

    Dinov2Model(Dinov2Config(**SMALL, image_size=28, patch_size=14)).save_pretrained(folder)
    return folder


def mae(folder: Path) -> Path:
    from transformers import VideoMAEConfig, VideoMAEModel

    sizes = {"image_size": 32, "patch_size": 16, "num_frames": 6, "tubelet_size": 2}
    VideoMAEModel(VideoMAEConfig(**SMALL, **sizes)).save_pretrained(folder)
    return folder


def test_dinov2_features_are_the_class_token(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    extractor, x = DinoV2(str(dino(tmp_path / "dino"))), torch.rand(2, 1, 1, 20, 28) * 2 - 1
    seen: list[Tensor] = []
    extractor.network.register_forward_pre_hook(
        lambda _, __, given: seen.append(given["pixel_values"]), with_kwargs=True
    )
    with torch.no_grad():
        found = extractor.features(x)
        truth = extractor.network(pixel_values=seen[0]).last_hidden_state[:, 0]
    assert found.shape == (2, 24)
    assert torch.allclose(found, truth, atol=1e-5)
    assert seen[0].shape == (2, 3, 224, 224)
    levels = seen[0] * torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    levels = levels + torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    assert levels[0].mean(dim=(1, 2)) == pytest.approx([float((x[0] + 1).mean() / 2)] * 3, abs=0.01)
    assert extractor.inputs == ("frames",)
    assert len(extractor.weights_hash) == 64


def test_videomae_features_are_the_mean_patch(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    extractor, x = VideoMae(str(mae(tmp_path / "mae"))), torch.rand(2, 1, 6, 20, 28) * 2 - 1
    with torch.no_grad():
        found = extractor.features(x)
        other = extractor.features(x.flip(2))
    assert found.shape == (2, 24)
    assert (found - other).abs().max() > 1e-4  # features depend on the order of the frames
    assert extractor.clip_types == ((6, 1),)
    assert extractor.resizing.startswith("bicubic, antialiased, to 32x32")


def test_other_and_incomplete_networks_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from safetensors.torch import load_file, save_file

    folder = dino(tmp_path / "dino")
    with pytest.raises(UserError, match=r"holds a dinov2, not a videomae: VideoMAE is published at huggingface.co"):
        VideoMae(str(folder))
    state = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in state.items() if "layer.1." not in k}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"lacks \d+ weights .*: DINOv2 is published at huggingface.co"):
        DinoV2(str(folder))


def test_a_folder_without_a_network_has_instructions(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(UserError, match=r"has no config.json and safetensors file: DINOv2 is published at"):
            DinoV2(str(path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "dinov2"}))
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(UserError, match=r"has no config.json and safetensors file"):
        DinoV2(str(tmp_path))


def test_missing_transformers_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "dinov2"}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"dinov2 and videomae need transformers: pip install 'echodream\[text\]'"):
        DinoV2(str(tmp_path))
