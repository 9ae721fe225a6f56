"""launch/: Snakemake runs the steps of a study in order, each step once, and a run can be interrupted at any time."""

import contextlib
import importlib
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from echodream.config.paths import CONF_DIR
from tests.support.launching import LAUNCH, lines, pipeline, settings, steps

TUTORIAL = LAUNCH.parent / "docs/tutorial.md"
STUDIES = sorted(path.stem for path in (LAUNCH / "studies").glob("*.yaml"))
GIVEN = {"echonet": "echonet_dynamic", "echonet_synthetic_published": "echonet_dynamic"}
"""Studies that require data= on the command line, and the value used here."""
STUB = """#!/bin/sh
here=$(dirname "$0")
makes=$(grep -F -- "$*	" "$here/makes" | cut -f 2)
makes=${makes:-$here/page}
trap 'sleep 1 2>/dev/null; echo "gone $*" >> "$here/log"; exit 1' TERM INT
echo "begin ${OMP_NUM_THREADS:-none} ${OMP_WAIT_POLICY:-active} $*" >> "$here/log"
echo "${MALLOC_MMAP_MAX_:-none} $2" >> "$here/memory"
[ -f "$makes" ] || echo "making $*" >> "$here/log"
echo "Epoch 1/2: 50% of $*" > "$ECHODREAM_PROGRESS"
case "$*" in *"${STUCK:-nothing}"*) while sleep 0.1 2>/dev/null; do :; done ;; esac
case "$*" in *"${FAILING:-nothing}"*)
  while [ -n "$STUCK" ] && ! grep -q "begin.*$STUCK" "$here/log"; do sleep 0.1; done
  echo "error: raw=raw/smoke does not exist: check raw=" >&2; exit 1 ;; esac
if grep -qxF -- "$*" "$here/slow" 2>/dev/null; then sleep 1 2>/dev/null; fi
mkdir -p "$(dirname "$makes")"
[ -f "$makes" ] || echo "$*" > "$makes"
echo "end $*" >> "$here/log"
echo "epoch 1 of 2"
case "$*" in
  *evaluate*) printf "evaluate: some.json done\\nreport: reports/smoke/index.html done\\n  privacy  shown\\n" ;;
  *) echo "encode: data/smoke/latents already complete, nothing to do"; echo "  frames  3" ;;
esac
"""
"""Shell script that replaces python: logs the arguments, and creates the record file of the step."""
CORES = len(os.sched_getaffinity(0))
AROUND = {key: value for key, value in os.environ.items() if key not in ("JOBS", "OMP_NUM_THREADS", "OMP_WAIT_POLICY")}


@dataclass
class Run:
    """A folder with a copy of launch/; a stub script replaces the real programs."""

    folder: Path
    study: str

    def command(self, *keys: str, options: tuple[str, ...] = ()) -> list[str]:
        run = str(self.folder / "launch/run.py")
        return [sys.executable, run, self.study, f"python={self.folder}/stub", *keys, *options]

    def __call__(
        self, *keys: str, options: tuple[str, ...] = (), cwd: Path | None = None, **around: str
    ) -> subprocess.CompletedProcess[str]:
        command, given = self.command(*keys, options=options), {**AROUND, **around}
        return subprocess.run(command, cwd=cwd, env=given, capture_output=True, text=True, timeout=600, check=False)

    @property
    def log(self) -> list[str]:
        path = self.folder / "log"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if "stage=report" not in line]

    def happened(self, what: str, known: int = 0) -> list[str]:
        """Names of the steps with the event ``what``, in order, after the first ``known`` lines of the log."""
        return [name for how, name in self.events(known) if how == what]

    def events(self, known: int = 0) -> Iterator[tuple[str, str]]:
        names = {" ".join([f"{step.program}.py", *step.overrides]): step.name for step in self.steps}
        for event in self.log[known:]:
            how, _, rest = event.partition(" ")
            yield how, names[rest.split(" ", 2)[2] if how == "begin" else rest]

    @property
    def steps(self) -> list[Any]:
        return list(steps(self.study, **({"raw": "/tmp"} if self.study == "lung" else {})))


@pytest.fixture
def study(tmp_path: Path) -> Callable[..., Run]:
    def made(name: str = "smoke") -> Run:
        run = Run(tmp_path, name)
        shutil.copytree(LAUNCH, tmp_path / "launch", ignore=shutil.ignore_patterns("__pycache__"))
        (tmp_path / "stub").write_text(STUB)
        (tmp_path / "stub").chmod(0o755)
        table = "".join(f"{step}\t{step.record}\n" for step in run.steps)
        (tmp_path / "makes").write_text(table)
        return run

    return made


