"""Weight files: reading without running code, exact loading, and fingerprints."""

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from echodream.errors import UserError
from echodream.weights import fingerprint, load_strictly, read_weights


def layer(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5))


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.path}",)


def test_both_formats_give_what_was_saved(tmp_path: Path) -> None:
    state = layer().state_dict()
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "a.bin")
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "a.ckpt")
    for name in ("a.safetensors", "a.bin", "a.ckpt"):
        found = read_weights(str(tmp_path / name))
        assert found.keys() == state.keys()
        assert all(torch.equal(found[key], value) for key, value in state.items())


def test_the_hash_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file(layer().state_dict(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert read_weights(str(path), digest)
    with pytest.raises(UserError, match=f"a.safetensors has SHA-256 {digest}, expected 0000"):
        read_weights(str(path), "0" * 64)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none.bin does not exist: give the path of a local weight file"):
        read_weights(str(tmp_path / "none.bin"))


@pytest.mark.parametrize("name", ["a.bin", "a.ckpt", "a.pth"])
def test_a_pickle_that_needs_code_is_refused_and_not_run(tmp_path: Path, name: str) -> None:
    torch.save({"weight": torch.ones(2), "hook": Payload(tmp_path / "ran")}, tmp_path / name)
    with pytest.raises(UserError, match=rf"{name} contains more than weights, and opening it would run code"):
        read_weights(str(tmp_path / name))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["a.bin", "a.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not weights at all", b"PK\x03\x04 torn"])
def test_a_damaged_file(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} is not a readable weight file"):
        read_weights(str(tmp_path / name))


@pytest.mark.parametrize("content", [[torch.ones(2)], {"epoch": 3}, torch.ones(2)])
def test_a_pickle_without_a_state_dict(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "a.bin")
    with pytest.raises(UserError, match=r"a.bin has no state dict of tensors"):
        read_weights(str(tmp_path / "a.bin"))


def test_missing_and_extra_weights_are_named() -> None:
    state = layer().state_dict()
    del state["0.bias"]
    with pytest.raises(UserError, match=r"f.bin does not fit .*: 1 weights are missing \(0.bias\)"):
        load_strictly(layer(1), state, "f.bin")
    with pytest.raises(UserError, match=r"1 weights are missing \(0.bias\) and 1 weights are unknown \(head\)"):
        load_strictly(layer(1), {**state, "head": torch.ones(1)}, "f.bin")


def test_a_wrong_shape_and_a_weight_that_is_not_finite_are_named() -> None:
    state = layer().state_dict()
    with pytest.raises(UserError, match=r"f.bin: 0.bias is \(4,\), this architecture has \(5,\)"):
        load_strictly(layer(1), {**state, "0.bias": torch.ones(4)}, "f.bin")
    with pytest.raises(UserError, match=r"f.bin: 0.bias is not finite"):
        load_strictly(layer(1), {**state, "0.bias": torch.full((5,), torch.nan)}, "f.bin")


def test_loading_is_exact() -> None:
    network = layer(1)
    load_strictly(network, layer(0).state_dict(), "f.bin")
    assert fingerprint(network) == fingerprint(layer(0))


def test_any_one_changed_weight_changes_the_fingerprint() -> None:
    truth = fingerprint(layer())
    assert fingerprint(layer()) == truth
    for name, value in layer().state_dict().items():
        network = layer()
        flat = network.state_dict()[name].view(-1)
        flat[-1] = torch.nextafter(flat[-1], flat.new_tensor(9.0)) if value.is_floating_point() else flat[-1] + 1
        assert fingerprint(network) != truth, name


def test_the_fingerprint_is_of_values_names_and_shapes() -> None:
    network = layer()
    assert fingerprint(network.half()) != fingerprint(layer())  # half precision rounds the values
    assert fingerprint(network.float()) == fingerprint(network.half())  # equal values in another data type
    with torch.no_grad():
        turned = nn.Linear(2, 3, bias=False)
        same = nn.Linear(3, 2, bias=False)
        same.weight.copy_(turned.weight.view(2, 3))
    assert fingerprint(turned) != fingerprint(same)
    assert fingerprint(nn.Sequential(turned)) != fingerprint(turned)
    channels_last = nn.Conv2d(3, 5, 3)
    assert fingerprint(channels_last) == fingerprint(channels_last.to(memory_format=torch.channels_last))
