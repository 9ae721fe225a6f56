"""The report page in a real browser: no requests, no errors, videos play, reduced motion is respected."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.chromium import PROGRAM, Browser, browser
from tests.support.tiny_report import run, study

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium here: install Debian's package chromium")

PLAYING = "[...document.querySelectorAll('.clip video')].filter(video => !video.paused && video.currentTime > 0).length"
SHOW = "document.querySelector('#gallery').scrollIntoView({behavior: 'instant'})"
SEEN = "[...document.querySelectorAll('.clip video')].every(video => video.readyState >= 2 && video.videoWidth > 0)"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = study(tmp_path_factory.mktemp("study"))
    run(root)
    return root / "reports/phantom/index.html"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    profile = tmp_path_factory.mktemp("profile")
    with browser(profile) as found:
        yield found
    shutil.rmtree(profile, ignore_errors=True)


@pytest.mark.slow
def test_page_opens_without_requests_or_errors_and_videos_play(page: Path, chromium: Browser) -> None:
    chromium.open(page)
    chromium.until(SEEN)
    chromium.ask(SHOW)
    chromium.until(f"{PLAYING} >= 4")
    first = chromium.ask("document.querySelector('.clip video').currentTime")
    chromium.until(f"document.querySelector('.clip video').currentTime != {first}")
    assert chromium.requests() == []
    assert chromium.complaints() == []


@pytest.mark.slow
def test_videos_can_be_paused_slowed_and_enlarged_by_keyboard(page: Path, chromium: Browser) -> None:
    chromium.open(page)
    chromium.until(SEEN)
    chromium.ask(SHOW)
    chromium.until(f"{PLAYING} > 0")
    chromium.ask("document.querySelector('.play').focus()")
    chromium.press("Enter")
    assert chromium.ask("document.querySelector('.play').textContent") == "Play all videos"
    chromium.until(f"{PLAYING} === 0")
    chromium.ask("{const s = document.querySelector('.speed'); s.value = '0.25'; s.dispatchEvent(new Event('change'))}")
    assert chromium.ask("document.querySelector('.clip video').playbackRate") == 0.25
    chromium.ask("document.querySelector('.open').focus()")
    chromium.press("Enter")
    assert chromium.ask("document.querySelector('dialog').open")
    assert chromium.ask("document.querySelector('dialog video').src.startsWith('data:video/mp4')")
    chromium.press("Escape")
    chromium.until("!document.querySelector('dialog').open")
    # focus returns to the button that opened the dialog
    assert chromium.ask("document.activeElement.className") == "open"


def test_no_video_plays_by_itself_with_reduced_motion(page: Path, chromium: Browser) -> None:
    chromium.open(page, prefers_reduced_motion="reduce")
    chromium.until(SEEN)
    chromium.ask(SHOW)
    chromium.ask("new Promise(done => setTimeout(done, 500))")
    assert chromium.ask(PLAYING) == 0
    assert chromium.ask("document.querySelector('.play').textContent") == "Play all videos"
    chromium.ask("document.querySelector('.play').click()")
    chromium.until(f"{PLAYING} > 0")


def test_videos_fall_back_to_blobs_if_data_urls_do_not_play(page: Path, chromium: Browser) -> None:
    chromium.open(page)
    chromium.until(SEEN)
    chromium.ask(SHOW)
    chromium.ask("document.querySelector('.clip video').dispatchEvent(new Event('error'))")
    chromium.until("document.querySelector('.clip video').src.startsWith('blob:')")
    chromium.until("document.querySelector('.clip video').currentTime > 0")
    assert chromium.requests() == []
    assert chromium.complaints() == []


def test_security_policy_blocks_requests(page: Path, chromium: Browser) -> None:
    """Requests made by the page on purpose are blocked, and the browser reports the blocked requests."""
    chromium.open(page)
    chromium.ask("fetch('http://127.0.0.1:9/x').catch(() => 0)")
    chromium.ask("{const image = new Image(); image.src = 'http://127.0.0.1:9/x.png'; document.body.append(image)}")
    chromium.ask("new Promise(done => setTimeout(done, 300))")
    assert any("Content Security Policy" in text for text in chromium.complaints())


@pytest.mark.parametrize("width", [360, 1200])
def test_page_fits_a_phone_and_a_desktop(page: Path, chromium: Browser, width: int) -> None:
    chromium.open(page, width=width, height=800)
    assert chromium.ask("document.documentElement.scrollWidth") <= width
    if width == 360:
        assert chromium.ask("Math.min(...[...document.querySelectorAll('svg text')].map(t => t.getBBox().height))") > 8


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(page: Path, chromium: Browser, scheme: str) -> None:
    """WCAG AA: the contrast with the background is at least 4.5 to 1, for large text 3 to 1."""
    chromium.open(page, prefers_color_scheme=scheme)
    chromium.ask("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert chromium.ask(_CONTRAST) == []
    dark = chromium.ask("getComputedStyle(document.body).backgroundColor") == "rgb(20, 24, 27)"
    assert dark == (scheme == "dark")


_CONTRAST = """(() => {
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => numbers(colour).slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (node) => {
    for (let one = node; one; one = one.parentElement) {
      const colour = getComputedStyle(one).backgroundColor;
      if ((numbers(colour)[3] ?? 1) > 0) return colour;
    }
  };
  const bad = [];
  const walk = document.createTreeWalker(document.querySelector('.frame'), NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const node = walk.currentNode.parentElement;
    if (!walk.currentNode.textContent.trim() || !node.getClientRects().length) continue;
    const style = getComputedStyle(node);
    const [a, b] = [light(node.closest('svg') ? style.fill : style.color), light(behind(node))].sort((x, y) => y - x);
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && style.fontWeight >= 700);
    if ((a + 0.05) / (b + 0.05) < (large ? 3 : 4.5)) bad.push([walk.currentNode.textContent, (a + 0.05) / (b + 0.05)]);
  }
  return bad;
})()"""


@pytest.mark.slow
def test_structure_for_screen_readers(page: Path, chromium: Browser) -> None:
    chromium.open(page)
    assert chromium.ask("document.documentElement.lang") == "en"
    assert chromium.ask("document.querySelectorAll('h1').length") == 1
    levels = chromium.ask("[...document.querySelectorAll('main :is(h2, h3, h4)')].map(h => Number(h.tagName[1]))")
    assert all(after <= before + 1 for before, after in zip([1, *levels], levels, strict=False))
    assert chromium.ask("[...document.querySelectorAll('button')].every(b => b.textContent.trim() || b.ariaLabel)")
    assert chromium.ask("[...document.querySelectorAll('.clip video')].every(v => v.ariaLabel)")
    assert chromium.ask("[...document.querySelectorAll('nav a')].every(a => document.querySelector(a.hash))")
    assert chromium.ask("[...document.querySelectorAll('table')].every(t => t.querySelector('th[scope]'))")
    ids = chromium.ask("[...document.querySelectorAll('[id]')].map(one => one.id)")
    assert len(ids) == len(set(ids))
    chromium.press("Tab")
    assert chromium.ask("document.activeElement.className") == "skip"
