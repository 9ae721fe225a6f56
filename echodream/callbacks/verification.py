"""At each validation, how well pairs of frames can be told apart: the ROC curve and both histograms of similarity."""

from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from echodream.callbacks.pictures import log_picture
from echodream.callbacks.tracking import CHARTS
from echodream.metrics.verification import Pairs, roc

SIDE, EDGE = 256, 24
"""Of a diagram, and of the margin around it, in pixels."""
GENUINE, IMPOSTOR, FRAME = (0, 114, 178), (213, 94, 0), (160, 160, 160)


class VerificationPictures(Callback):
    """Draws what the module's last validation ``measured``, pairs of frames."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw, on the first process."""
        measured: Any = getattr(pl_module, "measured", None)
        if trainer.is_global_zero and isinstance(measured, Pairs) and 0 < measured.same.sum() < len(measured.same):
            log_picture(trainer, self.folder, "verification", drawn(measured), CHARTS)


def drawn(pairs: Pairs) -> np.ndarray:
    """The ROC curve, its false accept rate from 1e-4 to 1 on a log scale, and histograms: uint8 (height, width, 3).

    Histograms are of similarity, each with its highest bar at the top; genuine pairs are blue, impostors orange.
    """
    from PIL import Image, ImageDraw

    size = SIDE + 2 * EDGE
    picture = Image.new("RGB", (2 * size, size), "white")
    draw = ImageDraw.Draw(picture)
    far, tar, _ = roc(pairs)
    across = (np.log10(np.maximum(far, 1e-4)) + 4) / 4
    _axes(draw, 0, "TAR against FAR", "1e-4", "1")
    draw.line(_points(0, across, tar), fill=GENUINE, width=2)
    low, high = float(pairs.score.min()), float(pairs.score.max())
    _axes(draw, size, "similarity: genuine, impostor", f"{low:.2f}", f"{high:.2f}")
    edges = np.linspace(low, high if high > low else low + 1, 65)
    for kept, colour in ((~pairs.same, IMPOSTOR), (pairs.same, GENUINE)):
        counts = np.histogram(pairs.score[kept], edges)[0]
        steps = np.repeat(counts / max(counts.max(), 1), 2)
        draw.line(_points(size, np.repeat(np.linspace(0, 1, 65), 2)[1:-1], steps), fill=colour, width=2)
    return np.asarray(picture)


def _axes(draw: Any, left: int, title: str, low: str, high: str) -> None:
    draw.rectangle((left + EDGE, EDGE, left + EDGE + SIDE, EDGE + SIDE), outline=FRAME)
    draw.text((left + EDGE, 6), title, fill="black")
    draw.text((left + EDGE, EDGE + SIDE + 6), low, fill="black")
    draw.text((left + EDGE + SIDE - 24, EDGE + SIDE + 6), high, fill="black")


def _points(left: int, across: np.ndarray, up: np.ndarray) -> list[tuple[float, float]]:
    """Points of [0, 1] x [0, 1] as places in the diagram that begins at ``left``."""
    return [(left + EDGE + float(x) * SIDE, EDGE + (1 - float(y)) * SIDE) for x, y in zip(across, up, strict=True)]
