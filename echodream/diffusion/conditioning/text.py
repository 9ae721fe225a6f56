"""A text, encoded by a frozen CLIP text encoder in a local folder."""

from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from echodream.diffusion.conditioning.base import MISSING, Raw, TokenCondition, parse_texts
from echodream.errors import UserError
from echodream.weights import fingerprint


class FrozenTextEncoder:
    """A tokenizer and its text encoder. Copies of a module share this object; its weights are not in the module's."""

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
            raise UserError(f"{folder} is no CLIP text encoder with its tokenizer as safetensors: {reason}") from error
        self.encoder.float().eval().requires_grad_(False)
        self.max_length = int(self.encoder.config.max_position_embeddings)

    def __deepcopy__(self, memo: dict[int, Any]) -> "FrozenTextEncoder":
        return self


class Text(TokenCondition):
    """A text ``column``: last hidden states of the CLIP text encoder in ``folder``, linearly projected to tokens.

    All texts are padded to the maximum length of the encoder, so that a row does not depend on its batch. Rows with an
    empty cell have the learned null embedding as all of their tokens.
    """

    kind = "text"

    def __init__(self, folder: str, column: str = "text", dropout: float = 0.1) -> None:
        super().__init__(column, dropout)
        if not (Path(folder) / "config.json").is_file():
            remedy = "give the local folder of a CLIP text encoder"
            raise UserError(f"conditioning.text.folder={folder} holds no config.json: {remedy}")
        self.folder = folder

    def fit(self, table: pd.DataFrame) -> None:
        """Metadata: ``fingerprint`` of the encoder's weights."""
        if not any(parse_texts(table[self.column].tolist())):
            raise UserError(f"{self.column} is empty in all TRAIN rows: fill it, or leave text out of conditioning=")
        self.frozen = FrozenTextEncoder(self.folder)
        self.metadata = {"fingerprint": fingerprint(self.frozen.encoder)}

    def build(self, width: int) -> None:
        if not hasattr(self, "frozen"):
            self.frozen = FrozenTextEncoder(self.folder)
        if fingerprint(self.frozen.encoder) != self.metadata["fingerprint"]:
            raise UserError(f"{self.folder} is not the text encoder of the training: put that text encoder there")
        self.project = nn.Linear(self.frozen.encoder.config.hidden_size, width)
        self.null = nn.Parameter(torch.randn(width))

    def encode(self, raw: Raw, device: torch.device | None = None) -> Tensor:
        """Token ids: int64, (B, L); -1 in rows without text."""
        cells = parse_texts(raw)
        tokens = self.frozen.tokenizer(
            cells, padding="max_length", truncation=True, max_length=self.frozen.max_length, return_tensors="pt"
        )
        empty = torch.tensor([not cell for cell in cells], dtype=torch.bool)
        return tokens["input_ids"].masked_fill(empty[:, None], MISSING).to(device)

    def check(self, raw: Raw) -> None:
        for cell in parse_texts(raw):
            length = len(self.frozen.tokenizer(cell)["input_ids"])
            if length > self.frozen.max_length:
                limit = f"the text encoder takes {self.frozen.max_length}"
                raise UserError(f"{self.column}={cell[:40]!r}... has {length} tokens: {limit}")

    def forward(self, value: Tensor, keep: Tensor) -> Tensor:
        present = keep & (value[:, 0] != MISSING)
        encoder = self.frozen.encoder.to(value.device)
        with torch.no_grad():
            hidden = encoder(input_ids=value.clamp(min=0)).last_hidden_state
        tokens = self.project(hidden.to(self.project.weight.dtype))
        return torch.where(present[:, None, None], tokens, self.null.to(tokens.dtype))
