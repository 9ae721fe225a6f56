"""DenseNet: published number of parameters, torchvision weights layer by layer, small images, saving and loading."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor
from torch.nn import functional

from echodream.config.paths import CONF_DIR
from echodream.errors import UserError
from echodream.networks.classifiers import Classifier, load_classifier

B, K, H, W = 2, 3, 40, 72
WIDTH, GROWTH, LAYERS = 6, 4, (2, 1, 2, 1)
State = dict[str, Tensor]


def network(channels: int = 3, **changes: Any) -> Classifier:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"dims": 2, "block": "dense", "widths": [WIDTH, GROWTH], "layers": [*LAYERS]}
    settings |= {"stem": [7, 7], "stride": [2, 2], "max_pool": True}
    return Classifier(classes=K, channels=channels, **{**settings, **changes}).eval()


def made(backbone: str) -> Any:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return instantiate(compose("train", ["model=utility", "data=images", f"backbone={backbone}"]).backbone)


@pytest.mark.slow
def test_densenet121_is_the_published_architecture() -> None:
    """torchvision documents 7,978,856 parameters for 1000 classes."""
    with torch.device("meta"):
        found = made("densenet121")(classes=1000, channels=3)
        assert found(torch.zeros(2, 3, 1, 224, 224)).shape == (2, 1000)
    assert sum(parameter.numel() for parameter in found.parameters()) == 7_978_856


@pytest.mark.parametrize("names", ["norm.1", "norm1"])
@pytest.mark.parametrize("channels", [3, 1])
def test_torchvision_weights_give_the_features_of_torchvision(names: str, channels: int, tmp_path: Path) -> None:
    """Both naming schemes of torchvision files; for one input channel, the first convolution is summed over colors."""
    torch.save(published(dot="." if names == "norm.1" else ""), tmp_path / "densenet.pth")
    found = network(channels, weights=str(tmp_path / "densenet.pth"))
    x = torch.rand(B, channels, 1, H, W) * 2 - 1
    assert torch.allclose(found.features(x), reference(published(dot=""), x), atol=1e-5)


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    torch.save(published(""), tmp_path / "densenet.pth")
    with pytest.raises(UserError, match="choose the backbone= of these weights"):
        network(weights=str(tmp_path / "densenet.pth"), widths=[WIDTH + 2, GROWTH])
    with pytest.raises(UserError, match="does not fit this architecture"):
        network(weights=str(tmp_path / "densenet.pth"), layers=[2, 2, 2, 1])


def published(dot: str) -> State:
    """Random weights in the layout of torchvision's densenet121 with smaller widths; equal in every call."""
    torch.manual_seed(1)
    state: State = {}

    def norm(name: str, width: int) -> None:
        for part in ("weight", "bias", "running_mean"):
            state[f"{name}.{part}"] = torch.randn(width) * 0.3 + (part == "weight")
        state[f"{name}.running_var"] = torch.rand(width) + 0.5

    def conv(name: str, *shape: int) -> None:
        state[f"{name}.weight"] = torch.randn(*shape) * (2 / (shape[1] * shape[2] * shape[3])) ** 0.5

    conv("features.conv0", WIDTH, 3, 7, 7)
    norm("features.norm0", WIDTH)
    width = WIDTH
    for block, layers in enumerate(LAYERS, 1):
        for layer in range(1, layers + 1):
            where = f"features.denseblock{block}.denselayer{layer}"
            norm(f"{where}.norm{dot}1", width)
            conv(f"{where}.conv{dot}1", 4 * GROWTH, width, 1, 1)
            norm(f"{where}.norm{dot}2", 4 * GROWTH)
            conv(f"{where}.conv{dot}2", GROWTH, 4 * GROWTH, 3, 3)
            width += GROWTH
        if block < 4:
            norm(f"features.transition{block}.norm", width)
            conv(f"features.transition{block}.conv", width // 2, width, 1, 1)
            width //= 2
    norm("features.norm5", width)
    return {**state, "classifier.weight": torch.randn(1000, width), "classifier.bias": torch.randn(1000)}


def reference(state: State, x: Tensor) -> Tensor:
    """Features of a DenseNet in plain functions, with the parameter names of the file: (B, C, 1, H, W) to (B, D)."""

    def norm(y: Tensor, name: str) -> Tensor:
        part = [state[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")]
        return functional.batch_norm(y, part[0], part[1], part[2], part[3]).relu()

    first = state["features.conv0.weight"]
    first = first if x.shape[1] == 3 else first.sum(dim=1, keepdim=True)
    y = norm(functional.conv2d(x[:, :, 0], first, stride=2, padding=3), "features.norm0")
    y = functional.max_pool2d(y, 3, stride=2, padding=1)
    for block, layers in enumerate(LAYERS, 1):
        for layer in range(1, layers + 1):
            where = f"features.denseblock{block}.denselayer{layer}"
            new = functional.conv2d(norm(y, f"{where}.norm1"), state[f"{where}.conv1.weight"])
            new = functional.conv2d(norm(new, f"{where}.norm2"), state[f"{where}.conv2.weight"], padding=1)
            y = torch.cat([y, new], dim=1)
        if block < 4:
            where = f"features.transition{block}"
            y = functional.avg_pool2d(functional.conv2d(norm(y, f"{where}.norm"), state[f"{where}.conv.weight"]), 2)
    return norm(y, "features.norm5").mean(dim=(2, 3))


def test_small_images_need_densenet121_latents() -> None:
    found = network(4, stem=[3, 3], stride=[1, 1], max_pool=False)
    assert found(torch.zeros(B, 4, 1, 8, 14)).shape == (B, K)
    with pytest.raises(UserError, match=r"images of 14x7 are too small: this DenseNet needs 8 pixels"):
        found(torch.zeros(B, 4, 1, 7, 14))
    with pytest.raises(
        UserError, match=r"images of 28x28 are too small: .* needs 32 pixels: give backbone=densenet121_latents"
    ):
        network(4)(torch.zeros(B, 4, 1, 28, 28))
    assert made("densenet121_latents").keywords["stride"] == [1, 1]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"dims": 3, "stem": [3, 3, 3], "stride": [1, 1, 1]}, "backbone.block=dense .* give backbone.dims=2"),
        ({"widths": [4, 6, 8, 10]}, "backbone.widths is .*give a list of 2 whole numbers"),
    ],
)
def test_invalid_settings_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        network(**changes)


@torch.no_grad()
def test_a_saved_network_loads_with_the_same_outputs(tmp_path: Path) -> None:
    found, x = network(1), torch.rand(B, 1, 2, H, W)
    found.save(tmp_path, {"task": "labels", "class_ids": [], "class_names": []})
    again, config = load_classifier(tmp_path)
    assert torch.equal(again(x), found(x))
    assert config["architecture"]["block"] == "dense"
