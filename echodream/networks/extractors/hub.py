"""DINOv2 and VideoMAE through transformers, from folders as they are published: config.json and model.safetensors."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from echodream.errors import UserError
from echodream.networks.extractors.base import CLIPS, FRAMES, Extractor
from echodream.networks.extractors.files import sha256

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's pixels in 0..1, which both networks were trained with."""


class TransformersExtractor(Extractor):
    """A network of transformers in the folder ``path``, whose config.json must say ``kind``."""

    kind: str
    where: str
    side: int

    def __init__(self, path: str) -> None:
        config = _config(path, self.kind, self.where)
        self.network = _network(path, self.where).eval()
        self.weights = sha256(path)
        self.side = 224 if self.kind == "dinov2" else int(config["image_size"])
        self.resize = f"bicubic, antialiased, to {self.side}x{self.side}; grey as three equal channels"
        self.config = config

    def pixels(self, x: Tensor) -> Tensor:
        """(B, C, F, H, W) in [-1, 1] to what the network was trained with: (B, F, 3, side, side)."""
        frames = x.transpose(1, 2).flatten(0, 1).expand(-1, 3, -1, -1)
        size = (self.side, self.side)
        large = functional.interpolate(frames, size=size, mode="bicubic", antialias=True).clamp(-1, 1)
        mean, std = (torch.tensor(values, device=x.device)[:, None, None] for values in (MEAN, STD))
        return (((large + 1) / 2 - mean) / std).unflatten(0, (len(x), -1))


class DinoV2(TransformersExtractor):
    """The class token of DINOv2, after its last norm."""

    name, kind, sees = "dinov2", "dinov2", (FRAMES,)
    where = (
        "DINOv2 is published at huggingface.co/facebook/dinov2-base: download config.json and model.safetensors into "
        "a folder and give extractors=[dinov2:/path/to/the/folder]"
    )

    def features(self, x: Tensor) -> Tensor:
        found: Tensor = self.network(pixel_values=self.pixels(x)[:, 0]).pooler_output
        return found


class VideoMae(TransformersExtractor):
    """The mean over VideoMAE's patches, of as many frames as it was trained with."""

    name, kind, sees = "videomae", "videomae", (CLIPS,)
    where = (
        "VideoMAE is published at huggingface.co/MCG-NJU/videomae-base: download config.json and model.safetensors "
        "into a folder and give extractors=[videomae:/path/to/the/folder]"
    )

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.clips = ((int(self.config["num_frames"]), 1),)

    def features(self, x: Tensor) -> Tensor:
        found: Tensor = self.network(pixel_values=self.pixels(x)).last_hidden_state
        return found.mean(dim=1)


def _config(path: str, kind: str, where: str) -> dict[str, Any]:
    """The folder's config.json, which must be of ``kind``. Raises ``UserError``."""
    if not (Path(path) / "config.json").is_file() or not list(Path(path).glob("*.safetensors")):
        raise UserError(f"{path} has no config.json and safetensors file: {where}")
    try:
        found: Any = json.loads((Path(path) / "config.json").read_text(encoding="utf-8"))
        given = found["model_type"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}/config.json is not readable: {where}") from error
    if given != kind:
        raise UserError(f"{path} holds a {given}, not a {kind}: {where}")
    return dict(found)


def _network(path: str, where: str) -> Any:
    """What transformers makes of the folder, all weights found. Raises ``UserError``."""
    try:
        from transformers import AutoModel
    except ImportError as error:
        raise UserError("dinov2 and videomae need transformers: pip install 'echodream[text]'") from error
    try:
        network, told = AutoModel.from_pretrained(
            path, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise UserError(f"{path} cannot be loaded ({str(error).splitlines()[0][:100]}): {where}") from error
    wrong = [*told["missing_keys"], *told.get("mismatched_keys", [])]
    if wrong:
        raise UserError(f"{path} lacks {len(wrong)} weights ({str(sorted(map(str, wrong))[0])[:60]}): {where}")
    return network
