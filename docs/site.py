"""Hooks of MkDocs: pages of the repository outside of docs/, notebooks as pages, and links that hold on the site.

The pages have the links of the repository, so that they also work where the repository is read. On the site, a link to
a page leads to the page, and a link to any other file to a copy of the file.
"""

import json
import os
import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ADDED = {
    "README.md": "index.md",
    "docs/README.md": "contents.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "conf/README.md": "configuration.md",
    **{f"notebooks/{path.name}": f"notebooks/{path.stem}.md" for path in sorted(ROOT.glob("notebooks/*.ipynb"))},
}
"""Page of the site for files of the repository whose place is not that below docs/."""
LINK = re.compile(r"\]\(([^)\s#]+)((?:#[^)\s]*)?)\)")


def place(path: str) -> str:
    """Where the site has the file ``path`` of the repository."""
    return ADDED.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else f"files/{path}.txt")


def repository_path(uri: str) -> str:
    """The file of the repository that the page ``uri`` of the site shows."""
    return next((path for path, added in ADDED.items() if added == uri), f"docs/{uri}")


def linked(text: str, path: str) -> list[str]:
    """The files of the repository that relative links in ``text``, the text of ``path``, lead to."""
    links = [link for link, _ in LINK.findall(text) if not re.match("[a-z]+:", link)]
    return [posixpath.normpath(posixpath.join(posixpath.dirname(path), link)) for link in links]


def with_links_of_the_site(text: str, path: str) -> str:
    """``text``, the text of ``path``, with relative links between the places of the site."""

    def replace(match: re.Match[str]) -> str:
        if re.match("[a-z]+:", match[1]):
            return match[0]
        target = place(linked(match[0], path)[0])
        return f"]({posixpath.relpath(target, posixpath.dirname(place(path)) or '.')}{match[2]})"

    return LINK.sub(replace, text)


def page_text(path: str) -> str:
    """Markdown of the file ``path`` of the repository; a notebook becomes text and blocks of code."""
    text = (ROOT / path).read_text(encoding="utf-8")
    if not path.endswith(".ipynb"):
        return text
    cells = json.loads(text)["cells"]
    parts = ["".join(cell["source"]) for cell in cells]
    code = [cell["cell_type"] == "code" for cell in cells]
    title, *rest = [f"```python\n{part}\n```" if is_code else part for part, is_code in zip(parts, code, strict=True)]
    note = f"*This page shows the notebook `{path}` of the repository, without its outputs.*"
    heading, _, below = title.partition("\n")
    return "\n\n".join([heading, note, below, *rest]) + "\n"


def on_files(files: Any, config: Any) -> Any:
    """Add the pages outside of docs/, and copies of other files that pages link to."""
    from mkdocs.structure.files import File

    files.remove(files.get_file_from_path("README.md"))
    pages = {path: page_text(path) for path in ADDED}
    for path, text in pages.items():
        files.append(File.generated(config, ADDED[path], content=text))
    pages |= {repository_path(file.src_uri): file.content_string for file in files.documentation_pages()}
    others = {target for path, text in pages.items() for target in linked(text, path)}
    for path in sorted(others):
        if place(path).startswith("files/"):
            files.append(File.generated(config, place(path), abs_src_path=os.fspath(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Replace the links of the repository."""
    return with_links_of_the_site(markdown, repository_path(page.file.src_uri))
