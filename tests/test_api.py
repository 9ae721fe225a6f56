"""The Python interface: fast imports, the same results as the command line, and no change of Hydra's global state."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.version import VersionBase

import echodream
from echodream import cli
from echodream.errors import UserError
from echodream.store import StoreError
from tests.support.stores import make_latent_store, make_video_store, study
from tests.support.tiny_vae import moving_disc_store

ROOT = Path(__file__).resolve().parent.parent
SLOW_IMPORTS = ("torch", "hydra", "omegaconf", "pytorch_lightning", "diffusers", "monai", "scipy", "matplotlib")


def modules_after(code: str) -> list[str]:
    """Slow packages, numpy and pandas, if ``code`` imports them in a new process."""
    report = f"import sys\n{code}\nprint([m for m in {(*SLOW_IMPORTS, 'numpy', 'pandas')} if m in sys.modules])"
    output = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True).stdout
    return json.loads(output.splitlines()[-1].replace("'", '"'))


def test_the_import_loads_no_other_package() -> None:
    assert modules_after("import echodream; dir(echodream)") == []


def test_a_store_is_opened_and_shown_without_slow_packages(tmp_path: Path) -> None:
    make_video_store(tmp_path / "videos", study())
    code = (
        f"import echodream; s = echodream.open_store({str(tmp_path / 'videos')!r}); s.table, repr(s), s._repr_html_()"
    )
    assert modules_after(code) == ["numpy", "pandas"]


def test_every_name_of_the_module_is_an_object_of_the_interface() -> None:
    for name in echodream.__all__:
        assert getattr(echodream, name).__module__.startswith("echodream.")
    with pytest.raises(AttributeError, match="no attribute 'opn_store'"):
        echodream.opn_store  # noqa: B018


def test_a_store_in_a_notebook_plays_one_recording_of_each_class_first(tmp_path: Path) -> None:
    rows = study()
    for row, name in zip(rows, ("sick", "sick", "<well>", "sick", "sick", "sick", "other"), strict=True):
        row["class_name"] = name
    page = make_video_store(tmp_path / "videos", rows)._repr_html_()
    captions = [part.partition("<")[0] for part in page.split("<figcaption>")[1:]]
    assert captions == ["a1", "b1", "t1", "a2"]
    assert page.count("data:video/mp4;base64,") == 4
    assert "sick 5, &lt;well&gt; 1, other 1" in page
    assert "clear this output before you share the notebook" in page
    latents = make_latent_store(tmp_path / "latents", rows)
    assert "<video" not in latents._repr_html_()
    assert repr(latents) == (
        f"Store('{tmp_path}/latents'): 7 recordings of 6 patients, 69 latent frames of 7x5, 4 channels"
    )


def test_what_is_no_store_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        echodream.open_store(tmp_path / "nothing")


def verify_arguments(folder: Path) -> list[str]:
    return ["stage=verify", f"src={folder}", f"paths.runs={folder.parent}/runs"]


def global_state() -> dict[str, Any]:
    """Hydra's singletons and their contents, which a run could change."""
    kinds = (GlobalHydra, HydraConfig, VersionBase)
    return {kind.__name__: (kind.instance(), dict(vars(kind.instance()))) for kind in kinds}


def test_a_stage_returns_its_summary_and_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_video_store(tmp_path / "videos")
    monkeypatch.chdir(tmp_path)
    arguments = sys.argv.copy()
    with hydra.initialize_config_dir(str(tmp_path), version_base="1.2"):
        before = global_state()
        summary = echodream.run("sample", verify_arguments(tmp_path / "videos"))
        assert global_state() == before
    assert summary["title"].startswith("verify: ")
    assert summary["recordings"] == "7, 6 patients, 69 frames"
    assert Path.cwd() == tmp_path
    assert sys.argv == arguments
    assert sorted(path.name for path in tmp_path.iterdir()) == ["videos"]
    assert not GlobalHydra.instance().is_initialized()


