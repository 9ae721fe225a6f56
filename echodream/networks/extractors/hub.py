"""DINOv2 and VideoMAE features. The library transformers loads the networks from local folders."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from echodream.errors import UserError
from echodream.networks.extractors.base import CLIPS, FRAMES, Extractor
from echodream.store.checksums import file_sha256

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of the RGB channels of ImageNet images, pixels in [0, 1]."""


class TransformersExtractor(Extractor):
    """A network of the library transformers, loaded from the folder ``path``."""

    model_type: str
    """Value of ``model_type`` in the config.json of the network."""
    instructions: str
    """Download instructions, the end of each error message."""

    def __init__(self, path: str) -> None:
        self.config = _read_config(path, self.model_type, self.instructions)
        try:
            from transformers import AutoModel
        except ImportError as error:
            raise UserError("dinov2 and videomae need transformers: pip install 'echodream[text]'") from error
        options = {"local_files_only": True, "use_safetensors": True, "output_loading_info": True}
        try:
            network, report = AutoModel.from_pretrained(path, **options)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            reason = str(error).splitlines()[0][:100]
            raise UserError(f"{path} cannot be loaded ({reason}): {self.instructions}") from error
        if absent := [*report["missing_keys"], *report.get("mismatched_keys", [])]:
            raise UserError(f"{path} lacks {len(absent)} weights ({min(map(str, absent))[:60]}): {self.instructions}")
        self.network = network.eval()
        hashes = [file_sha256(file) for file in sorted(Path(path).glob("*.safetensors"))]
        self.weights_hash = hashes[0] if len(hashes) == 1 else hashlib.sha256(" ".join(hashes).encode()).hexdigest()
        self.side = 224 if self.model_type == "dinov2" else int(self.config["image_size"])
        self.resizing = f"bicubic, antialiased, to {self.side}x{self.side}; grey as three equal channels"

    def normalized_frames(self, x: Tensor) -> Tensor:
        """Resize and normalize clips (B, C, F, H, W) in [-1, 1] to RGB frames (B, F, 3, side, side)."""
        frames = x.transpose(1, 2).flatten(0, 1).expand(-1, 3, -1, -1)
        size = (self.side, self.side)
        resized = functional.interpolate(frames, size=size, mode="bicubic", antialias=True).clamp(-1, 1)
        mean, std = (torch.tensor(values, device=x.device)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
        return (((resized + 1) / 2 - mean) / std).unflatten(0, (len(x), -1))


class DinoV2(TransformersExtractor):
    """Features of frames: the class token of DINOv2 after the last layer norm."""

    name, model_type, inputs = "dinov2", "dinov2", (FRAMES,)
    instructions = (
        "DINOv2 is published at huggingface.co/facebook/dinov2-base: download config.json and model.safetensors into "
        "a folder and give extractors=[dinov2:/path/to/the/folder]"
    )

    def features(self, x: Tensor) -> Tensor:
        return self.network(pixel_values=self.normalized_frames(x)[:, 0]).pooler_output


class VideoMae(TransformersExtractor):
    """Features of clips: the mean of the patch tokens of VideoMAE. Clips have VideoMAE's training length."""

    name, model_type, inputs = "videomae", "videomae", (CLIPS,)
    instructions = (
        "VideoMAE is published at huggingface.co/MCG-NJU/videomae-base: download config.json and model.safetensors "
        "into a folder and give extractors=[videomae:/path/to/the/folder]"
    )

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.clip_types = ((int(self.config["num_frames"]), 1),)

    def features(self, x: Tensor) -> Tensor:
        return self.network(pixel_values=self.normalized_frames(x)).last_hidden_state.mean(dim=1)


def _read_config(path: str, expected_type: str, instructions: str) -> dict[str, Any]:
    """Read config.json of the folder ``path``. Raises ``UserError`` unless ``model_type`` is ``expected_type``."""
    if not (Path(path) / "config.json").is_file() or not list(Path(path).glob("*.safetensors")):
        raise UserError(f"{path} has no config.json and safetensors file: {instructions}")
    try:
        config = json.loads((Path(path) / "config.json").read_text(encoding="utf-8"))
        model_type = config["model_type"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}/config.json is not readable: {instructions}") from error
    if model_type != expected_type:
        raise UserError(f"{path} holds a {model_type}, not a {expected_type}: {instructions}")
    return dict(config)
