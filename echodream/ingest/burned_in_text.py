"""Text that is burned into the pixels (names, dates, numbers), found by optical character recognition.

Needs the extra ``text-check``: RapidOCR with the models of its package (PP-OCR, Apache-2.0), on the CPU, offline.
"""

import re
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from echodream.errors import Rejected, UserError
from echodream.ingest.sector import Box

if TYPE_CHECKING:
    from rapidocr import RapidOCR

MODES = ("blank", "report", "refuse")
"""What is done about text: set its pixels to 0, count it, or reject the recording."""
INSTALL = "pip install 'echodream[text-check]'"
COLUMN = "TextBoxes"
"""Column of FileList.csv: number of places with text, 0 if there is none."""
_WORD = re.compile(r"[^\W\d_]{4,}")
_DATE = re.compile(
    r"\d{1,4}\s?[./-]\s?(\d{1,2}|[^\W\d_]{3})\s?[./-]\s?\d{2,4}|\d{1,2}\s?[^\W\d_]{3}\s?\d{4}|(\d[./-]?){6,}"
)
"""12.03.1961, 12-Mar-61, 12 Mar 1961; and six digits or more, as in the number of a patient."""
_LEAST_SCORE = 0.6
"""Smallest confidence of the recognition, 0 to 1."""
_MOST_FRAMES = 32
"""Frames of a recording that are read: text is in the same place for many frames."""
_LEAST_SIDE = 400
"""Images with a shorter side are enlarged to it, at most ``_MOST_SCALE`` times: small letters are found more often."""
_MOST_SCALE = 3.0


@dataclass(frozen=True)
class TextBox:
    """A place with text."""

    box: Box
    text: str
    """What was recognized. It may name a patient: never write it to a file or a message."""

    @property
    def identifies(self) -> bool:
        """Whether the text has a word of four letters or more, a date, or a number of six digits or more."""
        return bool(_WORD.search(self.text) or _DATE.search(self.text))


def is_installed() -> bool:
    """Whether the extra ``text-check`` is installed."""
    return all(find_spec(name) for name in ("rapidocr", "onnxruntime"))


def require_installed(key: str) -> None:
    """Raise ``UserError`` unless the extra is installed; ``key`` is the setting that needs it."""
    if not is_installed():
        raise UserError(f"{key} needs the extra text-check: {INSTALL}")


def find_text(frames: np.ndarray, threads: int = 1) -> list[TextBox]:
    """Places with readable text in ``frames``, uint8 (F, H, W) or (F, H, W, C), each place once.

    Read are the minimum and the maximum over up to 32 frames: text that stays in place stands out from tissue that
    moves in the minimum, and bright text that is only in some frames is in the maximum.
    """
    found: list[TextBox] = []
    for image in _images(frames):
        for text in _read(image, threads):
            if not any(_overlap(text.box, other.box) for other in found):
                found.append(text)
    return found


def treat_text(frames: np.ndarray, mode: str) -> tuple[np.ndarray, int]:
    """Find text in ``frames``, (F, H, W, C), and treat it as ``mode``, one of ``MODES``; returns frames and count.

    Raises ``Rejected`` in mode "refuse" if a text may identify somebody.
    """
    found = find_text(frames)
    if mode == "refuse" and any(text.identifies for text in found):
        raise Rejected("text that may name the patient is in the pixels (text=refuse)")
    if mode == "blank" and found:
        frames = frames.copy()
        for left, top, right, bottom in (text.box for text in found):
            frames[:, top : bottom + 1, left : right + 1] = 0
    return frames, len(found)


def _images(frames: np.ndarray) -> list[np.ndarray]:
    """The images that are read: uint8, (H, W) or (H, W, C)."""
    chosen = frames[np.unique(np.linspace(0, len(frames) - 1, min(_MOST_FRAMES, len(frames))).round().astype(int))]
    return [frames[0]] if len(frames) == 1 else [chosen.min(axis=0), chosen.max(axis=0)]


@cache
def _reader(threads: int) -> "RapidOCR":
    from rapidocr import RapidOCR

    settings: dict[str, Any] = {
        "Global.log_level": "critical",
        "Global.use_cls": False,
        "Global.max_side_len": 4000,
        "Global.text_score": _LEAST_SCORE,
        "Det.limit_type": "min",
        "Det.limit_side_len": 32,
        "EngineConfig.onnxruntime.intra_op_num_threads": threads,
        "EngineConfig.onnxruntime.inter_op_num_threads": 1,
    }
    return RapidOCR(params=settings)


def _read(image: np.ndarray, threads: int) -> list[TextBox]:
    """Text in one image that has at least two letters or digits. Small images are enlarged."""
    from PIL import Image

    height, width = image.shape[:2]
    scale = min(_MOST_SCALE, max(1.0, _LEAST_SIDE / min(height, width)))
    picture = Image.fromarray(image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image).convert("RGB")
    picture = picture.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
    result: Any = _reader(threads)(np.asarray(picture))
    if result.boxes is None or result.txts is None:
        return []
    found = []
    for corners, text in zip(np.asarray(result.boxes) / scale, result.txts, strict=True):
        if sum(character.isalnum() for character in text) >= 2:
            found.append(TextBox(_margin(corners, height, width), text))
    return found


def _margin(corners: np.ndarray, height: int, width: int) -> Box:
    """The box around ``corners``, (4, 2) as x and y, with a margin of a fifth of its height, inside the image."""
    (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
    margin = 1 + 0.2 * (bottom - top)
    return (
        max(0, int(left - margin)),
        max(0, int(top - margin)),
        min(width - 1, int(right + margin)),
        min(height - 1, int(bottom + margin)),
    )


def _overlap(first: Box, second: Box) -> bool:
    return all(first[axis] <= second[axis + 2] and second[axis] <= first[axis + 2] for axis in (0, 1))
