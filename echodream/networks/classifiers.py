"""Classifiers of frames and clips: MONAI's residual networks, over each frame or over space and time together."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from echodream.errors import UserError
from echodream.weights import load_exactly, read_weights

CONFIG = "config.json"
WEIGHTS = "model.safetensors"


class Classifier(nn.Module):
    """From clips (B, C, F, H, W) to one score for each of ``classes``; F may be 1, a single frame.

    With ``dims`` 2 each frame goes through the network alone and the features are averaged over time; with 3 the
    network sees space and time together. ``widths`` are the channels of the four levels, each of ``layers`` blocks;
    ``stem`` and ``stride`` are the first convolution's kernel and stride, over ``dims`` axes.
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
    ) -> None:
        from monai.networks.nets.resnet import ResNet

        super().__init__()
        if dims not in (2, 3):
            raise UserError(f"backbone.dims is {dims!r}: give 2 (each frame alone) or 3 (space and time together)")
        for name, value, count in (("widths", widths, 4), ("layers", layers, 4), ("stem", stem, dims)):
            if len(value) != count or not all(isinstance(number, int) and number >= 1 for number in value):
                raise UserError(f"backbone.{name} is {list(value)!r}: give {count} whole numbers from 1")
        if len(stride) != dims:
            raise UserError(f"backbone.stride is {list(stride)!r}: give {dims} whole numbers from 1")
        self.settings: dict[str, Any] = {"classes": classes, "channels": channels, "dims": dims, "max_pool": max_pool}
        self.settings |= {"widths": [*widths], "layers": [*layers], "stem": [*stem], "stride": [*stride]}
        self.body = ResNet(
            "basic",
            list(layers),
            list(widths),
            spatial_dims=dims,
            n_input_channels=channels,
            conv1_t_size=tuple(stem),
            conv1_t_stride=tuple(stride),
            no_max_pool=not max_pool,
            bias_downsample=False,
            feed_forward=False,
        )
        self.head = nn.Linear(widths[-1], classes)

    def features(self, x: Tensor) -> Tensor:
        """What the last layer sees: (B, C, F, H, W) in [-1, 1] to (B, D)."""
        if self.settings["dims"] == 3:
            found: Tensor = self.body(x)
            return found
        each: Tensor = self.body(frames_of(x).contiguous(memory_format=torch.channels_last))
        return each.unflatten(0, (len(x), -1)).mean(dim=1)

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


def load_classifier(folder: str | Path) -> tuple[Classifier, dict[str, Any]]:
    """The network that ``Classifier.save`` wrote, ready to be asked, and its config.json.

    Of the facts there, ``class_ids`` and ``class_names`` are in the order of the logits. Raises ``UserError``.
    """
    folder = Path(folder)
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        network = Classifier(**config["architecture"])
        if len(config["class_ids"]) != len(config["class_names"]):
            raise ValueError("as many names as ids")
        load_exactly(network, read_weights(str(folder / WEIGHTS)), str(folder / WEIGHTS), "train the classifier again")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{folder} is not a readable classifier: train one with train.py model=classifier") from error
    return network.eval(), config


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
