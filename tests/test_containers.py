"""Containerfile and apptainer.def: the files that they copy, and a working program after their installation steps.

No container software is needed: the last test runs the steps in an empty environment, without the repository.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CONTAINERFILE = (ROOT / "Containerfile").read_text()
DEFINITION = (ROOT / "apptainer.def").read_text()


def copied() -> list[str]:
    """Files and folders that the Containerfile copies into the image."""
    return [name for line in re.findall(r"^COPY (.+)$", CONTAINERFILE, re.MULTILINE) for name in line.split()[:-1]]


def section(name: str) -> list[str]:
    """Lines of a section of apptainer.def, without comments."""
    body = re.split(r"^%", DEFINITION.split(f"\n%{name}\n")[1], flags=re.MULTILINE)[0]
    return [line.strip() for line in body.splitlines() if line.strip() and not line.strip().startswith("#")]


def steps() -> list[str]:
    """The RUN commands of Containerfile."""
    return re.findall(r"^RUN (.+)$", CONTAINERFILE, re.MULTILINE)


def test_both_definitions_have_the_same_base_files_steps_and_argument() -> None:
    assert re.findall(r"^ARG BASE=(.+)$", CONTAINERFILE, re.MULTILINE) == re.findall(r"^From: (.+)$", DEFINITION, re.M)
    pairs = [line.split() for line in section("files")]
    assert [source for source, _ in pairs] == copied()
    assert all(target == f"/opt/echodream/{source}" for source, target in pairs)
    assert "WORKDIR /opt/echodream" in CONTAINERFILE
    assert len(steps()) == 2
    assert section("post") == ["cd /opt/echodream", 'TORCH_INDEX="{{ TORCH_INDEX }}"', *steps()]
    assert section("arguments") == ['TORCH_INDEX=""']
    assert 'ARG TORCH_INDEX=""' in CONTAINERFILE


def test_only_the_program_is_in_the_build_context() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if not line.startswith("#")]
    assert rules[0] == "*"
    assert [rule[1:] for rule in rules if rule.startswith("!")] == copied()
    private = (line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines()[1:12])
    assert not set(private) & {name.split("/")[0] for name in copied()}
    assert all((ROOT / name).exists() for name in copied())


@pytest.mark.slow
@pytest.mark.skipif("ECHODREAM_CONTAINER" not in os.environ, reason="installs all packages: set ECHODREAM_CONTAINER=1")
def test_the_steps_give_a_program_that_runs_the_first_notebook(tmp_path: Path) -> None:
    """The installed program passes ``stage=doctor`` and runs notebooks/first_look.ipynb."""
    for name in copied():
        (tmp_path / "image" / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / "image" / name)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    bin = tmp_path / "env/bin"
    work = tmp_path / "work"
    work.mkdir()
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME")}
    environment = {**kept, "PATH": f"{bin}:{kept['PATH']}", "TORCH_INDEX": kept.get("TORCH_INDEX", "")}

    def run(command: str, folder: Path) -> str:
        done = subprocess.run(command, shell=True, cwd=folder, env=environment, text=True, capture_output=True)
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    for command in steps():
        run(command, tmp_path / "image")
    shutil.rmtree(tmp_path / "image")
    assert str(tmp_path / "env") in run("python -c 'import echodream; print(echodream.__file__)'", work)
    assert "everything that is needed works" in run("echodream-sample stage=doctor", work)
    run("python -m pip install nbclient ipykernel nbformat", work)
    shutil.copy(ROOT / "notebooks/first_look.ipynb", work)
    run("jupyter execute first_look.ipynb", work)
    assert list((work / "samples/smoke/videos/Videos").glob("*.mkv"))
