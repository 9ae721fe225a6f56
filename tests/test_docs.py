"""The documentation: all pages are reachable, all links work, and all commands and code blocks are composed or run."""

import argparse
import importlib
import inspect
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from unittest import mock

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

from echodream.config.checks import refuse_incompatible_choices, refuse_unknown_keys
from echodream.config.paths import CONF_DIR
from echodream.errors import UserError
from tests.support.launching import pipeline

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
INDEX = DOCS / "README.md"
OUTSIDE = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "conf/README.md")]
PAGES = [*OUTSIDE, *sorted(DOCS.rglob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")
COMMAND = re.compile(r"(?:python (?=\w+\.py)|(?:\S+ )*?(?:\S+/)?echodream-)(train|sample)(?:\.py)?\s+(.*)")
INLINE = re.compile(r"`((?:[A-Z_]+=\S+ )*(?:python|make|pip) [^`]+)`")
OPTIONS_WITH_VALUE = ("--config-dir", "--cfg")


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF_DIR / group).glob("*.yaml") if path.stem != "base")


def links(page: Path) -> list[str]:
    """The relative links of ``page``."""
    found = LINK.findall(page.read_text())
    return [link for link in found if not re.match(r"[a-z]+:", link)]


@cache
def reachable() -> frozenset[Path]:
    """Pages that are reachable by links from the index."""
    seen, waiting = set(), [INDEX]
    while waiting:
        page = waiting.pop()
        if page in seen or page.suffix != ".md" or not page.is_file():
            continue
        seen.add(page)
        waiting += [(page.parent / link.partition("#")[0]).resolve() for link in links(page) if link[0] != "#"]
    return frozenset(seen)


def anchors(page: Path) -> set[str]:
    """Anchors of the headings of ``page``, in the form of GitHub."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_index_leads_to_every_page() -> None:
    named = {(DOCS / link.partition("#")[0]).resolve() for link in links(INDEX)}
    assert [page.name for page in PAGES if page not in {INDEX, *OUTSIDE, *named}] == []
    assert INDEX in {(ROOT / link).resolve() for link in links(ROOT / "README.md")}
    navigation = (ROOT / "mkdocs.yml").read_text()
    absent = [page for page in named if page.suffix == ".md" and page.is_relative_to(DOCS)]
    absent = [page for page in absent if f": {page.relative_to(DOCS)}\n" not in navigation]
    assert absent == [], "add a line to nav in mkdocs.yml"


@pytest.mark.parametrize("group", ["stage", "model"])
def test_every_stage_and_model_is_documented(group: str) -> None:
    """The index names a page for each stage and model; this page has the command."""
    rows = dict(re.findall(rf"^\| `{group}=(\w+)` \|.*\]\(([\w./-]+\.md)", INDEX.read_text(), re.MULTILINE))
    assert sorted(rows) == choices(group)
    for name, page in rows.items():
        assert re.search(rf"\b{group}=(\S+\s*\|\s*)*{name}\b", (DOCS / page).read_text()), f"{page}: {group}={name}"
        assert (DOCS / page).resolve() in reachable()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for link in links(page):
        target, _, anchor = link.partition("#")
        found = (page.parent / target).resolve() if target else page
        assert found.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(found), f"{page.name}: {link}"


def commands(text: str) -> Iterator[tuple[str, str]]:
    """Program and arguments of each line of code in ``text`` that starts with python."""
    whole = re.sub(r"\\\n\s*", " ", text)
    for line in whole.splitlines():
        code = [line.strip()] if line.startswith("    ") else INLINE.findall(line)
        for match in filter(None, map(COMMAND.match, code)):
            yield match[1], match[2]


def overrides(arguments: str) -> tuple[list[str], bool]:
    """Overrides in the arguments of a program, and whether the command has ``--config-dir``.

    Of a sweep, the first value is used. ``data=<study>`` becomes data=phantom; other placeholders lose their brackets.
    """
    plain = re.sub(r"<(\w+)[^<>]*>", r"\1", arguments.replace("data=<study>", "data=phantom"))
    words = shlex.split(plain, comments=True)
    own = "--config-dir" in words
    given = [word for word, before in zip(words, ["", *words], strict=False) if before not in OPTIONS_WITH_VALUE]
    given = [word for word in given if not word.startswith("-")]
    parsed = OverridesParser.create().parse_overrides(given)
    taken = [
        f"{one.input_line.partition('=')[0]}={next(one.sweep_string_iterator())}" if one.is_sweep_override() else line
        for one, line in zip(parsed, given, strict=True)
    ]
    return taken, own


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the user's yaml files that the pages show; the first line of each code block is the file name."""
    folder = tmp_path_factory.mktemp("own")
    for page in PAGES:
        for name, body in re.findall(r"^    # mine/(\S+\.yaml)\n((?:    .*\n)+)", page.read_text(), re.MULTILINE):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(re.sub(r"^    ", "", body, flags=re.MULTILINE))
    (folder / "experiment").mkdir(exist_ok=True)
    # this file would be written by stage=plan
    (folder / "experiment/plan.yaml").write_text("# @package _global_\ndefaults: [demo]\n")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("program", ["train", "sample"])
