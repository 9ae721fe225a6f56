"""The class, a learned embedding for each class number."""

import math
from collections import Counter
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from echodream.diffusion.conditioning.base import MAX_CLASSES, MISSING, LookupCondition, Raw, parse_numbers, parse_texts
from echodream.errors import UserError


class ClassId(LookupCondition):
    """The class, by its number in the column ``class_id``; -1 and empty cells are missing."""

    kind = "class_id"

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__("class_id", dropout)

    def fit(self, table: pd.DataFrame) -> None:
        """Metadata: ``classes`` of the training rows, each with id, row count, and its most frequent class_name."""
        ids = [_class_number(cell) for cell in parse_numbers(self.column, table[self.column].tolist())]
        counts = Counter(number for number in ids if number != MISSING)
        if not counts:
            raise UserError("class_id is empty in all TRAIN rows: fill it, or leave class_id out of conditioning=")
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

    def encode(self, raw: Raw, device: torch.device | None = None) -> Tensor:
        """int64, (B,); -1 where the class is missing or was not in training."""
        if isinstance(raw, Tensor):  # stays on its device: no synchronization with the GPU
            known = torch.isin(raw, self.known_ids_tensor.to(raw.device, raw.dtype))
            return torch.where(known, raw, MISSING).to(device, torch.int64)
        ids = [_class_number(cell) for cell in parse_numbers(self.column, raw)]
        return torch.tensor([i if i in self.known_ids else MISSING for i in ids], dtype=torch.int64, device=device)

    def check(self, raw: Raw) -> None:
        for cell in parse_numbers(self.column, raw):
            if not math.isnan(cell) and cell != MISSING and cell not in self.known_ids:
                known = ", ".join(f"{item['id']} {item['name']}".strip() for item in self.metadata["classes"])
                raise UserError(f"class_id={cell:g} is a class that the model was not trained on: give one of {known}")

    def choices(self) -> list[Any]:
        return list(self.known_ids)

    def filelist_columns(self, cell: Any) -> dict[str, Any]:
        """class_id, and class_name where it is known."""
        number = _class_number(parse_numbers(self.column, [cell])[0])
        if number == MISSING:
            return {}
        names = {item["id"]: item["name"] for item in self.metadata["classes"]}
        return {self.column: number, **({"class_name": names[number]} if names.get(number) else {})}


def _class_number(cell: float) -> int:
    if math.isnan(cell) or cell == MISSING:
        return MISSING
    if not cell.is_integer() or not 0 <= cell < MAX_CLASSES:
        allowed = f"a whole number from 0 to {MAX_CLASSES - 1}"
        raise UserError(f"class_id is {cell:g}, not {allowed}: correct it in FileList.csv")
    return int(cell)
