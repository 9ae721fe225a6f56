"""Text, through a frozen CLIP text encoder in a local folder."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from echodream.diffusion.conditioning.base import Raw, TokenCondition, texts
from echodream.errors import UserError
from echodream.weights import fingerprint

if TYPE_CHECKING:
    import pandas as pd

_MISSING = -1


class Frozen:
    """A tokenizer and its text encoder, shared by all copies of a module, and no part of its weights."""

    def __init__(self, folder: str) -> None:
        try:
            from transformers import AutoTokenizer, CLIPTextModel
        except ImportError as error:
            raise UserError(
                'conditioning=text needs the package transformers: install it with pip install "echodream[text]"'
            ) from error
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self.encoder: Any = CLIPTextModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{folder} is no CLIP text encoder with its tokenizer as safetensors: {reason}") from error
        self.encoder.float().eval().requires_grad_(False)
        self.length = int(self.encoder.config.max_position_embeddings)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Frozen":
        return self


class Text(TokenCondition):
    """A text in ``column``: the last hidden states of the CLIP text encoder in ``folder``, projected to the tokens.

    All texts are padded to the encoder's longest, so that a row does not depend on the others of its batch. Empty
    cells are missing: all tokens are then the learned null.
    """

    kind = "text"

    def __init__(self, folder: str, column: str = "text", dropout: float = 0.1) -> None:
        super().__init__(column, dropout)
        if not (Path(folder) / "config.json").is_file():
            raise UserError(
                f"conditioning.text.folder={folder} holds no config.json: give the local folder of a CLIP text encoder"
            )
        self.folder = folder

    def arguments(self) -> dict[str, Any]:
        return {"folder": self.folder, "column": self.column, "dropout": self.dropout}

    def learn(self, table: "pd.DataFrame") -> None:
        """Facts: the ``fingerprint`` of the encoder's weights."""
        if not any(texts(table[self.column].tolist())):
            raise UserError(f"{self.column} is empty in all TRAIN rows: fill it, or leave text out of conditioning=")
        self.frozen = Frozen(self.folder)
        self.facts = {"fingerprint": fingerprint(self.frozen.encoder)}

    def build(self, width: int) -> None:
        if not hasattr(self, "frozen"):
            self.frozen = Frozen(self.folder)
        if fingerprint(self.frozen.encoder) != self.facts["fingerprint"]:
            raise UserError(
                f"{self.folder} is not the text encoder that the model was trained with: put that one there"
            )
        self.project = nn.Linear(self.frozen.encoder.config.hidden_size, width)
        self.null = nn.Parameter(torch.randn(width))

    def encode(self, raw: Raw, device: torch.device | None = None) -> Tensor:
        """Token ids: int64, (B, L); -1 in rows where the text is missing."""
        cells = texts(raw)
        made = self.frozen.tokenizer(
            cells, padding="max_length", truncation=True, max_length=self.frozen.length, return_tensors="pt"
        )
        empty = torch.tensor([not cell for cell in cells], dtype=torch.bool)
        return made["input_ids"].masked_fill(empty[:, None], _MISSING).to(device)

    def check(self, raw: Raw) -> None:
        for cell in texts(raw):
            length = len(self.frozen.tokenizer(cell)["input_ids"])
            if length > self.frozen.length:
                raise UserError(
                    f"{self.column}={cell[:40]!r}... has {length} tokens: the text encoder takes {self.frozen.length}"
                )

    def options(self) -> None:
        return None

    def forward(self, value: Tensor, keep: Tensor) -> Tensor:
        present = keep & (value[:, 0] != _MISSING)
        encoder = self.frozen.encoder.to(value.device)
        with torch.no_grad():
            hidden = encoder(input_ids=value.clamp(min=0)).last_hidden_state
        tokens = self.project(hidden.to(self.project.weight.dtype))
        return torch.where(present[:, None, None], tokens, self.null.to(tokens.dtype))
