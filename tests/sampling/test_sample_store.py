"""``stage=image`` and ``stage=video``: numbers of samples, exact bytes, and interruptions."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from echodream import engine
from echodream.callbacks.store_writer import StoreWriterCallback
from echodream.diffusion.model import DiffusionModel
from echodream.diffusion.processes.rectified_flow import RectifiedFlow
from echodream.sampling import sample_store as drawing
from echodream.store import Store, StoreWriter, find_problems
from tests.support.interruptions import Accident, failing_after
from tests.support.sampling_study import ROOT, bytes_of, command, image, planted, same, study, video, whitened
from tests.support.tiny_diffusion import CLASSES, C, H, W, sample_cfg


@pytest.mark.slow
@pytest.mark.parametrize("process", [None, RectifiedFlow()], ids=["ddpm", "flow"])
def test_the_exact_denoiser_gives_stores_of_the_right_mean_and_std(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, process: Any
) -> None:
    folder = study(tmp_path, process=process)
    network = planted(monkeypatch, lambda x, *_: torch.tensor([0.8, -0.5, 0.2]).view(1, C, *[1] * (x.ndim - 2)), 0.6)
    stills = image(folder, "n=40", "batch=16", "steps=25")
    assert network.rows == [16] * 25 + [16] * 25 + [8] * 25
    clips = video(folder, "n=6", "frames=13", "steps=25")
    for store, frames in ((stills, 1), (clips, 13)):
        latents = whitened(store)
        assert {part.shape for part in latents} == {(frames, C, H, W)}
        every = np.concatenate(latents).transpose(1, 0, 2, 3).reshape(C, -1)
        # 960 numbers per channel: standard error 0.02
        assert every.mean(1) == pytest.approx([0.8, -0.5, 0.2], abs=0.07)
        assert every.std(1) == pytest.approx([0.6] * C, rel=0.08)
        assert not any(store.latents(name)[1].any() for name in store.table["FileName"])
        assert not list(find_problems(store.root))


@pytest.mark.slow
def test_no_patient_of_the_study_is_in_a_store_of_samples(tmp_path: Path) -> None:
    """Sample stores have no patient of the study, also if their references come from the real latents."""
    folder = study(tmp_path, latents=True)
    image(folder, "labels=training")
    video(folder)
    real = video(folder, f"src={folder}/latents", at="from_real")
    for made in ("images", "videos", "from_real"):
        assert all(b"secret" not in content for content in bytes_of(folder / made).values())
    assert real.table["PatientID"].tolist() == [f"S{row:06d}" for row in range(8)]
    assert real.table["Split"].tolist() == Store(folder / "latents").table["Split"].tolist()
    assert real.table["class_id"].tolist() == list(CLASSES)


@pytest.mark.slow
def test_a_row_is_the_same_for_any_batch_and_length_of_the_list(tmp_path: Path) -> None:
    folder = study(tmp_path)
    whole = image(folder, "n=8", "batch=8", "guidance.class_id=3", "sampler=ddpm")
    for batch in (1, 3):
        same(image(folder, "n=8", f"batch={batch}", "guidance.class_id=3", "sampler=ddpm", at=f"by{batch}"), whole)
    clips = video(folder, "frames=19", "batch=8", "windows=4")
    for batch, windows in ((1, 1), (3, 2), (3, "all"), (8, "auto")):
        same(video(folder, "frames=19", f"batch={batch}", f"windows={windows}", at=f"v{batch}"), clips)
    fewer = video(folder, "frames=19", "n=3", at="fewer")
    for row, latents in enumerate(whitened(fewer)):
        assert latents == pytest.approx(whitened(clips)[row], rel=2e-3, abs=1e-3)


@pytest.fixture
def one_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fixed code version, so that a commit during the test has no effect."""
    monkeypatch.setattr(engine, "code_version", lambda: "1.2.3")


