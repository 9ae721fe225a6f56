"""Tests of ``stage=viewer``: the grid, the page and its privacy markers, and the page in a real browser."""

import base64
import io
import itertools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from echodream import engine
from echodream.config.paths import CONF_DIR
from echodream.errors import UserError
from echodream.runs.summary import Summary
from echodream.store import Store
from echodream.store.checksums import file_sha256
from echodream.store.schema import CHECKSUMS
from echodream.weights import fingerprint
from tests.support.chromium import PROGRAM, browser
from tests.support.tiny_diffusion import artifact, model
from tests.support.tiny_report import STATEMENT
from tests.support.tiny_report import study as report_study
from tests.support.tiny_vae import tiny_autoencoder, write_vae_artifact

pytestmark = pytest.mark.slow
GRID = ("values=2", "repeats=2", "scales=[1,3]", "frames=8", "steps=1", "trainer.accelerator=cpu")


def run(root: Path, *overrides: str) -> Summary:
    """Run ``stage=viewer`` on the study below ``root``."""
    paths = [f"paths.{name}={root}/{name}" for name in ("data", "models", "samples", "runs", "reports")]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return engine.sample(compose("sample", ["stage=viewer", "data=phantom", *paths, *overrides]))


def page_of(root: Path) -> str:
    return (root / "reports/phantom/viewer/index.html").read_text()


def content_of(page: str) -> dict[str, Any]:
    """The clips on a page, with the texts of their settings."""
    found = re.search(r'id="content">(.*?)</script>', page, re.S)
    assert found is not None
    content: dict[str, Any] = json.loads(found[1])
    return content


def decoded(uri: str) -> np.ndarray:
    """Gray frames of a video in a page, (F, H, W)."""
    with av.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as container:
        return np.stack([frame.to_ndarray(format="gray") for frame in container.decode(video=0)])


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with models that are conditioned on class and EF, and the viewer page of the sampled grid."""
    root = tmp_path_factory.mktemp("viewer")
    vae = tiny_autoencoder()
    write_vae_artifact(root / "models/phantom/vae", vae)
    for name, conditions in (("lidm", ("class_id", "EF")), ("lvdm", ("reference", "class_id"))):
        made = model(name, conditions, encoder=fingerprint(vae))
        artifact(root / "models/phantom" / name, made, name)
    run(root, *GRID)
    return root


def test_the_grid_has_all_combinations_of_conditions_and_guidance(drawn: Path) -> None:
    page = page_of(drawn)
    content = content_of(page)
    assert content["controls"] == ["Class", "EF", "Guidance: class_id", "sample"]
    assert [page.count(f'<option value="0">{text}</option>') for text in ("other", "45.25", "1")] == [1, 1, 2]
    choices = [tuple(clip["choice"]) for clip in content["clips"]]
    assert len(choices) == 3 * 2 * 2 * 2
    assert len(set(choices)) == len(choices)
    assert set(itertools.product(*({choice[k] for choice in choices} for k in range(4)))) == set(choices)


def test_a_clip_of_the_page_is_the_sample_of_the_store(drawn: Path) -> None:
    clips = iter(content_of(page_of(drawn))["clips"])
    for scale in ("1", "3"):
        store = Store(drawn / f"samples/phantom/viewer/guidance_{scale}/videos")
        assert set(store.table["Guidance"]) == {f"class_id={scale} reference=1"}
        for name, clip in zip(store.table["FileName"], clips, strict=False):
            frames, shown = store.frames(name)[..., 0], decoded(clip["video"])
            side = shown.shape[1] // frames.shape[1]
            assert shown.shape[0] == 8
            assert np.abs(shown[:, side // 2 :: side, side // 2 :: side].astype(int) - frames).mean() < 6
    assert next(clips, None) is None


def test_an_interrupted_grid_is_continued_to_the_same_page(drawn: Path, tmp_path: Path) -> None:
    before, root = page_of(drawn), Path(shutil.copytree(drawn, tmp_path / "study"))
    folder = root / "samples/phantom/viewer"
    for part in ("guidance_3/videos", "guidance_3/clips"):
        shutil.rmtree(folder / part)
    (root / "reports/phantom/viewer/index.html").unlink()
    run(root, *GRID)
    assert page_of(root) == before
    with pytest.raises(
        UserError, match=r"already exists with other settings .*: choose another samples=, or remove it"
    ):
        run(root, *GRID, "seed=1")


def test_an_unfiltered_page_is_marked(drawn: Path) -> None:
    page = page_of(drawn)
    assert "<b>Not for sharing.</b> 24 of 24 clips have not passed the privacy filter" in page
    assert "passed the privacy filter. To share" not in page
    assert not any(clip["passed"] for clip in content_of(page)["clips"])


@pytest.fixture
def filtered(tmp_path: Path) -> Path:
    """A study with videos decoded from samples that passed the filter, and the filter's scores."""
    root = report_study(tmp_path / "study")
    path = root / "reports/phantom/filter_video/filter.json"
    record = json.loads(path.read_text())
    record["source"] = file_sha256(root / "samples/phantom/private_videos" / CHECKSUMS)
    path.write_text(json.dumps(record))
    return root


def with_decision(root: Path, passed: bool, rule: str = "calibrated") -> str:
    """Write videos decoded from samples with a filter decision; returns the override ``videos=...``."""
    from tests.support.tiny_report import synthetic_stores

    shutil.rmtree(root / "samples/phantom")
    synthetic_stores(root / "samples/phantom", decision={"passed": passed, "rule": rule, "statement": STATEMENT})
    return f"videos={root}/samples/phantom/videos"


