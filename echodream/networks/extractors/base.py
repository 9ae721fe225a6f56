"""Base class of feature extractors: frozen networks that map frames or clips to features (``stage=evaluate``)."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from echodream.errors import UserError
from echodream.weights import load_strictly, read_weights

FRAMES, CLIPS = "frames", "clips"


class Extractor(ABC):
    """A frozen ``network`` and its preprocessing."""

    name: str
    """Name of the extractor in the names of metrics, such as frechet[lite0]."""
    weights: str
    """SHA-256 of the weights."""
    resize: str
    """Description of the resizing of frames, for the evaluation protocol."""
    inputs: tuple[str, ...]
    """Accepted inputs: ``FRAMES``, ``CLIPS`` or both."""
    clips: tuple[tuple[int, int], ...] = ()
    """Length in frames, and stride, of each type of clip."""
    measures = "features"
    """Type of the features, which selects the metrics: "features", or "spectrum" (power at each frequency)."""
    start = "centre"
    """Position of a clip in its recording (``datamodules.views.Clips``)."""
    network: nn.Module

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """Features (B, D) of clips (B, C, F, H, W) in [-1, 1]; F is 1 for single frames."""

    def scores(self, features: Tensor) -> Tensor | None:
        """Class logits (B, K) of ``features`` (B, D); None if the network has no classes."""
        return None

    def metric_name(self, metric: str, frames: int) -> str:
        """Name of ``metric`` with these features, for clips of ``frames`` frames (1: single frames)."""
        return f"{metric}[{self.name}]"

    def published_sample_count(self) -> int | None:
        """Usual number of samples in publications of this metric, such as FID; None if there is no usual number."""
        return None

    def as_json(self) -> dict[str, Any]:
        """Entry of the evaluation protocol, as JSON values."""
        clips = [{"frames": frames, "stride": stride, "start": self.start} for frames, stride in self.clips]
        return {"weights": self.weights, "resize": self.resize, "sees": list(self.inputs), "clips": clips}


def load_weights_file(network: nn.Module, path: str, instructions: str, sha256: str | None = None) -> None:
    """Load the weight file ``path``. Raises ``UserError``, with ``instructions``, if the weights do not match."""
    if not Path(path).is_file():
        raise UserError(f"{path} does not exist: {instructions}")
    weights, expected = read_weights(path, sha256), network.state_dict()
    counters = {name: expected[name] for name in expected if name.endswith("num_batches_tracked")}
    load_strictly(network, {**counters, **weights}, path, instructions)
