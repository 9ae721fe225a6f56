"""Section "Anonymized images" of the report: measures with targets, the trade-off chart, and no image names."""

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from echodream.errors import UserError
from echodream.metrics.bootstrap import Interval
from echodream.report.svg_primitives import Point, scatter_chart
from echodream.store.checksums import file_sha256
from echodream.store.schema import CHECKSUMS
from tests.support.tiny_report import number, run, study


def write(path: Path, record: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record), encoding="utf-8")


def linked(auc: float) -> dict[str, Any]:
    rates = {"recall": number(0.71, 0.5, 0.9), "far": number(0.06, 0.0, 0.2)}
    return {"AUC": number(auc, auc - 0.02, auc + 0.02), "best F1": rates, "means": f"pairs at {auc:g}"}


def anonymised(root: Path, **changed: Any) -> None:
    """Write records of linkability, anonymity and a sweep. Image names are only in records.csv, not in the page."""
    reports = root / "reports/phantom"
    real = file_sha256(root / "data/phantom/videos" / CHECKSUMS)
    chose = {"best F1": {"threshold": 0.3}, "FAR 0.001": {"why not": "too few"}}
    record = {"sets": {name: linked(at) for name, at in (("originals", 0.93), ("inner", 0.62), ("outer", 0.81))}}
    record |= {"thresholds": chose, "compared by": "unit vectors", "residual risk": {"risk": number(0.125, 0.01, 0.3)}}
    write(reports / "linkability" / "linkability.json", {**record, "real": real, **changed})
    hidden = {"name": "hidden rate", **number(37.0, 30.0, 44.0), "unit": "%", "target": "> 90 %", "met": False}
    near = {"name": "DCR", **number(0.53, 0.5, 0.6), "unit": "", "target": "> 0.2", "met": True}
    own = {"name": "distance to own avatar", **number(1.02, 0.9, 1.1), "unit": "", "target": None, "met": None}
    spaces = {"identity": {"measures": [hidden, near, own]}}
    write(reports / "anonymity" / "anonymity.json", {"spaces": spaces, "assignment": "each has one", "real": real})
    (reports / "anonymity" / "records.csv").write_text("Original\nrec01x\n")
    points = [
        {"value": value, "outer": number(at, at - 0.1, at + 0.05), "utility": number(worth, worth - 0.05, worth + 0.05)}
        for value, at, worth in (("0", 0.9, 0.85), ("0.5", 0.7, 0.8), ("1", 0.5, 0.6))
    ]
    write(reports / "compare" / "curve.json", {"swept": "strength", "utility": "utility: auc", "points": points})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = study(tmp_path_factory.mktemp("study"))
    anonymised(folder)
    return folder


def section(root: Path, path: str) -> str:
    html = (root / path / "index.html").read_text("utf-8")
    return re.search(r'<section id="anonymized".*?</section>', html, re.DOTALL).group()  # type: ignore[union-attr]


def told(html: str) -> str:
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", html)))


@pytest.mark.parametrize(("share", "path"), [(False, "reports/phantom"), (True, "reports/phantom/share")])
@pytest.mark.slow
def test_measures_are_shown_with_their_targets(root: Path, share: bool, path: str) -> None:
    run(root, f"share={str(share).lower()}", "look.per_class=1")
    html = section(root, path)
    text = told(html)
    assert re.search(r"hidden rate, % 37.0 30.0 to 44.0 > 90 %: not met", text)
    assert re.search(r"DCR 0.53 0.50 to 0.60 > 0.2: met", text)
    assert re.search(r"distance to own avatar 1.02 0.90 to 1.10 none stated", text)
    assert re.search(r"two originals pairs at 0.93 0.930? 0.910? to 0.950? upper limit for this network", text)
    assert re.search(r"inner: two versions pairs at 0.62 0.620? 0.600? to 0.640? 0.50", text)
    assert re.search(r"outer: an original and its version: linked, of one patient 0.7", text)
    assert "At the threshold of best F1" in text
    assert "FAR 0.001" not in text
    assert re.search(r"beyond a control group .* 0.1", text)
    assert "Each point is a value of strength" in text
    assert "Vertical axis: the AUC of utility." in text
    whole = (root / path / "index.html").read_text("utf-8")
    assert 'href="#anonymized"' in whole
    if share:
        assert "rec01x" not in whole
        assert "Doe-" not in whole
    numbers = json.loads((root / path / "metrics.json").read_text())
    rows = numbers["tables"]["anonymised images"]["Distance to the originals, identity space"]
    assert rows[0]["value"] == number(37.0, 30.0, 44.0)
    assert not [notice for notice in numbers["notices"] if "originals" in notice]


@pytest.mark.slow
def test_section_is_left_out_without_records(tmp_path: Path) -> None:
    folder = study(tmp_path)
    run(folder, "look.per_class=1")
    html = (folder / "reports/phantom/index.html").read_text("utf-8")
    assert "#anonymized" not in html
    assert "linkability" not in html
    anonymised(folder, real="12" * 32)
    run(folder, "look.per_class=1")
    html = (folder / "reports/phantom/index.html").read_text("utf-8")
    said = "Linkability was measured on other originals than those of this page: run python sample.py stage=linkability"
    assert said in html
    assert "Anonymity was measured on other" not in html
    write(folder / "reports/phantom/linkability/linkability.json", {"sets": {}})
    with pytest.raises(UserError, match=r"linkability.json is not a valid record .* stage=linkability"):
        run(folder)


POINTS = [Point("a", Interval(0.25, 0.0, 0.5), Interval(0.5, 0.25, 1.0)), Point("b", *[Interval(1.0, 1.0, 1.0)] * 2)]


def test_scatter_chart_positions() -> None:
    drawn = scatter_chart({"outer": ("synthetic", POINTS)}, (0.0, 1.0), ("across", "up"), "label")
    assert '<circle cx="30.00%" cy="144.0" r="5"/>' in drawn  # x: 8 + 88 / 4 = 30 %; y: 264 - 240 / 2 = 144
    assert '<line class="line faint" x1="8.00%" x2="52.00%" y1="144.0" y2="144.0"/>' in drawn
    assert '<line class="line faint" x1="30.00%" x2="30.00%" y1="204.0" y2="24.0"/>' in drawn
    assert '<line class="line" x1="30.00%" y1="144.0" x2="96.00%" y2="24.0"/>' in drawn
    assert 'aria-label="label"' in drawn
