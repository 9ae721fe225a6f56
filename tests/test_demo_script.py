"""launch/demo.sh: the same list at every size, a line for each stage, and an end that can be trusted."""

import os
import re
import signal
import subprocess
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from echodream.config.paths import CONF_DIR
from tests.support.launching import LAUNCH, lines

SAYS = """#!/bin/sh
trap 'sleep 1 2>/dev/null; echo "gone $*" >> "$(dirname "$0")/log"; exit 1' TERM INT
echo "begin ${{OMP_NUM_THREADS:-all}} $*" >> "$(dirname "$0")/log"
if grep -qxF -- "$*" "$(dirname "$0")/slow" 2>/dev/null; then sleep 1 2>/dev/null; fi
case "$*" in *"${{STUCK:-nothing}}"*) while sleep 0.1 2>/dev/null; do :; done ;; esac
echo "end $*" >> "$(dirname "$0")/log"
echo "epoch 1 of 2"
case "$*" in
  *{failing}*)
    while [ -n "$STUCK" ] && ! grep -q "begin.*$STUCK" "$(dirname "$0")/log"; do sleep 0.1; done
    echo "error: raw=raw/smoke does not exist: check raw=" >&2; exit 1 ;;
  *evaluate*) printf "evaluate: some.json done\\nreport: reports/smoke/index.html done\\n  privacy  shown\\n" ;;
  *) echo "encode: data/smoke/latents already complete, nothing to do"; echo "  frames  3" ;;
esac
"""


HALF = (len(os.sched_getaffinity(0)) + 1) // 2
AROUND = {key: value for key, value in os.environ.items() if key not in ("JOBS", "OMP_NUM_THREADS")}