def keys(study: str) -> dict[str, str]:
    return {"raw": "/raw", **({"data": GIVEN[study]} if study in GIVEN else {})}


# ------------------------------------------------------------------------------------------------------------ the steps


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["demo", "smoke"])
def test_every_line_composes_and_the_sizes_share_the_steps(experiment: str) -> None:
    study = {"demo": "phantom", "smoke": "smoke"}[experiment]
    swaps = {
        "experiment=demo": f"experiment={experiment}",
        "raw/demo": f"raw/{experiment}",
        "data.name=phantom": f"data.name={study}",
        "data.source.patients=372": f"data.source.patients={372 if experiment == 'demo' else 36}",
    }
    for line, demo in zip(lines(experiment), lines("demo"), strict=True):
        expected = str(demo)
        for old, new in swaps.items():
            expected = expected.replace(old, new)
        assert str(line) == expected
        with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
            cfg = compose(line.program, list(line.overrides))
        assert cfg.data.name.removesuffix("_further") == study


@pytest.mark.slow
@pytest.mark.parametrize("study", STUDIES)
def test_a_step_makes_what_its_command_writes(study: str) -> None:
    """The folder of ``record`` equals dst= of the composed command; exceptions are listed in this test."""
    for step in steps(study, **keys(study)):
        with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
            cfg = compose(step.program, list(step.overrides))
        folder = cfg.src if step.model_or_stage == "verify" else cfg.dst
        assert str(Path(step.record).parent) == folder, step.name


def test_the_demo_s_sizes_leave_another_study_its_name() -> None:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose("sample", ["stage=ingest", "data=videos", "raw=/raw", "experiment=demo"])
    assert (cfg.data.name, cfg.dst) == ("videos", "data/videos/videos")


NEEDED = {
    "encode": ["vae", "verify"],
    "reid": ["encode"],
    "lidm": ["encode"],
    "lvdm": ["encode"],
    "classifier": ["verify"],
    "image": ["lidm"],
    "filter": ["image", "reid"],
    "audit": ["filter"],
    "decode_image": ["filter"],
    "video": ["filter", "lvdm"],
    "filter_video": ["video"],
    "audit_video": ["filter_video"],
    "decode": ["filter_video"],
    "classifier_synthetic": ["decode"],
    "classifier_both": ["decode"],
    "utility": ["classifier", "classifier_synthetic", "classifier_both"],
    "evaluate": ["utility", "audit", "audit_video", "decode", "decode_image"],
}
"""Step -> steps that must end before the step begins."""


@pytest.mark.parametrize("study", STUDIES)
def test_a_step_comes_after_all_that_it_needs(study: str) -> None:
    found: dict[str, set[str]] = {}
    for step in steps(study, **keys(study)):
        assert set(step.required_steps) <= found.keys(), step.name
        found[step.name] = {step.name, *step.required_steps}.union(*(found[need] for need in step.required_steps))
    for name, needed in NEEDED.items():
        assert found.keys().isdisjoint({name}) or set(needed) & found.keys() <= found[name], name
    assert "further" not in found or "further" in found["evaluate"]


def test_overrides_of_an_unknown_step_are_refused() -> None:
    with pytest.raises(ValueError, match="alone of vaee, which is not a step"):
        list(steps("demo", alone=["vae", "vaee"]))
    with pytest.raises(ValueError, match="overrides of lidmm, which is not a step"):
        steps("demo", overrides={"lidmm": ["view=triplet"]})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"overrides": None}, "overrides has no value: give names of steps, each with a list of overrides"),
        ({"cross_validation": None}, "cross_validation has no value: give names of steps, each with a list of classes"),
        ({"relabelling": None}, "relabelling has no value"),
        ({"overrides": ["view=triplet"]}, r"overrides cannot be \['view=triplet'\]"),
        ({"overrides": {"lidm": "view=triplet"}}, "overrides cannot be {'lidm': 'view=triplet'}"),
        ({"overrides": {"lidm": None}}, "overrides cannot be {'lidm': None}"),
        ({"overrides": {1: ["view=triplet"]}}, "overrides cannot be {1:"),
        ({"relabelling": {"asd": 2}}, "relabelling cannot be {'asd': 2}"),
        ({"anonymised": {"blurred": ["method=blur"]}}, "anonymised needs labels"),
        ({"below": ["published"]}, r"below cannot be \['published'\]: give text"),
        ({"alone": "vae"}, "alone cannot be 'vae': give a list of steps"),
        ({"verify": "no"}, "verify cannot be 'no': give true or false"),
        ({"jobs": 0}, "jobs cannot be 0: give a whole number above zero"),
        ({"jobs": "two"}, "jobs cannot be 'two'"),
        ({"gpu": -1}, "gpu cannot be -1: give a whole number"),
        ({"further": True}, "further cannot be True"),
        ({"data": None}, "data has no value: give text"),
        ({1: "x"}, "unknown key 1"),
    ],
)
def test_a_value_of_another_type_is_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        pipeline.steps({**settings("demo"), **given})


