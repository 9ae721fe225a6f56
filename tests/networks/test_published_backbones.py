"""torchvision weight files: features of the loaded networks, compared with the layers by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from echodream.errors import UserError
from echodream.networks.classifiers import Classifier

WIDTHS, F, H, W = (4, 6, 8, 10), 5, 24, 40
State = dict[str, Tensor]


def norm(state: State, name: str, width: int) -> None:
    for part in ("weight", "bias", "running_mean"):
        state[f"{name}.{part}"] = torch.randn(width) * 0.3 + (part == "weight")
    state[f"{name}.running_var"] = torch.rand(width) + 0.5
    state[f"{name}.num_batches_tracked"] = torch.tensor(7)


def conv(state: State, name: str, *shape: int) -> None:
    fan = 1
    for size in shape[1:]:
        fan *= size
    state[f"{name}.weight"] = torch.randn(*shape) * (2 / fan) ** 0.5


def residual_levels(state: State, convolution: Callable[[str, int, int, int], None]) -> State:
    """Add four levels of two blocks; ``convolution`` adds one convolution (name, inputs, outputs, block inputs)."""
    inputs = WIDTHS[0]
    for level, width in enumerate(WIDTHS, 1):
        for block in range(2):
            where = f"layer{level}.{block}"
            for number, given in ((1, inputs), (2, width)):
                convolution(f"{where}.conv{number}.0", given, width, inputs)
                norm(state, f"{where}.conv{number}.1", width)
            if inputs != width:
                conv(state, f"{where}.downsample.0", width, inputs, 1, 1, 1)
                norm(state, f"{where}.downsample.1", width)
            inputs = width
    return {**state, "fc.weight": torch.randn(400, WIDTHS[3]), "fc.bias": torch.randn(400)}


def r3d() -> State:
    """Random weights in the layout of torchvision's r3d_18, with smaller widths."""
    state: State = {}
    conv(state, "stem.0", WIDTHS[0], 3, 3, 7, 7)
    norm(state, "stem.1", WIDTHS[0])
    return residual_levels(state, lambda name, given, width, _: conv(state, name, width, given, 3, 3, 3))


def r2plus1d() -> State:
    """Random weights in the layout of r2plus1d_18, with smaller widths; 45 instead of 64 channels inside the stem."""
    state: State = {}
    conv(state, "stem.0", 2, 3, 1, 7, 7)  # 45 * 4 // 64 channels
    norm(state, "stem.1", 2)
    conv(state, "stem.3", WIDTHS[0], 2, 3, 1, 1)
    norm(state, "stem.4", WIDTHS[0])

    def factorised(name: str, given: int, width: int, inputs: int) -> None:
        middle = (inputs * width * 27) // (inputs * 9 + 3 * width)
        conv(state, f"{name}.0", middle, given, 1, 3, 3)
        norm(state, f"{name}.1", middle)
        conv(state, f"{name}.3", width, middle, 3, 1, 1)

    return residual_levels(state, factorised)


def resnet50() -> State:
    """Random weights in the layout of torchvision's resnet50, with smaller widths and 1, 2, 1 and 1 blocks."""
    state: State = {}
    conv(state, "conv1", WIDTHS[0], 3, 7, 7)
    norm(state, "bn1", WIDTHS[0])
    inputs = WIDTHS[0]
    for level, (width, blocks) in enumerate(zip(WIDTHS, (1, 2, 1, 1), strict=True), 1):
        for block in range(blocks):
            where = f"layer{level}.{block}"
            for number, out, given, size in ((1, width, inputs, 1), (2, width, width, 3), (3, 4 * width, width, 1)):
                conv(state, f"{where}.conv{number}", out, given, size, size)
                norm(state, f"{where}.bn{number}", out)
            if block == 0:
                conv(state, f"{where}.downsample.0", 4 * width, inputs, 1, 1)
                norm(state, f"{where}.downsample.1", 4 * width)
            inputs = 4 * width
    return {**state, "fc.weight": torch.randn(1000, 4 * WIDTHS[3]), "fc.bias": torch.randn(1000)}


