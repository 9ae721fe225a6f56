"""Classifiers of frames and clips: residual networks, DenseNet and R(2+1)D, frame by frame or over space and time."""

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
from echodream.networks.densenet import DenseBody
from echodream.networks.densenet import own_name as dense_name
from echodream.networks.pooling import POOLINGS, Pooling
from echodream.networks.video_resnet import R2Plus1d
from echodream.weights import load_exactly, read_weights

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
FOLDS = "runs.json"
"""In a folder of several classifiers: what each of them reached."""


class Classifier(nn.Module):
    """From clips (B, C, F, H, W) to one score for each of ``classes``; F may be 1, a single frame.

    With ``dims`` 2 each frame goes through the network alone and the features are joined over time by ``pooling``
    ("mean", "max" or "attention"); with 3 the network sees space and time together, its convolutions ``factorised``
    into space and time, R(2+1)D, if asked. ``block`` is "basic" or "bottleneck" (ResNet-50), or "dense" (DenseNet).
    ``widths`` are the channels of the four levels, each of ``layers`` blocks; of a DenseNet, those of the stem and what
    each layer adds. ``stem`` and ``stride`` are the first convolution's kernel and stride, over ``dims`` axes.
    ``weights`` is a file of torchvision's weights for this architecture; its head is left out.
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
        _check_lists(widths=widths, layers=layers, stem=stem, stride=stride)
        self.settings: dict[str, Any] = {"classes": classes, "channels": channels, "dims": dims, "max_pool": max_pool}
        self.settings |= {"widths": [*widths], "layers": [*layers], "stem": [*stem], "stride": [*stride]}
        self.settings |= {"block": block, "factorised": factorised, "pooling": pooling}
        _check(self.settings)
        self.body = _body(self.settings)
        features = widths[-1] * (4 if block == "bottleneck" else 1)
        if isinstance(self.body, DenseBody):
            features = self.body.width
        self.pooling = Pooling(pooling, features)
        self.head = nn.Linear(features, classes)
        if weights is not None:
            load_published(self.body, weights, channels)

    def features(self, x: Tensor) -> Tensor:
        """What the last layer sees: (B, C, F, H, W) in [-1, 1] to (B, D)."""
        if self.settings["dims"] == 3:
            found: Tensor = self.body(x)
            return found
        each: Tensor = self.body(frames_of(x).contiguous(memory_format=torch.channels_last))
        joined: Tensor = self.pooling(each.unflatten(0, (len(x), -1)))
        return joined

    def forward(self, x: Tensor) -> Tensor:
        """Logits: (B, C, F, H, W) in [-1, 1] to (B, K)."""
        scores: Tensor = self.head(self.features(x))
        return scores

    def save(self, folder: Path, facts: dict[str, Any]) -> None:
        """Write the weights as safetensors, and the architecture with ``facts`` to config.json."""
        from safetensors.torch import save_file

        state = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        save_file(state, folder / WEIGHTS)
        config = {"_class_name": "Classifier", "architecture": self.settings, **facts}
        (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _check_lists(**given: Any) -> None:
    for name, value in given.items():
        if isinstance(value, str) or not isinstance(value, Sequence):
            validation.refuse(f"backbone.{name}", value, "give a list of whole numbers, as [64,128,256,512]")


def _check(asked: dict[str, Any]) -> None:
    """Raise ``UserError`` for an architecture that cannot be."""
    dims = asked["dims"]
    if dims not in (2, 3):
        raise UserError(f"backbone.dims is {dims!r}: give 2 (each frame alone) or 3 (space and time together)")
    dense = asked["block"] == "dense"
    for name, count in (("widths", 2 if dense else 4), ("layers", 4), ("stem", dims), ("stride", dims)):
        validation.whole_numbers(f"backbone.{name}", asked[name], count)
    for name, choices in (("block", ("basic", "bottleneck", "dense")), ("pooling", POOLINGS)):
        validation.one_of(f"backbone.{name}", asked[name], choices)
    if dims == 3 and asked["pooling"] != "mean":
        raise UserError("backbone.pooling joins frames of a 2D backbone; with backbone.dims=3 leave it at mean")
    if dense and dims != 2:
        raise UserError("backbone.block=dense is a network of single frames: it needs backbone.dims=2")
    if asked["factorised"] and (dims, asked["block"], asked["max_pool"]) != (3, "basic", False):
        raise UserError("backbone.factorised needs backbone.dims=3, backbone.block=basic and backbone.max_pool=false")


def _body(asked: dict[str, Any]) -> nn.Module:
    """What comes before the head: (B, C, F, H, W), or with two dimensions (B, C, H, W), to (B, D)."""
    if asked["factorised"]:
        return R2Plus1d(asked["channels"], asked["widths"], asked["layers"], asked["stem"], asked["stride"])
    if asked["block"] == "dense":
        shape = {name: asked[name] for name in ("channels", "layers", "stem", "stride", "max_pool")}
        return DenseBody(width=asked["widths"][0], growth=asked["widths"][1], **shape)
    from monai.networks.nets.resnet import ResNet

    return ResNet(
        asked["block"],
        list(asked["layers"]),
        list(asked["widths"]),
        spatial_dims=asked["dims"],
        n_input_channels=asked["channels"],
        conv1_t_size=tuple(asked["stem"]),
        conv1_t_stride=tuple(asked["stride"]),
        no_max_pool=not asked["max_pool"],
        bias_downsample=False,
        feed_forward=False,
    )


def load_published(body: nn.Module, path: str, channels: int) -> None:
    """Load torchvision's weights at ``path``, without their head; three colours are summed where ``body`` takes grey.

    Raises ``UserError`` when they are of another architecture.
    """
    heads = ("fc.", "classifier.")
    state = {name: value for name, value in read_weights(path).items() if not name.startswith(heads)}
    first = "conv1.weight"
    if isinstance(body, R2Plus1d):
        first = "stem.0.weight"
    elif isinstance(body, DenseBody):
        first, state = "net.features.conv0.weight", {dense_name(name): value for name, value in state.items()}
    else:
        state = {_own_name(name): value for name, value in state.items()}
    if channels == 1 and first in state and state[first].ndim > 1 and state[first].shape[1] == 3:
        state[first] = state[first].sum(dim=1, keepdim=True)
    own = body.state_dict()
    counters = {name: own[name] for name in own if name.endswith("num_batches_tracked") and name not in state}
    load_exactly(body, {**state, **counters}, path, "give the backbone= that the file was made for")


def _own_name(name: str) -> str:
    """MONAI's name of what torchvision calls ``name``: the same in 2D; in 3D convolution and norm are numbered."""
    name = re.sub(r"^stem\.0\.", "conv1.", re.sub(r"^stem\.1\.", "bn1.", name))
    name = re.sub(r"\.conv([12])\.1\.", r".bn\1.", name)
    return re.sub(r"\.(conv[12])\.0\.", r".\1.", name)