@pytest.mark.parametrize("text", ["", "- a\n", "text\n", "name: [\n"])
def test_an_own_yaml_of_the_data_without_keys_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/clinic.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"data/clinic\.yaml has no keys and values of yaml"):
        pipeline.steps({"data": "clinic", "raw": "/raw", "config_dir": str(tmp_path)})


def test_classes_are_a_text_or_a_list() -> None:
    """On the command line, Snakemake parses labels=[PA,Male] as a list; a text is accepted, too."""
    for labels in ("[PA,Male]", ["PA", "Male"]):
        assert pipeline.steps({**settings("chest"), "raw": "/raw", "labels": labels})


def test_each_step_has_its_own_resources() -> None:
    resources = {step.name: step.resources for step in steps("demo")}
    assert all(found["mem_mb"] >= 32_000 and found["runtime"] >= 24 * 60 for found in resources.values())
    assert {name for name, found in resources.items() if "gpu" not in found} == {
        "phantom",
        "ingest",
        "verify",
        "further",
    }


# ------------------------------------------------------------------------------------------------------------ Snakemake


def test_each_step_has_its_line_and_is_run_again_where_something_changed(study: Callable[..., Run]) -> None:
    """A changed modification time alone reruns nothing. Changed content or a changed setting in conf/ reruns the
    affected steps, but deletes no output and changes no modification time. A deleted store is created again.
    """
    run = study()
    done = run()
    said = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert said[0].startswith("[1/22] sample.py stage=phantom data=phantom experiment=smoke dst=raw/smoke data.source.")
    encoded = r" {8}encode: data/smoke/latents already complete, nothing to do \(\d+ min \d\d s\)"
    assert re.fullmatch(encoded, said[1])
    assert [int(line[1:].partition("/")[0]) for line in said if line.startswith("[")] == list(range(1, 23))
    assert sum(bool(re.fullmatch(encoded, line)) for line in said) == 21
    assert said[-3:-1] == ["report: reports/smoke/index.html done", "  privacy  shown"]
    assert said[-1].startswith("total time: ")
    assert len(said) == 2 * 22 + 3
    later, changed = time.time() + 5, run.folder / "samples/smoke/video_latents/dataset.json"
    for step in run.steps:
        os.utime(run.folder / step.record, (later, later))
    again = run()
    said = again.stdout.splitlines()
    assert (again.returncode, again.stderr) == (0, "")
    assert said[:3] == ["22 of 22 steps are complete", "report: reports/smoke/index.html done", "  privacy  shown"]
    assert len(run.happened("begin")) == 22

    known = len(run.log)
    changed.write_text("other content")
    os.utime(changed, (later + 1, later + 1))
    touched = records(run)
    assert run().returncode == 0
    repeated = set(run.happened("begin", known))
    assert "filter_video" in repeated
    assert not {"vae", "encode", "lidm", "filter"} & repeated
    assert records(run) == touched

    known = len(run.log)
    (run.folder / "conf").mkdir()
    (run.folder / "conf/sample.yaml").write_text("seed: 1\n")
    assert run(options=("--until", "filter")).returncode == 0
    assert sorted(run.happened("begin", known)) == sorted(UNTIL_FILTER)
    assert not any(event.startswith("making") for event in run.log[known:])
    assert records(run) == touched

    known = len(run.log)
    shutil.rmtree(run.folder / "samples/smoke/images")
    assert run(options=("--until", "filter")).returncode == 0
    assert run.happened("making", known) == ["image"]


UNTIL_FILTER = ("phantom", "ingest", "verify", "vae", "encode", "lidm", "reid", "image", "filter")
"""The steps that ``--until filter`` runs; some of the steps run in parallel, others alone."""


