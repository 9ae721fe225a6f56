"""Base class of feature extractors: frozen networks that map frames or clips to features (``stage=evaluate``)."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from echodream.errors import UserError
from echodream.weights import load_strictly, read_weights

FRAMES, CLIPS = "frames", "clips"


class Extractor(ABC):
    """A frozen ``network`` that computes features of frames or clips, and the preprocessing of its input."""

    name: str
    """Name of the extractor in the names of metrics, such as frechet[lite0]."""
    weights_hash: str
    """SHA-256 of the weights, as hexadecimal text."""
    resizing: str
    """Description of the resizing of frames, for the evaluation protocol."""
    inputs: tuple[str, ...]
    """Accepted inputs: ``FRAMES``, ``CLIPS``, or both of these."""
    clip_types: tuple[tuple[int, int], ...] = ()
    """Length in frames, and stride in frames, of each type of clip."""
    feature_kind = "features"
    """Kind of features, which selects the metrics: "features", or "spectrum" (power at each frequency)."""
    start = "centre"
    """Position of a clip in its recording (``datamodules.views.Clips``)."""
    network: nn.Module

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """Features (B, D) of clips (B, C, F, H, W) in [-1, 1]. For single frames, F is 1."""

    def class_logits(self, features: Tensor) -> Tensor | None:
        """Class logits (B, K) of ``features`` (B, D); None if the network has no classes."""
        return None

    def metric_name(self, metric: str, frames: int) -> str:
        """Name in the report of ``metric`` on features of clips of ``frames`` frames; ``frames`` is 1 for images."""
        return f"{metric}[{self.name}]"

    def published_sample_count(self) -> int | None:
        """Number of samples that publications use for metrics of these features; None if there is no usual number."""
        return None

    def as_json(self) -> dict[str, Any]:
        """JSON values that describe the extractor in the evaluation protocol."""
        clips = [{"frames": frames, "stride": stride, "start": self.start} for frames, stride in self.clip_types]
        return {"weights": self.weights_hash, "resize": self.resizing, "sees": list(self.inputs), "clips": clips}


def load_weights_file(network: nn.Module, path: str, instructions: str, sha256: str | None = None) -> None:
    """Load the weight file ``path``. Raises ``UserError``, with ``instructions``, for unsuitable weights."""
    if not Path(path).is_file():
        raise UserError(f"{path} does not exist: {instructions}")
    weights, expected = read_weights(path, sha256), network.state_dict()
    counters = {name: expected[name] for name in expected if name.endswith("num_batches_tracked")}
    load_strictly(network, {**counters, **weights}, path, instructions)
