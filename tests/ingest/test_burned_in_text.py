"""Text burned into the pixels is found on tissue and in the corners of frames, in several fonts, and is blanked."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from echodream.errors import Rejected, UserError
from echodream.ingest import burned_in_text
from echodream.ingest.burned_in_text import TextBox, apply_text_mode, find_text
from echodream.ingest.phantom import Phantom
from echodream.ingest.preprocessing import Preprocessing
from echodream.ingest.source import Limits
from echodream.ingest.videos import Videos
from echodream.store import Store
from tests.support.ingesting import run_ingest
from tests.support.raw_files import write_video

matplotlib = pytest.importorskip("matplotlib")
pytest.importorskip("rapidocr", reason="needs the extra text-check")
FONTS = ("DejaVuSans", "DejaVuSerif-Bold", "DejaVuSansMono", "STIXGeneral", "Hershey")
HEIGHTS = (8, 10, 14, 20)
"""Heights of the capital letters in the test texts, in pixels."""
TEXTS = ("SMITH, ANNA", "12.03.1961", "ST MARY HOSPITAL", "1987-11-30", "Weber", "02/28/2019")
SIDE = 320


def letters(text: str, font: str, height: int) -> np.ndarray:
    """Render a text as an opacity mask (H, W), 0 to 255. Capital letters are at least ``height`` pixels high."""
    if font == "Hershey":
        cv2 = pytest.importorskip("cv2")
        scale, thickness = height / 21, 1 + (height >= 14)
        (width, above), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)
        canvas = np.zeros((above + below + 4, width + 4), np.uint8)
        args = (cv2.FONT_HERSHEY_SIMPLEX, scale, 255, thickness, cv2.LINE_AA)
        return np.asarray(cv2.putText(canvas, text, (2, above + 1), *args))
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"
    sizes = (ImageFont.truetype(str(path), size) for size in range(height, 4 * height))
    face = next(face for face in sizes if face.getbbox("H")[3] - face.getbbox("H")[1] >= height)
    left, top, right, bottom = (round(side) for side in face.getbbox(text))
    image = Image.new("L", (right - left + 2, bottom - top + 2))
    ImageDraw.Draw(image).text((1 - left, 1 - top), text, 255, font=face)
    return np.asarray(image)


def write(frames: np.ndarray, mask: np.ndarray, row: int, column: int, level: int = 255) -> np.ndarray:
    """Return ``frames`` (F, H, W, C) with the text of ``mask`` drawn at ``row`` and ``column`` in gray ``level``."""
    written = frames.astype(np.float64)
    part = written[:, row : row + mask.shape[0], column : column + mask.shape[1]]
    part += (level - part) * (mask / 255)[..., None]
    return written.round().astype(np.uint8)


@pytest.fixture(scope="module")
def hearts() -> list[np.ndarray]:
    """Frames of the phantom recordings, one array (F, H, W, 1) per recording."""
    source = Phantom(patients=6, size=SIDE, seconds=(0.4, 0.5), per_patient=(1, 1))
    return [source.read(recording, Limits()).frames for recording in source.recordings(None)]


@pytest.mark.slow
def test_names_and_dates_are_found_on_tissue_and_beside_it(hearts: list[np.ndarray]) -> None:
    rng = np.random.default_rng(0)
    found, identified, missed = 0, 0, []
    cases = [(font, height, text) for font in FONTS for height in HEIGHTS for text in TEXTS]
    for number, (font, height, text) in enumerate(cases):
        mask = letters(text, font, height)
        frames = hearts[number % len(hearts)]
        if number % 3:  # the text lies on tissue
            row, column = int(rng.integers(70, 170)), (SIDE - mask.shape[1]) // 2 + int(rng.integers(-15, 15))
        else:  # the text lies in the upper left corner
            row, column = int(rng.integers(1, 12)), int(rng.integers(1, 8))
        column = min(max(column, 0), SIDE - mask.shape[1])
        boxes = find_text(write(frames, mask, row, column))
        middle = (column + mask.shape[1] / 2, row + mask.shape[0] / 2)
        hits = [t for t in boxes if t.box[0] <= middle[0] <= t.box[2] and t.box[1] <= middle[1] <= t.box[3]]
        found += bool(hits)
        identified += any(hit.may_identify_patient for hit in hits)
        if not any(hit.may_identify_patient for hit in hits):
            missed.append((font, height, text))
    assert found >= 0.95 * len(cases), missed
    assert identified >= 0.95 * len(cases), missed


@pytest.mark.slow
def test_a_heart_without_text_has_none(hearts: list[np.ndarray]) -> None:
    assert [find_text(frames) for frames in hearts] == [[]] * len(hearts)


@pytest.mark.slow
def test_text_is_blanked_in_all_frames_and_nothing_else_is_changed(hearts: list[np.ndarray]) -> None:
    mask = letters("JOHNSON", "DejaVuSans", 12)
    frames = write(hearts[0], mask, 100, 60)
    frames[: len(frames) // 2] = hearts[0][: len(frames) // 2]  # only the second half of the frames has the text
    blanked, count = apply_text_mode(frames, "blank")
    kept, same = apply_text_mode(frames, "report")
    assert count == same == 1
    assert kept is frames
    place = np.zeros((SIDE, SIDE), bool)
    place[100 : 100 + mask.shape[0], 60 : 60 + mask.shape[1]] = mask > 60
    assert not blanked[:, place].any()
    rows, columns = np.nonzero((blanked != frames).any(axis=(0, 3)))
    assert rows.min() >= 80
    assert rows.max() < 100 + mask.shape[0] + 15
    assert columns.min() > 40
    assert columns.max() < 60 + mask.shape[1] + 20
    with pytest.raises(Rejected, match="text that may name the patient") as refused:
        apply_text_mode(frames, "refuse")
    assert "JOHNSON" not in str(refused.value).upper()


@pytest.mark.parametrize(
    ("text", "identifies"),
    [
        *[(text, True) for text in ("ANNA", "Ann Li Müller", "12.03.1961", "1961-03-12", "3/12/61", "04 Aug 2021")],
        *[(text, True) for text in ("04-Aug-2021", "ID 48151623", "20210804", "0228/2019")],
        *[(text, False) for text in ("MI 1.2", "75%", "10 cm", "FR 50Hz", "0:12", "TIS 0.4", "V4", "12.5", "2021")],
    ],
)
def test_a_word_of_four_letters_a_date_or_a_long_number_identifies(text: str, identifies: bool) -> None:
    assert TextBox((0, 0, 1, 1), text).may_identify_patient is identifies


@pytest.fixture
def clips(tmp_path: Path, hearts: list[np.ndarray]) -> Path:
    """Folder with three videos: a.mkv without text, b.mkv with a name on tissue, c.mkv with the depth label 15 cm."""
    raw = tmp_path / "raw"
    texts = {"b": letters("DR. WEBER", "DejaVuSans", 14), "c": letters("15 cm", "DejaVuSans", 14)}
    for index, name in enumerate("abc"):
        frames = hearts[index]
        if name in texts:
            frames = write(frames, texts[name], 120, 70)
        write_video(raw / f"{name}.mkv", frames[..., 0], codec="ffv1", pix_fmt="gray")
    return raw


def run(raw: Path, text: str | None, max_rejected: float = 0.5) -> tuple[Store, dict[str, object]]:
    dst = raw.parent / f"store-{text}"
    prepare = Preprocessing(fps=None, size=None, text=text)
    summary = run_ingest(dst, Videos(), raw, prepare=prepare, max_rejected=max_rejected)
    assert summary.problem is None
    return Store(dst), dict(summary.facts)


@pytest.mark.slow
def test_ingest_reports_blanks_or_refuses(clips: Path) -> None:
    plain, facts = run(clips, None)
    assert "not searched" in str(facts["text"])
    assert burned_in_text.TEXT_BOXES_COLUMN not in plain.table
    reported, facts = run(clips, "report")
    assert reported.table[burned_in_text.TEXT_BOXES_COLUMN].tolist() == [0, 1, 1]
    assert facts["text"] == "in 2 recordings: b, c"
    blanked, facts = run(clips, "blank")
    assert facts["text"] == "blanked in 2 recordings: b, c"
    refused, _ = run(clips, "refuse")
    assert refused.table["FileName"].tolist() == ["a", "c"]
    for name in "abc":
        same = np.array_equal(blanked.frames(name), plain.frames(name))
        assert same == (name == "a")
        assert np.array_equal(reported.frames(name), plain.frames(name))
        assert not find_text(blanked.frames(name))
    rejected = (refused.root / "rejected.csv").read_text()
    assert "b,text that may name the patient is in the pixels (text=refuse),true" in rejected
    for path in clips.parent.glob("store-*/*.*"):
        assert "WEBER" not in path.read_text().upper()


@pytest.mark.slow
def test_without_the_extra_the_summary_and_an_error_say_how_to_install_it(
    clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(burned_in_text, "find_spec", lambda name: None)
    _, facts = run(clips, None)
    assert "pip install 'echodream[text-check]'" in str(facts["text"])
    with pytest.raises(
        UserError, match=r"text=blank needs the extra text-check: pip install 'echodream\[text-check\]'"
    ):
        Preprocessing(text="blank")
    with pytest.raises(UserError, match="text is 'erase': choose one of blank, report, refuse"):
        Preprocessing(text="erase")
