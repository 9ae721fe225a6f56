"""Identity networks: they map frames to embeddings, and embeddings of one patient are close to each other."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from echodream import validation
from echodream.errors import UserError
from echodream.networks.iresnet import IResNet
from echodream.networks.resnet import build_resnet
from echodream.weights import CONFIG_FILE, WEIGHTS_FILE, load_strictly, read_weights, save_network

STORE_KINDS = {"latents": "latent", "pixels": "video"}
"""Kind of store, by input of the identity network (``on=``)."""
NETWORK_SIMILARITIES = ("cosine", "pearson")


class Siamese(nn.Module):
    """ResNet of MONAI that maps normalized frames (B, C, H, W) to embeddings (B, D).

    ``block`` is "basic" (ResNet-18, 34) or "bottleneck" (ResNet-50). ``layers`` and ``widths`` are the numbers of
    blocks and the channels of the four levels. ``stem`` and ``stride`` are the kernel size and stride of the first
    convolution. If ``paired``, embeddings pass through a sigmoid, and ``pair_logits`` is a linear layer over |a - b|.
    ``weights`` is a file of the published network (``model.*``, ``fc_end.*``) or of this class. ``size`` is not used.

    With ``code``, (features, H, W), the embedding is a linear code of the frame (``set_linear_code``) plus a correction
    by the network. Two constants are appended to the embedding. ``constant_feature`` makes the cosine similarity of two
    codes decrease with their Euclidean distance. ``correction_feature``, which is 0 in a linear code alone, compensates
    that corrections move embeddings of new patients towards embeddings of training patients.
    """

    constant_feature: float = 2.0
    correction_feature: float = 0.3
    """``constant_feature`` and ``correction_feature`` are in units of the RMS of linear codes of training frames."""

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
        self.body = build_resnet(self.settings, spatial_dims=2, num_classes=features)
        self.pair = nn.Linear(features, 1) if paired else None
        self.code: nn.Linear | None = None
        if code is not None:
            self.code = nn.Linear(channels * math.prod(code[1:]), features).requires_grad_(False)
            with torch.no_grad():  # the initial correction is small
                self.body.fc.weight.mul_(0.01)
                self.body.fc.bias.zero_()
        if weights is not None:
            renamed = ((re.sub(r"^model\.", "body.", name), value) for name, value in read_weights(weights).items())
            state = {re.sub(r"^fc_end\.", "pair.", name): value for name, value in renamed}
            remedy = "choose the embedder=, head= and src= of these weights (published weights: head=published)"
            load_strictly(self, state, weights, remedy)

    def forward(self, x: Tensor) -> Tensor:
        """Embeddings of normalized frames: (B, C, H, W) to (B, D)."""
        features = self.body(x.contiguous(memory_format=torch.channels_last))
        if self.code is not None:
            return self._append_constants(features + self.code(x.flatten(1)), self.correction_feature)
        return features if self.pair is None else features.sigmoid()

    def set_linear_code(self, weight: Tensor, bias: Tensor) -> None:
        """Set the parameters of the linear code: ``weight`` (features, C * H * W) and ``bias`` (features,)."""
        assert self.code is not None
        self.code.weight.data.copy_(weight)
        self.code.bias.data.copy_(bias)

    @torch.no_grad()
    def linear_code(self, x: Tensor) -> Tensor:
        """Linear code of normalized frames, without the correction by the network: (B, C, H, W) to (B, D)."""
        assert self.code is not None
        return self._append_constants(self.code(x.flatten(1)), 0.0)

    def _append_constants(self, features: Tensor, correction: float) -> Tensor:
        constants = features.new_tensor([self.constant_feature, correction]).expand(len(features), 2)
        return torch.cat([features, constants], dim=1)

    def pair_logits(self, a: Tensor, b: Tensor) -> Tensor:
        """Logits (B,) that ``a`` and ``b``, (B, D), have one identity. Raises ``UserError`` unless ``paired``."""
        if self.pair is None:
            raise UserError("this identity network has no layer for pairs of embeddings: train it with head=published")
        return self.pair((a - b).abs()).squeeze(1)


IdentityNetwork = Siamese | IResNet
NETWORK_CLASSES: dict[str, type[IdentityNetwork]] = {"Siamese": Siamese, "IResNet": IResNet}
"""Class of identity networks, by ``_class_name`` in config.json."""


@dataclass(frozen=True)
class InputSpec:
    """Input format and normalization of an identity network, and the similarity measure of its embeddings."""

    on: str
    """Input of the network: "latents" (unscaled, as in a store of latents) or "pixels" (in [-1, 1])."""
    channels: int
    height: int
    width: int
    mean: tuple[float, ...]
    """Mean of each channel, (C,). Inputs are normalized by (x - mean) / std."""
    std: tuple[float, ...]
    encoder: str | None
    """Fingerprint of the VAE that encoded the latents or decoded the pixels; None if the VAE is unknown."""
    similarity: str
    """Similarity measure of embeddings, "cosine" or "pearson"."""

    def __post_init__(self) -> None:
        sizes = (self.channels, self.height, self.width)
        if not all(validation.is_whole(size, 1) for size in sizes):
            raise ValueError(f"invalid channels, height and width {sizes}")
        if self.on not in STORE_KINDS or self.similarity not in NETWORK_SIMILARITIES:
            raise ValueError(f"invalid input {self.on!r} or similarity {self.similarity!r}")
        if len(self.mean) != self.channels or len(self.std) != self.channels or not min(self.std) > 0:
            raise ValueError(f"the normalization needs {self.channels} means and positive standard deviations")


class IdentityEncoder(nn.Module):
    """An identity network preceded by its input normalization."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: IdentityNetwork, input_spec: InputSpec) -> None:
        super().__init__()
        self.network, self.input_spec = network, input_spec
        for name, values in (("mean", input_spec.mean), ("std", input_spec.std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Embeddings of unscaled latents, or of pixels in [-1, 1]: (B, C, H, W) to (B, D)."""
        return self.network(self.normalize(x))

    def normalize(self, x: Tensor) -> Tensor:
        """Subtract the mean of each channel from frames, (B, C, H, W), and divide by the standard deviation."""
        return (x - self.mean) / self.std

    @torch.no_grad()
    def embed(self, x: Tensor) -> Tensor:
        """Embeddings (B, D), float32, of frames (B, C, H, W). Raises ``UserError`` if the frame size is wrong."""
        self._check_input(x)
        return self(x.float()).float()

    @property
    def has_linear_embedding(self) -> bool:
        """Whether the embedding is a linear code plus a correction by the network."""
        return getattr(self.network, "code", None) is not None

    @torch.no_grad()
    def embed_linearly(self, x: Tensor) -> Tensor:
        """Linear codes of frames, without the correction by the network. Needs ``has_linear_embedding``."""
        self._check_input(x)
        network: Any = self.network
        return network.linear_code(self.normalize(x.float())).float()

    def _check_input(self, x: Tensor) -> None:
        size = (self.input_spec.channels, self.input_spec.height, self.input_spec.width)
        if x.ndim != 4 or x.shape[1:] != size:
            required, actual = (" x ".join(map(str, shape)) for shape in (size, x.shape[1:]))
            problem = f"the identity network takes {self.input_spec.on} of {required}, and the input has {actual}"
            raise UserError(f"{problem}: choose the network that was trained on this study")

    def save(self, folder: Path) -> None:
        """Write the weights to model.safetensors, and architecture and ``input_spec`` to config.json, in ``folder``."""
        config = {"_class_name": type(self.network).__name__, "architecture": self.network.settings}
        save_network(self.network, folder, {**config, "sees": asdict(self.input_spec)})


def load_identity_encoder(folder: str | Path) -> IdentityEncoder:
    """Load an identity network, frozen and in ``eval`` mode. Raises ``UserError`` if ``folder`` holds no network."""
    folder = Path(folder)
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        spec = dict(config["sees"])
        input_spec = InputSpec(**{**spec, "mean": tuple(spec["mean"]), "std": tuple(spec["std"])})
        network = NETWORK_CLASSES[config["_class_name"]](**config["architecture"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        remedy = "train one with train.py model=reid or model=identity"
        raise UserError(f"{folder} is not a readable identity network: {remedy}") from error
    load_strictly(network, read_weights(str(folder / WEIGHTS_FILE)), str(folder / WEIGHTS_FILE), "train it again")
    return IdentityEncoder(network, input_spec).requires_grad_(False).eval()