@pytest.mark.parametrize(
    ("program", "arguments", "words"),
    [
        ("sampel", [], "choose one of train, sample"),
        ("sample", [], "stage= is needed: choose one of"),
        ("sample", "stage=verify", "give a list"),
        ("sample", ["stage=ingset"], "did you mean 'ingest'?"),
        ("sample", ["stage=ingest", "data=phantom", "sed=3"], "unknown key 'sed'; .*did you mean 'seed'?"),
        ("sample", ["stage=verify", "src=/nowhere"], "/nowhere does not exist"),
        ("sample", ["stage=verify", "src=/nowhere", "--cfg", "job"], "--cfg is an option of the command line only"),
        ("sample", ["stage=verify", "src=/nowhere", "--config-dir", "/no"], "--config-dir /no does not exist"),
        (
            "sample",
            ["stage=verify", "src=/nowhere", "launcher=local_jobs"],
            "launcher=local_jobs starts other processes",
        ),
        ("train", ["model=vae"], "data= is needed here"),
    ],
)
def test_a_mistake_is_the_error_of_the_command_line(program: Any, arguments: Any, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        echodream.run(program, arguments)
    assert "\n" not in str(caught.value)
    assert not GlobalHydra.instance().is_initialized()


def test_a_damaged_store_is_an_error_and_not_an_exit(tmp_path: Path) -> None:
    make_video_store(tmp_path / "videos")
    (tmp_path / "videos" / "Videos" / "a1.mkv").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"a1\.mkv"):
        echodream.run("sample", verify_arguments(tmp_path / "videos"))


@pytest.mark.slow
def test_a_run_equals_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training and encoding in this process write the same bytes as train.py and sample.py."""
    moving_disc_store(tmp_path / "data" / "blobs" / "videos")
    own = tmp_path / "mine" / "data" / "blobs.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("defaults: [videos]\nname: blobs\n")
    monkeypatch.chdir(tmp_path)
    tiny = ["vae.widths=[8,16]", "vae.layers=1", "vae.groups=4", "loss.lite0.weight=0", "datamodule.workers=0"]
    tiny += [
        "trainer.max_epochs=1",
        "trainer.limit_train_batches=2",
        "trainer.accelerator=cpu",
        "datamodule.batch_size=4",
    ]
    train = ["--config-dir", str(own.parent.parent), "model=vae", "data=blobs", *tiny]
    encode = [
        "--config-dir",
        str(own.parent.parent),
        "stage=encode",
        "data=blobs",
        "workers=0",
        "trainer.accelerator=cpu",
    ]
    metrics = echodream.run("train", train)
    summary = echodream.run("sample", encode)
    assert metrics["dst"] == "models/blobs/vae"
    assert metrics["psnr"] > 0
    assert {name: summary[name] for name in ("dst", "recordings", "frames")} == {
        "dst": "data/blobs/latents",
        "recordings": 7,
        "frames": 45,
    }
    repeated = echodream.run("sample", encode)
    assert repeated.pop("title").endswith("already complete, nothing to do")
    assert repeated == {name: value for name, value in summary.items() if name != "title"}
    made = {path.name: path.read_bytes() for path in Path("data/blobs/latents").rglob("*") if path.is_file()}
    Path("data/blobs/latents").rename("data/blobs/by_api")
    for program, arguments in (("train", [*train, "dst=models/blobs/vae2"]), ("sample", encode)):
        monkeypatch.setattr(sys, "argv", [f"{program}.py", *arguments])
        GlobalHydra.instance().clear()
        getattr(cli, program)()
    for path in Path("models/blobs/vae").glob("*.safetensors"):
        assert path.read_bytes() == Path("models/blobs/vae2", path.name).read_bytes()
    again = {path.name: path.read_bytes() for path in Path("data/blobs/latents").rglob("*") if path.is_file()}
    assert made.keys() == again.keys()
    assert [name for name in made if made[name] != again[name]] == []


@pytest.mark.slow
def test_the_code_blocks_of_the_page_run_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "python.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 4
    names: dict[str, Any] = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"docs/python.md, block {number}", "exec"), names)  # noqa: S102
    assert names["summary"]["patients"] == 12
    assert names["pixels"].shape == names["frames"].shape
    assert names["images"].shape == (4, 1, 4, 4, 4)
    assert names["result"].decision.passed