def test_every_command_composes(program: str, own: Path) -> None:
    """Each command composes: no unknown keys, and compatible choices of configuration files.

    Commands with equal choices are composed together; if this fails, one by one, to find the wrong command.
    """
    alike: dict[tuple[tuple[str, ...], bool], list[tuple[list[str], str]]] = {}
    for page in PAGES:
        for name, arguments in commands(page.read_text()):
            if name == program and not re.search(r"\b(model|stage)=<|\.\.\.", arguments.partition(" #")[0]):
                given, mine = overrides(arguments)
                chosen = tuple(sorted(one for one in given if (CONF_DIR / re.split("[=@]", one)[0]).is_dir()))
                alike.setdefault((chosen, mine), []).append((given, f"{page.name}: python {program}.py {arguments}"))
    assert len(alike) > 10
    wrong = []
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        for (_, mine), group in alike.items():
            keys = {one.partition("=")[0]: one for given, _ in group for one in given}
            if problem(program, list(keys.values()), own if mine else None):
                each = {where: problem(program, given, own if mine else None) for given, where in group}
                wrong += [f"{where}: {why}" for where, why in each.items() if why is not None]
    assert wrong == []


def problem(program: str, given: list[str], own: Path | None) -> str | None:
    """The reason why a configuration does not compose or has unknown keys; None if there is no problem."""
    where = [] if own is None else [f"hydra.searchpath=[file://{own}]"]
    try:
        cfg = compose(program, [*given, *where], return_hydra_config=True)
        chosen = OmegaConf.to_container(cfg.hydra.runtime.choices)
        assert isinstance(chosen, dict)
        refuse_unknown_keys(cfg, given)
        refuse_incompatible_choices(cfg, {str(group): choice for group, choice in chosen.items()})
    except (HydraException, UserError, ValueError) as error:
        return str(error)
    return None


PATH = re.compile(r"`((?:[\w.]+/)+[\w.]*|[\w]+\.py)`")


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_the_pages_for_contributors_name_files_that_exist(page: str) -> None:
    """Paths are relative to the repository or to the package; files named ``age`` are examples and need not exist."""
    text = (ROOT / page).read_text()
    paths = {path for path in PATH.findall(text) if "age." not in path}
    assert len(paths) > 20
    absent = [path for path in sorted(paths) if not any((base / path).exists() for base in (ROOT, ROOT / "echodream"))]
    assert absent == []


def results_of_the_readme() -> list[tuple[str, Path]]:
    """Each result in the table of the README, with the page of its link."""
    section = (ROOT / "README.md").read_text().split("## Results\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| [^|]+ \| ([^|]+) \| \[[^|]+\]\(([^)#]+)", section, re.MULTILINE)
    return [(result, ROOT / page) for result, page in rows]


def test_the_figures_of_the_readme_are_those_of_the_pages_that_it_links_to() -> None:
    results = results_of_the_readme()
    assert len(results) > 5
    for result, page in results:
        figures = re.findall(r"[\d.]*\d", result)
        assert figures, result
        text = page.read_text()
        absent = [figure for figure in figures if not re.search(rf"(?<![\d.]){re.escape(figure)}(?!\.?\d)", text)]
        assert absent == [], f"{result}: not in {page.name}"


def test_the_readme_is_a_screen_and_a_half() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 100


# --- code blocks ---

