"""Text conditions: a frozen text encoder with random weights."""

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from echodream.diffusion.conditioning import text as text_condition
from echodream.diffusion.conditioning.conditioner import Conditioner
from echodream.diffusion.conditioning.text import Text
from echodream.diffusion.guidance import Guidance
from echodream.diffusion.model import DiffusionModel, ModelMetadata
from echodream.diffusion.processes.ddpm import DDPM
from echodream.errors import UserError
from echodream.networks.denoisers.unet import build_unet
from echodream.sampling.sampling_module import SamplingConfig, SamplingModule
from tests.support import tiny_diffusion as tiny
from tests.support.conditions import REST, TABLE, C, D, batch, keep


def text_encoder(folder: Path, seed: int = 0) -> Path:
    """Save a small CLIP text encoder (width 8, random weights) and a tokenizer with one token per letter."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(seed)
    folder.mkdir()
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=9)
    tokenizer.save_pretrained(folder)
    config = transformers.CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=9,
        bos_token_id=len(words) - 2,
        eos_token_id=len(words) - 1,
    )
    transformers.CLIPTextModel(config).save_pretrained(folder)
    return folder


def test_text_is_the_hidden_states_of_the_frozen_encoder(tmp_path: Path) -> None:
    folder = text_encoder(tmp_path / "clip")
    from transformers import CLIPTextModel, CLIPTokenizer

    table = TABLE.assign(text=["a view", "", "b", "c", "d", "e", "f"])
    made = Conditioner({"text": Text(str(folder))}, D)
    made.fit(table, C)
    words = ["wide", "", "thin heart"[:6]]
    values = made.encode_request({"text": words})
    assert torch.equal(values["text"], made.encode_batch(batch(3, text=words))["text"])
    found = made(values, keep(made, 3, "text"), REST).tokens
    assert found.shape == (3, 9, D)
    ids = CLIPTokenizer.from_pretrained(folder)(
        words, padding="max_length", max_length=9, return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        hidden = CLIPTextModel.from_pretrained(folder).eval()(ids).last_hidden_state
    project, null = made.conditions["text"].project, made.conditions["text"].null
    assert torch.allclose(found[[0, 2]], project(hidden[[0, 2]]), atol=1e-5)
    assert torch.equal(found[1], null.expand(9, -1))
    assert torch.equal(made(values, keep(made, 3), REST).tokens, null.expand(3, 9, -1))
    alone = made({"text": values["text"][:1]}, keep(made, 1, "text"), REST).tokens
    assert torch.allclose(alone, found[:1], atol=1e-6)
    with pytest.raises(UserError, match=r"has 15 tokens: give at most 9, the limit of the text encoder"):
        made.encode_request({"text": ["more than it can"]})
    with pytest.raises(UserError, match=r"text cannot be made up: give labels=training, or the path of a csv"):
        made.uniform_requests(2)


def test_the_text_encoder_is_no_part_of_the_weights(tmp_path: Path) -> None:
    folder = text_encoder(tmp_path / "clip")
    made = Conditioner({"text": Text(str(folder))}, D)
    made.fit(TABLE.assign(text="a"), C)
    assert set(made.state_dict()) == {f"conditions.text.{name}" for name in ("null", "project.weight", "project.bias")}
    twin = copy.deepcopy(made)
    assert twin.conditions["text"].frozen is made.conditions["text"].frozen
    written = json.loads(json.dumps(made.settings()))
    found = Conditioner.from_settings(written)
    found.load_state_dict(made.state_dict())
    values, kept = made.encode_request({"text": ["a b"]}), keep(made, 1, "text")
    assert torch.equal(found(values, kept, REST).tokens, made(values, kept, REST).tokens)
    text_encoder(tmp_path / "other", seed=1)
    written["conditions"][0]["arguments"]["folder"] = str(tmp_path / "other")
    with pytest.raises(UserError, match=r"other has another text encoder than in training"):
        Conditioner.from_settings(written)


def test_text_without_its_folder_or_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"conditioning.text.folder=.*none has no config.json: give the local folder"):
        Text(str(tmp_path / "none"))
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(UserError, match=r'needs the package transformers: .* pip install "echodream\[text\]"'):
        Conditioner({"text": Text(str(tmp_path))}, D).fit(TABLE.assign(text="a"), C)


class LetterEncoder(nn.Module):
    """Replacement for CLIP: the hidden states are a random embedding of each letter."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.config, self.calls = nn.Embedding(128, 8), SimpleNamespace(hidden_size=8), 0

    def forward(self, input_ids: Tensor) -> Any:
        self.calls += 1
        return SimpleNamespace(last_hidden_state=self.embedding(input_ids))


class FrozenLetterEncoder:
    def __init__(self, folder: str) -> None:
        self.encoder, self.max_length = LetterEncoder(), 4


def letters(text: str) -> Tensor:
    return torch.tensor([*map(ord, text), 0, 0, 0, 0][:4])


def test_the_text_encoder_runs_once_for_all_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The encoder runs once for all steps; samples equal those of one encoding per step. One text is missing."""
    torch.manual_seed(0)
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(text_condition, "FrozenTextEncoder", FrozenLetterEncoder)
    conditioner = Conditioner({"text": Text(str(tmp_path))}, 8)
    conditioner.fit(TABLE.assign(text="a"), tiny.C)
    network = build_unet(tiny.C, extra_channels=0, token_width=8, **tiny.IMAGE_NET)  # type: ignore[arg-type]
    metadata = ModelMetadata(tiny.C, tiny.H, tiny.W, 1, 25.0, tiny.STATISTICS, tiny.ENCODER)
    made = DiffusionModel(network, conditioner, DDPM(), metadata).requires_grad_(False).eval()
    for part, std in ((network, 0.15), (conditioner, 3.0)):  # larger weights, so that the text has a visible effect
        for parameter in part.parameters():
            nn.init.normal_(parameter, std=std)
    encoder: Any = conditioner.conditions["text"].frozen.encoder
    values = {"text": torch.stack([letters("ab"), torch.full((4,), -1), letters("c")])}

    def sampled() -> Tensor:
        config = SamplingConfig(0, 4, None, Guidance({"text": 2.0}))
        return SamplingModule(made, config).sample_latents([0, 1, 2], values)

    once = sampled()
    assert encoder.calls == 1
    monkeypatch.setattr(Conditioner, "precompute", lambda self, values: dict(values))
    again = sampled()
    assert encoder.calls == 1 + 4
    torch.testing.assert_close(again, once, rtol=1e-4, atol=1e-4)
    values["text"] = values["text"].flip(0)
    assert not torch.allclose(sampled()[0], once[0], atol=1e-2)
