"""Tests of ``stage=compare``: tables and plots of a sweep, and a sweep run on the command line."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from PIL import Image
from scipy.stats import binomtest

from echodream import engine
from echodream.config.paths import CONF_DIR
from echodream.errors import UserError
from echodream.report import privacy_utility_curve
from echodream.report.sweep_results import read_sweep
from echodream.runs.summary import Summary
from tests.support.stores import make_video_store

ROOT = Path(__file__).resolve().parent.parent.parent


def write(path: Path, record: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record), encoding="utf-8")


def figure(value: float | None, spread: float = 0.5, **more: Any) -> dict[str, Any]:
    ends = {} if value is None else {"low": value - spread, "high": value + spread}
    return {"value": value, **ends, "count": 9, "dimensions": None, **more}


def sweep(root: Path, values: tuple[str, ...] = ("10", "3", "1.5")) -> None:
    """Write reports for each swept value: evaluation and utility in one folder, the filter record in another."""
    for k, value in enumerate(values):
        videos = {
            "frechet[classifier]": figure(4.0 - k, floor={"value": 1.0 + k, "low": 0.5, "high": 1.5}),
            "class agreement": figure(
                warning=f"only {9 + k // 2} patients", value=0.75 + k / 10, spread=0.02, floor={"value": 0.98}
            ),
            "class agreement, ASD": figure(0.5, 0.02),
            "nothing": figure(None, warning="never seen"),
        }
        write(root / f"g{value}" / "study" / "evaluation.json", {"protocol": {"value": 7}, "videos": videos})
        tasks = {
            "PAH": {
                "note": "relabelled by 12ab",
                "real": {"auc": figure(0.9)},
                "ratio": {"synthetic": {"auc": figure(0.8 + k / 20, 0.01)}},
            }
        }
        write(root / f"g{value}" / "study" / "utility.json", {"tasks": tasks, "sizes": {}})
        decision = {"drawn": 40, "rejected": 4 * k, "kept": 40 - 4 * k}
        write(root / f"g{value}" / "study" / "filter_image" / "filter.json", {"on": "image", "decision": decision})


def run(folder: Path, *overrides: str) -> Summary:
    fixed = ["stage=compare", "name=guidance.class_id", f"dst={folder}/out", *overrides]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return engine.sample(compose("sample", fixed))


def both(folder: Path) -> str:
    return f"points=[{folder}/g*/study,{folder}/g*/study/filter_image]"


def test_values_of_the_pattern_are_sorted_as_numbers(tmp_path: Path) -> None:
    sweep(tmp_path)
    points = read_sweep([f"{tmp_path}/g*/study", f"{tmp_path}/g*/study/filter_image"])
    assert list(points) == ["1.5", "3", "10"]
    frechet = points["3"]["videos: frechet[classifier]"]
    assert (frechet.value, frechet.low, frechet.high, frechet.floor) == (3.0, 2.5, 3.5, 2.0)
    assert points["1.5"]["PAH: ratio: synthetic: auc"].value == pytest.approx(0.9)
    assert "videos: nothing" not in points["3"]
    assert not any("protocol" in name for name in points["3"])


def test_rejection_has_the_exact_interval(tmp_path: Path) -> None:
    sweep(tmp_path)
    points = read_sweep([f"{tmp_path}/g*/study/filter_image"])
    for value, rejected in (("10", 0), ("3", 4), ("1.5", 8)):
        found = points[value]["images: rejected"]
        low, high = binomtest(rejected, 40).proportion_ci(method="exact")
        assert (found.value, found.low, found.high) == (rejected / 40, pytest.approx(low), pytest.approx(high))


@pytest.mark.slow
def test_table_csv_and_plot(tmp_path: Path) -> None:
    sweep(tmp_path)
    said = str(run(tmp_path, both(tmp_path)))
    lines = (tmp_path / "out" / "comparison.md").read_text().splitlines()
    assert lines[0] == (
        "| guidance.class_id | videos: frechet[classifier] | videos: class agreement | PAH: ratio: synthetic: auc | "
        "images: rejected |"
    )
    assert lines[2].startswith("| 1.5 | 2 (1.5 to 2.5) | 0.95 (0.93 to 0.97) | 0.9 (0.89 to 0.91) | 0.2 (0.0")
    assert [line.split(" | ")[0] for line in lines[2:6]] == ["| 1.5", "| 3", "| 10", "| real"]
    assert lines[5].startswith("| real | 2 | 0.98 |")
    assert [line for line in lines[6:] if line] == [
        "- videos: class agreement (at 1.5): only 10 patients",
        "- PAH: ratio: synthetic: auc: relabelled by 12ab",
        "- videos: class agreement (at 3, 10): only 9 patients",
    ]
    assert all(line in said for line in lines)
    with (tmp_path / "out" / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 6
    agreement = next(row for row in rows if row["Point"] == "10" and row["Figure"] == "videos: class agreement, ASD")
    assert agreement == {"Point": "10", "Figure": "videos: class agreement, ASD", "Value": "0.5", "Low": "0.48", "High": "0.52", "Floor": "", "Warning": ""}  # fmt: skip # noqa: E501
    assert np.asarray(Image.open(tmp_path / "out" / "comparison.png")).shape == (4 * 400, 640, 3)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    run(tmp_path, both(tmp_path))
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_chosen_figures(tmp_path: Path) -> None:
    sweep(tmp_path, ("b", "a"))
    run(tmp_path, both(tmp_path), "figures=[agreement]")
    lines = (tmp_path / "out" / "comparison.md").read_text().splitlines()
    assert lines[0] == "| guidance.class_id | videos: class agreement | videos: class agreement, ASD |"
    assert [line.split(" | ")[0] for line in lines[2:5]] == ["| a", "| b", "| real"]


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ([], r"points= is needed: give folders with \* for the swept value"),
        (["points=[{0}/study]"], r"points has '.*study': write one \* in place of the swept value"),
        (["points=[{0}/h*/study]"], r"of fewer than two values \(none\): check the pattern"),
        (["points=[{0}/g*3/study]"], r"of fewer than two values \(none\)"),
        (["points=[{0}/g*/study,{0}/g*/again]"], r"have videos: frechet\[classifier\] for 1.5"),
        (
            ["points=[{0}/g*/study]", "figures=[fid]"],
            r"figures has 'fid', but no result has such a name: choose from videos: fre",
        ),
        (["points=[{0}/g*/bad]"], r"bad/utility.json is not a JSON object: run its stage again"),
        (["points=[{0}/g*/odd]"], r"odd/filter.json has no decision: run stage=filter again"),
    ],
)
def test_mistakes_are_refused_in_one_sentence(tmp_path: Path, overrides: list[str], says: str) -> None:
    sweep(tmp_path)
    record = json.loads((tmp_path / "g3" / "study" / "evaluation.json").read_text())
    write(tmp_path / "g1.5" / "again" / "evaluation.json", record)
    write(tmp_path / "g3" / "bad" / "utility.json", [])
    write(tmp_path / "g3" / "odd" / "filter.json", {"decision": None})
    with pytest.raises(UserError, match=says):
        run(tmp_path, *(override.format(tmp_path) for override in overrides))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_sweep_of_the_command_line_is_compared(tmp_path: Path) -> None:
    """Each swept value has its own root folder: the default paths of later stages are the outputs of earlier stages."""
    make_video_store(tmp_path / "data" / "lung" / "videos")
    arguments = ["-m", "stage=export", "data=lung", "format=pt", "paths.samples=samples/g1,samples/g3"]
    arguments += ["dst=${paths.samples}/exported", "paths.reports=${paths.samples}/reports"]
    done = subprocess.run(
        [sys.executable, ROOT / "sample.py", *arguments], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    for value, number in (("1", 2.0), ("3", 1.0)):
        assert (tmp_path / "samples" / f"g{value}" / "exported").is_dir()
        report = {"videos": {"frechet[classifier]": figure(number)}}
        write(tmp_path / "samples" / f"g{value}" / "reports" / "lung" / "evaluation.json", report)
    said = subprocess.run(
        [sys.executable, ROOT / "sample.py", "stage=compare", "data=lung", "points=samples/g*/reports/lung"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert said.returncode == 0, said.stderr
    assert "| 1 | 2 (1.5 to 2.5) |" in said.stdout
    assert (tmp_path / "reports" / "lung" / "compare" / "comparison.png").is_file()


@pytest.mark.slow
def test_points_without_reports_are_named(tmp_path: Path) -> None:
    sweep(tmp_path)
    (tmp_path / "g20").mkdir()
    (tmp_path / "g4" / "study").mkdir(parents=True)
    assert run(tmp_path, both(tmp_path)).facts["without reports"] == "4, 20: not in the table"


@pytest.mark.parametrize("wrong", ["points=5", "figures=5"])
def test_settings_that_are_no_list_are_refused(tmp_path: Path, wrong: str) -> None:
    sweep(tmp_path)
    with pytest.raises(UserError, match=f"{wrong.replace('=', ' is ')}: give a list"):
        run(tmp_path, *dict.fromkeys([both(tmp_path) if wrong.startswith("figures") else wrong, wrong]))


def anonymised(root: Path) -> None:
    """Write records of linkability, anonymity and utility, and metrics.json of a report, for three strengths."""
    for k, value in enumerate(("0", "0.5", "1")):
        sets = {name: {"AUC": figure(at, 0.02)} for name, at in (("originals", 0.9), ("inner", 0.9 - 0.15 * k))}
        sets["outer"] = {"AUC": figure(1 - 0.25 * k, 0.1), "best F1": {"far": figure(0.1)}}
        write(root / f"s{value}" / "linkability.json", {"sets": sets, "residual risk": None})
        measures = [{"name": "hidden rate", **figure(50.0 * k), "target": "> 90 %"}]
        write(root / f"s{value}" / "anonymity.json", {"spaces": {"identity": {"measures": measures}}})
        write(root / f"s{value}" / "metrics.json", {"verdict": {}, "tables": {}})
        versions = {f"strength_{value}": {"figures": {"auc": figure(0.7)}}}
        figures = {"auc": figure(0.8 - 0.1 * k, 0.05), "auc_PA": figure(0.6), "f1": figure(None)}
        write(root / f"u{value}" / "metrics.json", {"figures": figures, "anonymised": versions})


@pytest.mark.slow
def test_curve_of_utility_over_linkability(tmp_path: Path) -> None:
    anonymised(tmp_path)
    run(tmp_path, f"points=[{tmp_path}/s*,{tmp_path}/u*]", "name=strength")
    lines = (tmp_path / "out" / "comparison.md").read_text().splitlines()
    names = ["inner: AUC", "outer: AUC", "identity: hidden rate", "utility: auc", "utility of versions: auc"]
    assert lines[0] == f"| strength | {' | '.join(names)} |"
    assert lines[3].startswith("| 0.5 | 0.75 (0.73 to 0.77) | 0.75 (0.65 to 0.85) | 50 (49.5 to 50.5) | 0.7 (0.65 to ")
    assert lines[5] == "| real | 0.9 |  |  |  |  |"
    curve = json.loads((tmp_path / "out" / "curve.json").read_text())
    assert (curve["swept"], curve["utility"], curve["inner of originals"]) == ("strength", "utility: auc", 0.9)
    assert [point["value"] for point in curve["points"]] == ["0", "0.5", "1"]
    assert curve["points"][2]["outer"] == pytest.approx({"value": 0.5, "low": 0.4, "high": 0.6})
    assert curve["points"][2]["utility"] == pytest.approx({"value": 0.6, "low": 0.55, "high": 0.65})
    assert np.asarray(Image.open(tmp_path / "out" / "curve.png")).shape == (400, 1280, 3)


def test_the_plots_hold_the_figures_of_the_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep(tmp_path, ("10", "3", "none"))
    plots: list[Any] = []
    monkeypatch.setattr("echodream.stages.compare.plot_lines", lambda *panels: plots.extend(panels) or np.zeros((2, 2, 3), np.uint8))  # fmt: skip # noqa: E501
    run(tmp_path, both(tmp_path))
    frechet = plots[0]
    assert (frechet.title, frechet.x_label, frechet.ticks) == ("videos: frechet[classifier]", "guidance.class_id", ["3", "10", "none"])  # fmt: skip # noqa: E501
    value, floor = frechet.series.values()
    assert (value.x.tolist(), value.y.tolist(), value.low.tolist()) == ([0, 1, 2], [3.0, 4.0, 2.0], [2.5, 3.5, 1.5])
    assert floor.y.tolist() == [2.0, 2.0]
    curve = {"swept": "strength", "utility": "auc", "points": [{"value": "0", "outer": figure(0.8, 0.1), "utility": figure(0.7)}]}  # fmt: skip # noqa: E501
    monkeypatch.setattr(privacy_utility_curve, "plot_lines", lambda *panels, columns: panels)
    over_value, over_linkability = privacy_utility_curve.plot_tradeoff(curve)
    assert list(over_value.series) == ["outer linkability, AUC", "auc"]
    (points,) = over_linkability.series.values()
    ends = (points.x, points.x_low, points.x_high, points.y, points.low, points.high)
    assert np.allclose(np.array(ends)[:, 0], [0.8, 0.7, 0.9, 0.7, 0.2, 1.2])
    assert points.labels == ["0"]


@pytest.mark.slow
def test_without_utility_there_is_no_curve(tmp_path: Path) -> None:
    anonymised(tmp_path)
    run(tmp_path, f"points=[{tmp_path}/s*]", "name=strength")
    assert not (tmp_path / "out" / "curve.json").exists()
    write(tmp_path / "s1" / "linkability.json", {"sets": []})
    with pytest.raises(UserError, match=r"linkability.json is not a valid record: run its stage again"):
        run(tmp_path, f"points=[{tmp_path}/s*]")


@pytest.mark.slow
def test_utility_of_a_model_of_originals_is_measured_on_versions(tmp_path: Path) -> None:
    """The result on originals is equal for all strengths, so the result on anonymized versions is the utility."""
    anonymised(tmp_path)
    for k, value in enumerate(("0", "0.5", "1")):
        versions = {f"strength_{value}": {"figures": {"auc": figure(0.9 - 0.2 * k)}}}
        record = {"figures": {"auc": figure(0.95)}, "anonymised": versions, "train_on": "original"}
        write(tmp_path / f"u{value}" / "metrics.json", record)
    run(tmp_path, f"points=[{tmp_path}/s*,{tmp_path}/u*]", "name=strength")
    curve = json.loads((tmp_path / "out" / "curve.json").read_text())
    assert curve["utility"] == "utility of versions: auc"
    assert [point["utility"]["value"] for point in curve["points"]] == pytest.approx([0.9, 0.7, 0.5])
    assert "utility: auc" not in (tmp_path / "out" / "comparison.md").read_text()
    points = read_sweep([f"{tmp_path}/u*"])
    assert points["1"]["utility of originals: auc"].value == 0.95
