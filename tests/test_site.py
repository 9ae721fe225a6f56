"""The website: all pages are in the navigation, all links have a target, and the reference is complete.

``make docs`` builds the website; warnings of the build are errors.
"""

import importlib.util
import posixpath
import re
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import echodream

ROOT = Path(__file__).resolve().parent.parent


def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs/site.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


site = hooks()
PAGES = [*site.ADDED, *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").rglob("*.md")))]
LINK = re.compile(r"\]\(([^)#]+)")


def navigation(node: object) -> list[str]:
    """Pages in a part of ``nav``, in order."""
    if isinstance(node, str):
        return [node]
    parts = node.values() if isinstance(node, dict) else node if isinstance(node, list) else []
    return [page for part in parts for page in navigation(part)]


def test_every_page_is_in_the_navigation_once() -> None:
    nav = navigation(yaml.load((ROOT / "mkdocs.yml").read_text(), yaml.BaseLoader)["nav"])  # noqa: S506
    assert sorted(nav) == sorted({site.place(path) for path in PAGES})
    assert nav[0] == "index.md"


def test_two_files_do_not_have_one_place() -> None:
    places = [site.place(path) for path in dict.fromkeys(PAGES)]
    assert len(places) == len(set(places))
    assert all(site.repository_path(site.place(path)) == path for path in PAGES)


@pytest.mark.parametrize("path", dict.fromkeys(PAGES))
def test_links_lead_to_the_same_file_on_the_site(path: str) -> None:
    text = site.page_text(path)
    targets = [target for target in site.linked(text, path) if target]
    found = [link for link in LINK.findall(site.with_links_of_the_site(text, path)) if not re.match("[a-z]+:", link)]
    folder = posixpath.dirname(site.place(path))
    assert [posixpath.normpath(posixpath.join(folder, link)) for link in found] == [site.place(one) for one in targets]
    assert [target for target in targets if not (ROOT / target).is_file()] == []


def test_links_between_folders() -> None:
    text = "[a](../README.md) [b](../tests/test_cli.py) [c](audit.md#power) [d](#here) [e](https://example.org/a.md)"
    expected = (
        "[a](index.md) [b](files/tests/test_cli.py.txt) [c](audit.md#power) [d](#here) [e](https://example.org/a.md)"
    )
    assert site.with_links_of_the_site(text, "docs/privacy.md") == expected
    assert site.with_links_of_the_site("[a](../privacy.md)", "docs/results/demo.md") == "[a](../privacy.md)"
    assert site.with_links_of_the_site("![a](docs/images/b.png)", "README.md") == "![a](images/b.png)"
    notebook = "notebooks/first_look.ipynb"
    assert site.with_links_of_the_site("[a](your_own_videos.ipynb)", notebook) == "[a](your_own_videos.md)"
    assert site.with_links_of_the_site("[a](../docs/privacy.md)", notebook) == "[a](../privacy.md)"


def test_a_notebook_is_a_page_with_its_code() -> None:
    page = site.page_text("notebooks/first_look.ipynb")
    assert page.startswith("# First look")
    assert "`notebooks/first_look.ipynb`" in page
    assert page.count("```python\n") > 5
    assert "\n## 4. The privacy filter\n" in page


def test_the_reference_has_every_function_and_only_what_exists() -> None:
    named = re.findall(r"^::: (\S+)$", (ROOT / "docs/reference.md").read_text(), re.MULTILINE)
    assert {f"echodream.{name}" for name in echodream.__all__} <= set(named)
    for path in named:
        module, _, name = path.rpartition(".")
        assert getattr(import_module(module), name).__doc__, path
