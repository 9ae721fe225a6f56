"""Categorical condition, such as the view of the heart: a learned embedding for each category."""

from collections import Counter
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from echodream.diffusion.conditioning.base import MAX_CLASSES, MISSING, Cells, LookupCondition, parse_texts
from echodream.errors import UserError


class Category(LookupCondition):
    """Condition on a categorical ``column``; empty cells are missing values."""

    kind = "category"

    def fit(self, table: pd.DataFrame) -> None:
        """Store ``categories`` in the metadata: name and row count of each category, in alphabetical order."""
        counts = Counter(text for text in parse_texts(table[self.column].tolist()) if text)
        if not counts:
            raise UserError(f"{self.column} is empty in all TRAIN rows: fill it, or remove it from conditioning=")
        if len(counts) > MAX_CLASSES:
            problem = f"{self.column} has more than {MAX_CLASSES} different texts"
            raise UserError(f"{problem}: remove it from conditioning=")
        self.metadata = {"categories": [{"name": name, "count": count} for name, count in sorted(counts.items())]}

    def build(self, width: int) -> None:
        self.indices = {str(item["name"]): index for index, item in enumerate(self.metadata["categories"])}
        self.create_embedding(len(self.indices), width)

    def encode(self, cells: Cells, device: torch.device | None = None) -> Tensor:
        """Indices of the categories: int64, (B,); -1 for missing values and categories that were not in training."""
        indices = [self.indices.get(text, MISSING) for text in parse_texts(cells)]
        return torch.tensor(indices, dtype=torch.int64).to(device, non_blocking=True)

    def check_cells(self, cells: Cells) -> None:
        for text in parse_texts(cells):
            if text and text not in self.indices:
                problem = f"{self.column}={text[:40]} was not in the training data of the model"
                raise UserError(f"{problem}: give one of {', '.join(list(self.indices)[:20])}")

    def choices(self) -> list[Any]:
        return list(self.indices)
