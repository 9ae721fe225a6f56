"""Text through a frozen encoder, made here with random weights."""

import copy
import json
from pathlib import Path

import pytest
import torch

from echodream.diffusion.conditioning.conditioner import Conditioner
from echodream.diffusion.conditioning.text import Text
from echodream.errors import UserError
from tests.support.conditions import REST, TABLE, C, D, batch, keep


def text_encoder(folder: Path, seed: int = 0) -> Path:
    """A CLIP text encoder of eight dimensions that spells its words, with its tokenizer."""
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
