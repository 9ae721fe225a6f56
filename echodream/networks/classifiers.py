"""Classifier networks of frames and clips: 2D and 3D ResNet, DenseNet, R(2+1)D."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from echodream import validation
from echodream.errors import UserError
from echodream.networks.densenet import DenseNetBackbone, monai_densenet_name
from echodream.networks.resnet import build_resnet
from echodream.networks.video_resnet import R2Plus1dBackbone
from echodream.weights import CONFIG_FILE, WEIGHTS_FILE, load_strictly, read_weights, save_network

RUNS_FILE = "runs.json"
"""File with the metrics of each run, in the folder of a cross-validation (``folds=``) or of several ``seeds=``."""
POOLINGS = ("mean", "max", "attention")


class FramePooling(nn.Module):
    """Pool frame features, (B, F, D) to (B, D), by "mean", "max" or "attention" (Ilse et al. 2018)."""

    def __init__(self, kind: str, features: int) -> None:
        super().__init__()
        self.kind = kind
        self.score: nn.Module | None = None
        if kind == "attention":
            last = nn.Linear(max(1, features // 4), 1, bias=False)
            nn.init.zeros_(last.weight)
            self.score = nn.Sequential(nn.Linear(features, last.in_features), nn.Tanh(), last)

    def forward(self, x: Tensor) -> Tensor:
        if self.score is not None:
            return (torch.softmax(self.score(x), dim=1) * x).sum(dim=1)
        return x.amax(dim=1) if self.kind == "max" else x.mean(dim=1)


class Classifier(nn.Module):
    """Classifier of clips, (B, C, F, H, W) to logits (B, ``classes``). Single frames are clips with F = 1.

    With ``dims`` 2, a 2D network processes each frame, and ``pooling`` ("mean", "max" or "attention") combines the
    frame features. With ``dims`` 3, the network has 3D convolutions, or R(2+1)D convolutions if ``factorised``.
    ``block`` is "basic" (ResNet-18), "bottleneck" (ResNet-50) or "dense" (DenseNet). ``widths`` and ``layers`` are the
    channels and numbers of blocks of the four levels; ``widths`` of a DenseNet are stem channels and growth rate.
    ``stem`` and ``stride`` are the kernel size and stride of the first convolution, over ``dims`` axes. ``weights`` is
    a file of torchvision weights for this architecture. The classification layer in ``weights`` is not loaded.
    """

    def __init__(
        self,
        classes: int,
        channels: int,
        dims: int,
        widths: Sequence[int],
        layers: Sequence[int],
        stem: Sequence[int],
        stride: Sequence[int],
        max_pool: bool,
        block: str = "basic",
        factorised: bool = False,
        pooling: str = "mean",
        weights: str | None = None,
    ) -> None:
        super().__init__()
        lists = {"widths": widths, "layers": layers, "stem": stem, "stride": stride}
        self.settings: dict[str, Any] = {"classes": classes, "channels": channels, "dims": dims, "max_pool": max_pool}
        self.settings |= {"block": block, "factorised": factorised, "pooling": pooling, **lists}
        _check_architecture(self.settings)
        self.settings |= {name: [*value] for name, value in lists.items()}
        self.body = _build_backbone(self.settings)
        features = widths[-1] * (4 if block == "bottleneck" else 1)
        if isinstance(self.body, DenseNetBackbone):
            features = self.body.feature_count
        self.pooling = FramePooling(pooling, features)
        self.head = nn.Linear(features, classes)
        if weights is not None:
            load_torchvision_weights(self.body, weights, channels)

    def features(self, x: Tensor) -> Tensor:
        """Input of the classification layer: clips (B, C, F, H, W) in [-1, 1] to features (B, D)."""
        if self.settings["dims"] == 3:
            return self.body(x)
        per_frame = self.body(flatten_frames(x).contiguous(memory_format=torch.channels_last))
        return self.pooling(per_frame.unflatten(0, (len(x), -1)))

    def forward(self, x: Tensor) -> Tensor:
        """Class logits: clips (B, C, F, H, W) in [-1, 1] to (B, K)."""
        return self.head(self.features(x))

    def save(self, folder: Path, metadata: dict[str, Any]) -> None:
        """Write the weights to model.safetensors, and architecture and ``metadata`` to config.json, in ``folder``."""
        save_network(self, folder, {"_class_name": "Classifier", "architecture": self.settings, **metadata})


def _check_architecture(settings: dict[str, Any]) -> None:
    """Raise ``UserError`` for invalid values or combinations of the architecture ``settings``."""
    dims = settings["dims"]
    if dims not in (2, 3):
        raise UserError(f"backbone.dims is {dims!r}: give 2 (2D convolutions) or 3 (convolutions over space and time)")
    dense = settings["block"] == "dense"
    for name, count in (("widths", 2 if dense else 4), ("layers", 4), ("stem", dims), ("stride", dims)):
        validation.whole_numbers(f"backbone.{name}", settings[name], count)
    for name, choices in (("block", ("basic", "bottleneck", "dense")), ("pooling", POOLINGS)):
        validation.one_of(f"backbone.{name}", settings[name], choices)
    if dims == 3 and settings["pooling"] != "mean":
        raise UserError("backbone.pooling is for 2D backbones: with backbone.dims=3 give backbone.pooling=mean")
    if dense and dims != 2:
        raise UserError("backbone.block=dense is a 2D network: give backbone.dims=2")
    if settings["factorised"] and (dims, settings["block"], settings["max_pool"]) != (3, "basic", False):
        raise UserError("backbone.factorised needs backbone.dims=3, backbone.block=basic and backbone.max_pool=false")


def _build_backbone(settings: dict[str, Any]) -> nn.Module:
    """Build the feature network: (B, C, H, W), or (B, C, F, H, W) if ``dims`` is 3, to features (B, D)."""
    if settings["factorised"]:
        return R2Plus1dBackbone(*(settings[name] for name in ("channels", "widths", "layers", "stem", "stride")))
    if settings["block"] == "dense":
        shape = {name: settings[name] for name in ("channels", "layers", "stem", "stride", "max_pool")}
        return DenseNetBackbone(width=settings["widths"][0], growth=settings["widths"][1], **shape)
    return build_resnet(settings, spatial_dims=settings["dims"], feed_forward=False)


def load_torchvision_weights(body: nn.Module, path: str, channels: int) -> None:
    """Load torchvision weights, except the classification layer. Raises ``UserError`` for another architecture.

    If ``channels`` is 1, weights of the first convolution are summed over the three input colors.
    """
    head = ("fc.", "classifier.")
    state = {name: value for name, value in read_weights(path).items() if not name.startswith(head)}
    first = "conv1.weight"
    if isinstance(body, R2Plus1dBackbone):
        first = "stem.0.weight"
    elif isinstance(body, DenseNetBackbone):
        first, state = "net.features.conv0.weight", {monai_densenet_name(name): value for name, value in state.items()}
    else:
        state = {monai_resnet_name(name): value for name, value in state.items()}
    if channels == 1 and first in state and state[first].ndim > 1 and state[first].shape[1] == 3:
        state[first] = state[first].sum(dim=1, keepdim=True)
    current = body.state_dict()
    counters = {name: current[name] for name in current if name.endswith("num_batches_tracked") and name not in state}
    load_strictly(body, {**state, **counters}, path, "choose the backbone= of these weights")


def monai_resnet_name(name: str) -> str:
    """MONAI's name of the torchvision weight ``name``. For 2D networks, MONAI and torchvision have equal names."""
    name = re.sub(r"^stem\.0\.", "conv1.", re.sub(r"^stem\.1\.", "bn1.", name))
    name = re.sub(r"\.conv([12])\.1\.", r".bn\1.", name)
    return re.sub(r"\.(conv[12])\.0\.", r".\1.", name)