class Reference:
    """The documented layers of torchvision, computed from the weights of the file."""

    def __init__(self, state: State) -> None:
        self.state = state

    def norm(self, x: Tensor, name: str) -> Tensor:
        part = [self.state[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")]
        return functional.batch_norm(x, part[0], part[1], part[2], part[3])

    def conv(self, x: Tensor, name: str, stride: Any = 1) -> Tensor:
        weight = self.state[f"{name}.weight"]
        run = functional.conv3d if weight.ndim == 5 else functional.conv2d
        return run(x, weight, stride=stride, padding=[size // 2 for size in weight.shape[2:]])

    def blocks(self) -> list[str]:
        names = {".".join(name.split(".")[:2]) for name in self.state if name.startswith("layer")}
        return sorted(names, key=lambda name: (name.split(".")[0], int(name.split(".")[1])))

    def shortcut(self, x: Tensor, where: str, stride: int) -> Tensor:
        if f"{where}.downsample.0.weight" not in self.state:
            return x
        return self.norm(self.conv(x, f"{where}.downsample.0", stride), f"{where}.downsample.1")

    def r3d(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x, "stem.0", (1, 2, 2)), "stem.1").relu()
        for where in self.blocks():
            stride = 2 if where.endswith(".0") and not where.startswith("layer1") else 1
            y = self.norm(self.conv(x, f"{where}.conv1.0", stride), f"{where}.conv1.1").relu()
            y = self.norm(self.conv(y, f"{where}.conv2.0"), f"{where}.conv2.1")
            x = (y + self.shortcut(x, where, stride)).relu()
        return x.mean(dim=(2, 3, 4))

    def r2plus1d(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x, "stem.0", (1, 2, 2)), "stem.1").relu()
        x = self.norm(self.conv(x, "stem.3"), "stem.4").relu()
        for where in self.blocks():
            stride, y = 2 if where.endswith(".0") and not where.startswith("layer1") else 1, x
            for number, step in ((1, stride), (2, 1)):
                name = f"{where}.conv{number}"
                y = self.norm(self.conv(y, f"{name}.0.0", (1, step, step)), f"{name}.0.1").relu()
                y = self.norm(self.conv(y, f"{name}.0.3", (step, 1, 1)), f"{name}.1")
                y = y.relu() if number == 1 else y
            x = (y + self.shortcut(x, where, stride)).relu()
        return x.mean(dim=(2, 3, 4))

    def resnet50(self, x: Tensor) -> Tensor:
        each = x.transpose(1, 2).flatten(0, 1)
        y = self.norm(self.conv(each, "conv1", 2), "bn1").relu()
        y = functional.max_pool2d(y, 3, 2, 1)
        for where in self.blocks():
            stride = 2 if where.endswith(".0") and not where.startswith("layer1") else 1
            z = self.norm(self.conv(y, f"{where}.conv1"), f"{where}.bn1").relu()
            z = self.norm(self.conv(z, f"{where}.conv2", stride), f"{where}.bn2").relu()
            z = self.norm(self.conv(z, f"{where}.conv3"), f"{where}.bn3")
            y = (z + self.shortcut(y, where, stride)).relu()
        return y.mean(dim=(2, 3)).unflatten(0, (len(x), -1)).mean(dim=1)


KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "r3d": (r3d, {"dims": 3, "layers": [2] * 4, "stem": [3, 7, 7], "stride": [1, 2, 2], "max_pool": False}),
    "r2plus1d": (
        r2plus1d,
        {
            **{"dims": 3, "layers": [2] * 4, "stem": [3, 7, 7], "stride": [1, 2, 2], "max_pool": False},
            "factorised": True,
        },
    ),
    "resnet50": (
        resnet50,
        {
            **{"dims": 2, "layers": [1, 2, 1, 1], "stem": [7, 7], "stride": [2, 2], "max_pool": True},
            "block": "bottleneck",
        },
    ),
}


def loaded(kind: str, path: Path, channels: int = 3, **changes: Any) -> Classifier:
    settings = {"classes": 2, "channels": channels, "widths": WIDTHS, **KINDS[kind][1], **changes}
    return Classifier(**settings, weights=str(path)).eval()


def written(kind: str, folder: Path, suffix: str = "pth") -> tuple[Path, State]:
    torch.manual_seed(5)
    state = KINDS[kind][0]()
    path = folder / f"{kind}.{suffix}"
    if suffix == "pth":
        torch.save(state, path)
    else:
        from safetensors.torch import save_file

        save_file(state, path)
    return path, state


@pytest.mark.parametrize("kind", list(KINDS))
@torch.no_grad()
def test_torchvision_weights_give_the_features_of_torchvision(kind: str, tmp_path: Path) -> None:
    path, state = written(kind, tmp_path, "safetensors" if kind == "r3d" else "pth")
    x = torch.rand(2, 3, F, H, W) * 2 - 1
    truth = getattr(Reference(state), kind)(x)
    found = loaded(kind, path).features(x)
    assert truth.std() > 0.05
    assert torch.allclose(found, truth, atol=1e-4)


@pytest.mark.parametrize("kind", list(KINDS))
@torch.no_grad()
def test_first_convolution_is_summed_over_colors_for_one_channel(kind: str, tmp_path: Path) -> None:
    """Gray images have the same features with one channel as with three equal channels."""
    path, _ = written(kind, tmp_path)
    x = torch.rand(2, 1, F, H, W) * 2 - 1
    grey, colour = loaded(kind, path, channels=1), loaded(kind, path)
    assert torch.allclose(grey.features(x), colour.features(x.expand(-1, 3, -1, -1, -1)), atol=1e-4)


def test_the_classification_layer_and_batch_counters_are_optional(tmp_path: Path) -> None:
    path, state = written("r3d", tmp_path)
    torch.save({name: value for name, value in state.items() if "num_batches" not in name}, path)
    made = loaded("r3d", path)
    assert made.head.weight.shape == (2, WIDTHS[3])
    assert torch.equal(made.body.state_dict()["conv1.weight"], state["stem.0.weight"])


def test_a_file_of_another_architecture_is_refused(tmp_path: Path) -> None:
    path, _ = written("resnet50", tmp_path)
    with pytest.raises(UserError, match=r"resnet50.pth does not fit this architecture: .*; choose the backbone= of"):
        loaded("r3d", path)
    with pytest.raises(UserError, match=r"absent.pth does not exist: give the path of a local weight file"):
        loaded("r3d", tmp_path / "absent.pth")
    with pytest.raises(UserError, match=r"conv1.weight is \(4, 3, 7, 7\), this architecture has \(4, 2, 7, 7\)"):
        loaded("resnet50", path, channels=2)
