"""The command line: a one-line error for every mistake, before slow packages are imported."""

import json
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from echodream import cli, engine

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "pandas", "decord", "av", "pytorch_lightning", "diffusers", "monai", "matplotlib")

SAMPLE_ERRORS = [
    ([], "stage= is needed: choose one of", "ingest"),
    (["stage=ingset"], "stage=ingset is not known", "did you mean 'ingest'?"),
    (["stage=ingest"], "data= is needed here: choose one of", "cardiacnet"),
    (["stage=ingest", "data=phantm"], "data=phantm is not known", "did you mean 'phantom'?"),
    (["stage=ingest", "data=phantom", "sed=3"], "unknown key 'sed'", "did you mean 'seed'?"),
    (["stage=image", "data=phantom", "process.spacing=leading"], "unknown key 'process.spacing'", "write spacing="),
    (["stage=ingest", "data=phantom", "data.spilt.train=1"], "unknown key 'data.spilt.train'", "did you mean 'split'?"),
    (["stage=ingest", "data=phantom", "data.source.sed=1"], "unknown key 'data.source.sed'", "patients"),
    (["stage=ingest", "data=phantom", "~data.nothing"], "unknown key 'data.nothing'", "name"),
    (["stage=ingest", "data=phantom", "+extra=1"], "'+extra=1' adds an unknown key", "remove it"),
    (["stage=ingest", "data=phantom", "+data.extra=1"], "'+data.extra=1' adds an unknown key", "remove it"),
    (["stage=ingest", "data=phantom", "+data.source.pateints=1"], "pateints", "did you mean 'patients'?"),
    (["stage=ingest", "data=phantom", "data.size=[3"], "the override 'data.size=[3' cannot be read", "key=value"),
    (["stage=ingest", "data=phantom", "data.crop=round"], "data.crop is 'round'", "none, sector"),
    (["stage=ingest", "data=phantom", "data.split.train=0.9"], "data.split", "add up to 1"),
    (["stage=ingest", "data=phantom", "data.source.patients=0"], "patients", "1 to 100000"),
    (["stage=ingest", "data=cardiacnet", "raw=/nowhere"], "/nowhere", ""),
    (["stage=ingest", "data=cardiacnet"], "raw", ""),
    (["stage=verify", "src=/nowhere"], "/nowhere does not exist", "check src="),
    (["stage=export", "src=/nowhere"], "/nowhere does not exist", "check src="),
    (["stage=verify", "--nothing", "src=x"], "--nothing is not an option", "--multirun"),
    (["stage=encode", "data=phantom", "src=/nowhere"], "/nowhere does not exist", "check src="),
    (["stage=ingest", "data=videos", "data.source.columns={PatientID: p}"], "+data.source.columns.<name>=<value>", ""),
    (
        ["stage=ingest", "data=cardiacnet", "raw=.", "+data.source.rotat=90"],
        "unknown key 'data.source.rotat'; data.source has fps, rotate, flip, table",
        "did you mean 'rotate'?",
    ),
    (["stage=phantom", "data=phantom", "+stage.worker=1"], "unknown key 'stage.worker'; stage has", "layout"),
    (["stage=report", "data=phantom", "+stage.look.secnds=3"], "unknown key 'stage.look.secnds'", "seconds, seed"),
    (["stage=report", "data=phantom", "+stage.look={secnds: 3}"], "unknown key 'stage.look.secnds'", "seconds, seed"),
    (["stage=report", "data=phantom", "stage.look.seconds=3"], "'stage.look.seconds': write look.seconds=", ""),
    (["stage=phantom", "data=phantom", "+data.source.raw=3"], "unknown key 'data.source.raw'; data.source has", "size"),
    (["stage=phantom", "data=cardiacnet"], "use data=phantom", ""),
    (["stage=phantom", "data=phantom", "layout=round"], "layout is 'round': choose one of", "cardiacnet"),
    (["stage=image", "data=phantom", "labels=null"], "labels=null is not possible", "give it a value, or leave it out"),
    (["stage=image", "data=phantom", "artifact=null"], "artifact=null is not possible", "give it a value"),
    (["stage=video", "data=phantom", "src=null"], "src=null is not possible", "give it a value"),
    (["stage=decode", "data=phantom", "dst=null"], "dst=null is not possible", "give it a value"),
    (["stage=image", "data=phantom", "guidance=null"], "guidance=null is not possible: choose one of", "default"),
    (["stage=image", "data=phantom", "trainer=null"], "trainer=null is not possible: choose one of", "predict"),
    (["stage=image", "data=null"], "data=null is not possible: choose one of", "phantom"),
]
TRAIN_ERRORS = [
    ([], "model= is needed: choose one of", "vae"),
    (["model=vea"], "model=vea is not known", "did you mean 'vae'?"),
    (["model=vae", "data=phantom"], "does not exist", "check src="),
    (["model=vae", "data=phantom", "view=pairs"], "model=vae cannot be combined with view=pairs", "frames"),
    (["model=vae", "data=phantom", "distill=consistency"], "model=vae cannot be distilled", "model=lvdm"),
    (["model=vae", "data=phantom", "trainer.epochs=3"], "unknown key 'trainer.epochs'", "max_epochs"),
    (["model=lidm", "data=phantom", "process=null"], "process=null is not possible: choose one of", "ddpm, flow"),
    (["model=lidm", "data=phantom", "conditioning=null"], "conditioning=null is not possible", "or [] for none"),
    (["model=lidm", "data=phantom", "denoiser=null"], "denoiser=null is not possible", "tiny"),
    (["model=lidm", "data=phantom", "src=null"], "src=null is not possible", "give it a value, or leave it out"),
    (["model=vae", "data=phantom", "callbacks.checkpoint=null"], "callbacks.checkpoint=null is not possible", ""),
    (
        ["model=lidm", "data=phantom", "conditioning=[class_id,published]"],
        "conditioning=class_id and conditioning=published both set class_id",
        "leave one of them out",
    ),
    (
        ["model=lvdm", "data=phantom", "conditioning=[published_reference,class_id,reference]"],
        "conditioning=published_reference and conditioning=reference both set reference",
        "leave one of them out",
    ),
    (["model=vae", "data=phantom", "logger=[csv,tensorbord]"], "logger=tensorbord is not known", "tensorboard"),
]