def called(
    folder: Path, failing: str, *arguments: str, script: str = "demo.sh", **environment: str
) -> subprocess.CompletedProcess[str]:
    """The script, with a python that says this and that."""
    (folder / "python").write_text(SAYS.format(failing=failing))
    (folder / "python").chmod(0o755)
    around = {**AROUND, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", **environment}
    return subprocess.run(["bash", LAUNCH / script, *arguments], env=around, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["demo", "smoke"])
def test_every_line_composes_and_the_sizes_share_the_list(experiment: str) -> None:
    study = {"demo": "phantom", "smoke": "smoke"}[experiment]
    swaps = {
        "experiment=demo": f"experiment={experiment}",
        "raw/demo": f"raw/{experiment}",
        "data.name=phantom": f"data.name={study}",
        "data.source.patients=372": f"data.source.patients={372 if experiment == 'demo' else 36}",
    }
    for line, demo in zip(lines("demo.sh", experiment), lines("demo.sh"), strict=True):
        expected = str(demo)
        for old, new in swaps.items():
            expected = expected.replace(old, new)
        assert str(line) == expected
        with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
            cfg = compose(line.program, list(line.overrides))
        assert cfg.data.name.removesuffix("_further") == study


def test_the_demo_s_sizes_leave_another_study_its_name() -> None:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose("sample", ["stage=ingest", "data=videos", "raw=/raw", "experiment=demo"])
    assert (cfg.data.name, cfg.dst) == ("videos", "data/videos/videos")


def test_each_stage_has_its_line_and_the_verdict_stands_at_the_end(tmp_path: Path) -> None:
    done = called(tmp_path, "nothing", "smoke")
    said = done.stdout.splitlines()
    assert done.returncode == 0
    assert said[0].startswith("[1/22] sample.py stage=phantom data=phantom dst=raw/smoke experiment=smoke")
    encoded = r" {8}encode: data/smoke/latents already complete, nothing to do \(\d+ min \d\d s\)"
    assert re.fullmatch(encoded, said[1])
    assert sum(line.startswith("[") for line in said) == 22
    assert said[-3:-1] == ["report: reports/smoke/index.html done", "  privacy  shown"]
    assert "epoch" not in done.stdout
    assert "frames" not in done.stdout


def test_a_line_that_fails_is_the_last(tmp_path: Path) -> None:
    done = called(tmp_path, "stage=ingest", "smoke")
    assert done.returncode == 1
    assert sum(line.startswith("[") for line in done.stdout.splitlines()) == 2
    assert "error: raw=raw/smoke does not exist: check raw=\n" in done.stderr
    assert done.stderr.endswith(
        "stopped at command 2 of 22: fix the error and run the same command again to continue\n"
    )
    assert "report:" not in done.stdout


def events(folder: Path) -> list[str]:
    """What began and what ended, in its order: ``begin 1 model=reid``, ``end model=reid``; ``gone``: was ended."""
    found = []
    for event in (folder / "log").read_text().splitlines():
        kept = [
            word for word in event.split() if not word.startswith(("data", "raw", "dst", "experiment", "view", "rule"))
        ]
        found.append(" ".join(word for word in kept if not word.endswith(".py")))
    return found


def position(found: list[str], what: str, happened: str) -> int:
    said = {at: event.split() for at, event in enumerate(found)}
    return next(at for at, (how, *rest) in said.items() if how == happened and " ".join(rest[how == "begin" :]) == what)


NEEDED = {
    "stage=encode": ["model=vae"],
    "model=reid": ["stage=encode"],
    "model=lidm": ["stage=encode"],
    "model=lvdm": ["stage=encode"],
    "model=classifier": ["stage=verify"],
    "stage=image": ["model=lidm"],
    "stage=filter": ["stage=image", "model=reid"],
    "stage=audit": ["stage=filter"],
    "stage=decode on=image": ["stage=filter"],
    "stage=video": ["stage=filter", "model=lvdm"],
    "stage=filter on=video": ["stage=video"],
    "stage=audit on=video": ["stage=filter on=video"],
    "stage=decode": ["stage=filter on=video"],
    "model=classifier train_on=synthetic": ["stage=decode"],
    "model=classifier train_on=both": ["stage=decode"],
    "stage=utility": [f"model=classifier{on}" for on in ("", " train_on=synthetic", " train_on=both")],
    "stage=evaluate": ["stage=utility", "stage=audit", "stage=audit on=video", "stage=decode", "stage=decode on=image"],
}
"""What has ended when a line begins."""


@pytest.mark.slow
@pytest.mark.parametrize("jobs", ["1", "2"])
@pytest.mark.parametrize("script", ["demo.sh", "lung.sh"])
def test_no_line_begins_before_what_it_needs_has_ended(tmp_path: Path, script: str, jobs: str) -> None:
    """Lines that others go on beside are slow here, so that one that nobody waits for would come too late."""
    asked = lines(script, "/tmp") if script == "lung.sh" else lines(script)
    text = re.findall(r"^(parallel )?python ", (LAUNCH / script).read_text(), re.MULTILINE)
    slow = [str(line).removeprefix("python ") for line, parallel in zip(asked, text, strict=True) if parallel]
    (tmp_path / "slow").write_text("\n".join(slow))
    given = ["/tmp"] if script == "lung.sh" else []
    assert called(tmp_path, "nothing", *given, script=script, JOBS=jobs).returncode == 0
    found = events(tmp_path)
    wrong = [
        (line, other)
        for line, others in NEEDED.items()
        for other in others
        if position(found, other, "end") > position(found, line, "begin")
    ]
    assert not wrong
    at_once = [event for event, after in pairwise(found) if {event[:3], after[:3]} == {"beg"}]
    assert bool(at_once) == (jobs == "2")


def test_lines_side_by_side_share_the_cores_and_one_alone_has_them_all(tmp_path: Path) -> None:
    called(tmp_path, "nothing", "smoke")
    cores = {
        event.partition(" ")[2].split(maxsplit=1)[1]: event.split()[1] for event in events(tmp_path) if "begin" in event
    }
    halves = {what for what, given in cores.items() if given == str(HALF)}
    assert set(cores.values()) == {str(HALF), "all"}
    assert {"model=reid", "model=lidm", "stage=audit", "stage=decode", "model=classifier train_on=both"} <= halves
    assert (
        not {"model=vae", "stage=encode", "stage=filter", "stage=video", "stage=filter on=video", "stage=evaluate"}
        & halves
    )


def test_lines_one_at_a_time_have_all_cores(tmp_path: Path) -> None:
    called(tmp_path, "nothing", "smoke", JOBS="1")
    assert {event.split()[1] for event in events(tmp_path) if "begin" in event} == {"all"}


def test_a_number_of_cores_that_was_asked_for_is_kept(tmp_path: Path) -> None:
    called(tmp_path, "nothing", "smoke", OMP_NUM_THREADS="3")
    assert {event.split()[1] for event in events(tmp_path) if "begin" in event} == {"3"}


def test_a_line_beside_others_that_fails_ends_the_list_and_is_named(tmp_path: Path) -> None:
    done = called(tmp_path, "model=reid", "smoke")
    assert done.returncode == 1
    assert done.stderr.endswith(
        "stopped at command 7 of 22: fix the error and run the same command again to continue\n"
    )
    assert "stage=filter" not in (tmp_path / "log").read_text()
    assert "report:" not in done.stdout


@pytest.mark.slow
def test_a_line_that_fails_takes_those_beside_it_along(tmp_path: Path) -> None:
    done = called(tmp_path, "model=lidm", "smoke", STUCK="model=lvdm")
    assert done.returncode == 1
    assert done.stderr.endswith(
        "stopped at command 10 of 22: fix the error and run the same command again to continue\n"
    )
    assert done.stderr.count("stopped") == 1
    assert "gone model=lvdm" in events(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_list_that_is_ended_leaves_nothing_running(tmp_path: Path, how: signal.Signals) -> None:
    """As by Ctrl-C, which the whole group gets, or by a shutdown of the script alone; it waits for what it ends."""
    (tmp_path / "python").write_text(SAYS.format(failing="nothing"))
    (tmp_path / "python").chmod(0o755)
    around = {**AROUND, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "STUCK": "model=lvdm"}
    log, deadline = tmp_path / "log", time.monotonic() + 60
    with subprocess.Popen(
        ["bash", str(LAUNCH / "demo.sh"), "smoke"],
        env=around,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # as in a terminal
    ) as script:
        while not (log.exists() and "end sample.py stage=image" in log.read_text()):
            assert script.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        (os.killpg if how == signal.SIGINT else os.kill)(script.pid, how)
        _, told = script.communicate(timeout=60)
    assert script.returncode != 0
    assert "stopped" not in told
    assert "gone model=lvdm" in events(tmp_path)


@pytest.mark.parametrize(("program", "line"), [("train", "model=vae"), ("sample", "stage=encode")])
@pytest.mark.parametrize("folder", ["run", "sweep"])
def test_two_runs_that_begin_in_one_second_have_folders_of_their_own(program: str, line: str, folder: str) -> None:
    """Trainings side by side wrote into one metrics.csv."""
    found = []
    for _ in range(2):
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
            cfg = compose(program, [line, "data=phantom"], return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        found.append(cfg.hydra[folder].dir)
    assert found[0] != found[1]
