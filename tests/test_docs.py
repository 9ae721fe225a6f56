"""The documentation: every page is found from the index, every link leads somewhere, every command composes."""

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

from echodream.config.checks import refuse_impossible_pairs, refuse_unread_keys
from echodream.config.paths import CONF_DIR
from echodream.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
INDEX = DOCS / "README.md"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")
COMMAND = re.compile(r"python (train|sample)\.py\s+(.*)")
OPTIONS_WITH_VALUE = ("--config-dir", "--cfg")


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF_DIR / group).glob("*.yaml") if path.stem != "base")


def links(page: Path) -> list[str]:
    """The relative links of ``page``."""
    found = LINK.findall(page.read_text())
    return [link for link in found if not re.match(r"[a-z]+:", link)]


@cache
def reachable() -> frozenset[Path]:
    """The pages that the index leads to."""
    seen, waiting = set(), [INDEX]
    while waiting:
        page = waiting.pop()
        if page in seen or page.suffix != ".md" or not page.is_file():
            continue
        seen.add(page)
        waiting += [(page.parent / link.partition("#")[0]).resolve() for link in links(page) if link[0] != "#"]
    return frozenset(seen)


def anchors(page: Path) -> set[str]:
    """The anchors of the headings of ``page``, as GitHub writes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_index_leads_to_every_page() -> None:
    named = {(DOCS / link.partition("#")[0]).resolve() for link in links(INDEX)}
    outside = {INDEX, ROOT / "README.md", ROOT / "CONTRIBUTING.md"}
    assert [page.name for page in PAGES if page not in (named | outside)] == []
    assert INDEX in {(ROOT / link).resolve() for link in links(ROOT / "README.md")}


@pytest.mark.parametrize("group", ["stage", "model"])
def test_every_stage_and_model_is_documented(group: str) -> None:
    """A page says how it is called, and the index says which page that is."""
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
    """The program, and what follows it, of every line of code in ``text`` that begins with python."""
    whole = re.sub(r"\\\n\s*", " ", text)
    for line in whole.splitlines():
        code = [line.strip()] if line.startswith("    ") else re.findall(r"`(python [^`]+)`", line)
        for match in filter(None, map(COMMAND.match, code)):
            yield match[1], match[2]


def overrides(arguments: str) -> tuple[list[str], bool]:
    """The overrides in what follows a program, and whether a folder of one's own is given.

    Of what is swept, the first value is taken. ``<study>`` is the phantom, another placeholder the word in it.
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
    """The yaml files of one's own that the pages show, in their folder: each names itself in its first line."""
    folder = tmp_path_factory.mktemp("own")
    for page in PAGES:
        for name, body in re.findall(r"^    # mine/(\S+\.yaml)\n((?:    .*\n)+)", page.read_text(), re.MULTILINE):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(re.sub(r"^    ", "", body, flags=re.MULTILINE))
    (folder / "experiment").mkdir(exist_ok=True)
    (folder / "experiment/plan.yaml").write_text("# @package _global_\ndefaults: [demo]\n")  # written by stage=plan
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("program", ["train", "sample"])
def test_every_command_composes(program: str, own: Path) -> None:
    """With its overrides, none of which adds a key that nothing reads, and the choices go together.

    Commands that choose the same files are composed at once, and one by one where that fails, to know which it is.
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
    """Why the command's configuration does not compose, or which key of it nothing reads."""
    where = [] if own is None else [f"hydra.searchpath=[file://{own}]"]
    try:
        cfg = compose(program, [*given, *where], return_hydra_config=True)
        chosen = OmegaConf.to_container(cfg.hydra.runtime.choices)
        assert isinstance(chosen, dict)
        refuse_unread_keys(cfg, given)
        refuse_impossible_pairs(cfg, {str(group): choice for group, choice in chosen.items()})
    except (HydraException, UserError, ValueError) as error:
        return str(error)
    return None


PATH = re.compile(r"`((?:[\w.]+/)+[\w.]*|[\w]+\.py)`")


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_the_pages_for_contributors_name_files_that_exist(page: str) -> None:
    """Paths are relative to the root or to the package; ``age`` is an example."""
    text = (ROOT / page).read_text()
    paths = {path for path in PATH.findall(text) if "age." not in path}
    assert len(paths) > 20
    absent = [path for path in sorted(paths) if not any((base / path).exists() for base in (ROOT, ROOT / "echodream"))]
    assert absent == []
