"""Reruns of encode and decode: answered at once where all is the same, and only there."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from echodream import engine
from echodream.errors import UserError
from echodream.stages.already import _fingerprint, decoded, encoded
from echodream.weights import fingerprint
from tests.tiny_vae import artifact, blob_store, sample_cfg, tiny

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "pytorch_lightning", "diffusers", "av", "decord")


@pytest.fixture
def done(tmp_path: Path) -> Path:
    """A folder in which both stages are done."""
    blob_store(tmp_path / "videos", (5, 3, 4))
    artifact(tmp_path / "vae", tiny())
    for stage in ("encode", "decode"):
        engine.sample(sample_cfg(tmp_path, stage))
    return tmp_path


def asked(folder: Path, **changed: str) -> dict[str, str]:
    return {"src": f"{folder}/videos", "dst": f"{folder}/latents", "artifact": f"{folder}/vae"} | changed


def test_a_rerun_says_so_and_imports_nothing_heavy(done: Path) -> None:
    code = f"""
import sys
from echodream.cli import sample
sample()
print(*[name for name in {HEAVY!r} if name in sys.modules], "end")
"""
    for stage, src, dst in (("encode", "videos", "latents"), ("decode", "latents", "decoded")):
        before = {path: path.stat().st_mtime_ns for path in (done / dst).rglob("*")}
        arguments = [f"stage={stage}", f"src={done}/{src}", f"dst={done}/{dst}", f"artifact={done}/vae"]
        arguments += [f"reference={done}/videos"] if stage == "decode" else []
        said = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=done, check=True
        ).stdout
        assert f"{stage}: {done}/{dst} already complete, nothing to do\n  recordings  3\n  frames      12\n" in said
        assert said.splitlines()[-1] == "end", said
        assert {path: path.stat().st_mtime_ns for path in (done / dst).rglob("*")} == before


def test_what_the_stage_would_say_is_what_is_said(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for stage in ("encode", "decode"):
        quick = engine.sample(sample_cfg(done, stage))
        with monkeypatch.context() as patch:
            patch.setenv("LOCAL_RANK", "0")
            patch.setattr("echodream.stages.already.Store", None)
            assert engine.sample(sample_cfg(done, stage)) == quick


def test_other_settings_are_still_refused(done: Path) -> None:
    with pytest.raises(UserError, match=r"settings.precision was '32-true', now 'bf16-mixed'"):
        engine.sample(sample_cfg(done, "encode", "trainer.precision=bf16-mixed"))
    tiny(seed=1).save_pretrained(done / "vae")
    with pytest.raises(UserError, match="the weights have changed since training"):
        engine.sample(sample_cfg(done, "encode"))


def test_encoding_is_not_done_when_anything_differs(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(**changed: str) -> bool:
        return encoded(**{**asked(done), "precision": "32-true", **changed}) is not None

    assert answer()
    blob_store(done / "others", (5, 3, 2))
    artifact(done / "vae1", tiny(seed=1))
    (done / "empty").mkdir()
    for key, value in {
        "precision": "bf16-mixed",
        "src": f"{done}/others",
        "artifact": f"{done}/vae1",
        "dst": f"{done}/decoded",
    }.items():
        assert not answer(**{key: value}), key
    for key in ("src", "dst", "artifact"):
        assert not answer(**{key: f"{done}/empty"}), key
        assert not answer(**{key: f"{done}/nowhere"}), key
    (done / "latents.partial").mkdir()
    assert not answer()
    (done / "latents.partial").rmdir()
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "0")
            assert not answer(), name
    weights = done / "vae" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert not answer()
    weights.write_bytes(content[:100])
    assert not answer()


def test_decoding_is_not_done_when_anything_differs(done: Path) -> None:
    def answer(grey: bool = True, **changed: str) -> bool:
        there = {"src": f"{done}/latents", "dst": f"{done}/decoded", "precision": "32-true"}
        return decoded(**{**asked(done), **there, **changed}, grey=grey) is not None

    assert answer()
    assert answer(grey=False)  # the network has one channel
    artifact(done / "vae1", tiny(seed=1))
    changes = {"precision": "16-true", "src": "videos", "dst": "latents", "artifact": "vae1"}
    for key, value in changes.items():
        assert not answer(**{key: value if key == "precision" else f"{done}/{value}"}), key
    (done / "vae" / "config.json").write_text((done / "vae" / "config.json").read_text().replace("1,", "3,"))
    assert not answer(grey=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_fingerprint_is_that_of_the_network(tmp_path: Path, dtype: torch.dtype) -> None:
    network = tiny(3).to(dtype)
    network.save_pretrained(tmp_path / "vae")
    assert _fingerprint(tmp_path / "vae") == fingerprint(network)


def test_weights_in_another_form_are_left_to_the_stage(tmp_path: Path) -> None:
    tiny().to(torch.bfloat16).save_pretrained(tmp_path / "half")
    tiny().save_pretrained(tmp_path / "bin", safe_serialization=False)
    for name in ("half", "bin"):
        with pytest.raises((ValueError, OSError)):
            _fingerprint(tmp_path / name)