@pytest.mark.parametrize("failing", ["nothing", "stage=report"])
def test_the_report_grows_after_ingest_autoencoder_and_images(study: Callable[..., Run], failing: str) -> None:
    """If the report cannot be written, a message says so, and the study continues."""
    run = study()
    done = run(FAILING=failing, options=("--until", "filter"))
    assert done.returncode == 0, done.stderr
    assert sorted(run.happened("end")) == sorted(UNTIL_FILTER)
    said = "        no report of the results so far: error: raw=raw/smoke does not exist: check raw="
    assert done.stdout.splitlines().count(said) == (3 if failing == "stage=report" else 0)
    events = [line.split(" ") for line in (run.folder / "log").read_text().splitlines()]
    reports = [number for number, words in enumerate(events) if words[0] == "begin" and "stage=report" in words]
    assert len(reports) == 3
    befores, afters = ("stage=ingest", "model=vae", "stage=image"), ("stage=verify", "stage=encode", "stage=filter")
    for number, before, after in zip(reports, befores, afters, strict=True):
        assert [words for words in events[:number] if words[0] == "end" and before in words]
        assert not [words for words in events[:number] if words[0] == "begin" and after in words]
        assert {"data=phantom", "experiment=smoke", "early=true", "notes=null"} <= set(events[number])


@pytest.mark.slow
@pytest.mark.parametrize("jobs", ["1", "2"])
@pytest.mark.parametrize("name", ["demo", "lung"])
def test_no_step_begins_before_what_it_needs_has_ended(study: Callable[..., Run], name: str, jobs: str) -> None:
    """Steps that may run in parallel are slow here, so that a step with a missing dependency would begin too early."""
    run = study(name)
    slow = [str(step) for step in run.steps if not step.uses_all_cores]
    (run.folder / "slow").write_text("\n".join(slow))
    done = run(*(["raw=/tmp"] if name == "lung" else []), JOBS=jobs)
    assert done.returncode == 0, done.stderr
    found = list(run.events())
    wrong = [
        (step.name, need)
        for step in run.steps
        for need in step.required_steps
        if found.index(("end", need)) > found.index(("begin", step.name))
    ]
    assert not wrong
    at_once = [how for how in pairwise(how for how, _ in found if how != "making") if how == ("begin", "begin")]
    assert bool(at_once) == (jobs == "2" and CORES > 1)


