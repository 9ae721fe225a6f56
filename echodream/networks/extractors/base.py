"""What a network of features is to ``stage=evaluate``."""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

FRAMES, CLIPS = "frames", "clips"


class Extractor(ABC):
    """A frozen ``network`` and how it looks at pixels.

    ``name`` stands in the names of metrics, as in frechet[name]. ``weights`` is the SHA-256 of its weights, ``resize``
    says in words what happens to pixels first, ``sees`` is FRAMES, CLIPS or both, ``clips`` are the (frames,
    stride) of the clips that it is shown, and ``start`` is their place (``datamodules.views.Clips``).
    """

    name: str
    weights: str
    resize: str
    sees: tuple[str, ...]
    clips: tuple[tuple[int, int], ...] = ()
    start = "centre"
    network: nn.Module

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """Clips in [-1, 1], (B, C, F, H, W), F 1 for single frames, to (B, D)."""

    def scores(self, features: Tensor) -> Tensor | None:
        """Logits of classes, (B, K), from ``features``, (B, D); None where there are none."""
        return None

    def title(self, metric: str, frames: int) -> str:
        """What ``metric`` is called on these features, of clips of ``frames`` frames (1: of single frames)."""
        return f"{metric}[{self.name}]"

    def published(self) -> int | None:
        """How many samples published figures of this name use; None where there is no such name."""
        return None

    def facts(self) -> dict[str, Any]:
        """What a protocol says of it."""
        clips = [{"frames": frames, "stride": stride, "start": self.start} for frames, stride in self.clips]
        return {"weights": self.weights, "resize": self.resize, "sees": list(self.sees), "clips": clips}
