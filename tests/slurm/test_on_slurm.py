"""The command line on a real SLURM cluster of two nodes, which ``cluster.sh`` starts on this machine.

The tests run only on request, as root: ECHODREAM_SLURM=1 python -m pytest -n 0 tests/slurm
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.smoke_study import content
from tests.support.tiny_diffusion import artifact, latent_store, model
from tests.support.tiny_vae import moving_disc_store

ROOT = Path(__file__).parents[2]
NEEDED = ("munged", "slurmctld", "slurmd", "sbatch")
STATUS = ["--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "2"]
"""This cluster has no accounting, which sacct needs."""
LAUNCHER = ["launcher=slurm", *(f"hydra.launcher.{key}" for key in ("cpus_per_task=1", "mem_gb=1", "timeout_min=30"))]
TWO_NODES = [*LAUNCHER, "hydra.launcher.nodes=2", "trainer=ddp"]
VAE = [
    *("train.py", "model=vae", "data=phantom", "vae.widths=[4,4]", "vae.layers=1", "vae.groups=2"),
    *("datamodule.batch_size=2", "datamodule.workers=0", "trainer.accelerator=cpu", "trainer.limit_train_batches=2"),
    *("trainer.max_epochs=2", "model.lr=0.01"),
]
IMAGE = ["sample.py", "stage=image", "data=phantom", "workers=0", "batch=2", "steps=3", "trainer.accelerator=cpu"]

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(
        os.environ.get("ECHODREAM_SLURM") != "1", reason="sets up SLURM: asked for by ECHODREAM_SLURM=1"
    ),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    """Start the cluster; yield the environment variables of a user of the cluster."""
    if absent := [name for name in NEEDED if shutil.which(name) is None]:
        pytest.fail(f"{', '.join(absent)} not found: apt-get install slurm-wlm munge")
    folder = tempfile.mkdtemp(prefix="slurm-")  # not in pytest's temporary folder: the path of a socket must be short
    script = [str(Path(__file__).parent / "cluster.sh")]
    environment = {**os.environ, "GIT_DIR": os.devnull}
    environment |= {"SLURM_CONF": f"{folder}/slurm.conf", "PORT": str(free_port())}
    environment |= {"MASTER_ADDR": "127.0.0.1"}  # the names of the nodes cannot be resolved to addresses
    try:
        subprocess.run([*script, "start", folder], env=environment, check=True)
        yield environment
    finally:
        subprocess.run([*script, "stop", folder], env=environment, check=True)
        shutil.rmtree(folder)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return min(taken.getsockname()[1], 65000)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stores of videos and latents, and an image diffusion model with random weights."""
    folder = tmp_path_factory.mktemp("study")
    moving_disc_store(folder / "data/phantom/videos")
    latent_store(folder / "data/phantom/latents")
    artifact(folder / "models/phantom/lidm", model("lidm"), "lidm")
    return folder


def begin(folder: Path, environment: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / arguments[0]), *arguments[1:]]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True)


def run(folder: Path, environment: dict[str, str], *arguments: str) -> str:
    with begin(folder, environment, *arguments) as process:
        said, wrong = process.communicate(timeout=400)
    assert process.returncode == 0, said[-2000:] + wrong[-4000:]
    return said


def weights(folder: Path) -> bytes:
    return (folder / "diffusion_pytorch_model.safetensors").read_bytes()


def rows(store: Path) -> dict[str, bytes]:
    """All files of a store except the record of its creation."""
    files = [path for path in store.rglob("*") if path.is_file() and path.name not in ("dataset.json", "SHA256SUMS")]
    return {str(path.relative_to(store)): path.read_bytes() for path in files}


def until(ready: Callable[[], object], what: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.1)


def test_two_tasks_on_two_nodes_train_as_two_local_processes(study: Path, cluster: dict[str, str]) -> None:
    run(study, cluster, *VAE, "trainer=ddp", "trainer.devices=2", f"dst={study}/here")
    run(study, cluster, *VAE, *TWO_NODES, f"dst={study}/there", f"work={study}/runs/there")
    here, there = (json.loads((study / name / "artifact.json").read_text()) for name in ("here", "there"))
    assert here["metrics"] == there["metrics"]
    assert here["fingerprint"] == there["fingerprint"]
    logs = "".join(path.read_text() for path in study.glob("runs/phantom/sweep_vae/*/.submitit/*/*_log.out"))
    assert all(f"node={node}(2)" in logs for node in (0, 1))
    assert logs.count("there done") == 1
    assert "setup plugin" not in logs


