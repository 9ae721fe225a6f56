"""Classifier networks: published numbers of parameters, pooling, blur, saving and loading."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor

from echodream.config.paths import CONF_DIR
from echodream.errors import UserError
from echodream.networks.classifiers import Classifier, blur_by_downsampling, load_classifier

B, C, F, H, W, K = 2, 3, 5, 24, 40, 4
FACTS = {"class_ids": [0, 1, 5, 7], "class_names": ["a", "b", "c", "d"]}


def network(dims: int = 2, **changes: Any) -> Classifier:
    torch.manual_seed(0)
    settings = {"classes": K, "channels": C, "dims": dims, "widths": [4, 6, 8, 10], "layers": [1, 1, 1, 1]}
    settings |= {"stem": [3] * dims, "stride": [1] * (dims - 2) + [2, 2], "max_pool": False}
    return Classifier(**{**settings, **changes}).eval()


def clips(seed: int = 0) -> Tensor:
    return torch.rand(B, C, F, H, W, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "classes", "parameters"),
    [
        ("resnet18_3d", 400, 33_371_472),
        ("published", 400, 33_371_472),
        ("r2plus1d_18", 400, 31_505_325),
        ("resnet18_2d", 1000, 11_689_512),
        ("resnet50_2d", 1000, 25_557_032),
    ],
)
def test_the_yaml_files_are_the_published_architectures(backbone: str, classes: int, parameters: int) -> None:
    """Parameters as in torchvision: r3d_18 and r2plus1d_18 for Kinetics-400, resnet18 and resnet50 for ImageNet."""
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose("train", ["model=classifier", "data=phantom", f"backbone={backbone}"])
    with torch.device("meta"):
        made = instantiate(cfg.model.module.backbone)(classes=classes, channels=3)
        assert made(torch.zeros(2, 3, 8, 112, 112)).shape == (2, classes)
    assert sum(parameter.numel() for parameter in made.parameters()) == parameters


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("frames", [1, F])
def test_shapes_of_clips_and_of_single_frames(dims: int, frames: int) -> None:
    made, x = network(dims), clips()[:, :, :frames]
    features = made.features(x)
    assert features.shape == (B, 10)
    assert made(x).shape == (B, K)
    assert torch.equal(made(x), made.head(features))


@torch.no_grad()
def test_features_of_2d_backbones_are_the_mean_over_frames() -> None:
    made, x = network(), clips()
    each = torch.stack([made.features(x[:, :, [f]]) for f in range(F)])
    assert torch.allclose(made.features(x), each.mean(dim=0), atol=1e-6)
    assert (each[0] - each[1]).abs().max() > 1e-4
    assert torch.allclose(made.features(x[1:]), made.features(x)[1:], atol=1e-6)


@torch.no_grad()
def test_frame_features_are_pooled_by_the_configured_method() -> None:
    x = clips()
    for pooling in ("mean", "max", "attention"):
        made = network(pooling=pooling)
        each = torch.stack([made.features(x[:, :, [f]]) for f in range(F)])
        if pooling == "attention":
            # untrained attention pooling equals the mean
            assert torch.allclose(made.features(x), each.mean(dim=0), atol=1e-6)
            assert made.pooling.score is not None
            torch.nn.init.normal_(made.pooling.score[2].weight, std=3.0)
            scores = torch.tanh(each @ made.pooling.score[0].weight.T + made.pooling.score[0].bias)
            weights = (scores @ made.pooling.score[2].weight.T).softmax(dim=0)
            assert (weights - 1 / F).abs().max() > 0.02
            truth = (weights * each).sum(dim=0)
        else:
            truth = each.mean(dim=0) if pooling == "mean" else each.max(dim=0).values
        assert torch.allclose(made.features(x), truth, atol=1e-6), pooling


@torch.no_grad()
def test_3d_backbones_depend_on_the_order_of_frames() -> None:
    x = clips()
    assert (network(3)(x) - network(3)(x.flip(2))).abs().max() > 1e-4
    assert torch.allclose(network(2)(x), network(2)(x.flip(2)), atol=1e-5)


@pytest.mark.parametrize(
    ("dims", "changes"),
    [
        (2, {}),
        (3, {}),
        (3, {"factorised": True}),
        (2, {"pooling": "attention", "block": "bottleneck"}),
    ],
)
@torch.no_grad()
def test_a_saved_network_loads_with_the_same_outputs(tmp_path: Path, dims: int, changes: dict[str, Any]) -> None:
    made = network(dims, **changes)
    made.train()(clips(3))  # running means differ from their initial values
    made.eval().save(tmp_path, {**FACTS, "frames": 8})
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    loaded, config = load_classifier(tmp_path)
    assert not loaded.training
    assert torch.equal(loaded(clips()), made(clips()))
    assert (config["class_ids"], config["class_names"], config["frames"]) == ([0, 1, 5, 7], ["a", "b", "c", "d"], 8)


@torch.no_grad()
def test_a_folder_of_an_earlier_version_loads(tmp_path: Path) -> None:
    """A config.json of an earlier version, without pooling and task, loads with the same outputs."""
    made = network()
    made.save(tmp_path, FACTS)
    whole = json.loads((tmp_path / "config.json").read_text())
    for name in ("block", "factorised", "pooling"):
        del whole["architecture"][name]
    (tmp_path / "config.json").write_text(json.dumps(whole))
    loaded, config = load_classifier(tmp_path)
    assert config["task"] == "classification"
    assert torch.equal(loaded(clips()), made(clips()))


def test_a_damaged_or_missing_folder_is_named(tmp_path: Path) -> None:
    network().save(tmp_path, FACTS)
    whole = json.loads((tmp_path / "config.json").read_text())
    unread = "is not a readable classifier: train one with train.py model=classifier"
    for broken in ("{", "[]", json.dumps({**whole, "architecture": {}}), json.dumps({**whole, "class_ids": [1]})):
        (tmp_path / "config.json").write_text(broken)
        with pytest.raises(UserError, match=unread):
            load_classifier(tmp_path)
    other = {**whole, "architecture": {**whole["architecture"], "layers": [1, 1, 1, 2]}}
    (tmp_path / "config.json").write_text(json.dumps(other))
    with pytest.raises(UserError, match=r"weights are missing .* train the classifier again"):
        load_classifier(tmp_path)
    with pytest.raises(UserError, match=unread):
        load_classifier(tmp_path / "absent")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"dims": 4}, r"backbone.dims is 4: give 2"),
        ({"widths": [4, 6, 8]}, r"backbone.widths is \[4, 6, 8\]: give a list of 4 whole numbers"),
        ({"widths": 64}, r"backbone.widths is 64: give a list of 4 whole numbers"),
        ({"layers": [1, 1, 0, 1]}, r"backbone.layers is"),
        ({"block": "wide"}, r"backbone.block is 'wide': choose one of basic, bottleneck"),
        ({"pooling": "median"}, r"backbone.pooling is 'median': choose one of mean, max, attention"),
        ({"dims": 3, "pooling": "max"}, r"backbone.pooling is for 2D backbones"),
        ({"factorised": True}, r"backbone.factorised needs backbone.dims=3"),
        ({"stem": [3, 3, 3]}, r"backbone.stem is \[3, 3, 3\]: give a list of 2"),
        ({"stride": [2]}, r"backbone.stride is \[2\]: give a list of 2"),
    ],
)
def test_an_invalid_architecture_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        network(**changes)


def test_blur_keeps_low_and_removes_high_frequencies() -> None:
    ramp = torch.linspace(-0.6, 0.6, W).expand(B, C, F, H, W)
    inner = (..., slice(6, -6), slice(6, -6))
    assert torch.allclose(blur_by_downsampling(ramp, 0.4)[inner], ramp[inner], atol=0.02)
    detail = (torch.arange(W) % 2 * 2.0 - 1).expand(B, C, F, H, W)
    assert blur_by_downsampling(detail, 0.4)[inner].abs().max() < 0.1
    assert blur_by_downsampling(clips(), 0.4).abs().max() <= 1
    assert torch.allclose(blur_by_downsampling(clips(), 1.0), clips(), atol=1e-6)


def test_blur_is_independent_for_clips_channels_and_frames() -> None:
    x = clips()
    whole = blur_by_downsampling(x, 0.5)
    assert whole.shape == x.shape
    for b, c, f in ((0, 0, 0), (1, 2, 3), (0, 1, 4)):
        alone = blur_by_downsampling(x[b : b + 1, c : c + 1, f : f + 1], 0.5)
        assert torch.allclose(whole[b, c, f], alone[0, 0, 0], atol=1e-6)
