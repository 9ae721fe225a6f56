"""Conditions of one token: a class, a number, a category. Each has a learned embedding and a learned null."""

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from echodream.diffusion.conditioning.base import Raw, TokenCondition, between, numbers, texts
from echodream.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

_MISSING = -1
_MOST_CLASSES = 10_000


class ClassId(TokenCondition):
    """The class, by its number in ``class_id``; -1 and empty cells are missing."""

    kind = "class_id"

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__("class_id", dropout)

    def arguments(self) -> dict[str, Any]:
        return {"dropout": self.dropout}

    def learn(self, table: "pd.DataFrame") -> None:
        """Facts: the ``classes`` of the training rows, each with id, count, and class_name where that column is."""
        ids = [_class(cell) for cell in numbers(self.column, table[self.column].tolist())]
        counts = Counter(number for number in ids if number != _MISSING)
        if not counts:
            raise UserError("class_id is empty in all TRAIN rows: fill it, or leave class_id out of conditioning=")
        names: dict[int, Counter[str]] = {number: Counter() for number in counts}
        if "class_name" in table:
            for number, name in zip(ids, texts(table["class_name"].tolist()), strict=True):
                if number != _MISSING and name:
                    names[number][name] += 1
        self.facts = {
            "classes": [
                {"id": number, "name": max(names[number], key=names[number].__getitem__, default=""), "count": count}
                for number, count in sorted(counts.items())
            ]
        }

    def build(self, width: int) -> None:
        self.known = [int(item["id"]) for item in self.facts["classes"]]
        self.seen: Tensor
        self.register_buffer("seen", torch.tensor(self.known), persistent=False)
        self.embedding = nn.Embedding(max(self.known) + 1, width)
        self.null = nn.Parameter(torch.randn(width))

    def encode(self, raw: Raw, device: torch.device | None = None) -> Tensor:
        """int64, (B,); -1 where it is missing, or a class that training has not seen."""
        if isinstance(raw, Tensor):  # on its device, without waiting for it
            own = torch.isin(raw, self.seen.to(raw.device, raw.dtype))
            return torch.where(own, raw, _MISSING).to(device, torch.int64)
        ids = [_class(cell) for cell in numbers(self.column, raw)]
        return torch.tensor([i if i in self.known else _MISSING for i in ids], dtype=torch.int64, device=device)

    def check(self, raw: Raw) -> None:
        for cell in numbers(self.column, raw):
            if not math.isnan(cell) and cell != _MISSING and cell not in self.known:
                have = ", ".join(f"{item['id']} {item['name']}".strip() for item in self.facts["classes"])
                raise UserError(f"class_id={cell:g} is a class that the model was not trained on: give one of {have}")

    def options(self) -> list[Any]:
        return list(self.known)

    def describe(self, cell: Any) -> dict[str, Any]:
        """With class_name, where it is known."""
        number = _class(numbers(self.column, [cell])[0])
        if number == _MISSING:
            return {}
        names = {item["id"]: item["name"] for item in self.facts["classes"]}
        return {self.column: number, **({"class_name": names[number]} if names.get(number) else {})}

    def forward(self, value: Tensor, keep: Tensor) -> Tensor:
        return _embedded(self.embedding, self.null, value, keep)


class Category(TokenCondition):
    """A text of a few kinds, as the view; empty cells are missing."""

    kind = "category"

    def __init__(self, column: str, dropout: float = 0.1) -> None:
        super().__init__(column, dropout)

    def arguments(self) -> dict[str, Any]:
        return {"column": self.column, "dropout": self.dropout}

    def learn(self, table: "pd.DataFrame") -> None:
        """Facts: the ``categories`` of the training rows, each with name and count, in alphabetic order."""
        counts = Counter(text for text in texts(table[self.column].tolist()) if text)
        if not counts:
            raise UserError(f"{self.column} is empty in all TRAIN rows: fill it, or leave it out of conditioning=")
        if len(counts) > _MOST_CLASSES:
            raise UserError(f"{self.column} has {len(counts)} different texts: that is no category, leave it out")
        self.facts = {"categories": [{"name": name, "count": count} for name, count in sorted(counts.items())]}

    def build(self, width: int) -> None:
        self.known = {str(item["name"]): index for index, item in enumerate(self.facts["categories"])}
        self.embedding = nn.Embedding(len(self.known), width)
        self.null = nn.Parameter(torch.randn(width))

    def encode(self, raw: Raw, device: torch.device | None = None) -> Tensor:
        """int64, (B,): the number of the category; -1 where it is missing, or training has not seen it."""
        return torch.tensor([self.known.get(text, _MISSING) for text in texts(raw)], dtype=torch.int64, device=device)

    def check(self, raw: Raw) -> None:
        for text in texts(raw):
            if text and text not in self.known:
                raise UserError(
                    f"{self.column}={text[:40]} is not what the model was trained on: give one of "
                    f"{', '.join(list(self.known)[:20])}"
                )

    def options(self) -> list[Any]:
        return list(self.known)

    def forward(self, value: Tensor, keep: Tensor) -> Tensor:
        return _embedded(self.embedding, self.null, value, keep)


