"""The notebooks are stored without outputs, have valid links, and run in an empty folder."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
EXPECTED = {
    "first_look": ["passes with probability at most", "video/mp4", "synthetic patients"],
    "your_own_videos": ["alpha", "40 patients", "class_name", "video/mp4", "'dst': 'models/clinic/vae'"],
    "is_my_generator_safe": [
        "60 images",
        "15 of 15 copies rejected",
        "it is not known which generator made them",
        "Guarantee holds; the generator is unknown",
    ],
}
"""Texts that the outputs of each notebook must contain."""


def cells(path: Path, kind: str) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


def test_every_notebook_has_a_test_and_a_link() -> None:
    assert sorted(EXPECTED) == [path.stem for path in NOTEBOOKS]
    for page in ("README.md", "docs/README.md", "docs/python.md"):
        for path in NOTEBOOKS:
            assert f"notebooks/{path.name}" in (ROOT / page).read_text(), f"{page}: {path.name}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stored_without_outputs_and_begin_with_a_title(path: Path) -> None:
    code, texts = cells(path, "code"), cells(path, "markdown")
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)
    assert json.loads(path.read_text())["cells"][0] == texts[0]
    assert texts[0]["source"][0].startswith("# ")
    for cell in texts:
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", "".join(cell["source"])):
            assert (path.parent / link).exists(), link


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs in an empty working directory, with the settings stored in the notebook."""
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    work = tmp_path / "work"
    work.mkdir()
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=3600, kernel_name="python3", resources={"metadata": {"path": str(work)}})
    client.execute()
    outputs = [json.dumps(output) for cell in notebook.cells for output in cell.get("outputs", [])]
    for text in EXPECTED[path.stem]:
        assert any(json.dumps(text)[1:-1] in output for output in outputs), text
    assert [output for output in outputs if "Warning" in output] == []