@pytest.mark.parametrize("cores", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_steps_side_by_side_fit_on_the_cores_and_one_alone_has_them_all(study: Callable[..., Run], cores: int) -> None:
    run, jobs = study(), 2
    run(f"cores={cores}", f"jobs={jobs}", options=("--cores", str(cores)))
    given = {step: line.split()[1:3] for step, line in zip(run.happened("begin"), begun(run), strict=True)}
    shared = {name: int(number) for name, (number, wait) in given.items() if wait == "PASSIVE"}
    assert {"reid", "lidm", "filter", "video", "audit", "decode", "classifier_both"} <= shared.keys()
    assert not {"ingest", "vae", "encode", "filter_video", "evaluate"} & shared.keys()
    assert {number for number, wait in given.values() if wait != "PASSIVE"} == {str(cores)}
    (each,) = set(shared.values())
    assert each >= 1
    if cores >= jobs:
        assert jobs * each <= cores < jobs * (each + 1)


@pytest.mark.parametrize("own", [{}, {"MALLOC_MMAP_MAX_": "7"}])
def test_networks_keep_freed_memory_unless_the_user_has_own_settings(study: Callable[..., Run], own: dict) -> None:
    run = study()
    assert run(options=("--until", "encode"), **own).returncode == 0
    found = dict(reversed(line.split(" ")) for line in (run.folder / "memory").read_text().splitlines())
    networks, default = own.get("MALLOC_MMAP_MAX_", "0"), own.get("MALLOC_MMAP_MAX_", "none")
    assert {found[name] for name in ("model=vae", "stage=encode")} == {networks}
    assert {found[name] for name in ("stage=phantom", "stage=ingest", "stage=verify")} == {default}


def begun(run: Run) -> list[str]:
    return [line for line in run.log if line.startswith("begin")]


@pytest.mark.slow
def test_steps_one_at_a_time_have_all_cores_unless_a_number_was_asked_for(study: Callable[..., Run]) -> None:
    run, some = study(), ("--until", "filter")
    run(JOBS="1", options=some)
    assert [line.split()[1] for line in begun(run)] == [str(CORES)] * len(UNTIL_FILTER)
    (run.folder / "log").unlink()
    shutil.rmtree(run.folder / "runs")
    run(OMP_NUM_THREADS="3", options=some)
    assert [line.split()[1] for line in begun(run)] == ["3"] * len(UNTIL_FILTER)


@pytest.mark.parametrize("failing", ["raw=raw/smoke", "model=reid"])
def test_a_step_that_fails_is_the_last_and_the_same_command_continues(study: Callable[..., Run], failing: str) -> None:
    run, some, total = study(), ("--until", "filter"), len(UNTIL_FILTER)
    done = run(FAILING=failing, options=some)
    assert done.returncode == 1
    line = next(line for line in done.stdout.splitlines() if failing in line)
    number = line[1:].partition("/")[0]
    assert done.stderr == (
        "error: raw=raw/smoke does not exist: check raw=\n"
        f"stopped at command {number} of {total}: fix the error and run the same command again to continue\n"
    )
    assert "report:" not in done.stdout
    assert "filter" not in run.happened("begin")
    complete = sum((run.folder / "runs/smoke/launch" / step.name).exists() for step in run.steps)
    done = run(options=some)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == f"{complete} of {total} steps are complete"
    assert f"[{complete + 1}/{total}] " in done.stdout.splitlines()[1]
    assert set(run.happened("end")) == set(UNTIL_FILTER)


@pytest.mark.slow
@pytest.mark.skipif(CORES < 2, reason="nothing runs side by side on one core")
def test_a_step_that_fails_takes_those_beside_it_along(study: Callable[..., Run]) -> None:
    run = study()
    done = run(FAILING="model=lidm", STUCK="model=reid")
    assert done.returncode == 1
    assert re.search(r"stopped at command \d+ of 22: fix the error and run", done.stderr.splitlines()[-1])
    assert done.stderr.count("error:") == 1
    assert "reid" in run.happened("gone")


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_ended_leaves_nothing_running(study: Callable[..., Run], how: signal.Signals) -> None:
    """Ctrl-C goes to the whole process group, a shutdown to the run only; both end all steps before the run exits."""
    run = study()
    with process(run, STUCK="model=lvdm") as running:
        until(lambda: "lvdm" in run.happened("begin"), running)
        (os.killpg if how == signal.SIGINT else os.kill)(running.pid, how)
        said, told = running.communicate(timeout=600)
    assert running.returncode != 0
    assert told == ""
    assert "Snakemake" not in said
    assert "lvdm" in run.happened("gone")


def process(run: Run, *keys: str, **around: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        run.command(*keys),
        env={**AROUND, **around},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # Ctrl-C works as in a terminal
    )


def until(ready: Callable[[], object], running: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 600
    while not ready():
        assert running.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_a_run_that_is_killed_continues_and_nothing_of_a_step_is_removed(study: Callable[..., Run]) -> None:
    """The partial output of the killed step and the records of complete steps remain."""
    run = study()
    partial = run.folder / "models/smoke/lvdm.partial/checkpoint"
    with process(run, STUCK="model=lvdm") as running:
        until(lambda: "lvdm" in run.happened("making"), running)
        partial.parent.mkdir(parents=True)
        partial.write_text("epoch 3")
        os.killpg(running.pid, signal.SIGKILL)
        running.communicate()
    assert running.returncode == -signal.SIGKILL
    before = records(run)
    done = run()
    assert done.returncode == 0, done.stderr
    assert partial.read_text() == "epoch 3"
    assert {name: records(run)[name] for name in before} == before
    assert run.happened("making").count("lvdm") == 2
    assert run.happened("begin").count("encode") == 1


def records(run: Run) -> dict[str, tuple[int, int]]:
    """Records of the completed steps, with inode and modification time."""
    made = {step.record: run.folder / step.record for step in run.steps}
    return {name: (path.stat().st_ino, path.stat().st_mtime_ns) for name, path in made.items() if path.exists()}


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_snakemake_plans_the_steps_of_each_study(study: Callable[..., Run], name: str) -> None:
    run = study(name) if name in ("demo", "smoke") else Run(study("smoke").folder, name)
    given = [f"{key}={value}" for key, value in keys(name).items() if name not in ("demo", "smoke")]
    done = run(*given, options=("--dry-run",))
    assert done.returncode == 0, done.stderr
    planned = sorted(line.partition("] ")[2].replace("'", "") for line in done.stdout.splitlines())
    assert planned == sorted(str(step) for step in steps(name, **keys(name)))


SLURM = {
    "sbatch": 'printf "%s\\n" "$*" >> "$(dirname "$0")/submitted"; echo "sbatch: error: Invalid partition" >&2; exit 1',
    **dict.fromkeys(("sinfo", "squeue", "sacct", "sacctmgr", "scontrol"), "echo normal"),
}
"""Commands of a simulated SLURM cluster that refuses every job; tests/slurm has the tests on a real cluster."""


@pytest.mark.slow
def test_a_step_on_slurm_is_a_job_with_its_resources_and_a_refused_job_is_a_sentence(study: Callable[..., Run]) -> None:
    run = study()
    assert run("cores=6", FAILING="model=vae").returncode == 1
    for name, does in SLURM.items():
        (run.folder / name).write_text(f"#!/bin/sh\n{does}\n")
        (run.folder / name).chmod(0o755)
    path = f"{run.folder}{os.pathsep}{os.environ['PATH']}"
    done = run("cores=6", options=("--profile", "slurm", "--retries", "0", "--until", "vae"), PATH=path)
    assert done.returncode == 1
    (job,) = (run.folder / "submitted").read_text().splitlines()
    for option in ("--comment rule_vae", "--mem 64000", "-t 10080", "--gpus=1", "--cpus-per-task=6", "--requeue"):
        assert option in job
    why = "SLURM sbatch failed. The error message was 'sbatch: error: Invalid partition'"
    said, stopped = done.stderr.splitlines()
    assert said == f"error: {why}; read runs/smoke/launch/vae.log"
    assert re.match(r"stopped at command (\d) of \1: fix the error", stopped)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], r"error: give a study \(cardiacnet, .*\) or a yaml file of your own: python launch/run.py demo"),
        (["nosuch"], r"error: give a study \(cardiacnet, .*\) or a yaml file of your own: python launch/run.py demo"),
        (["mine/nosuch.yaml"], "error: mine/nosuch.yaml does not exist: give one of cardiacnet, .*, or a yaml file .*"),
        (["demo", "job=1"], "error: demo.yaml: unknown key job: a study has alone, anonymised, .*, verify"),
        (["lung"], r"error: give raw=: python launch/run.py lung raw=\.\.\."),
        (["demo", "jobs"], "error: jobs is not key=value: write it as raw=/path"),
        (["demo", "jobs="], "error: jobs= is not key=value: write it as raw=/path"),
        (["demo", "=3"], "error: =3 is not key=value: write it as raw=/path"),
        pytest.param(
            ["demo", "n=3"],
            "error: demo.yaml: unknown key n: a study has alone, anonymised, .*, verify",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["demo", "jobs=two"],
            "error: demo.yaml: jobs cannot be 'two': give a whole number above zero",
            marks=pytest.mark.slow,
        ),
        (["demo", "name=x"], "error: name= cannot be given on the command line: write it in .*, and data.name in .*"),
        (["demo", "below=x"], "error: below= cannot be given on the command line: write it in .*, and paths in .*"),
        pytest.param(
            ["demo", "--profile"],
            "error: --profile has no value: give the name or folder of a profile, .*",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["demo", "--profile="],
            "error: --profile has no value: give the name or folder of a profile, .*",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["demo", "--profile", "--dry-run"],
            "error: --profile has no value: give the name or folder of a profile, .*",
            marks=pytest.mark.slow,
        ),
        (["echonet", "raw=/raw"], r"error: give data=: python launch/run.py echonet data=\.\.\."),
    ],
)
def test_what_is_missing_is_named(arguments: list[str], says: str) -> None:
    command = [sys.executable, str(LAUNCH / "run.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.fullmatch(f"{says}\n", done.stderr), done.stderr


def test_without_snakemake_its_package_is_named() -> None:
    code = "import sys, runpy; sys.modules['snakemake'] = None; sys.argv = ['run.py', 'demo']"
    code += f"; sys.path[0] = {str(LAUNCH)!r}; runpy.run_path({str(LAUNCH / 'run.py')!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "error: launch/ needs Snakemake: install it with python -m pip install 'echodream[pipeline]'\n"
    )


@pytest.fixture
def progress(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The module launch/progress.py with the steps of the smoke study, without a running study."""
    monkeypatch.syspath_prepend(LAUNCH)
    monkeypatch.setitem(sys.modules, "pipeline", pipeline)
    module = importlib.import_module("progress")
    monkeypatch.setattr(module.State, "steps", {step.name: step for step in steps("smoke")})
    monkeypatch.setattr(module.State, "failed", {})
    monkeypatch.setattr(module.State, "logs", tmp_path, raising=False)
    monkeypatch.setattr(module, "stop_steps", lambda: None)
    return module


def events_of(progress: ModuleType, folder: Path, *events: tuple[str, int]) -> None:
    """Send events to the log handler as pairs (what, job); job 1 is the step lidm, job 2 the step reid."""
    handler = progress.LogHandler(SimpleNamespace(dryrun=False), None)
    for what, job in events:
        name = {1: "lidm", 2: "reid"}[job]
        text = f"Trying to restart job {job}." if what == "restart" else what
        given = {
            "jobid": job,
            "job_id": job,
            "rule_name": name,
            "log": [str(folder / f"{name}.log")],
            "rule_msg": "gone",
        }
        kind = {"begin": "JOB_INFO", "end": "JOB_FINISHED", "fail": "JOB_ERROR"}.get(what)
        event = {"event": getattr(progress.LogEvent, kind)} if kind else {}
        handler.emit(logging.makeLogRecord({"msg": text, **given, **event}))


BOTH = [("begin", 1), ("begin", 2)]


@pytest.mark.parametrize(
    ("events", "stopped"),
    [
        ([("fail", 1), ("fail", 2), ("restart", 2)], [1]),
        ([("fail", 1), ("restart", 1)], []),
        ([("fail", 1), ("fail", 2), ("restart", 1)], [2]),
        ([("fail", 1), ("restart", 1), ("begin", 1), ("fail", 1)], [1]),
    ],
)
def test_a_restart_forgets_the_failure_of_its_own_job_only(
    progress: ModuleType, tmp_path: Path, events: list[tuple[str, int]], stopped: list[int]
) -> None:
    events_of(progress, tmp_path, *BOTH, *events)
    assert list(progress.State.failed.values()) == stopped


def test_the_log_of_an_earlier_run_is_removed_and_that_of_the_running_step_stays(
    progress: ModuleType, tmp_path: Path
) -> None:
    """Snakemake reports the start of a step with a delay, so that the step may already write its log."""
    for name, age in {"lidm": 0, "reid": 60}.items():
        (tmp_path / f"{name}.log").write_text("epoch 1")
        os.utime(tmp_path / f"{name}.log", (time.time() - age,) * 2)
    events_of(progress, tmp_path, *BOTH)
    assert [path.name for path in tmp_path.glob("*.log")] == ["lidm.log"]


def test_a_step_without_a_log_ends_as_others_do(
    progress: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events_of(progress, tmp_path, ("begin", 1), ("end", 1))
    assert re.fullmatch(r" {8}done \(0 min \d\d s\)", capsys.readouterr().out.splitlines()[-1])


# ------------------------------------------------------------------------------------------------- the user's own study


@pytest.mark.slow
def test_a_study_of_one_s_own_runs_with_its_folder_as_config_dir(study: Callable[..., Run]) -> None:
    """``name`` in the user's data yaml is the folder below data/; a change of this yaml file reruns the steps."""
    run = study()
    run.study = "mine/list.yaml"
    data, own = run.folder / "mine/data/clinic.yaml", run.folder / run.study
    (run.folder / "conf/data").mkdir(parents=True)
    data.parent.mkdir(parents=True)
    data.write_text("defaults: [videos]\nname: hospital\n")
    own.write_text("data: clinic\nraw: null\naudit_video: false\noverrides:\n  lidm: [view=triplet]\n")
    listed = pipeline.steps(
        {**yaml.safe_load(own.read_text()), "raw": f"{run.folder}/files", "config_dir": str(own.parent)}
    )
    (run.folder / "makes").write_text("".join(f"{step}\t{step.record}\n" for step in listed))
    done = run("raw=files", cwd=run.folder)
    assert done.returncode == 0, done.stderr
    assert len(begun(run)) == len(listed) == 19
    assert all(f" data=clinic --config-dir={own.parent}" in line for line in begun(run))
    assert f"stage=ingest data=clinic --config-dir={own.parent} raw={run.folder}/files" in begun(run)[0]
    assert (run.folder / "reports/hospital/index.html").exists()
    data.write_text("defaults: [videos]\nname: hospital\nsize: 64\n")
    assert run("raw=files", cwd=run.folder).returncode == 0
    assert len(begun(run)) == 2 * 19
    (own.parent / "runs").mkdir()
    (own.parent / "runs/config.yaml").write_text("seed: 1\n")  # a folder that is not a group of conf/
    assert run("raw=files", cwd=run.folder).returncode == 0
    assert len(begun(run)) == 2 * 19
    own.write_text(own.read_text() + "# changed\n")
    assert run("raw=files", cwd=run.folder).returncode == 0
    assert len(begun(run)) == 3 * 19
    for text, says in {
        "data: clinic\n": f"error: give raw=: python launch/run.py {own} raw=...\n",
        "raw: x\n": f"error: give data=: python launch/run.py {own} data=...\n",
        "data: [clinic\n": f"error: {own} has no keys and values of yaml (",
        "": f"error: {own} has no keys and values of yaml (",
        "data: clinic\nraw: x\noverrides:\n": "error: list.yaml: overrides has no value: give names of steps, ",
        "data: clinic\nraw: x\nkeyframe: true\n": "error: list.yaml: unknown key keyframe: a study has ",
    }.items():
        own.write_text(text)
        done = run(cwd=run.folder)
        assert done.returncode == 1
        assert done.stderr.startswith(says), done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_the_study_of_the_tutorial_composes(tmp_path: Path) -> None:
    for name, body in re.findall(r"^    # mine/(\S+\.yaml)\n((?:    .*\n)+)", TUTORIAL.read_text(), re.MULTILINE):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(re.sub(r"^    ", "", body, flags=re.MULTILINE))
    for step in pipeline.steps({**yaml.safe_load((tmp_path / "list.yaml").read_text()), "raw": "/raw"}):
        with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
            cfg = compose(step.program, [*step.overrides, f"hydra.searchpath=[file://{tmp_path}]"])
        assert cfg.data.source.csv == "labels.csv"
        folder = cfg.src if step.model_or_stage == "verify" else cfg.dst
        assert str(Path(step.record).parent) == folder, step.name


# --------------------------------------------------------------------------------------------------------- the terminal


@pytest.mark.slow
def test_a_terminal_shows_the_progress_of_each_running_step(study: Callable[..., Run]) -> None:
    run = study()
    screen, terminal = os.openpty()
    command = run.command()
    around = {**AROUND, "STUCK": "model=lvdm", "TERM": "xterm", "COLUMNS": "60"}
    with subprocess.Popen(command, env=around, stdout=terminal, stderr=terminal, start_new_session=True) as running:
        os.close(terminal)
        seen, deadline = "", time.monotonic() + 600
        while not re.search(r"\[\d+/22\] lvdm, \d+ min \d\d s  Epoch 1/2: 50%", seen):
            assert time.monotonic() < deadline, seen
            seen += os.read(screen, 10_000).decode()
        os.killpg(running.pid, signal.SIGTERM)
        with contextlib.suppress(OSError):  # reading fails after the last process has closed the terminal
            while piece := os.read(screen, 10_000):
                seen += piece.decode()
    os.close(screen)
    lines = re.split(r"\r?\n", seen)
    assert max(len(re.sub(r"\x1b\[\w+", "", line)) for line in lines if "Epoch" in line) < 60
    assert shown(lines) == [line for line in shown(lines) if "Epoch" not in line]
    assert shown(lines)[0].startswith("[1/22] sample.py stage=phantom")


def shown(lines: list[str]) -> list[str]:
    """Final lines on the terminal: a line that starts with ``ESC[nA ESC[J`` replaces the n lines before it."""
    screen: list[str] = []
    for line in lines:
        while found := re.match(r"\x1b\[(\d+)A\x1b\[J", line):
            del screen[-int(found[1]) :]
            line = line[found.end() :]
        screen.append(line)
    return screen


@pytest.mark.parametrize("read", [1, 4])
def test_a_reader_that_closes_its_pipe_ends_the_run(study: Callable[..., Run], read: int) -> None:
    """A closed pipe ends the run without an error message, as in ``make demo | head``."""
    run = study()
    with process(run) as running:
        assert running.stdout is not None
        for _ in range(read):
            running.stdout.readline()
        running.stdout.close()
        assert running.stderr is not None
        assert running.stderr.read() == ""
    assert running.returncode != 0
    assert len(run.happened("begin")) < 22
    assert sorted(run.happened("begin")) == sorted(run.happened("end") + run.happened("gone"))


@pytest.mark.parametrize("program", ["train", "sample"])
@pytest.mark.parametrize("folder", ["run", "sweep"])
def test_two_runs_that_begin_in_one_second_have_folders_of_their_own(program: str, folder: str) -> None:
    """Without separate folders, two trainings would write into the same metrics.csv."""
    line = {"train": "model=vae", "sample": "stage=encode"}[program]
    found = []
    for _ in range(2):
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
            cfg = compose(program, [line, "data=phantom"], return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        found.append(cfg.hydra[folder].dir)
    assert found[0] != found[1]