class Scalar(TokenCondition):
    """A number, as EF in percent; empty cells are missing.

    ``low`` and ``high`` are what may be asked for, by default the least and the greatest of the training rows. Waves
    of (value - low) / (high - low), the shortest 1/4 of the range long, go through two layers: near values have near
    tokens.
    """

    kind = "scalar"
    waves = 8

    def __init__(self, column: str, low: float | None = None, high: float | None = None, dropout: float = 0.1) -> None:
        super().__init__(column, dropout)
        if low is not None and high is not None and not low < high:
            raise UserError(f"conditioning: the range of {column} is {low} to {high}: give low below high, or null")
        self.low, self.high = low, high

    def arguments(self) -> dict[str, Any]:
        return {"column": self.column, "low": self.low, "high": self.high, "dropout": self.dropout}

    def learn(self, table: "pd.DataFrame") -> None:
        """Facts: ``low`` and ``high``, the range; ``least`` and ``greatest`` of the training rows, and their count."""
        seen = [value for value in numbers(self.column, table[self.column].tolist()) if math.isfinite(value)]
        if not seen or min(seen) == max(seen):
            what = f"{seen[0]:g}" if seen else "empty"
            raise UserError(f"{self.column} is {what} in all TRAIN rows: leave {self.column} out of conditioning=")
        low = min(seen) if self.low is None else self.low
        high = max(seen) if self.high is None else self.high
        if min(seen) < low or max(seen) > high:
            raise UserError(
                f"{self.column} is {min(seen):g} to {max(seen):g} in TRAIN, beyond the range {low:g} to {high:g} that "
                "conditioning= gives it: widen low and high, or set them to null"
            )
        self.facts = {"low": low, "high": high, "least": min(seen), "greatest": max(seen), "count": len(seen)}

    def build(self, width: int) -> None:
        self.layers = nn.Sequential(nn.Linear(2 * self.waves, width), nn.SiLU(), nn.Linear(width, width))
        self.null = nn.Parameter(torch.randn(width))

    def encode(self, raw: Raw, device: torch.device | None = None) -> Tensor:
        """float32, (B,), in the column's unit; NaN where it is missing."""
        if isinstance(raw, Tensor):
            return raw.to(device, torch.float32)
        return torch.tensor(numbers(self.column, raw), dtype=torch.float32, device=device)

    def check(self, raw: Raw) -> None:
        low, high, least = (float(self.facts[name]) for name in ("low", "high", "least"))
        room = 1e-6 * (high - low)
        for value in numbers(self.column, raw):
            fraction = 0 <= value <= 1 < least
            if not math.isnan(value) and (fraction or not low - room <= value <= high + room):
                advice = "give percent" if fraction and high <= 100 else "give it in the same unit and range"
                raise UserError(
                    f"{self.column}={value:g} is not what the model was trained on, {low:g} to {high:g}: {advice}"
                )

    def options(self) -> None:
        return None

    def at(self, share: float) -> float:
        return between(self.facts["least"], self.facts["greatest"], share)

    def forward(self, value: Tensor, keep: Tensor) -> Tensor:
        missing = value.isnan()
        low, high = float(self.facts["low"]), float(self.facts["high"])
        place = ((value.float().masked_fill(missing, low) - low) / (high - low)).clamp(0, 1)
        angles = math.pi * place[:, None] * torch.arange(1, self.waves + 1, device=value.device)
        tokens = self.layers(torch.cat([angles.sin(), angles.cos()], dim=1).to(self.null.dtype))
        return torch.where((keep & ~missing)[:, None], tokens, self.null.to(tokens.dtype))[:, None]


def _embedded(embedding: nn.Embedding, null: Tensor, value: Tensor, keep: Tensor) -> Tensor:
    """(B, 1, D): the embedding of ``value``, int64 (B,), or ``null`` where it is not kept or missing."""
    tokens = embedding(value.clamp(min=0))
    return torch.where((keep & (value != _MISSING))[:, None], tokens, null)[:, None]


def _class(cell: float) -> int:
    if math.isnan(cell) or cell == _MISSING:
        return _MISSING
    if not cell.is_integer() or not 0 <= cell < _MOST_CLASSES:
        raise UserError(
            f"class_id is {cell:g}, not a whole number from 0 to {_MOST_CLASSES - 1}: correct it in FileList.csv"
        )
    return int(cell)