def load_classifier(folder: str | Path) -> tuple[Classifier, dict[str, Any]]:
    """The network that ``Classifier.save`` wrote, ready to be asked, and its config.json.

    Of the facts there, ``class_ids`` and ``class_names`` are in the order of the logits; ``task`` is "classification",
    or "regression", whose one answer is the number in ``column``, in its unit. Raises ``UserError``.
    """
    folder = Path(folder)
    if (folder / FOLDS).is_file():
        raise UserError(f"{folder} holds several classifiers, of folds or seeds: give one of them, a folder in it")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        network = Classifier(**config["architecture"])
        config.setdefault("task", "classification")
        if len(config["class_ids"]) != len(config["class_names"]):
            raise ValueError("as many names as ids")
        load_exactly(network, read_weights(str(folder / WEIGHTS)), str(folder / WEIGHTS), "train the classifier again")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{folder} is not a readable classifier: train one with train.py model=classifier") from error
    return network.eval(), config


def start_of(facts: Mapping[str, Any]) -> str:
    """Where the clip begins that a classifier with these ``facts`` is tested on: "first", "spread", else "centre"."""
    start = str(facts.get("start", "centre"))
    return start if start in ("first", "spread") else "centre"


def soften(x: Tensor, share: float) -> Tensor:
    """``x`` reduced to ``share`` of its sides and enlarged again: blurred as a decoder blurs. (B, C, F, H, W)."""
    frames = frames_of(x)
    size = [max(1, round(side * share)) for side in frames.shape[-2:]]
    small = functional.interpolate(frames, size=size, mode="bilinear", antialias=True)
    large = functional.interpolate(small, size=frames.shape[-2:], mode="bicubic").clamp(-1, 1)
    return large.unflatten(0, (len(x), -1)).transpose(1, 2)


def frames_of(x: Tensor) -> Tensor:
    """The frames of clips, one after the other: (B, C, F, H, W) to (B * F, C, H, W)."""
    return x.transpose(1, 2).flatten(0, 1)
