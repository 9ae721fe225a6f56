"""The identity network: MONAI's residual networks from one frame to features that tell patients apart."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from echodream import validation
from echodream.errors import UserError
from echodream.networks.iresnet import IResNet
from echodream.weights import load_exactly, read_weights

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
KINDS = {"latents": "latent", "pixels": "video"}
"""What an identity network may look at, and the kind of store that holds it."""
SIMILARITIES = ("cosine", "pearson")


class Siamese(nn.Module):
    """From normalised frames (B, C, H, W) to features (B, D); both frames of a pair go through the same network.

    ``block`` is "basic" (ResNet-18, 34) or "bottleneck" (ResNet-50); ``layers`` and ``widths`` are of the four levels.
    ``stem`` and ``stride`` are the first convolution's kernel and stride; with ``stride`` 1 and no ``max_pool`` inputs
    of 8 x 8 still have 8 x 8 places in the first level. If ``paired``, features go through a sigmoid, and ``compare``
    is a linear layer over |a - b|: the published head. ``weights`` is a file of the published network (``model.*`` and
    ``fc_end.*`` with torchvision's names), or of this one. ``size``, of frames, may be any.

    With ``code``, (features, H, W), what the network says is a correction of a linear code of the frame, which
    ``set_code`` gives it. Two more features follow: a constant, with which the cosine of two codes falls as they move
    apart in any direction, as their distance would; and one that is 0 in codes and not in what was corrected, so that
    a corrected code is somewhat farther from all others than it would be. A network draws new patients nearer to those
    it was trained on, and without this the price of a copy that needs no correction would be that of one that does.
    """

    constant: float = 2.0
    handicap: float = 0.3
    """Of those two features, where the mean square of a training frame's code is 1."""

    def __init__(
        self,
        channels: int,
        block: str,
        layers: Sequence[int],
        widths: Sequence[int],
        features: int,
        stem: int = 3,
        stride: int = 1,
        max_pool: bool = False,
        paired: bool = False,
        code: Sequence[int] | None = None,
        weights: str | None = None,
        size: Sequence[int] | None = None,
    ) -> None:
        from monai.networks.nets.resnet import ResNet

        super().__init__()
        validation.one_of("embedder.block", block, ("basic", "bottleneck"))
        for name, value in (("layers", layers), ("widths", widths)):
            validation.whole_numbers(f"embedder.{name}", value, 4)
        for name, number in (("features", features), ("stem", stem), ("stride", stride)):
            validation.whole_number(f"embedder.{name}", number)
        self.settings: dict[str, Any] = {"channels": channels, "block": block, "features": features, "paired": paired}
        self.settings |= {"layers": [*layers], "widths": [*widths], "stem": stem, "stride": stride}
        self.settings["max_pool"] = max_pool
        if code is not None:
            self.settings |= {"code": [*code], "features": code[0]}
            features = code[0]
        self.body = ResNet(
            block,
            list(layers),
            list(widths),
            spatial_dims=2,
            n_input_channels=channels,
            conv1_t_size=stem,
            conv1_t_stride=stride,
            no_max_pool=not max_pool,
            bias_downsample=False,
            num_classes=features,
        )
        self.pair = nn.Linear(features, 1) if paired else None
        self.code: nn.Linear | None = None
        if code is not None:
            self.code = nn.Linear(channels * math.prod(code[1:]), features).requires_grad_(False)
            with torch.no_grad():  # begins as the code itself
                self.body.fc.weight.mul_(0.01)
                self.body.fc.bias.zero_()
        if weights is not None:
            state = {_own_name(name): value for name, value in read_weights(weights).items()}
            remedy = "choose the embedder=, head= and src= that they were made for (published weights: head=published)"
            load_exactly(self, state, weights, remedy)

    def forward(self, x: Tensor) -> Tensor:
        """Features: (B, C, H, W) to (B, D)."""
        features: Tensor = self.body(x.contiguous(memory_format=torch.channels_last))
        if self.code is not None:
            return self._lifted(features + self.code(x.flatten(1)), self.handicap)
        return features if self.pair is None else features.sigmoid()

    def set_code(self, weight: Tensor, bias: Tensor) -> None:
        """The linear code: (features, C H W) and (features,)."""
        assert self.code is not None
        self.code.weight.data.copy_(weight)
        self.code.bias.data.copy_(bias)

    @torch.no_grad()
    def coded(self, x: Tensor) -> Tensor:
        """The linear code of normalised frames, without the network's correction: (B, C, H, W) to (B, D)."""
        assert self.code is not None
        return self._lifted(self.code(x.flatten(1)), 0.0)

    def _lifted(self, features: Tensor, handicap: float) -> Tensor:
        more = features.new_tensor([self.constant, handicap]).expand(len(features), 2)
        return torch.cat([features, more], dim=1)

    def compare(self, a: Tensor, b: Tensor) -> Tensor:
        """The logit that two features, (B, D) each, are of one identity, (B,); of ``paired`` networks."""
        if self.pair is None:
            raise UserError("this identity network has no layer that compares pairs: train it with head=published")
        logits: Tensor = self.pair((a - b).abs())
        return logits.squeeze(1)


_PUBLISHED = {"model.": "body.", "fc_end.": "pair."}


def _own_name(name: str) -> str:
    """The name here of a published weight; our own names stay."""
    start = next((start for start in _PUBLISHED if name.startswith(start)), None)
    return name if start is None else _PUBLISHED[start] + name.removeprefix(start)


Network = Siamese | IResNet
"""The networks that there are, by the name of their class in config.json."""
NETWORKS: dict[str, type[Network]] = {"Siamese": Siamese, "IResNet": IResNet}


@dataclass(frozen=True)
class InputSpec:
    """What an identity network looks at, and how its embeddings are compared."""

    on: str
    """"latents" (unscaled, as stored) or "pixels" (in [-1, 1])."""
    channels: int
    height: int
    width: int
    mean: tuple[float, ...]
    """Of each channel: inputs are normalised by (x - mean) / std, on every side alike."""
    std: tuple[float, ...]
    encoder: str | None
    """Fingerprint of the VAE that the latents are of, or that decoded the pixels, if known."""
    similarity: str
    """"cosine" or "pearson": how embeddings are compared."""

    def __post_init__(self) -> None:
        sizes = (self.channels, self.height, self.width)
        if not all(validation.is_whole(size, 1) for size in sizes):
            raise ValueError(f"impossible sizes {sizes}")
        if self.on not in KINDS or self.similarity not in SIMILARITIES:
            raise ValueError(f"an identity network on {self.on!r}, compared by {self.similarity!r}")
        if len(self.mean) != self.channels or len(self.std) != self.channels or not min(self.std) > 0:
            raise ValueError(f"the normalisation is not of {self.channels} channels")


class IdentityEncoder(nn.Module):
    """A network with the one normalisation that all its inputs go through."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: Network, sees: InputSpec) -> None:
        super().__init__()
        self.network, self.sees = network, sees
        for name, values in (("mean", sees.mean), ("std", sees.std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Features of latents as they are stored, unscaled, or of pixels in [-1, 1]: (B, C, H, W) to (B, D)."""
        features: Tensor = self.network(self.normalised(x))
        return features

    def normalised(self, x: Tensor) -> Tensor:
        """What the network is given: (B, C, H, W)."""
        return (x - self.mean) / self.std

    @torch.no_grad()
    def embed(self, x: Tensor) -> Tensor:
        """The same in float32 and without gradients; for a network in ``eval`` mode, a row does not depend on others.

        Raises ``UserError`` for frames of another size than those of training.
        """
        self._check(x)
        return self(x.float()).float()

    @property
    def is_coded(self) -> bool:
        """Whether the network corrects a linear code."""
        return getattr(self.network, "code", None) is not None

    @torch.no_grad()
    def embed_code(self, x: Tensor) -> Tensor:
        """The linear code alone, as ``embed``; of networks that have one."""
        self._check(x)
        network: Any = self.network
        coded: Tensor = network.coded(self.normalised(x.float()))
        return coded.float()

    def _check(self, x: Tensor) -> None:
        size = (self.sees.channels, self.sees.height, self.sees.width)
        if x.ndim != 4 or x.shape[1:] != size:
            raise UserError(
                f"the identity network looks at {self.sees.on} of {' x '.join(map(str, size))}, and these are "
                f"{' x '.join(map(str, x.shape[1:]))}: choose the network that was trained on this study"
            )

    def save(self, folder: Path) -> None:
        """Write the weights as safetensors; the architecture and what the network looks at to config.json."""
        from safetensors.torch import save_file

        state = {name: value.detach().cpu().contiguous() for name, value in self.network.state_dict().items()}
        save_file(state, folder / WEIGHTS)
        config = {
            "_class_name": type(self.network).__name__,
            "architecture": self.network.settings,
            "sees": asdict(self.sees),
        }
        (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def load_encoder(folder: str | Path) -> IdentityEncoder:
    """The encoder that ``IdentityEncoder.save`` wrote, ready to embed. Raises ``UserError``."""
    folder = Path(folder)
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        facts = dict(config["sees"])
        sees = InputSpec(**{**facts, "mean": tuple(facts["mean"]), "std": tuple(facts["std"])})
        network = NETWORKS[config["_class_name"]](**config["architecture"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{folder} is not a readable identity network: train one with train.py model=reid or model=identity"
        ) from error
    load_exactly(network, read_weights(str(folder / WEIGHTS)), str(folder / WEIGHTS), "train it again")
    return IdentityEncoder(network, sees).requires_grad_(False).eval()
