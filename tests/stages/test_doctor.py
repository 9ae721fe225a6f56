"""Tests of ``stage=doctor``: formats listed as readable are readable, defects are reported, the small pipeline runs."""

import sys
import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from pydicom.data import get_testdata_file

from echodream import cli, engine
from echodream.config.paths import CONF_DIR
from echodream.errors import Rejected, UserError
from echodream.ingest.dicom_pixels import read_pixels
from echodream.ingest.source import Limits
from echodream.stages import doctor as module
from echodream.stages.doctor import EXTRAS, doctor

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    "uncompressed": "MR_small.dcm",
    "deflated": "image_dfl.dcm",
    "RLE": "MR_small_RLE.dcm",
    "JPEG": "SC_rgb_jpeg.dcm",
    "JPEG of 12 bits": "JPGExtended.dcm",
    "JPEG lossless": "SC_rgb_jpeg_gdcm.dcm",
    "JPEG-LS": "MR_small_jpeg_ls_lossless.dcm",
    "JPEG 2000": "MR_small_jp2klossless.dcm",
}
"""An example file shipped with pydicom for each group of transfer syntaxes."""


def report(tmp_path: Path, **folders: str) -> SimpleNamespace:
    """Run ``stage=doctor`` without its small pipeline (``round=False``); returns the facts and the problem found."""
    folders = folders or {"data": str(tmp_path / "data")}
    summary = doctor(round=False, folders=folders, command="", code_version="1")
    return SimpleNamespace(facts={name: str(text) for name, text in summary.facts.items()}, problem=summary.problem)


def test_this_machine_has_what_is_needed_on_one_screen(tmp_path: Path) -> None:
    found = report(tmp_path)
    assert found.problem is None
    assert "torch" in found.facts["packages"]
    assert "GiB free for data" in found.facts["disk"]
    lines = str(doctor(round=False, folders={"data": str(tmp_path)}, command="", code_version="1")).splitlines()
    assert len(lines) <= 40
    assert not (tmp_path / "data").exists()


def test_dicom_files_are_readable_as_stated(tmp_path: Path) -> None:
    readable, _, missing = report(tmp_path).facts["DICOM"].partition("\n")
    for group, name in FILES.items():
        path = get_testdata_file(name, download=False)
        if path is None:  # the installed pydicom does not include this file
            continue
        why = ""
        try:
            read_pixels(Path(path), Limits(min_frames=1))
        except Rejected as reason:
            why = str(reason)
        decodes = not why
        assert decodes or "no decoder" in why
        assert (f"{group} (" in readable) == decodes, group
        assert (group in missing.replace("no decoder for ", "").strip().split(", ")) != decodes, group


def test_video_codecs_are_readable_as_stated(tmp_path: Path) -> None:
    stated = report(tmp_path).facts["video"].splitlines()[0].partition(": ")[2].split(", ")
    for name, encoder in {"h264": "libx264", "mpeg4": "mpeg4", "mpeg2video": "mpeg2video", "ffv1": "ffv1"}.items():
        path = tmp_path / f"{name}.mkv"
        with av.open(str(path), "w") as container:
            stream = container.add_stream(encoder, rate=25)
            stream.width, stream.height, stream.pix_fmt = 32, 48, "yuv420p"
            for _ in range(3):
                frame = av.VideoFrame.from_ndarray(np.full((48, 32, 3), 90, np.uint8), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        with av.open(str(path)) as container:
            assert len(list(container.decode(video=0))) == 3
        assert name in stated


def test_every_extra_is_explained_and_a_missing_one_has_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(EXTRAS) == set(listed) - {"dev"}
    lines = ["torch>=2", *(f'{listed[extra][0]}; extra == "{extra}"' for extra in EXTRAS)]
    monkeypatch.setattr(module, "requires", lambda name: lines)
    monkeypatch.setattr(module, "version", lambda name: "9999")
    assert report(tmp_path).facts["extras"].count("present") == len(EXTRAS)

    def missing(name: str) -> str:
        if name == "torch":
            return "2.9"
        raise PackageNotFoundError(name)

    monkeypatch.setattr(module, "version", missing)
    text = report(tmp_path).facts["extras"]
    assert all(f"pip install 'echodream[{extra}]'" in text for extra in EXTRAS)


def test_a_package_out_of_range_and_one_that_cannot_be_imported_are_problems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module.version
    monkeypatch.setattr(module, "version", lambda name: "1.0" if name == "pydicom" else real(name))
    assert "pydicom 1.0 is installed, >=3.0 is needed" in str(report(tmp_path).problem)
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "nibabel", None)
    found = report(tmp_path)
    assert "nibabel cannot be imported" in str(found.problem)
    assert "PyAV" in found.facts["video"]


def test_no_decord_is_no_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "decord", None)
    found = report(tmp_path)
    assert found.problem is None
    assert "PyAV reads everything" in found.facts["video"]


def test_a_folder_that_cannot_be_written_and_a_full_disk_are_problems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "paths.data=" in str(report(tmp_path, data="/proc/data").problem)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: SimpleNamespace(free=1 << 20))
    assert "has 0.0 GiB free" in str(report(tmp_path).problem)


@pytest.mark.slow
def test_a_round_that_fails_names_the_command_and_its_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PIPELINE", (("sample", "stage=verify", "src=nowhere"),))
    summary = doctor(round=True, folders={"data": str(tmp_path)}, command="", code_version="1")
    assert "stage=verify of the small pipeline fails: error: nowhere does not exist" in str(summary.problem)


@pytest.mark.slow
def test_the_round_runs_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path))
    summary = doctor(round=True, folders={"data": str(tmp_path)}, command="", code_version="1")
    assert summary.problem is None
    steps = [step.rsplit(" ", 2)[0] for step in str(summary.facts["round"]).split(", ")]
    assert steps == ["stage=ingest", "model=vae", "stage=encode", "model=lidm", *(f"stage={name}" for name in (
        "image", "decode", "verify"))]  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_the_command_ends_with_a_sentence_and_status_1_if_something_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "nibabel", None)
    monkeypatch.setattr(sys, "argv", ["sample.py", "stage=doctor", "round=false"])
    with pytest.raises(SystemExit) as stopped:
        cli.sample()
    assert stopped.value.code == 1
    assert "error: the package nibabel cannot be imported" in capsys.readouterr().err


def test_a_wrong_key_is_refused() -> None:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose("sample", ["stage=doctor", "round=3"])
    with pytest.raises(UserError, match="round is 3: give true or false"):
        engine.sample(cfg)