MISTAKES = [("sample", *case) for case in SAMPLE_ERRORS] + [("train", *case) for case in TRAIN_ERRORS]


@pytest.mark.slow
@pytest.mark.parametrize(("program", "arguments", "says", "offers"), MISTAKES)
def test_a_mistake_is_answered_in_one_sentence(
    program: str,
    arguments: list[str],
    says: str,
    offers: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["program.py", *arguments])
    GlobalHydra.instance().clear()
    with pytest.raises(SystemExit) as stopped:
        getattr(cli, program)()
    assert stopped.value.code == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert says in line
    assert offers in line


@pytest.mark.parametrize("program", ["train.py", "sample.py"])
def test_help_lists_the_choices(program: str, tmp_path: Path) -> None:
    said = subprocess.run(
        [sys.executable, ROOT / program, "--help"], capture_output=True, text=True, cwd=tmp_path, check=True
    ).stdout
    assert "cardiacnet" in said
    assert ("ingest" if program == "sample.py" else "vae") in said
    assert not list(tmp_path.iterdir())


def test_help_for_a_stage_shows_its_settings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["sample.py", "stage=ingest", "--help"])
    with pytest.raises(SystemExit) as stopped:
        cli.sample()
    assert stopped.value.code == 0
    assert "max_rejected: 0.05" in capsys.readouterr().out


