"""benchmarks/gpu.py: all rows are measured with the smallest networks; rows that need too much memory are reported."""

import importlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("gpu")


def run(dst: Path, *options: str) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "benchmarks/gpu.py", "--tiny", "--dst", str(dst), *options]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    found: dict[str, Any] = json.loads((dst / "gpu.json").read_text())
    return found


@pytest.mark.slow
def test_every_row_is_measured_with_the_smallest_networks(tmp_path: Path, gpu: Any) -> None:
    record = run(tmp_path, "--minutes", "80")
    by_name = {entry["row"]: entry for entry in record["rows"]}
    assert list(by_name) == [row.name for row in gpu.rows()]
    limits = {"limit tf32", "limit bf16", "limit fp64"}
    for row in gpu.rows():
        entry = by_name[row.name]
        numbers = {key: value for key, value in entry.items() if not isinstance(value, str)}
        required = {"value", "seconds"} | ({"times faster"} if row.reference else set())
        if "loader" not in row.name:
            required |= {"TFLOP/s"} | ({"share of the limit"} if row.name not in limits else set())
        assert required <= numbers.keys(), row.name
        assert all(math.isfinite(value) and value > 0 for value in numbers.values()), row.name
    assert set(gpu.PACKAGES) | {"python", "echodream"} <= record["versions"].keys()
    assert record["hardware"]["cores"] > 0
    assert record["command"].startswith("python benchmarks/gpu.py --tiny --dst")
    lines = (tmp_path / "gpu.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in lines[4:]] == list(by_name)


@pytest.mark.slow
def test_a_row_that_does_not_fit_into_the_time_is_reported(tmp_path: Path) -> None:
    record = run(tmp_path, "--minutes", "0.001", "--only", "encode")
    assert len(record["rows"]) == 5
    assert {entry["not measured"] for entry in record["rows"]} == {"no time left"}
    assert (tmp_path / "gpu.md").read_text().count("not measured: no time left") == 5


class Answers:
    """Replacement for the worker process that returns prepared results."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = answers

    def measure(self, row: Any, deadline: float) -> Any:
        return self.answers[row.name]


def test_ratios_and_shares_are_those_of_the_reference_and_the_limit(gpu: Any) -> None:
    def row(name: str, reference: str = "") -> Any:
        return gpu.Row(name, 1.0, lambda bench, seconds: None, reference)

    chosen = [row("limit bf16"), row("slow"), row("fast", "slow"), row("late", "absent")]
    chosen += [row("clip"), row("video", "clip"), row("gone")]
    answers = {
        "limit bf16": gpu.Result(8.0, "TFLOP/s", 0.5, 4e12),
        "slow": gpu.Result(10.0, "samples/s", 0.4),
        "fast": gpu.Result(25.0, "samples/s", 0.5, 1e12, "bf16", 3.0),
        "late": gpu.Result(1.0, "samples/s", 1.0),
        "clip": gpu.Result(6.0, "s/video", 6.0),
        "video": gpu.Result(2.0, "s/video", 2.0, 1e12, "fp64"),
        "gone": "the memory of the GPU is not sufficient",
    }
    found = {entry["row"]: entry for entry in gpu.measure_rows(chosen, Answers(answers), math.inf)}
    assert list(found) == [one.name for one in chosen]
    assert found["fast"]["times faster"] == 2.5
    assert found["fast"]["share of the limit"] == pytest.approx(2 / 8)
    assert found["fast"]["peak memory, GB"] == 3.0
    assert "times faster" not in found["late"]
    assert found["video"]["times faster"] == 3.0
    assert "share of the limit" not in found["video"]
    assert found["gone"] == {"row": "gone", "not measured": "the memory of the GPU is not sufficient"}


def test_the_rows_without_compilation_fit_into_the_time(gpu: Any) -> None:
    measured = [row for row in gpu.rows() if not row.name.endswith(("compile", "all"))]
    assert sum(row.seconds for row in measured) < 60 * gpu.MINUTES
    names = [row.name for row in gpu.rows()]
    assert len(set(names)) == len(names)
    for position, row in enumerate(gpu.rows()):
        assert not row.reference or row.reference in names[:position]
