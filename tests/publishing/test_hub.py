"""Upload to the Hugging Face hub and download from the hub, with a local stand-in server."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import echodream
from echodream.errors import UserError
from echodream.publishing.hub import upload
from tests.stages.test_publish import contents, run, study, whole  # noqa: F401 (fixtures)
from tests.support.hub_server import HubServer, use_hub
from tests.support.tiny_diffusion import artifact, model

pytestmark = pytest.mark.slow
TOKEN = "hf_secret"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A local stand-in server for the hub, used with the token HF_TOKEN."""
    server = HubServer(TOKEN)
    with server.running():
        use_hub(monkeypatch, server, str(tmp_path / "hub cache"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # no wait between retries
        yield server
    assert not server.errors, "\n".join(server.errors)


def test_the_repository_has_the_files_of_the_folder(study: Path, hub: HubServer) -> None:  # noqa: F811
    """Equal files, byte for byte. A second push removes files missing in the folder and sends no unchanged file."""
    summary = run(study, "push=lab/hearts")
    folder = study / "reports/phantom/hub/videos"
    repository = hub.repositories["datasets/lab/hearts"]
    assert repository.files == contents(folder)
    assert repository.is_private
    assert summary.facts["uploaded"] == f"{hub.url}/datasets/lab/hearts"
    sums = (folder / "store/SHA256SUMS").read_text().split()
    held = {path: hashlib.sha256(content).hexdigest() for path, content in repository.files.items()}
    assert all(held[f"store/{name}"] == digest for digest, name in zip(sums[::2], sums[1::2], strict=True))
    count = len(repository.commits)
    run(study, "push=lab/hearts")
    assert len(repository.commits) == count
    repository.files["old.csv"] = b"of an earlier version"
    run(study, "push=lab/hearts")
    assert repository.files == contents(folder)


def test_a_public_repository_is_not_filled_without_public(study: Path, hub: HubServer) -> None:  # noqa: F811
    run(study, "push=lab/hearts", "public=true")
    repository = hub.repositories["datasets/lab/hearts"]
    assert not repository.is_private
    count = len(repository.commits)
    with pytest.raises(UserError, match="push=lab/hearts exists and is public: give another name, or public=true"):
        run(study, "push=lab/hearts")
    assert len(repository.commits) == count


def test_a_pushed_generator_is_loaded_at_a_revision(
    study: Path,  # noqa: F811
    hub: HubServer,
    tmp_path: Path,
) -> None:
    """A pushed generator loads with equal bytes and samples; a later commit does not change an earlier revision."""
    run(study, "what=lidm", "push=lab/generator")
    folder = study / "reports/phantom/hub/lidm"
    repository = hub.repositories["models/lab/generator"]
    first = repository.references["v1"] = repository.references["main"]
    other = artifact(tmp_path / "other", model("lidm", seed=1), "lidm")
    upload(Path(str(other)), "lab/generator", "model", False)
    for revision in ("v1", first):
        loaded = echodream.load("hub:lab/generator", revision=revision)
        assert contents(loaded.folder) == contents(folder)
    samples, own = (echodream.load(source).sample(2, seed=3) for source in (loaded.folder, folder))
    assert (samples == own).all()
    newest = echodream.load("hub:lab/generator")
    assert contents(newest.folder) == contents(Path(str(other)))
    with pytest.raises(
        UserError, match=r"hub:lab/generator cannot be downloaded \(.*Revision Not Found.*\): check the"
    ):
        echodream.load("hub:lab/generator", revision="v2")
    with pytest.raises(
        UserError, match=r"hub:lab/nothing cannot be downloaded \(.*Repository Not Found.*\): check the"
    ):
        echodream.load("hub:lab/nothing")


@pytest.mark.parametrize(
    ("failing", "status"), [("repos/create", 403), ("preupload", 500), ("PUT /lfs", 403), ("/commit/", 500)]
)
def test_a_refused_upload_is_one_sentence_and_can_be_repeated(
    study: Path,  # noqa: F811
    hub: HubServer,
    failing: str,
    status: int,
) -> None:
    hub.failures[failing] = status
    with pytest.raises(UserError, match=r"^push=lab/hearts was not accepted by the hub \(.*\): ") as refused:
        run(study, "push=lab/hearts")
    folder = study / "reports/phantom/hub/videos"
    assert str(refused.value).endswith(f"{folder} is complete, run the same command again")
    assert "\n" not in str(refused.value)
    assert str(status) in str(refused.value)
    hub.failures.clear()
    run(study, "push=lab/hearts")
    assert hub.repositories["datasets/lab/hearts"].files == contents(folder)


def test_a_refused_token_is_one_sentence(
    study: Path,  # noqa: F811
    hub: HubServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    with pytest.raises(
        UserError, match=r"was not accepted by the hub \(.*401.*Invalid credentials.*\): check"
    ) as refused:
        run(study, "push=lab/hearts")
    assert "check that your token (HF_TOKEN) may write there; " in str(refused.value)
    assert "hf_expired" not in str(refused.value)
    assert not hub.repositories
    with pytest.raises(UserError, match=r"^hub:lab/hearts cannot be downloaded \(.*401.*\): check the name") as refused:
        echodream.load("hub:lab/hearts")
    assert "\n" not in str(refused.value)


def test_a_download_that_fails_is_one_sentence(study: Path, hub: HubServer) -> None:  # noqa: F811
    run(study, "what=lidm", "push=lab/generator")
    hub.failures["GET .*resolve.*safetensors"] = 500
    with pytest.raises(UserError, match=r"^hub:lab/generator cannot be downloaded \(.*500.*\): check the name"):
        echodream.load("hub:lab/generator")
    hub.failures.clear()
    assert contents(echodream.load("hub:lab/generator").folder) == contents(study / "reports/phantom/hub/lidm")


def test_the_programs_use_the_hub_of_the_environment(study: Path, hub: HubServer, tmp_path: Path) -> None:  # noqa: F811
    """In a separate process with HF_ENDPOINT: the push command, the error message, and the download."""
    names = ("data", "models", "samples", "runs", "reports")
    paths = [f"paths.{name}={study}/{name}" for name in names]
    command = [sys.executable, str(ROOT / "sample.py"), "stage=publish", "data=phantom", "license=mit", *paths]
    home = {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1"}
    environment = {**os.environ, **home, "PYTHONPATH": str(ROOT), "HF_TOKEN": TOKEN}
    done = subprocess.run(
        [*command, "what=lidm", "push=lab/generator"], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert f"{hub.url}/lab/generator" in done.stdout
    environment["HF_TOKEN"] = "hf_expired"
    refused = subprocess.run(
        [*command, "what=lidm", "push=lab/generator"], env=environment, capture_output=True, text=True, timeout=600
    )
    assert refused.returncode == 1
    assert "push=lab/generator was not accepted by the hub (" in refused.stderr
    assert "Traceback" not in refused.stderr
    code = "import echodream; print(echodream.load('hub:lab/generator', revision='main').folder)"
    environment["HF_TOKEN"] = TOKEN
    loaded = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=600)
    assert loaded.returncode == 0, loaded.stderr
    assert contents(Path(loaded.stdout.strip().splitlines()[-1])) == contents(study / "reports/phantom/hub/lidm")