def test_mistakes_are_answered_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    code = f"""
import sys
from echodream.cli import sample
sys.argv = ["sample.py", "stage=ingest", "data=phantom", "sed=1"]
try:
    sample()
except SystemExit as stopped:
    print(stopped.code, *[name for name in {HEAVY!r} if name in sys.modules])
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert said.stdout.split() == ["1"], said.stderr


def test_options_may_stand_anywhere(tmp_path: Path) -> None:
    arguments = ["stage=verify", "--cfg", "job", "src=here"]
    said = subprocess.run(
        [sys.executable, ROOT / "sample.py", *arguments], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert "src: here" in said.stdout


def test_the_recorded_command_does_not_say_where_raw_files_and_keys_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    typed = ["stage=ingest", "data=dicom", "raw=/ward/DOE_JANE", "data.source.key_file=/home/doe/k.key", "seed=1"]
    monkeypatch.setattr(engine, "task_overrides", lambda: typed)
    said = engine.redacted_command("sample.py")
    assert said == "python sample.py stage=ingest data=dicom raw=... data.source.key_file=... seed=1"


def test_a_defect_of_the_program_is_not_dressed_up_as_advice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sample.py", "stage=verify", "src=x"])
    monkeypatch.setattr("echodream.engine.refuse_unknown_keys", lambda *_: 1 / 0)
    GlobalHydra.instance().clear()
    with pytest.raises(ZeroDivisionError):
        cli.sample()


@pytest.mark.slow
def test_a_sweep_runs_once_for_each_value(tmp_path: Path) -> None:
    sizes = "data.size=32,48"
    arguments = [
        "-m",
        "stage=ingest",
        "data=phantom",
        "data.source.patients=4",
        sizes,
        "workers=0",
        "dst=s${data.size}",
    ]
    done = subprocess.run(
        [sys.executable, ROOT / "sample.py", *arguments], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "s32" / "dataset.json").is_file()
    assert (tmp_path / "s48" / "dataset.json").is_file()


@pytest.mark.slow
def test_wheel_and_sdist_hold_the_configuration_and_nobody_s_data(tmp_path: Path) -> None:
    copy = tmp_path / "checkout"
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True
    )
    for name in listed.stdout.splitlines() if listed.returncode == 0 else []:
        source = ROOT / name
        if source.is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes(source.read_bytes())
    for folder in ("data", "models", "samples", "runs", "reports", "raw"):
        (copy / folder / "study").mkdir(parents=True)
        (copy / folder / "study" / "patient.mkv").write_bytes(b"private")
    built = [sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path / "dist", copy]
    subprocess.run(built, check=True, capture_output=True)
    wheel = next((tmp_path / "dist").glob("*.whl"))
    names = zipfile.ZipFile(wheel).namelist()
    assert "echodream/conf/stage/ingest.yaml" in names
    sdist = next((tmp_path / "dist").glob("*.tar.gz"))
    with tarfile.open(sdist) as archive:
        both = names + archive.getnames()
    assert not [name for name in both if "patient" in Path(name).name and name.endswith(".mkv")]
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    said = subprocess.run(
        [sys.executable, "-c", "from echodream.cli import sample; sample()", "stage=nothing"],
        capture_output=True,
        text=True,
        cwd=tmp_path / "dist",
        env={"PYTHONPATH": str(tmp_path / "installed"), "PATH": "/usr/bin:/bin"},
        check=False,
    )
    assert "stage=nothing is not known: choose one of" in said.stderr


@pytest.mark.slow
def test_an_impossible_sampler_is_refused_before_networks_are_loaded(tmp_path: Path) -> None:
    """The artifact has no weights; the error comes before any package is imported that loads weights."""
    (tmp_path / "lidm").mkdir()
    process = {"name": "flow", "times": "uniform", "shift": 1.0}
    (tmp_path / "lidm" / "diffusion.json").write_text(json.dumps({"process": process}))
    code = "import sys; from echodream.cli import sample; sample()"
    arguments = ["stage=image", "data=phantom", f"artifact={tmp_path}/lidm", f"dst={tmp_path}/images", "sampler=ddim"]
    said = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code, *arguments], capture_output=True, text=True, cwd=tmp_path
    )
    lines = said.stderr.splitlines()
    assert said.returncode == 1
    assert lines[-1] == "error: sampler=ddim cannot be combined with process=flow: choose one of unipc, euler, heun"
    assert not any(line.endswith((" pytorch_lightning", " echodream.diffusion.model")) for line in lines)
    assert not (tmp_path / "images").exists()
