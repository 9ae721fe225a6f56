"""A text column with few different values, such as the view of the heart: a learned embedding for each value."""

from collections import Counter
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from echodream.diffusion.conditioning.base import MAX_CLASSES, MISSING, LookupCondition, Raw, parse_texts
from echodream.errors import UserError


class Category(LookupCondition):
    """A categorical ``column``; empty cells are missing."""

    kind = "category"

    def fit(self, table: pd.DataFrame) -> None:
        """Metadata: ``categories`` of the training rows, each with name and row count, in alphabetical order."""
        counts = Counter(text for text in parse_texts(table[self.column].tolist()) if text)
        if not counts:
            raise UserError(f"{self.column} is empty in all TRAIN rows: fill it, or leave it out of conditioning=")
        if len(counts) > MAX_CLASSES:
            raise UserError(f"{self.column} has {len(counts)} different texts: too many for a category, leave it out")
        self.metadata = {"categories": [{"name": name, "count": count} for name, count in sorted(counts.items())]}

    def build(self, width: int) -> None:
        self.indices = {str(item["name"]): index for index, item in enumerate(self.metadata["categories"])}
        self.create_embedding(len(self.indices), width)

    def encode(self, raw: Raw, device: torch.device | None = None) -> Tensor:
        """Index of the category, int64, (B,); -1 where it is missing or was not in training."""
        indices = [self.indices.get(text, MISSING) for text in parse_texts(raw)]
        return torch.tensor(indices, dtype=torch.int64, device=device)

    def check(self, raw: Raw) -> None:
        for text in parse_texts(raw):
            if text and text not in self.indices:
                problem = f"{self.column}={text[:40]} is not what the model was trained on"
                raise UserError(f"{problem}: give one of {', '.join(list(self.indices)[:20])}")

    def choices(self) -> list[Any]:
        return list(self.indices)
