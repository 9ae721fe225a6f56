"""Weights & Biases online, with a local test server: the data that the server receives, and errors of refused runs."""

import csv
import getpass
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb

from echodream import engine
from echodream.artifact import read_artifact
from echodream.callbacks import wandb_logger
from echodream.callbacks.wandb_logger import PrivateWandbLogger
from echodream.errors import UserError
from echodream.store.checksums import file_sha256
from echodream.training.wandb_lineage import log_artifact, run_id
from tests.callbacks.test_wandb_logger import WORDS, cfg_of, figures_of
from tests.support import tiny_report
from tests.support.tiny_vae import moving_disc_store, tiny_autoencoder, write_vae_artifact
from tests.support.wandb_records import offline_runs
from tests.support.wandb_server import WandbServer, digest_of

pytestmark = pytest.mark.slow
KEY = "k" * 40


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """Local replacement for the server of Weights & Biases, with the API key of the user."""
    for name in (*WORDS, "WANDB_ERROR_REPORTING"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home of DOE_JANE"))
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    server = WandbServer(KEY)
    wandb.teardown()  # the W&B service of an earlier test is connected to another server
    with server.running():
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        yield server
        wandb.teardown()
    assert not server.errors, "\n".join(server.errors)


def logged_in_csv(folder: Path, name: str) -> list[float]:
    with (folder / "logs" / "csv" / "metrics.csv").open() as lines:
        return [float(row[name]) for row in csv.DictReader(lines) if row.get(name)]


def no_private_words(server: WandbServer, *words: str) -> None:
    """Fail if a request has one of ``words``, the name of the machine or the user, or the path of a folder."""
    private = (*words, socket.gethostname(), getpass.getuser(), str(Path.cwd()), "DOE_JANE", sys.prefix)
    for request in server.requests:
        text = request.path + request.body.decode("utf-8", "replace")
        found = [word for word in private if len(word) > 3 and word in text]
        assert not found, (request.path, found)


def test_a_training_arrives_and_continues_its_run(tmp_path: Path, server: WandbServer) -> None:
    moving_disc_store(tmp_path / "videos")
    engine.train(cfg_of(tmp_path, "~logger.tensorboard"))
    artifact = read_artifact(tmp_path / "vae", "vae")
    (run,) = server.runs.values()
    assert run.name == run_id(tmp_path / "runs" / artifact.settings[:12], artifact.settings)
    assert run.project == "echodream"
    assert run.exit_code == 0
    assert run.values("train/loss") == pytest.approx(logged_in_csv(tmp_path, "train/loss"), rel=1e-6)
    assert len(run.values("train/loss")) == 4
    assert run.values("test/psnr") == [pytest.approx(artifact.metrics["psnr"], abs=1e-5)]
    assert run.summary["test/psnr"] == pytest.approx(artifact.metrics["psnr"], abs=1e-5)
    assert run.config["vae"]["widths"] == [8, 16]
    store, model = (
        f"store-{file_sha256(tmp_path / 'videos' / 'SHA256SUMS')[:12]}",
        f"vae-{artifact.fingerprint[:12]}",
    )
    assert (run.inputs, run.outputs) == ([store], [model])
    records = {record["name"]: record for record in server.artifacts.values()}
    assert {record["state"] for record in records.values()} == {"COMMITTED"}
    assert json.loads(records[model]["metadata"])["fingerprint"] == artifact.fingerprint
    manifest = json.loads(records[model]["files"]["wandb_manifest.json"])
    assert manifest["contents"].keys() == {"fingerprint"}  # no weights or other files of the model

    shutil.rmtree(tmp_path / "vae")
    engine.train(cfg_of(tmp_path, "~logger.tensorboard"))
    assert list(server.runs) == [run.name]
    # the second training continues the run after its last epoch
    assert (len(run.values("train/loss")), len(run.values("test/psnr"))) == (4, 2)
    assert run.inputs == [store, store]
    wandb.teardown()  # sends the remaining data
    no_private_words(server, str(tmp_path))
    text = "\n".join(request.body.decode("utf-8", "replace") for request in server.requests)
    assert not re.search(r"\b[pr]\d\b", text)  # patients are named p0, p1, ...; recordings r0, r1, ...
    assert not [request.path for request in server.requests if "otel" in request.path]


def test_upload_sends_the_files_of_the_model(tmp_path: Path, server: WandbServer) -> None:
    folder = write_vae_artifact(tmp_path / "vae", tiny_autoencoder())
    logger = PrivateWandbLogger(str(tmp_path), "p", "n", id="mine", upload=True)
    log_artifact([logger], folder)
    assert wandb_logger.finish_run() is None
    assert logger.first_error is None
    (model,) = server.artifacts.values()
    manifest = json.loads(model["files"].pop("wandb_manifest.json"))["contents"]
    assert model["files"] == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {name: manifest[name]["digest"] for name in model["files"]} == {
        path.name: digest_of(path.read_bytes()) for path in folder.iterdir()
    }
    no_private_words(server, str(folder), str(tmp_path))


def test_an_offline_run_can_be_sent_later(tmp_path: Path, server: WandbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = PrivateWandbLogger(str(tmp_path), "p", "n", id="later", offline=True)
    logger.set_run("other", {"seed": 3})
    logger.log_input("store-12", "dataset", {"fingerprint": "12"})
    for step in range(3):
        logger.log_metrics({"train/loss": step / 4}, step)
    wandb_logger.finish_run()
    assert not server.requests
    (written,) = offline_runs(tmp_path)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    command = [sys.executable, "-m", "wandb", "sync", str(written.path.parent)]
    subprocess.run(command, cwd=tmp_path, env=dict(os.environ), check=True, capture_output=True, timeout=300)
    (run,) = server.runs.values()
    assert (run.name, run.config["seed"], run.inputs) == ("later", 3, ["store-12"])
    assert run.values("train/loss") == written.values("train/loss") == [0, 0.25, 0.5]


@pytest.mark.parametrize(("status", "where"), [(401, "graphql"), (403, "UpsertBucket"), (500, "UpsertBucket")])
def test_a_run_that_is_refused_is_kept_offline(
    tmp_path: Path,
    server: WandbServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    status: int,
    where: str,
) -> None:
    monkeypatch.setattr(wandb_logger, "SERVER_TIMEOUT", 5.0)
    server.failures[where] = status
    logger = PrivateWandbLogger(str(tmp_path), "p", "n", id="refused")
    with caplog.at_level("INFO"):
        logger.log_metrics({"train/loss": 2.0}, 1)
    wandb_logger.finish_run()
    refused, kept = (line.message for line in caplog.records if line.name == "echodream.callbacks.wandb_logger")

    assert refused.startswith("wandb: the run cannot begin (")
    assert refused.endswith("so this run is kept offline")
    assert "wandb sync" in kept
    (run,) = offline_runs(tmp_path)
    assert run.values("train/loss") == [2.0]


@pytest.mark.parametrize(("status", "where"), [(403, "file_stream"), (500, "file_stream"), (403, "CreateArtifact")])
def test_track_says_that_results_were_refused(
    tmp_path: Path, server: WandbServer, monkeypatch: pytest.MonkeyPatch, status: int, where: str
) -> None:
    tiny_report.study(tmp_path)
    monkeypatch.setattr(wandb_logger, "UPLOAD_TIMEOUT", 5.0)
    server.failures[where] = status
    with pytest.raises(UserError) as refused:
        figures_of(tmp_path)

    assert str(refused.value).startswith("W&B did not accept all results of phantom (")
    assert "\n" not in str(refused.value)
    server.failures.clear()
    summary: Any = figures_of(tmp_path)
    assert "done, online" in summary
    (run,) = server.runs.values()
    assert run.values("filter_video/kept")[-1] == 6
    assert len(set(run.inputs)) == 4  # three stores and the autoencoder
