"""Feature extractors: frozen networks that map frames or clips to feature vectors, for ``stage=evaluate``."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from echodream.errors import UserError
from echodream.weights import load_exactly, read_weights

FRAMES, CLIPS = "frames", "clips"


class Extractor(ABC):
    """A frozen ``network`` with its preprocessing."""

    name: str
    """Part of the names of metrics, as in frechet[name]."""
    weights: str
    """SHA-256 of the weights."""
    resize: str
    """Description of the resizing of frames, for the protocol."""
    inputs: tuple[str, ...]
    """``FRAMES``, ``CLIPS`` or both."""
    clips: tuple[tuple[int, int], ...] = ()
    """(frames, stride) of each kind of clips."""
    measures = "features"
    """"features", or "spectrum" if ``features`` are powers at each frequency: which metrics apply."""
    start = "centre"
    """Position of clips (``datamodules.views.Clips``)."""
    network: nn.Module

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """Clips in [-1, 1], (B, C, F, H, W), with F = 1 for single frames, to (B, D)."""

    def scores(self, features: Tensor) -> Tensor | None:
        """Class logits, (B, K), from ``features``, (B, D); None if the network has no classes."""
        return None

    def title(self, metric: str, frames: int) -> str:
        """Name of ``metric`` on these features, of clips of ``frames`` frames (1: single frames)."""
        return f"{metric}[{self.name}]"

    def published_samples(self) -> int | None:
        """Number of samples with which values of this metric, such as FID, are usually published; None: unknown."""
        return None

    def as_json(self) -> dict[str, Any]:
        """The entry of the protocol."""
        clips = [{"frames": frames, "stride": stride, "start": self.start} for frames, stride in self.clips]
        return {"weights": self.weights, "resize": self.resize, "sees": list(self.inputs), "clips": clips}


def load_weights_file(network: nn.Module, path: str, instructions: str, sha256: str | None = None) -> None:
    """Load exactly the weights in ``path``, a file with this ``sha256``.

    Raises ``UserError`` with ``instructions``.
    """
    if not Path(path).is_file():
        raise UserError(f"{path} does not exist: {instructions}")
    weights, expected = read_weights(path, sha256), network.state_dict()
    counters = {name: expected[name] for name in expected if name.endswith("num_batches_tracked")}
    load_exactly(network, {**counters, **weights}, path, instructions)
