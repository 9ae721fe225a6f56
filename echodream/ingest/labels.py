"""Labels of images, such as those of CheXpert, and the policy for uncertain and missing values."""

import re
from dataclasses import dataclass

from echodream import validation
from echodream.errors import UserError
from echodream.ingest.csv_tables import parse_cell, parse_number
from echodream.ingest.source import CellValue

UNCERTAIN = -1
_OTHER_LISTS = re.compile(r"[|;,/&+\[\]'\"]")

CHEXPERT = (
    *("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged_Cardiomediastinum", "Fracture"),
    *("Lung_Lesion", "Lung_Opacity", "No_Finding", "Pleural_Effusion", "Pleural_Other", "Pneumonia", "Pneumothorax"),
    "Support_Devices",
)
"""The 14 labels of CheXpert (Irvin et al. 2019), as columns of a store."""


@dataclass(frozen=True)
class LabelPolicy:
    """Parses labels: 1 is yes, 0 is no, values between are soft labels, -1 is uncertain, an empty cell is missing.

    ``uncertain`` and ``missing`` are the values that the store gets for such labels. None stores an empty cell, which
    is ignored in training and evaluation.
    """

    uncertain: float | None = None
    missing: float | None = None

    def __post_init__(self) -> None:
        for name in ("uncertain", "missing"):
            if (value := getattr(self, name)) is not None:
                validation.share(name, value, note=", or null to leave the cell empty")
                object.__setattr__(self, name, _as_stored(value))

    def parse(self, text: str, where: str) -> CellValue | None:
        """Stored value of a cell with a label. Raises ``UserError``; its message begins with ``where``."""
        if parse_cell(text) is None:
            return self.missing
        label = parse_number(text)
        if label == UNCERTAIN:
            return self.uncertain
        if label is None or not 0 <= label <= 1:
            raise UserError(f"{where} has the label {text[:40]!r}: use 1, 0, -1 (uncertain), empty, or 0 to 1")
        return _as_stored(label)

    def parse_equal(self, text: str, value: str, where: str) -> CellValue | None:
        """1 for a cell that equals ``value``, or has it in a list with "|" (``Cardiomegaly|Emphysema``), else 0.

        Raises ``UserError``, whose message begins with ``where``, for a cell that has ``value`` in another spelling or
        in a list with other separators.
        """
        if value in [part.strip() for part in text.split("|")] or None is not parse_number(value) == parse_number(text):
            return 1
        if value.casefold() in [part.strip().casefold() for part in _OTHER_LISTS.split(text)]:
            remedy = "write it in one way, and separate the labels of a list by |"
            raise UserError(f"{where} has {text[:60]!r}, which is not {value!r} but contains it: {remedy}")
        return self.missing if parse_cell(text) is None else 0


def _as_stored(label: float) -> float:
    """0 and 1 as integers, as FileList.csv stores them."""
    return int(label) if label in (0, 1) else label
