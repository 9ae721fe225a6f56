"""launch/demo.sh: the same list at every size, a line for each stage, and an end that can be trusted."""

import os
import subprocess
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from echodream.paths import CONF_DIR
from tests.launching import LAUNCH, lines

SAYS = """#!/bin/sh
echo "epoch 1 of 2"
case "$*" in
  *{failing}*) echo "error: raw=raw/smoke does not exist: check raw=" >&2; exit 1 ;;
  *evaluate*) printf "evaluate: some.json done\\nreport: reports/smoke/index.html done\\n  privacy  shown\\n" ;;
  *) echo "encode: data/smoke/latents already complete, nothing to do"; echo "  frames  3" ;;
esac
"""


def called(folder: Path, failing: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The script, with a python that says this and that."""
    (folder / "python").write_text(SAYS.format(failing=failing))
    (folder / "python").chmod(0o755)
    around = {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(["bash", LAUNCH / "demo.sh", *arguments], env=around, capture_output=True, text=True)


@pytest.mark.parametrize("experiment", ["demo", "smoke"])
def test_every_line_composes_and_the_sizes_share_the_list(experiment: str) -> None:
    study = {"demo": "phantom", "smoke": "smoke"}[experiment]
    swaps = {
        "experiment=demo": f"experiment={experiment}",
        "raw/demo": f"raw/{experiment}",
        "data.name=phantom": f"data.name={study}",
    }
    for line, demo in zip(lines("demo.sh", experiment), lines("demo.sh"), strict=True):
        expected = str(demo)
        for old, new in swaps.items():
            expected = expected.replace(old, new)
        assert str(line) == expected
        with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
            cfg = compose(line.program, list(line.overrides))
        assert cfg.data.name == study


def test_the_demo_s_sizes_leave_another_study_its_name() -> None:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose("sample", ["stage=ingest", "data=videos", "raw=/raw", "experiment=demo"])
    assert (cfg.data.name, cfg.dst) == ("videos", "data/videos/videos")


def test_each_stage_has_its_line_and_the_verdict_stands_at_the_end(tmp_path: Path) -> None:
    done = called(tmp_path, "nothing", "smoke")
    said = done.stdout.splitlines()
    assert done.returncode == 0
    assert said[0] == "[1/21] sample.py stage=phantom data=phantom dst=raw/smoke experiment=smoke"
    assert said[1] == "        encode: data/smoke/latents already complete, nothing to do (0 min 00 s)"
    assert sum(line.startswith("[") for line in said) == 21
    assert said[-3:-1] == ["report: reports/smoke/index.html done", "  privacy  shown"]
    assert "epoch" not in done.stdout
    assert "frames" not in done.stdout


def test_a_line_that_fails_is_the_last(tmp_path: Path) -> None:
    done = called(tmp_path, "stage=ingest", "smoke")
    assert done.returncode == 1
    assert sum(line.startswith("[") for line in done.stdout.splitlines()) == 2
    assert "error: raw=raw/smoke does not exist: check raw=\n" in done.stderr
    assert done.stderr.endswith("stopped at line 2 of 21: mend that, and the same command goes on from there\n")
    assert "report:" not in done.stdout