def load_classifier(folder: str | Path) -> tuple[Classifier, dict[str, Any]]:
    """Load a classifier in ``eval`` mode, and its config.json. Raises ``UserError`` if ``folder`` has no classifier.

    In config.json, ``class_ids`` and ``class_names`` are in the order of the logits. ``task`` is "classification",
    "labels" or "regression". The output of a regression is the value of ``column``.
    """
    folder = Path(folder)
    if (folder / RUNS_FILE).is_file():
        raise UserError(f"{folder} holds several classifiers, of folds or seeds: give the folder of one classifier")
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        network = Classifier(**config["architecture"])
        config.setdefault("task", "classification")
        if len(config["class_ids"]) != len(config["class_names"]):
            raise ValueError("class_ids and class_names differ in length")
        weights = str(folder / WEIGHTS_FILE)
        load_strictly(network, read_weights(weights), weights, "train the classifier again")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{folder} is not a readable classifier: train one with train.py model=classifier") from error
    return network.eval(), config


def clip_start(metadata: Mapping[str, Any]) -> str:
    """Position of test clips in a recording (``view.start``), from config.json: "first", "spread" or "centre"."""
    start = str(metadata.get("start", "centre"))
    return start if start in ("first", "spread") else "centre"


def blur_by_downsampling(x: Tensor, factor: float) -> Tensor:
    """Blur clips, (B, C, F, H, W): downsample height and width by ``factor``, 0 to 1, and upsample to (H, W)."""
    frames = flatten_frames(x)
    size = [max(1, round(side * factor)) for side in frames.shape[-2:]]
    small = functional.interpolate(frames, size=size, mode="bilinear", antialias=True)
    blurred = functional.interpolate(small, size=frames.shape[-2:], mode="bicubic").clamp(-1, 1)
    return blurred.unflatten(0, (len(x), -1)).transpose(1, 2)


def flatten_frames(x: Tensor) -> Tensor:
    """Flatten a batch of clips to a batch of frames: (B, C, F, H, W) to (B * F, C, H, W)."""
    return x.transpose(1, 2).flatten(0, 1)
