"""From the features of a clip's frames to those of the clip."""

import torch
from torch import Tensor, nn

POOLINGS = ("mean", "max", "attention")


class Pooling(nn.Module):
    """(B, F, D) to (B, D): the "mean" or "max" over frames, or their mean weighted by learned "attention".

    Attention is a softmax over frames of a small network's score of each (Ilse et al. 2018); it begins as the mean.
    """

    def __init__(self, kind: str, width: int) -> None:
        super().__init__()
        self.kind = kind
        self.score: nn.Module | None = None
        if kind == "attention":
            last = nn.Linear(max(1, width // 4), 1, bias=False)
            nn.init.zeros_(last.weight)
            self.score = nn.Sequential(nn.Linear(width, last.in_features), nn.Tanh(), last)

    def forward(self, x: Tensor) -> Tensor:
        """(B, F, D) to (B, D)."""
        if self.score is not None:
            return (torch.softmax(self.score(x), dim=1) * x).sum(dim=1)
        return x.amax(dim=1) if self.kind == "max" else x.mean(dim=1)
