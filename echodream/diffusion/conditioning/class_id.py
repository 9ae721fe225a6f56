"""Class condition: a learned embedding for each class_id."""

import math
from collections import Counter
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from echodream.diffusion.conditioning.base import (
    MAX_CLASSES,
    MISSING,
    Cells,
    LookupCondition,
    parse_numbers,
    parse_texts,
)
from echodream.errors import UserError


class ClassId(LookupCondition):
    """Condition on the column ``class_id``; -1 and empty cells are missing values."""

    kind = "class_id"

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__("class_id", dropout)

    def fit(self, table: pd.DataFrame) -> None:
        """Store ``classes`` in the metadata: id, row count, and most frequent class_name of each class."""
        ids = [_parse_class_id(cell) for cell in parse_numbers(self.column, table[self.column].tolist())]
        counts = Counter(number for number in ids if number != MISSING)
        if not counts:
            raise UserError("class_id is empty in all TRAIN rows: fill it, or remove it from conditioning=")
        names: dict[int, Counter[str]] = {number: Counter() for number in counts}
        if "class_name" in table:
            for number, name in zip(ids, parse_texts(table["class_name"].tolist()), strict=True):
                if number != MISSING and name:
                    names[number][name] += 1
        most_frequent = {number: max(names[number], key=names[number].__getitem__, default="") for number in names}
        classes = [{"id": number, "name": most_frequent[number], "count": counts[number]} for number in sorted(counts)]
        self.metadata = {"classes": classes}

    def build(self, width: int) -> None:
        self.known_ids = [int(item["id"]) for item in self.metadata["classes"]]
        self.known_ids_tensor: Tensor
        self.register_buffer("known_ids_tensor", torch.tensor(self.known_ids), persistent=False)
        self.create_embedding(max(self.known_ids) + 1, width)

    def encode(self, cells: Cells, device: torch.device | None = None) -> Tensor:
        """class_id of each row: int64, (B,); -1 for missing values and classes that were not in training."""
        if isinstance(cells, Tensor):  # on the device of the batch, without synchronization with the GPU
            known = torch.isin(cells, self.known_ids_tensor.to(cells.device, cells.dtype))
            return torch.where(known, cells, MISSING).to(device, torch.int64)
        ids = [_parse_class_id(cell) for cell in parse_numbers(self.column, cells)]
        return torch.tensor([i if i in self.known_ids else MISSING for i in ids], dtype=torch.int64, device=device)

    def check_cells(self, cells: Cells) -> None:
        for cell in parse_numbers(self.column, cells):
            if not math.isnan(cell) and cell != MISSING and cell not in self.known_ids:
                known = ", ".join(f"{item['id']} {item['name']}".strip() for item in self.metadata["classes"])
                raise UserError(f"class_id={cell:g} was not in the training data of the model: give one of {known}")

    def choices(self) -> list[Any]:
        return list(self.known_ids)

    def filelist_columns(self, cell: Any) -> dict[str, Any]:
        """Cells of class_id and, if known, of class_name; empty if the class is missing."""
        number = _parse_class_id(parse_numbers(self.column, [cell])[0])
        if number == MISSING:
            return {}
        names = {item["id"]: item["name"] for item in self.metadata["classes"]}
        return {self.column: number, **({"class_name": names[number]} if names.get(number) else {})}


def _parse_class_id(cell: float) -> int:
    if math.isnan(cell) or cell == MISSING:
        return MISSING
    if not cell.is_integer() or not 0 <= cell < MAX_CLASSES:
        allowed = f"a whole number from 0 to {MAX_CLASSES - 1}"
        raise UserError(f"class_id is {cell:g}, not {allowed}: correct it in FileList.csv")
    return int(cell)
