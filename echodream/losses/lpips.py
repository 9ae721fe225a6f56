"""LPIPS, a perceptual loss with VGG-16 from local weight files (Zhang et al. 1801.03924)."""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn.functional import normalize

from echodream.errors import UserError
from echodream.losses.autoencoder import LossTerm
from echodream.weights import load_strictly, read_weights

if TYPE_CHECKING:
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution as Posterior

log = logging.getLogger(__name__)

_STAGE_WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
_MEAN, _STD = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # RGB of ImageNet, for pixels in [-1, 1]


def build_lpips(
    weight: float, backbone: str | None, linear: str | None, sha256: Mapping[str, str | None]
) -> "LPIPS | None":
    """Build ``LPIPS``; None without weight files. Raises ``UserError`` if one file or its hash is missing."""
    if backbone is None and linear is None:
        if weight:
            log.info("train: LPIPS is off, because loss.perceptual has no weight files (backbone= and linear=)")
        return None
    for name, file in (("backbone", backbone), ("linear", linear)):
        if file is None or sha256.get(name) is None:
            key = name if file is None else f"sha256.{name}"
            raise UserError(f"loss.perceptual.{key} is needed: give two weight files, each with its SHA-256")
    return LPIPS(weight, str(backbone), str(linear), {name: str(value) for name, value in sha256.items()})


class LPIPS(LossTerm):
    """LPIPS distance as a loss term.

    ``backbone`` is a file of VGG-16 weights of torchvision (``features.N.weight``). ``linear`` is a file of weights of
    LPIPS v0.1 (``linN.model.1.weight``). ``sha256`` are the file hashes, by argument name. The weights are frozen and
    not saved in checkpoints. Raises ``UserError`` if a file is absent, has another hash or holds other weights.
    """

    def __init__(self, weight: float, backbone: str, linear: str, sha256: Mapping[str, str]) -> None:
        super().__init__(weight)
        layers: list[nn.Module] = []
        network = nn.ModuleDict()
        self._linear_after: dict[int, str] = {}
        """Name of the linear layer after each stage, by the number of layers up to the end of this stage."""
        channels = 3
        for index, widths in enumerate(_STAGE_WIDTHS):
            layers += [nn.MaxPool2d(2)] if index else []
            for width in widths:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            head = nn.Sequential(nn.Dropout(), nn.Conv2d(channels, 1, 1, bias=False))
            network[f"lin{index}"] = nn.ModuleDict({"model": head})
            self._linear_after[len(layers)] = f"lin{index}"
        network["features"] = nn.Sequential(*layers)
        vgg = read_weights(backbone, sha256["backbone"])
        state = {name: value for name, value in vgg.items() if name.startswith("features.")}
        state |= read_weights(linear, sha256["linear"])
        load_strictly(network, state, f"{backbone} with {linear}", "give VGG-16 of torchvision and LPIPS v0.1")
        self._frozen: list[Any] = [network.requires_grad_(False).eval()]  # checkpoints omit networks in a list

    def forward(self, x: Tensor, reconstruction: Tensor, posterior: "Posterior") -> Tensor:
        """Mean LPIPS distance over the batch, scalar. Frames with one channel are repeated to three channels."""
        network = self._frozen[0].to(x.device)
        shift, scale = (x.new_tensor(values)[:, None, None] for values in (_MEAN, _STD))
        left, right = ((y.expand(-1, 3, -1, -1) - shift) / scale for y in (x, reconstruction))
        total = x.new_zeros(())
        for number, layer in enumerate(network["features"], 1):
            left, right = layer(left), layer(right)
            if number in self._linear_after:  # in float32, because squares overflow in float16
                difference = normalize(left.float(), dim=1, eps=1e-10) - normalize(right.float(), dim=1, eps=1e-10)
                linear_weight = network[self._linear_after[number]]["model"][1].weight
                total = total + (difference.square() * linear_weight).sum(dim=1).mean()
        return total