def test_a_job_that_is_queued_again_ends_with_the_same_weights(study: Path, cluster: dict[str, str]) -> None:
    """A job is requeued by an administrator, by a job of higher priority, or at its time limit: equal weights."""

    def scontrol(*arguments: str) -> str:
        asked = ["scontrol", *arguments]
        return subprocess.run(asked, env=cluster, capture_output=True, text=True, check=True).stdout

    def job(number: str, key: str) -> str:
        found = re.search(rf"\b{key}=(\S+)", scontrol("show", "job", number))
        assert found
        return found[1]

    def interrupted(number: str, count: int, how: list[str]) -> None:
        last = next(iter(work.glob("*/last.ckpt")), None)
        before = last.stat().st_mtime_ns if last else 0
        until(lambda: any(path.stat().st_mtime_ns > before for path in work.glob("*/last.ckpt")), "an epoch")
        subprocess.run(how, env=cluster, check=True)
        until(lambda: int(job(number, "Restarts")) == count, f"restart {count}")
        until(lambda: job(number, "JobState") == "RUNNING", "the job to run again")

    long = [*VAE, "trainer.max_epochs=60"]
    work = study / "runs/disturbed"
    run(study, cluster, *long, f"dst={study}/undisturbed", f"work={study}/runs/undisturbed")
    logs = set(study.glob("runs/phantom/sweep_vae/*/.submitit/*/*_log.out"))
    with begin(study, cluster, *long, *LAUNCHER, f"dst={study}/disturbed", f"work={work}") as process:
        until(lambda: list(work.glob("*/last.ckpt")), "the first epoch")
        (log,) = set(study.glob("runs/phantom/sweep_vae/*/.submitit/*/*_log.out")) - logs
        number = log.name.split("_")[0]
        interrupted(number, 1, ["scontrol", "requeue", number])
        interrupted(number, 2, ["srun", "--partition=urgent", "--nodes=2", "--exclusive", "sleep", "1"])
        interrupted(number, 3, ["scancel", "--signal=USR2", number])
        said, wrong = process.communicate(timeout=300)
    assert process.returncode == 0, said[-2000:] + wrong[-4000:]
    assert log.read_text().count("resumes from") == 3
    assert weights(study / "disturbed") == weights(study / "undisturbed")


def test_two_tasks_draw_what_one_process_draws(study: Path, cluster: dict[str, str]) -> None:
    run(study, cluster, *IMAGE, "n=7", f"dst={study}/one")
    run(study, cluster, *IMAGE, "n=7", *TWO_NODES, f"dst={study}/two")
    assert rows(study / "one") == rows(study / "two")
    assert len(rows(study / "one")) > 7


def test_a_sweep_is_an_array_of_jobs(study: Path, cluster: dict[str, str]) -> None:
    run(study, cluster, *IMAGE, "n=3", "seed=2", f"dst={study}/alone")
    run(study, cluster, *IMAGE, "n=3", "seed=1,2,3", "dst=swept_${seed}", *LAUNCHER)
    assert rows(study / "swept_2") == rows(study / "alone")
    assert len({(study / f"swept_{seed}/FileList.csv").read_bytes() for seed in (1, 2, 3)}) == 3
    jobs = [path.name for path in study.glob("runs/phantom/sweep_image/*/.submitit/*_[0-9]")]
    assert sorted(name.split("_")[1] for name in jobs) == ["0", "1", "2"]


def test_a_failed_run_of_a_sweep_and_a_refused_job_are_each_a_sentence(study: Path, cluster: dict[str, str]) -> None:
    with begin(study, cluster, *IMAGE, "n=2", "sampler=ddpm,nosuch", "dst=failing_${sampler}", *LAUNCHER) as process:
        _, wrong = process.communicate(timeout=200)
    assert process.returncode == 1
    assert wrong.splitlines()[-1].startswith("error: sampler=nosuch")
    assert (study / "failing_ddpm/dataset.json").is_file()
    with begin(study, cluster, *IMAGE, f"dst={study}/never", *LAUNCHER, "hydra.launcher.nodes=2") as process:
        _, wrong = process.communicate(timeout=200)
    assert process.returncode == 1
    assert wrong.splitlines()[-1].startswith("error: this SLURM job has 2 tasks and trainer= is for 1")
    with begin(study, cluster, *IMAGE, *LAUNCHER, "hydra.launcher.partition=nosuch") as process:
        _, wrong = process.communicate(timeout=60)
    assert process.returncode == 1
    assert wrong.splitlines()[-1].startswith("error: SLURM refused the job (sbatch: error: invalid partition")


def test_a_study_by_snakemake_ends_with_the_bytes_of_a_local_run(cluster: dict[str, str], tmp_path: Path) -> None:
    """The bytes are equal even if one job is canceled and one of the two nodes is drained."""
    environment = {**cluster, "PYTHONPATH": str(ROOT)}
    folders = {name: tmp_path / name for name in ("here", "there")}
    for folder in folders.values():
        shutil.copytree(ROOT / "launch", folder / "launch", ignore=shutil.ignore_patterns("__pycache__"))
        for program in ("train.py", "sample.py"):
            shutil.copy(ROOT / program, folder)
    command = [sys.executable, "launch/run.py", "smoke", "cores=1"]
    subprocess.run(command, cwd=folders["here"], env=environment, check=True, timeout=1800, capture_output=True)

    def asked(*words: str) -> str:
        return subprocess.run(words, env=cluster, capture_output=True, text=True, check=True).stdout

    def running(rule: str) -> str:
        """Number of the running job of ``rule``, or an empty string."""
        found = re.search(
            rf"^(\d+) rule_{rule}\b", asked("squeue", "--noheader", "--states=RUNNING", "-o", "%i %k"), re.M
        )
        return found[1] if found else ""

    there, pipe = [*command, "--profile", "slurm", *STATUS], subprocess.PIPE
    with subprocess.Popen(there, cwd=folders["there"], env=environment, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            until(lambda: running("vae"), "the autoencoder", 300)
            asked("scancel", running("vae"))
            until(lambda: running("lidm"), "the image model", 600)
            asked("scontrol", "update", "NodeName=n1", "State=DRAIN", "Reason=test")
            said, wrong = process.communicate(timeout=1800)
        finally:
            asked("scontrol", "update", "NodeName=n1", "State=RESUME")
            process.terminate()
    assert process.returncode == 0, said + wrong
    assert said.count("is started again") == 1
    assert "report: reports/smoke/index.html done" in said
    here, there_made = (content(folder) for folder in folders.values())
    assert sorted(here) == sorted(there_made)
    assert [name for name in here if here[name] != there_made[name]] == []
