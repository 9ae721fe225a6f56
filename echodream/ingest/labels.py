"""Labels of images: what becomes of the values that are neither yes nor no."""

from dataclasses import dataclass

from echodream import validation
from echodream.errors import UserError
from echodream.ingest.csv_tables import parse_cell, parse_number
from echodream.ingest.source import CellValue
from echodream.store.schema import is_valid_column

UNCERTAIN = -1

CHEXPERT = (
    *("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged_Cardiomediastinum", "Fracture"),
    *("Lung_Lesion", "Lung_Opacity", "No_Finding", "Pleural_Effusion", "Pleural_Other", "Pneumonia", "Pneumothorax"),
    "Support_Devices",
)
"""The labels of CheXpert (Irvin et al. 2019), as columns of a store."""


@dataclass(frozen=True)
class LabelPolicy:
    """How a label is read: 1 is yes, 0 is no, between them a soft label, -1 uncertain, and an empty cell missing.

    ``uncertain`` and ``missing`` are stored in place of those, or None, which leaves the cell empty: not known, so that
    it neither trains nor scores.
    """

    uncertain: float | None = None
    missing: float | None = None

    def __post_init__(self) -> None:
        for name in ("uncertain", "missing"):
            given = getattr(self, name)
            if given is not None:
                validation.share(name, given, note=", or null to leave the cell empty")
            object.__setattr__(self, name, _short(given))

    def read(self, text: str, where: str) -> CellValue | None:
        """A cell that holds a label. Raises ``UserError`` that says ``where``."""
        if parse_cell(text) is None:
            return self.missing
        found = parse_number(text)
        if found == UNCERTAIN:
            return self.uncertain
        if found is None or not 0 <= found <= 1:
            raise UserError(f"{where} has the label {text[:40]!r}: 1, 0, -1 (uncertain), empty, or a share between")
        return _short(found)

    def equals(self, text: str, wanted: str) -> CellValue | None:
        """1 for a cell that holds ``wanted``, 0 for another."""
        return self.missing if parse_cell(text) is None else int(text == wanted)


def _short(label: float | None) -> float | None:
    """0 and 1 as whole numbers, as cells have them."""
    return int(label) if label in (0, 1) else label


def check_label_names(names: tuple[str, ...]) -> None:
    """Raise ``UserError`` for a label that cannot be a column of a store, or that is named twice."""
    for name in names:
        if not is_valid_column(name):
            raise UserError(f"labels names {name!r}: use letters, digits and '_', a letter first")
    if len(set(names)) < len(names):
        raise UserError(f"labels {list(names)} names a label twice")
