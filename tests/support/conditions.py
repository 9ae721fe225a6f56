"""Data for tests of conditioning: a table of seven recordings, conditioners fitted to the table, and batches."""

import math
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from echodream.diffusion.conditioning.category import Category
from echodream.diffusion.conditioning.class_id import ClassId
from echodream.diffusion.conditioning.conditioner import Conditioner
from echodream.diffusion.conditioning.reference import Reference
from echodream.diffusion.conditioning.scalar import Scalar
from echodream.types import Batch

B, C, F, H, W, D, R = 2, 4, 3, 5, 7, 6, 2
REST = torch.Size((F, H, W))
TABLE = pd.DataFrame(
    {
        "FileName": [f"r{number}" for number in range(7)],
        "class_id": [0, 3, 3, 0, 1, 3, 0],
        "class_name": ["ASD", "PAH", "PAH", "ASD", "Non-ASD", "PAH", "ASD"],
        "EF": [20.0, 55.5, 80.0, math.nan, 61.0, 33.0, 47.25],
        "View": ["PLAX", "A4C", "", "A4C", "PSAX", "A4C", "PLAX"],
    }
)


def conditioner(seed: int = 0, width: int = D, **conditions: nn.Module) -> Conditioner:
    """A fitted conditioner. Default conditions: class, EF, view, references, in another order than in guidance."""
    torch.manual_seed(seed)
    chosen = conditions or {
        "class_id": ClassId(),
        "EF": Scalar("EF"),
        "reference": Reference(),
        "view": Category("View"),
    }
    fitted = Conditioner(chosen, width)
    fitted.fit(TABLE, C)
    return fitted


def batch(count: int = B, seed: int = 0, **columns: Any) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    return {
        "x": torch.randn(count, C, *REST, generator=rng),
        "name": [f"r{number}" for number in range(count)],
        "columns": columns,
        "reference": torch.randn(count, C, R, H, W, generator=rng),
        "reference_time": torch.tensor([[2.0, 0.5]]).repeat(count, 1),
    }


def keep(made: Conditioner, count: int, *names: str) -> dict[str, Tensor]:
    return {name: torch.full((count,), name in names) for name in made.names}


def tokens(made: Conditioner, raw: dict[str, list[Any]], *names: str) -> Tensor:
    """Tokens, (B, L, D), of the values ``raw``; conditions not in ``names`` are dropped, and without ``names`` none."""
    values = made.encode_request(raw)
    count = len(next(iter(values.values())))
    return made(values, keep(made, count, *(names or made.names)), REST).tokens