@pytest.mark.slow
@pytest.mark.usefixtures("one_version")
@pytest.mark.parametrize("stage", ["image", "video"])
def test_ten_interruptions_end_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, stage: str
) -> None:
    """Interruptions before the first row, within and between batches, and in each step of the completion."""
    folder, undisturbed = study(tmp_path / "a"), study(tmp_path / "b")
    more = ["n=8", "batch=3", "steps=2"] if stage == "image" else ["n=8", "batch=3", "steps=1", "frames=13"]
    if stage == "video":
        for place in (folder, undisturbed):
            image(place, "n=8", "steps=1")
    final = "images" if stage == "image" else "videos"
    engine.sample(sample_cfg(undisturbed, stage, *more))
    stops: list[tuple[Any, str, int]] = [(drawing, "write_latents", count) for count in (0, 0, 1, 2, 0, 1, 2)]
    stops += [(StoreWriterCallback, "finish_store", 0), (StoreWriter, "finish", 0), (StoreWriter, "read_journals", 1)]
    for owner, attribute, count in stops:
        with monkeypatch.context() as patch:
            patch.setattr(owner, attribute, failing_after(count, getattr(owner, attribute)))
            with pytest.raises(Accident):
                engine.sample(sample_cfg(folder, stage, *more))
        assert not (folder / final).exists()
    engine.sample(sample_cfg(folder, stage, *more))
    made = bytes_of(folder / final)
    assert made == bytes_of(undisturbed / final)
    assert not list(folder.glob("*.partial"))
    with monkeypatch.context() as patch, caplog.at_level("INFO"):
        patch.setattr(DiffusionModel, "forward", None)
        engine.sample(sample_cfg(folder, stage, *more))
    assert f"{final} already complete, nothing to do" in caplog.text
    assert bytes_of(folder / final) == made


@pytest.mark.slow
@pytest.mark.chaos
def test_a_killed_process_is_gone_on_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # without Git, so that a commit during the test does not change the recorded version of the code
    monkeypatch.setenv("GIT_DIR", os.devnull)
    folder, undisturbed = study(tmp_path / "a"), study(tmp_path / "b")
    more = ["n=160", "batch=2", "steps=2"]
    image(undisturbed, *more)
    for least in (3, 30):
        process = subprocess.Popen(command(folder, "image", *more), cwd=tmp_path, stdout=subprocess.DEVNULL)
        journal, deadline = folder / "images.partial" / "journal-0.jsonl", time.monotonic() + 300
        while not (journal.is_file() and journal.read_bytes().count(b"\n") >= least) and time.monotonic() < deadline:
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not (folder / "images").exists()
        assert least <= journal.read_bytes().count(b"\n") < 160
    image(folder, *more)
    left, right = bytes_of(folder / "images"), bytes_of(undisturbed / "images")
    assert left.keys() == right.keys()
    assert all(left[name] == right[name] for name in left if name not in ("dataset.json", "SHA256SUMS"))
    facts = [json.loads(made["dataset.json"]) for made in (left, right)]
    assert {key for key in facts[0] if facts[0][key] != facts[1][key]} <= {"command", "code_version"}


TWO = """
import sys
from pathlib import Path
from echodream import engine
from tests.support.tiny_diffusion import sample_cfg

folder = Path(sys.argv[1])
more = ["trainer.devices=2", "trainer.strategy=ddp"]
engine.sample(sample_cfg(folder, "image", *more, "n=7", "batch=2", f"dst={folder}/images-2"))
engine.sample(sample_cfg(folder, "video", *more, "n=3", "batch=4", "frames=13", f"dst={folder}/videos-2"))
"""


@pytest.mark.slow
def test_two_processes_make_the_same_rows(tmp_path: Path) -> None:
    """Images: both processes write batches. Videos: one batch only, so the second process has no work."""
    folder = study(tmp_path)
    image(folder, "n=7", "batch=2")
    video(folder, "n=3", "batch=4", "frames=13")
    (tmp_path / "two.py").write_text(TWO)
    asked = [sys.executable, str(tmp_path / "two.py"), str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(asked, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for kind in ("images", "videos"):
        one, two = (bytes_of(folder / f"{kind}{end}") for end in ("", "-2"))
        assert one.keys() == two.keys()
        assert all(one[name] == two[name] for name in one if name not in ("dataset.json", "SHA256SUMS"))
        assert not list(find_problems(folder / f"{kind}-2"))
