"""Text condition: tokens of a frozen CLIP text encoder in a local folder."""

from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from echodream.diffusion.conditioning.base import MISSING, Cells, TokenCondition, parse_texts
from echodream.errors import UserError
from echodream.weights import fingerprint


class FrozenTextEncoder:
    """Tokenizer and CLIP text encoder, shared by copies of a ``Text`` module and excluded from its state dict."""

    def __init__(self, folder: str) -> None:
        try:
            from transformers import AutoTokenizer, CLIPTextModel
        except ImportError as error:
            remedy = 'install it with pip install "echodream[text]"'
            raise UserError(f"conditioning=text needs the package transformers: {remedy}") from error
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self.encoder: Any = CLIPTextModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{folder} has no CLIP text encoder in safetensors with a tokenizer: {reason}") from error
        self.encoder.float().eval().requires_grad_(False)
        self.max_length = int(self.encoder.config.max_position_embeddings)

    def __deepcopy__(self, memo: dict[int, Any]) -> "FrozenTextEncoder":
        return self


class Text(TokenCondition):
    """Condition on a text ``column``. Tokens are projections of the hidden states of the CLIP encoder in ``folder``.

    Texts are padded to the maximum length of the encoder, so that a row does not depend on its batch. In rows with an
    empty cell, each token is the learned null embedding.
    """

    kind = "text"

    def __init__(self, folder: str, column: str = "text", dropout: float = 0.1) -> None:
        super().__init__(column, dropout)
        if not (Path(folder) / "config.json").is_file():
            problem = f"conditioning.text.folder={folder} has no config.json"
            raise UserError(f"{problem}: give the local folder of a CLIP text encoder")
        self.folder = folder

    def fit(self, table: pd.DataFrame) -> None:
        """Store the ``fingerprint`` of the encoder's weights in the metadata."""
        if not any(parse_texts(table[self.column].tolist())):
            raise UserError(f"{self.column} is empty in all TRAIN rows: fill it, or remove it from conditioning=")
        self.frozen = FrozenTextEncoder(self.folder)
        self.metadata = {"fingerprint": fingerprint(self.frozen.encoder)}

    def build(self, width: int) -> None:
        if not hasattr(self, "frozen"):
            self.frozen = FrozenTextEncoder(self.folder)
        if fingerprint(self.frozen.encoder) != self.metadata["fingerprint"]:
            raise UserError(f"{self.folder} has another text encoder than in training: restore the text encoder")
        self.project = nn.Linear(self.frozen.encoder.config.hidden_size, width)
        self.null = nn.Parameter(torch.randn(width))

    def encode(self, cells: Cells, device: torch.device | None = None) -> Tensor:
        """Token ids of the texts: int64, (B, L); -1 in rows without text."""
        texts = parse_texts(cells)
        tokens = self.frozen.tokenizer(
            texts, padding="max_length", truncation=True, max_length=self.frozen.max_length, return_tensors="pt"
        )
        empty = torch.tensor([not text for text in texts], dtype=torch.bool)
        return tokens["input_ids"].masked_fill(empty[:, None], MISSING).to(device)

    def check_cells(self, cells: Cells) -> None:
        for text in parse_texts(cells):
            length = len(self.frozen.tokenizer(text)["input_ids"])
            if length > self.frozen.max_length:
                remedy = f"give at most {self.frozen.max_length}, the limit of the text encoder"
                raise UserError(f"{self.column}={text[:40]!r}... has {length} tokens: {remedy}")

    @torch.no_grad()
    def precompute(self, value: Tensor) -> Tensor:
        """Hidden states of token ids (B, L): float, (B, L, D); NaN in rows without text."""
        if value.is_floating_point():
            return value
        hidden: Tensor = self.frozen.encoder.to(value.device)(input_ids=value.clamp(min=0)).last_hidden_state
        return hidden.masked_fill((value[:, 0] == MISSING)[:, None, None], torch.nan)

    def forward(self, value: Tensor, keep: Tensor) -> Tensor:
        hidden = self.precompute(value)
        present = keep & ~hidden[:, 0, 0].isnan()
        tokens = self.project(hidden.nan_to_num().to(self.project.weight.dtype))
        return torch.where(present[:, None, None], tokens, self.null.to(tokens.dtype))
