"""Parses labels of images, such as the labels of CheXpert, with a policy for uncertain and missing labels."""

import re
from dataclasses import dataclass

from echodream import validation
from echodream.errors import UserError
from echodream.ingest.csv_tables import parse_cell, parse_number
from echodream.ingest.source import CellValue

UNCERTAIN_LABEL = -1
_LIST_SEPARATORS = re.compile(r"[|;,/&+\[\]'\"]")

CHEXPERT_LABELS = (
    *("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged_Cardiomediastinum", "Fracture"),
    *("Lung_Lesion", "Lung_Opacity", "No_Finding", "Pleural_Effusion", "Pleural_Other", "Pneumonia", "Pneumothorax"),
    "Support_Devices",
)
"""The 14 labels of CheXpert (Irvin et al. 2019), as columns of a store."""


@dataclass(frozen=True)
class LabelPolicy:
    """Parses labels: 1 is positive, 0 negative, 0 to 1 a soft label, -1 uncertain, an empty cell missing.

    ``uncertain`` and ``missing`` are the stored values of uncertain and missing labels. None stores an empty cell,
    which training and evaluation ignore.
    """

    uncertain: float | None = None
    missing: float | None = None

    def __post_init__(self) -> None:
        for name in ("uncertain", "missing"):
            if (value := getattr(self, name)) is not None:
                validation.fraction(name, value, note=", or null to leave the cell empty")
                object.__setattr__(self, name, _integer_if_binary(value))

    def parse(self, text: str, location: str) -> CellValue | None:
        """Convert the label in a cell to its stored value. Raises ``UserError``; ``location`` begins the message."""
        if parse_cell(text) is None:
            return self.missing
        label = parse_number(text)
        if label == UNCERTAIN_LABEL:
            return self.uncertain
        if label is None or not 0 <= label <= 1:
            raise UserError(f"{location} has the label {text[:40]!r}: use 0 to 1, -1 (uncertain) or an empty cell")
        return _integer_if_binary(label)

    def parse_category(self, text: str, value: str, location: str) -> CellValue | None:
        """Return 1 if a cell equals ``value`` or lists it (``Cardiomegaly|Emphysema``), else 0.

        Raises ``UserError`` if the cell has ``value`` in another spelling or in a list with separators other than "|";
        ``location`` begins the message.
        """
        if value in [name.strip() for name in text.split("|")] or None is not parse_number(value) == parse_number(text):
            return 1
        if value.casefold() in [name.strip().casefold() for name in _LIST_SEPARATORS.split(text)]:
            remedy = "write it in one way, and separate the labels of a list by |"
            raise UserError(f"{location} has {text[:60]!r}, which is not {value!r} but contains it: {remedy}")
        return self.missing if parse_cell(text) is None else 0


def _integer_if_binary(label: float) -> float:
    """Convert 0.0 and 1.0 to integers, so that FileList.csv contains 0 and 1."""
    return int(label) if label in (0, 1) else label