def test_filtered_samples_have_the_statement_of_the_filter(filtered: Path) -> None:
    summary = run(filtered, with_decision(filtered, passed=True))
    page = page_of(filtered)
    assert "All 6 clips are samples that passed the privacy filter" in page
    assert f"<blockquote>{STATEMENT}</blockquote>" in page
    assert "Not for sharing" not in page
    assert "Private" not in page
    assert not re.search(r"Doe-|rec0\d", page)  # names of patients and recordings
    assert summary.facts["passed the privacy filter"] == "6 of 6 clips"


def test_samples_of_a_filter_without_guarantee_are_marked(filtered: Path) -> None:
    for passed, rule in ((False, "calibrated"), (True, "percentile")):
        summary = run(filtered, with_decision(filtered, passed, rule))
        page = page_of(filtered)
        assert "<b>Not for sharing.</b> 6 of 6 clips have not passed the privacy filter with its" in page
        assert STATEMENT not in page
        assert summary.facts["passed the privacy filter"] == "0 of 6 clips, not for sharing"


def test_the_nearest_patient_is_shown_only_on_request(filtered: Path) -> None:
    videos = with_decision(filtered, passed=True)
    path = filtered / "reports/phantom/filter_video/filter.json"
    record = json.loads(path.read_text())
    record["source"] = file_sha256(filtered / "samples/phantom/private_videos" / CHECKSUMS)
    path.write_text(json.dumps(record))
    summary = run(filtered, videos, f"nearest={filtered}/reports/phantom/filter_video")
    page = page_of(filtered)
    assert "<b>Private.</b> This page shows frames of real patients. It must not be shared." in page
    assert summary.facts["private"] == "shows frames of real patients, must not be shared"
    clip = content_of(page)["clips"][2]
    assert (clip["nearest"]["patient"], clip["nearest"]["score"]) == ("Doe-002q", "0.500")
    real = Store(filtered / "data/phantom/videos").frames("rec02x")[..., 0]
    shown = decoded(clip["nearest"]["video"])
    side = shown.shape[1] // real.shape[1]
    start = max(0, min(5 - 9 // 2, len(real) - 9))
    assert np.abs(shown[:, ::side, ::side].astype(int) - real[start : start + 9]).mean() < 8
    record["source"] = "0" * 64
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"nearest=.* has no scores of these samples: run stage=filter on them"):
        run(filtered, videos, f"nearest={filtered}/reports/phantom/filter_video")


def test_impossible_settings_are_one_sentence(filtered: Path, drawn: Path) -> None:
    for setting, words in (
        (f"videos={filtered}/data/phantom/videos", "has no synthetic videos: give stores that stage=decode wrote"),
        (f"videos={filtered}/samples/phantom/none_*", "matches no folder: give stores"),
    ):
        with pytest.raises(UserError, match=words):
            run(filtered, setting)
    with pytest.raises(UserError, match="17982 clips are more than 600 on one page: lower values="):
        run(drawn, "repeats=999", f"samples={filtered}/more")
    path = filtered / "reports/phantom/viewer/index.html"
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(UserError, match="exists and is not a viewer page: remove it, or choose another dst="):
        run(filtered, f"videos={filtered}/samples/phantom/videos")


@pytest.mark.skipif(PROGRAM is None, reason="no Chromium here: install Debian's package chromium")
def test_the_controls_choose_the_clip_that_plays(drawn: Path, tmp_path: Path) -> None:
    page = drawn / "reports/phantom/viewer/index.html"
    content = content_of(page.read_text())
    with browser(tmp_path / "profile") as chromium:
        opened = chromium_at(chromium, page, "Class=well&Guidance%3A%20class_id=3&sample=2")
        wanted = {"Class": "well", "Guidance: class_id": "3", "sample": "2"}
        for name, text in wanted.items():
            assert selected(opened, name) == text, name
        assert opened.ask("document.querySelector('form [name=EF]').options.length") == 2
        assert opened.ask("document.querySelector('form [name=View]')") is None  # the models have no condition View
        shown = opened.ask("document.getElementById('clip').src")
        assert shown in [clip["video"] for clip in content["clips"]]
        opened.until("document.getElementById('clip').currentTime > 0")
        opened.ask(
            "{const s = document.querySelector('form [name=Class]'); s.value = '0';"
            " s.dispatchEvent(new Event('input'))}"
        )
        assert opened.ask("document.getElementById('clip').src") != shown
        assert selected(opened, "sample") == "2"
        assert "Class=" in opened.ask("location.hash")
        assert opened.ask("document.getElementById('state').textContent") == "not filtered by the calibrated rule"
        assert "Not for sharing" in opened.ask("document.getElementById('unfiltered').innerText")
        opened.ask("document.querySelector('.play').click()")
        assert opened.ask("document.getElementById('clip').paused")
        assert set(opened.requests()) <= {page.resolve().as_uri()}  # only the page itself was loaded
        assert opened.complaints() == []


def chromium_at(chromium: Any, page: Path, fragment: str) -> Any:
    """Open ``page`` with the URL fragment ``fragment`` in Chromium, and wait until the clip is shown."""
    chromium.open(page)
    chromium.ask(f"window.before = true; location.hash = {json.dumps(fragment)}; location.reload(); 0")
    chromium.until("!window.before && document.readyState === 'complete' && document.getElementById('clip').src")
    return chromium


def selected(chromium: Any, name: str) -> Any:
    """Text of the chosen option of the control ``name``."""
    return chromium.ask(f"document.querySelector('form [name=\"{name}\"]').selectedOptions[0].textContent")
