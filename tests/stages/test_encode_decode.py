"""Tests of stage=encode and stage=decode: values, identical bytes, interruptions, and error messages."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from echodream import engine
from echodream.callbacks.store_writer import StoreWriterCallback
from echodream.errors import UserError
from echodream.stages import decode as decoding
from echodream.stages import encode as encoding
from echodream.store import Dataset, Store, StoreWriter, find_problems
from echodream.store.latents import write_latents
from tests.support import planted_hearts
from tests.support.interruptions import Accident, failing_after
from tests.support.tiny_vae import (
    HEIGHT,
    WIDTH,
    moving_disc,
    moving_disc_store,
    sample_cfg,
    tiny_autoencoder,
    write_vae_artifact,
)

ROOT = Path(__file__).resolve().parent.parent.parent
LENGTHS = (5, 11, 3, 4, 6, 9, 7)
HALF = 2.0**-10
"""Relative size of one unit in the last place of float16."""


def study(folder: Path, channels: int = 1, **more: Any) -> Path:
    moving_disc_store(folder / "videos", LENGTHS, channels, **more)
    write_vae_artifact(folder / "vae", tiny_autoencoder(channels))
    return folder


def encode(folder: Path, *overrides: str, at: str = "latents") -> Store:
    engine.sample(sample_cfg(folder, "encode", f"dst={folder}/{at}", *overrides))
    return Store(folder / at)


def decode(folder: Path, *overrides: str) -> Any:
    return engine.sample(sample_cfg(folder, "decode", *overrides))


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def truth(channels: int, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Posterior mean and std of recording ``number``, with each frame encoded alone (batch of one)."""
    network = tiny_autoencoder(channels)
    frames = torch.from_numpy(moving_disc(LENGTHS[number], number, channels=channels)).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        posteriors = [network.encode(frame[None]).latent_dist for frame in frames]
    return torch.cat([p.mean for p in posteriors]), torch.cat([p.std for p in posteriors])


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("budget", [8, 512])
def test_latents_are_the_networks_frame_by_frame(
    tmp_path: Path, channels: int, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: dict[str, Any] = {}
    save = encoding._save_posterior
    monkeypatch.setattr(
        encoding, "_save_posterior", lambda path, found: (kept.update({path.stem: found}), save(path, found))[1]
    )
    store = encode(study(tmp_path, channels), f"budget={budget}")
    assert store.table["NumberOfFrames"].tolist() == list(LENGTHS)
    for number, name in enumerate(store.table["FileName"]):
        exact, stored = truth(channels, number), store.latents(name)
        for before, after, true in zip(kept[name], stored, exact, strict=True):
            assert after.shape == (LENGTHS[number], 3, HEIGHT // 2, WIDTH // 2)
            assert (before - true).abs().max() < 1e-5
            assert ((after.float() - true).abs() <= HALF * true.abs() + 1e-5).all()


def test_the_store_is_valid_and_says_what_it_is(tmp_path: Path) -> None:
    store = encode(study(tmp_path, EF=[50.5, "", 3, 4, 5, 6, 7], class_name=list("abcdefg")))
    assert not list(find_problems(tmp_path / "latents"))
    assert (store.dataset.kind, store.dataset.channels) == ("latent", 3)
    assert (store.dataset.height, store.dataset.width) == (HEIGHT // 2, WIDTH // 2)
    assert store.dataset.encoder == json.loads((tmp_path / "vae" / "artifact.json").read_text())["fingerprint"]
    source = Store(tmp_path / "videos").table
    for column in ("FileName", "Split", "PatientID", "FPS", "EF", "class_name"):
        assert store.table[column].equals(source[column]), column
    assert set(store.table["FrameHeight"]) == {HEIGHT // 2}
    assert set(store.table["FrameWidth"]) == {WIDTH // 2}


def test_statistics_are_those_of_the_training_patients_alone(tmp_path: Path) -> None:
    store = encode(study(tmp_path))
    table = store.table
    latents = [store.latents(name) for name in table.loc[table["Split"] == "TRAIN", "FileName"]]
    mean, std = (np.concatenate([pair[part].numpy().astype(np.float64) for pair in latents]) for part in (0, 1))
    assert store.dataset.statistics is not None
    assert store.dataset.statistics.mean == pytest.approx(mean.mean(axis=(0, 2, 3)))
    variance = mean.var(axis=(0, 2, 3)) + (std**2).mean(axis=(0, 2, 3))
    assert store.dataset.statistics.std == pytest.approx(np.sqrt(variance))


@pytest.mark.usefixtures("one_version")
@pytest.mark.slow
def test_encoding_again_reproduces_the_bytes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, second = study(tmp_path / "a"), study(tmp_path / "b")
    encode(first)
    made = bytes_of(first / "latents")
    encode(second, "workers=1")
    assert bytes_of(second / "latents") == made
    with caplog.at_level("INFO"):
        encode(first)
    assert "already complete, nothing to do" in caplog.text
    assert bytes_of(first / "latents") == made


@pytest.fixture
def one_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fix the code version, so that a commit during the test does not change the store."""
    monkeypatch.setattr(engine, "code_version", lambda: "1.2.3")


@pytest.mark.slow
@pytest.mark.usefixtures("one_version")
@pytest.mark.parametrize("stage", ["encode", "decode"])
def test_ten_interruptions_end_with_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    """Interruptions before the first recording, between recordings, within batches, and before completion."""
    folder, undisturbed = study(tmp_path / "a"), study(tmp_path / "b")
    for place in (folder, undisturbed) if stage == "decode" else ():
        encode(place)
    final = "latents" if stage == "encode" else "decoded"
    engine.sample(sample_cfg(undisturbed, stage, "budget=16"))
    module, name = (encoding, "write_latents") if stage == "encode" else (decoding, "write_video")
    stops: list[tuple[Any, str, int]] = [(module, name, count) for count in (0, 0, 1, 0, 1, 2, 1)]
    stops += [(StoreWriterCallback, "finish_store", 0), (StoreWriter, "finish", 0), (StoreWriter, "read_journals", 1)]
    for owner, attribute, count in stops:
        with monkeypatch.context() as patch:
            patch.setattr(owner, attribute, failing_after(count, getattr(owner, attribute)))
            with pytest.raises(Accident):
                engine.sample(sample_cfg(folder, stage, "budget=16"))
        assert not (folder / final).exists()
    engine.sample(sample_cfg(folder, stage, "budget=16"))
    assert bytes_of(folder / final) == bytes_of(undisturbed / final)
    assert not list(folder.glob("*.partial"))


def command(folder: Path, stage: str, *overrides: str) -> list[str]:
    src, dst = ("videos", "latents") if stage == "encode" else ("latents", "decoded")
    places = [f"src={folder}/{src}", f"dst={folder}/{dst}", f"artifact={folder}/vae", f"paths.runs={folder}/runs"]
    fixed = [f"stage={stage}", "data=phantom", "workers=0", "trainer.accelerator=cpu"]
    return [sys.executable, str(ROOT / "sample.py"), *fixed, *places, *overrides]


@pytest.mark.slow
@pytest.mark.chaos
def test_a_killed_process_is_gone_on_from(tmp_path: Path) -> None:
    """SIGKILL after a few committed recordings; the repeated command gives the bytes of an uninterrupted run."""
    lengths = [6] * 150
    folder, undisturbed = tmp_path / "a", tmp_path / "b"
    for place in (folder, undisturbed):
        moving_disc_store(place / "videos", lengths)
        write_vae_artifact(place / "vae", tiny_autoencoder())
    encode(undisturbed, "budget=8")
    process = subprocess.Popen(command(folder, "encode", "budget=8"), cwd=tmp_path, stdout=subprocess.DEVNULL)
    journal, deadline = folder / "latents.partial" / "journal-0.jsonl", time.monotonic() + 60
    while not (journal.is_file() and journal.read_bytes().count(b"\n") >= 3) and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (folder / "latents").exists()
    kept = journal.read_bytes().count(b"\n")
    assert 3 <= kept < len(lengths)
    encode(folder, "budget=8")
    left, right = bytes_of(folder / "latents"), bytes_of(undisturbed / "latents")
    assert left.keys() == right.keys()
    assert all(left[name] == right[name] for name in left if name not in ("dataset.json", "SHA256SUMS"))
    facts = [json.loads(made["dataset.json"]) for made in (left, right)]
    assert {key for key in facts[0] if facts[0][key] != facts[1][key]} <= {"command", "code_version"}


TWO = """
import sys
from pathlib import Path
from echodream import engine
from tests.support.tiny_vae import sample_cfg

for budget in ("8", "512"):
    more = ["trainer.devices=2", "trainer.strategy=ddp", f"budget={budget}", f"dst={sys.argv[1]}/latents-{budget}"]
    engine.sample(sample_cfg(Path(sys.argv[1]), "encode", *more))
"""


def test_a_process_that_is_asked_to_end_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save, saved = encoding._save_posterior, []

    def asking(path: Path, found: Any) -> dict[str, Any]:
        saved.append(path.stem)
        os.kill(os.getpid(), signal.SIGTERM)
        return save(path, found)

    folder = study(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(encoding, "_save_posterior", asking)
        with pytest.raises(KeyboardInterrupt):
            encode(folder, "budget=1")
    assert len(saved) in (1, 2)  # one recording is written while the next is computed
    journal = (folder / "latents.partial" / "journal-0.jsonl").read_text()
    assert [json.loads(line)["row"]["FileName"] for line in journal.splitlines()] == saved
    assert not (folder / "latents").exists()
    assert len(encode(folder).table) == len(LENGTHS)


@pytest.mark.slow
def test_two_processes_make_the_same_recordings(tmp_path: Path) -> None:
    """With budget=512, all recordings are in one batch, so the second process has nothing to do."""
    folder = study(tmp_path)
    (tmp_path / "two.py").write_text(TWO)
    asked = [sys.executable, str(tmp_path / "two.py"), str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(asked, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for budget in ("8", "512"):
        one = encode(folder, f"budget={budget}", at=f"alone-{budget}")
        two = Store(folder / f"latents-{budget}")
        assert not list(find_problems(two.root))
        assert two.table.equals(one.table)
        for name in one.table["FileName"]:
            for left, right in zip(one.latents(name), two.latents(name), strict=True):
                assert ((left.float() - right.float()).abs() <= HALF * left.float().abs() + 1e-5).all()


def test_decoding_gives_the_networks_pixels_and_the_psnr_to_the_source(tmp_path: Path) -> None:
    folder = study(tmp_path, channels=3)
    latents = encode(folder)
    summary = decode(folder, "grey=false")
    store = Store(folder / "decoded")
    assert not list(find_problems(folder / "decoded"))
    network, errors = tiny_autoencoder(3), []
    for number, name in enumerate(store.table["FileName"]):
        with torch.no_grad():
            exact = network.decode(latents.latents(name)[0].float()).sample.permute(0, 2, 3, 1)
        exact = ((exact.clamp(-1, 1) + 1) * 127.5).numpy()
        made = store.frames(name).astype(np.float64)
        assert np.abs(made - exact).max() <= 0.5 + 1e-2
        grey = made.mean(axis=-1) - moving_disc(LENGTHS[number], number, channels=3).astype(np.float64).mean(axis=-1)
        errors.append(10 * np.log10(255**2 / np.mean(grey**2)))
    assert summary.facts["PSNR to source"] == f"{np.mean(errors):.2f} dB over 7 recordings"


@pytest.mark.slow
def test_weights_in_bf16_change_pixels_by_a_few_grey_levels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network computes in bf16; frames, latents and pixels are float32, and the record states the precision."""
    folder, seen = study(tmp_path), set[tuple[str, torch.dtype]]()
    exact = encode(folder)
    decode(folder)

    def watch(name: str) -> None:
        original = getattr(AutoencoderKL, name)

        def watched(own: Any, x: torch.Tensor, *rest: Any, **options: Any) -> Any:
            seen.add((name, x.dtype))
            return original(own, x, *rest, **options)

        monkeypatch.setattr(AutoencoderKL, name, watched)

    for name in ("encode", "decode"):
        watch(name)
    rounded = encode(folder, "trainer.precision=bf16-true", at="rounded")
    decode(folder, "trainer.precision=bf16-true", f"dst={folder}/fast")
    assert seen == {("encode", torch.bfloat16), ("decode", torch.bfloat16)}
    fast, pixels = Store(folder / "fast"), Store(folder / "decoded")
    assert (rounded.dataset.settings["precision"], fast.dataset.settings["precision"]) == ("bf16-true", "bf16-true")
    assert (rounded.dataset.encoder, fast.dataset.settings["decoder"]) == (exact.dataset.encoder, exact.dataset.encoder)
    for name in exact.table["FileName"]:
        for found, truth in zip(rounded.latents(name), exact.latents(name), strict=True):
            assert (found.float() - truth.float()).abs().max() <= 0.02 * truth.float().abs().max()
        difference = np.abs(fast.frames(name).astype(int) - pixels.frames(name).astype(int))
        assert difference.max() <= 10
        assert difference.mean() <= 1
    assert any(not np.array_equal(fast.frames(name), pixels.frames(name)) for name in exact.table["FileName"])
    monkeypatch.setattr("echodream.runs.trainer._uses_bf16_gpu", lambda accelerator: True)
    assert encode(folder, at="automatic").dataset.settings["precision"] == "32-true"
    decode(folder, f"dst={folder}/automatic_pixels")
    assert Store(folder / "automatic_pixels").checksum == fast.checksum


def test_decoding_to_grey_and_back_to_the_size(tmp_path: Path) -> None:
    folder = study(tmp_path, channels=3)
    encode(folder)
    decode(folder)
    store = Store(folder / "decoded")
    assert (store.dataset.channels, store.dataset.height, store.dataset.width) == (1, HEIGHT, WIDTH)
    assert store.frames("r1").shape == (11, HEIGHT, WIDTH, 1)
    assert store.table.equals(Store(folder / "videos").table)


@pytest.mark.slow
def test_the_psnr_is_left_out_where_there_is_no_source(tmp_path: Path) -> None:
    folder = study(tmp_path)
    encode(folder)
    assert "PSNR to source" not in decode(folder, f"reference={folder}/none").facts
    moving_disc_store(folder / "other", (2,))
    assert "PSNR to source" not in decode(folder).facts  # the store is complete: nothing is computed again
    summary = decode(folder, f"reference={folder}/other", f"dst={folder}/again")
    assert summary.facts["PSNR to source"] == "no recording in common"  # same name, other number of frames


def refused(words: str, run: Callable[[], Any], folder: Path, final: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        run()
    assert "\n" not in str(caught.value)
    assert not (folder / final).exists()


def test_decode_refuses_latents_of_another_encoder(tmp_path: Path) -> None:
    folder = study(tmp_path)
    encode(folder)
    write_vae_artifact(folder / "other", tiny_autoencoder(seed=1))
    words = r"latents was encoded by [0-9a-f]{12}, this model needs [0-9a-f]{12}: encode the videos again"
    refused(words, lambda: decode(folder, f"artifact={folder}/other"), folder, "decoded")


def test_encode_refuses_other_channels_sizes_and_kinds(tmp_path: Path) -> None:
    folder = study(tmp_path)
    write_vae_artifact(folder / "rgb", tiny_autoencoder(3))
    words = r"videos has 1 channels, this vae takes 3: ingest with data.grey=false, or choose another vae"
    refused(words, lambda: encode(folder, f"artifact={folder}/rgb"), folder, "latents")
    from echodream.networks.autoencoder import build_autoencoder

    write_vae_artifact(folder / "deep", build_autoencoder(1, [4] * 5, layers=1, groups=2))
    words = r"r0 is 24x16, not divisible by 16: ingest with another data.size"
    refused(words, lambda: encode(folder, f"artifact={folder}/deep"), folder, "latents")
    encode(folder)
    words = r"latents is a latent store, but a video store is needed"
    refused(words, lambda: encode(folder, f"src={folder}/latents", at="twice"), folder, "twice")


def test_weights_that_are_not_finite_or_not_the_trained_ones(tmp_path: Path) -> None:
    folder = study(tmp_path)
    broken = tiny_autoencoder()
    with torch.no_grad():
        broken.decoder.conv_out.weight[0, 0, 1, 1] = torch.nan
    write_vae_artifact(folder / "broken", broken)
    refused(
        r"decoder.conv_out.weight is not finite", lambda: encode(folder, f"artifact={folder}/broken"), folder, "latents"
    )
    tiny_autoencoder(seed=1).save_pretrained(folder / "vae")
    refused(r"vae: the weights have changed since training", lambda: encode(folder), folder, "latents")


def test_a_network_that_overflows_leaves_no_store(tmp_path: Path) -> None:
    folder = study(tmp_path)
    wild = tiny_autoencoder()
    with torch.no_grad():
        wild.quant_conv.weight.mul_(1e9)
    write_vae_artifact(folder / "wild", wild)
    refused(r"a latent is not finite", lambda: encode(folder, f"artifact={folder}/wild"), folder, "latents")


def test_a_folder_without_an_artifact_or_with_that_of_another_model(tmp_path: Path) -> None:
    folder = study(tmp_path)
    refused(
        r"none does not exist: train one with", lambda: encode(folder, f"artifact={folder}/none"), folder, "latents"
    )
    write_vae_artifact(folder / "reid", tiny_autoencoder(), model="reid")
    refused(
        r"reid contains a reid model: give the folder of a vae model",
        lambda: encode(folder, f"artifact={folder}/reid"),
        folder,
        "latents",
    )


def test_a_published_diffusers_folder_serves_as_it_is(tmp_path: Path) -> None:
    folder = study(tmp_path)
    tiny_autoencoder().save_pretrained(folder / "published")
    made, own = encode(folder, f"artifact={folder}/published", at="other"), encode(folder)
    assert made.dataset.encoder == own.dataset.encoder
    assert torch.equal(made.latents("r1")[0], own.latents("r1")[0])


def test_another_precision_is_another_store(tmp_path: Path) -> None:
    folder = study(tmp_path)
    encode(folder)
    words = r"exists with other settings \(settings.precision was '32-true', now 'bf16-mixed'\)"
    with pytest.raises(UserError, match=words):
        encode(folder, "trainer.precision=bf16-mixed")


@pytest.mark.slow
def test_a_refusal_on_the_command_line_is_one_line(tmp_path: Path) -> None:
    folder = study(tmp_path)
    write_vae_artifact(folder / "rgb", tiny_autoencoder(3))
    asked = command(folder, "encode", f"artifact={folder}/rgb")
    done = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        f"error: {folder}/videos has 1 channels, this vae takes 3: ingest with data.grey=false, or choose another vae\n"
    )


def test_budgets_that_cannot_be(tmp_path: Path) -> None:
    folder = study(tmp_path)
    refused(
        r"budget is 0: give a whole number from 1, the frames of a batch",
        lambda: encode(folder, "budget=0"),
        folder,
        "latents",
    )


def planted_latents(folder: Path, names: list[str], synthetic: bool = True) -> Store:
    """A latent store of zeros with the recordings ``names``, which ``PlantedDecoder`` decodes to simulated hearts."""
    network = write_vae_artifact(folder / "vae", tiny_autoencoder())
    encoder = json.loads((network / "artifact.json").read_text())["fingerprint"]
    size = {"FrameHeight": planted_hearts.HEIGHT // 2, "FrameWidth": planted_hearts.WIDTH // 2}
    row = {"Split": "TRAIN", "NumberOfFrames": planted_hearts.FRAMES, "FPS": planted_hearts.FPS, **size}
    latent = {"channels": 3, "layout": "F,C,H,W", "fidelity": "float16", "encoder": encoder}
    dataset = Dataset(kind="latent", synthetic=synthetic, **latent)
    with StoreWriter(folder / "latents", dataset) as writer:
        for name in names:
            mean = np.zeros((row["NumberOfFrames"], 3, *size.values()), np.float16)
            write_latents(writer.scratch_path(name), mean, mean)
            writer.commit({"FileName": name, "PatientID": name, **row}, writer.scratch_path(name))
        return writer.finish(names)


class PlantedDecoder(decoding.VaeDecoder):
    """Decoder that ignores the latents and returns the simulated heart selected by the name of the recording."""

    def predict_step(self, batch: Any, batch_idx: int) -> list[torch.Tensor]:
        settings = [planted_hearts.IMPLAUSIBLE.get(name, {}) for name in batch.names]
        hearts = [planted_hearts.heart(7, **each)[..., None].copy() for each in settings]
        return [torch.from_numpy(each) for each in hearts]


@pytest.mark.slow
def test_implausible_samples_are_rejected_with_their_reasons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["good", *planted_hearts.IMPLAUSIBLE, "fine"]
    planted_latents(tmp_path, names)
    real = {f"r{number}": planted_hearts.heart(number) for number in range(30)}
    planted_hearts.heart_store(tmp_path / "videos", real, ["TRAIN"] * 30)
    monkeypatch.setattr(decoding, "VaeDecoder", PlantedDecoder)
    assert "implausible" not in decode(tmp_path, f"dst={tmp_path}/all").facts
    assert len(Store(tmp_path / "all")) == len(names)
    interrupted = failing_after(2, StoreWriter.reject)
    with monkeypatch.context() as patch:
        patch.setattr(StoreWriter, "reject", interrupted)
        with pytest.raises(Accident):
            decode(tmp_path, "plausibility=0.9", f"dst={tmp_path}/stopped")
    summary = decode(tmp_path, "plausibility=0.9")
    store = Store(tmp_path / "decoded")
    assert not list(find_problems(tmp_path / "decoded"))
    assert store.table["FileName"].tolist() == ["good", "fine"]
    with (tmp_path / "decoded/rejected.csv").open(newline="") as file:
        rejected = {row["FileName"]: row for row in csv.DictReader(file)}
    assert list(rejected) == list(planted_hearts.IMPLAUSIBLE)
    for name, row in rejected.items():
        assert planted_hearts.FOUND_BY[name] in row["Reason"]
        assert row["Counted"] == "true"
    assert str(summary.facts["implausible"]).startswith("5 rejected: heart rate")
    assert "ejection fraction: it needs a regression model" in str(summary.facts["not computed"])
    assert store.dataset.settings["plausibility"]["coverage"] == 0.9
    decode(tmp_path, "plausibility=0.9", f"dst={tmp_path}/stopped")
    assert bytes_of(tmp_path / "stopped") == bytes_of(tmp_path / "decoded")


def test_the_gate_needs_a_synthetic_store_and_training_recordings(tmp_path: Path) -> None:
    folder = study(tmp_path)
    encode(folder)
    with pytest.raises(UserError, match=r"latents is not synthetic: give plausibility=null"):
        decode(folder, "plausibility=0.99")
    with pytest.raises(UserError, match="plausibility is 1"):
        decode(folder, "plausibility=1")
    other = tmp_path / "other"
    planted_latents(other, ["a"])
    with pytest.raises(UserError, match=r"reference=.*none does not exist: plausibility= needs the videos"):
        decode(other, "plausibility=0.99", f"reference={other}/none")


@pytest.mark.slow
def test_a_set_of_implausible_samples_only_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted_latents(tmp_path, ["frozen"])
    real = {f"r{number}": planted_hearts.heart(number) for number in range(10)}
    planted_hearts.heart_store(tmp_path / "videos", real, ["TRAIN"] * 10)
    monkeypatch.setattr(decoding, "VaeDecoder", PlantedDecoder)
    with pytest.raises(UserError, match=r"decoded is empty, because every sample is outside the training range"):
        decode(tmp_path, "plausibility=0.9")
