"""Finds text that is burned into the pixels (names, dates, numbers), by optical character recognition (OCR).

The extra ``text-check`` is required: RapidOCR with the PP-OCR models of its package (Apache-2.0), on the CPU, offline.
"""

import re
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from echodream.errors import Rejected
from echodream.ingest.sector import Box, overlap_fraction

if TYPE_CHECKING:
    from rapidocr import RapidOCR

TEXT_MODES = ("blank", "report", "refuse")
"""Treatments of burned-in text: set its pixels to 0, count its boxes, or reject recordings with identifying text."""
INSTALL_COMMAND = "pip install 'echodream[text-check]'"
TEXT_BOXES_COLUMN = "TextBoxes"
"""Column of FileList.csv with the number of text boxes in a recording."""
_LONG_WORD = re.compile(r"[^\W\d_]{4,}")
_DATE_OR_NUMBER = re.compile(
    r"\d{1,4}\s?[./-]\s?(\d{1,2}|[^\W\d_]{3})\s?[./-]\s?\d{2,4}|\d{1,2}\s?[^\W\d_]{3}\s?\d{4}|(\d[./-]?){6,}"
)
"""Dates such as 12.03.1961, 12-Mar-61 and 12 Mar 1961, and six or more digits, such as a hospital number."""
_MIN_CONFIDENCE = 0.6
"""Smallest accepted confidence of the text recognition, 0 to 1."""
_MAX_FRAMES = 32
"""Largest number of frames of a recording that are searched; text is usually visible in many frames."""
_MIN_SIDE = 400
"""Smallest side of an image in pixels for OCR; smaller images are enlarged, at most by the factor ``_MAX_SCALE``."""
_MAX_SCALE = 3.0


@dataclass(frozen=True)
class TextBox:
    """Box around a text in an image."""

    box: Box
    text: str
    """Recognized text. Never write this text to a file or message, because it may name a patient."""

    @property
    def may_identify_patient(self) -> bool:
        """Whether the text has a word of four letters or more, a date, or a number of six digits or more."""
        return bool(_LONG_WORD.search(self.text) or _DATE_OR_NUMBER.search(self.text))


def is_installed() -> bool:
    """Whether the extra ``text-check`` is installed."""
    return all(find_spec(name) for name in ("rapidocr", "onnxruntime"))


def find_text(frames: np.ndarray, threads: int = 1) -> list[TextBox]:
    """Find readable text in ``frames``, uint8 (F, H, W) or (F, H, W, C); of overlapping boxes, the first is returned.

    OCR reads two images: the minimum and the maximum of each pixel over up to 32 frames. The minimum shows static text
    on moving tissue. The maximum also shows bright text that is visible in only some of the frames.
    """
    frames = frames[np.unique(np.linspace(0, len(frames) - 1, min(_MAX_FRAMES, len(frames))).round().astype(int))]
    boxes: list[TextBox] = []
    for image in [frames[0]] if len(frames) == 1 else [frames.min(axis=0), frames.max(axis=0)]:
        for text in _recognize_text(image, threads):
            if not any(overlap_fraction(text.box, other.box) for other in boxes):
                boxes.append(text)
    return boxes


def apply_text_mode(frames: np.ndarray, mode: str) -> tuple[np.ndarray, int]:
    """Find text in ``frames``, (F, H, W, C), and apply ``mode``, one of ``TEXT_MODES``. Raises ``Rejected``.

    Returns the frames and the number of text boxes.
    """
    texts = find_text(frames)
    if mode == "refuse" and any(text.may_identify_patient for text in texts):
        raise Rejected("text that may name the patient is in the pixels (text=refuse)")
    if mode == "blank" and texts:
        frames = frames.copy()
        for left, top, right, bottom in (text.box for text in texts):
            frames[:, top : bottom + 1, left : right + 1] = 0
    return frames, len(texts)


@cache
def _ocr_engine(threads: int) -> "RapidOCR":
    from rapidocr import RapidOCR

    settings: dict[str, Any] = {
        "Global.log_level": "critical",
        "Global.use_cls": False,
        "Global.max_side_len": 4000,
        "Global.text_score": _MIN_CONFIDENCE,
        "Det.limit_type": "min",
        "Det.limit_side_len": 32,
        "EngineConfig.onnxruntime.intra_op_num_threads": threads,
        "EngineConfig.onnxruntime.inter_op_num_threads": 1,
    }
    return RapidOCR(params=settings)


def _recognize_text(image: np.ndarray, threads: int) -> list[TextBox]:
    """Recognize texts with at least two letters or digits in ``image``, uint8 (H, W) or (H, W, C)."""
    from PIL import Image

    height, width = image.shape[:2]
    scale = min(_MAX_SCALE, max(1.0, _MIN_SIDE / min(height, width)))
    picture = Image.fromarray(image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image).convert("RGB")
    picture = picture.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
    result: Any = _ocr_engine(threads)(np.asarray(picture))
    if result.boxes is None or result.txts is None:
        return []
    return [
        TextBox(_box_with_margin(corners, height, width), text)
        for corners, text in zip(np.asarray(result.boxes) / scale, result.txts, strict=True)
        if sum(character.isalnum() for character in text) >= 2
    ]


def _box_with_margin(corners: np.ndarray, height: int, width: int) -> Box:
    """Compute the box of ``corners``, (4, 2) as x and y, with a margin of a fifth of its height, within the image."""
    first, last = corners.min(axis=0), corners.max(axis=0)
    margin = 1 + 0.2 * (last[1] - first[1])
    left, top = np.maximum(first - margin, 0).astype(int).tolist()
    right, bottom = np.minimum(last + margin, (width - 1, height - 1)).astype(int).tolist()
    return left, top, right, bottom