Block = tuple[Path, list[str]]
KINDS = {
    "yaml": re.compile(r"# mine/\S+\.yaml$"),
    "python": re.compile(r"(from|import) \w"),
    "settings": re.compile(r"'?[a-z0-9_.]+=\S+( [a-z0-9_.]+=\S+)*$"),
    "output": re.compile(r"(\w+: |tested on \d|VAL stage=|privacy {2}|\{\"|D\(null\))"),
}
"""Patterns of the first line of blocks without commands. "output" includes contents of files and equations."""
RUNNABLE = re.compile(
    r"(\S*bin/)?(apptainer|bash|done|export|for|grep|make|mlcroissant|pip|podman|pre-commit|python|snakemake|source"
    r"|echodream-(train|sample))$|launch/\w+\.sh$"
)


def blocks(page: Path) -> list[Block]:
    """Indented code blocks of ``page``; other tests run the fenced blocks, which are Python."""
    text = re.sub(r"^```python\n.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert "```" not in text, f"{page.name}: a fenced block that is not Python"
    found = re.findall(r"(?:^ {4}.*\n)+", text + "\n", re.MULTILINE)
    return [(page, [line[4:] for line in block.splitlines()]) for block in found]


def kind(block: Block) -> str:
    return next((name for name, pattern in KINDS.items() if pattern.match(block[1][0])), "shell")


BLOCKS = [block for page in PAGES for block in blocks(page)]


def shell_lines() -> Iterator[tuple[str, str]]:
    """Page and line of every shell command, in code blocks and in sentences."""
    for page, lines in (block for block in BLOCKS if kind(block) == "shell"):
        text = re.sub(r"<<'END'\n.*?^END$", "", "\n".join(lines), flags=re.MULTILINE | re.DOTALL)
        yield from ((page.name, line.strip()) for line in re.sub(r"\\\n\s*", " ", text).splitlines())
    for page in PAGES:
        prose = re.sub(r"^ {4}.*\n", "", page.read_text(), flags=re.MULTILINE)
        yield from ((page.name, line.replace("\\|", "|")) for line in INLINE.findall(prose))


def words(line: str, *program: str) -> list[str]:
    """Words of a command, without environment variables, comments and the part after a pipe.

    With ``program``: the words after this program; an empty list if the command runs another program.
    """
    found = shlex.split(line.partition(" | ")[0], comments=True)
    while found and re.match(r"[A-Z_]+=", found[0]):
        del found[0]
    found[:1] = [found[0].removeprefix(".venv/bin/")] if found else []
    return found[len(program) :] if found[: len(program)] == list(program) else []


def test_every_block_of_code_is_of_a_kind_that_is_checked() -> None:
    assert len(BLOCKS) > 50
    assert {kind(block) for block in BLOCKS} == {*KINDS, "shell"}
    first = {f"{page}: {line}": words(line)[:1] for page, line in shell_lines()}
    assert [line for line, found in first.items() if found and not RUNNABLE.match(found[0])] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks_for_the_shell_are_correct_shell(page: Path) -> None:
    texts = ["\n".join(lines) for where, lines in BLOCKS if where == page and kind((where, lines)) == "shell"]
    text = re.sub(r"<\w[^<>\n]*>", "word", "\n".join(texts).replace("<<'END'", "<< 'END'"))
    done = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_targets_of_make_exist() -> None:
    listed = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = {word for _, line in shell_lines() for word in words(line, "make") if "=" not in word}
    assert len(named) > 5
    assert named - set(listed) == set()


def test_extras_that_pip_installs_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    lists = [names for page in PAGES for names in re.findall(r"echodream\[([\w,-]+)\]", page.read_text())]
    assert len(lists) > 5
    assert {name for names in lists for name in names.split(",")} - set(extras) == set()


def test_files_of_the_repository_in_commands_exist() -> None:
    count = 0
    for page, line in shell_lines():
        for word in words(line):
            if word.startswith(("launch/", "tests/", "benchmarks/", "notebooks/", "docs/", "constraints.txt")):
                assert (ROOT / word).exists(), f"{page}: {line}"
                assert not word.endswith(".sh") or os.access(ROOT / word, os.X_OK), f"{page}: {word}"
                count += 1
    assert count > 30


def test_variables_of_the_environment_are_read() -> None:
    readers = [path for folder in ("tests", "launch", "echodream") for path in (ROOT / folder).rglob("*.py")]
    text = "\n".join(path.read_text() for path in readers if path != Path(__file__))
    names = {name for _, line in shell_lines() for name in re.findall(r"\b(ECHODREAM_\w+|JOBS)=", line)}
    assert len(names) > 3
    assert [name for name in names if f'"{name}"' not in text] == []


def test_studies_that_are_launched_have_steps(own: Path) -> None:
    commands = {line: words(line, "python", "launch/run.py") for _, line in shell_lines()}
    commands = {line: given for line, given in commands.items() if given}
    assert len(commands) > 3
    for line, (name, *keys) in commands.items():
        file = own / name.removeprefix("mine/") if name.startswith("mine/") else ROOT / f"launch/studies/{name}.yaml"
        given = dict(key.split("=", 1) for key in keys if re.match(r"\w+=", key))
        study = yaml.safe_load(file.read_text()) | {key: yaml.safe_load(value) for key, value in given.items()}
        pipeline.check_keys(study)
        assert len(pipeline.steps(study)) > 2, line


class Parsed(Exception):
    """Raised after the argument parser of a benchmark has accepted the arguments."""


@pytest.mark.slow
def test_benchmarks_accept_their_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    commands = [words(line, "python") for _, line in shell_lines()]
    commands = [given for given in commands if given and given[0].startswith("benchmarks/")]
    assert len(commands) > 15

    def parse_and_stop(parser: argparse.ArgumentParser, *_: object) -> None:
        unknown = parser.parse_known_args()[1]
        raise Parsed if not unknown else AssertionError(unknown)

    for file, *given in commands:
        module = importlib.import_module(Path(file).stem)
        if inspect.signature(module.main).parameters:
            inspect.signature(module.main).bind(*given)
            continue
        with (
            mock.patch.object(sys, "argv", [file, *given]),
            mock.patch.object(argparse.ArgumentParser, "parse_args", parse_and_stop),
            pytest.raises(Parsed),
        ):
            module.main()


@pytest.mark.slow
def test_own_yaml_files_of_the_pages_compose(own: Path) -> None:
    """Also files of pages without a command for these files; test_launch.py tests the yaml file of a study."""
    files = [path.relative_to(own) for path in sorted(own.rglob("*.yaml"))]
    assert {"data", "launcher"} <= {path.parts[0] for path in files}
    for path in files:
        group, choice = path.parts[0], f"{path.parts[0]}={path.stem}"
        command = ["stage=ingest", "raw=/raw"] if group == "data" else ["model=vae", "data=phantom"]
        if group in ("data", "launcher"):
            with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
                assert problem("sample" if group == "data" else "train", [*command, choice], own) is None, path


@pytest.mark.slow
def test_settings_of_the_pages_compose() -> None:
    """Each block of settings composes with a training or with the sweep of ``stage=compare``."""
    given = [overrides(" ".join(lines))[0] for page, lines in BLOCKS if kind((page, lines)) == "settings"]
    assert len(given) > 1
    for settings in given:
        with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
            training = problem("train", ["model=vae", "data=phantom", *settings], None)
            assert not training or not problem("sample", ["stage=compare", "data=phantom", *settings], None), training


@pytest.mark.slow
def test_python_for_the_shell_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run ``python -c`` and ``python - <<'END'``; if a package is not installed, check only the syntax."""
    from PIL import Image

    (tmp_path / "raw/images").mkdir(parents=True)
    (tmp_path / "raw/data.csv").write_text("image\n")
    Image.new("L", (32, 32), 200).save(tmp_path / "raw/images/one.png")
    monkeypatch.chdir(tmp_path)
    scripts = [text for _, line in shell_lines() for text in words(line, "python", "-c")[:1]]
    pages = "\n".join("\n".join(lines) for _, lines in BLOCKS)
    scripts += re.findall(r"^python - <<'END'\n(.*?)^END$", pages, re.MULTILINE | re.DOTALL)
    assert len(scripts) > 2
    for script in scripts:
        code = compile(script.replace("/path/to/chest_xray", "raw"), "docs", "exec")
        if "datasets" not in script:
            exec(code, {})  # noqa: S102
    assert Image.open("blurred/images/one.png").size == (32, 32)


def test_python_without_a_fence_is_python() -> None:
    texts = ["\n".join(lines) for page, lines in BLOCKS if kind((page, lines)) == "python"]
    assert len(texts) == 2
    for text in texts:
        compile(text, "docs", "exec")
