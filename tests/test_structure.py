"""Structure of the project: every yaml file composes, every ``_target_`` can be imported, no import goes backward."""

import ast
import importlib
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from benchmarks.architecture_figure import architecture_svg, layers
from echodream.config.paths import CONF_DIR
from echodream.runs.instantiate_stage import stage_call

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "echodream"

LAYERS = layers((ROOT / "docs/architecture.md").read_text())[::-1]
"""Layers of packages: a package may import packages on earlier lines and on its own line."""
MOST_LINES = 41_020
"""Maximum number of lines of Python in the package."""
MODELS = {
    "process": "lidm",
    "distill": "lidm",
    "conditioning": "lidm",
    "backbone": "classifier",
    "task": "classifier",
    "embedder": "reid",
    "head": "reid",
    "copy_transforms": "reid",
}
"""Group of conf/ -> model used to compose the group; other groups are composed with model=vae."""
SECTIONS = ("experiment/train", "experiment/sample")
"""Groups of conf/ whose files have a section for each model or stage."""


def configurations() -> list[str]:
    """Names of all configuration files as in Hydra; for files with sections, the names of the sections."""
    found = []
    for path in sorted(CONF_DIR.rglob("*.yaml")):
        name = path.relative_to(CONF_DIR).as_posix().removesuffix(".yaml")
        found += [f"{name}_{section}" for section in OmegaConf.load(path)] if name.startswith(SECTIONS) else [name]
    return found


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF_DIR / group).glob("*.yaml") if path.stem != "base")


def composed(config: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose(config, list(overrides))


def overrides_for(path: str) -> tuple[str, list[str]]:
    """Program and overrides that use ``path``, a configuration file (without .yaml) or a section of a file."""
    group, _, name = path.rpartition("/")
    if not group:
        return name, ["stage=verify"] if name == "sample" else ["model=vae", "data=phantom"]
    if group == "data":
        return "sample", ["stage=ingest", f"data={'phantom' if name == 'base' else name}"]
    if group == "stage":
        return "sample", [f"stage={name}", "data=phantom"]
    if group == "paths" or (group, name) == ("trainer", "predict") or group.startswith("hydra"):
        return "sample", ["stage=encode", "data=phantom"]
    if group in ("rule", "controls"):
        return "sample", ["stage=filter", "data=phantom", f"{group}={name}"]
    if group == "transforms":
        return "sample", ["stage=filter", "data=phantom", "controls=ranges"]
    if group == "page":
        return "sample", ["stage=report", "data=phantom"]
    if group == "guidance":
        return "sample", ["stage=image", "data=phantom"]
    if group == "model":
        return "train", [f"model={'lidm' if name == 'base' else name}", "data=phantom"]
    if group == "experiment/train":
        experiment, _, trained = name.rpartition("_")
        return "train", [f"model={trained}", "data=phantom", f"experiment={experiment}"]
    if group == "experiment/sample":
        experiment, _, stage = name.rpartition("_")
        return "sample", [f"stage={stage}", "data=phantom", f"experiment={experiment}"]
    if group in MODELS:
        choice = f"[{name}]" if group == "conditioning" else name
        trained = "lvdm" if name.endswith("reference") else MODELS[group]
        return "train", [f"model={trained}", "data=phantom", f"{group}={choice}"]
    if group.startswith("denoiser"):
        choice = f"{group}/{name}".removeprefix("denoiser/")
        return "train", [f"model={'lvdm' if 'video' in group else 'lidm'}", "data=phantom", f"denoiser={choice}"]
    return "train", ["model=vae", "data=phantom", f"{group}={name}"]


@pytest.mark.slow
@pytest.mark.parametrize("path", configurations())
def test_every_yaml_composes_and_every_target_imports(path: str) -> None:
    config, overrides = overrides_for(path)
    cfg = composed(config, *overrides)
    found = list(targets(OmegaConf.to_container(cfg, resolve=False)))
    assert found or config == "sample"
    if path.startswith("stage/"):
        call = stage_call(cfg)
        assert Path(call.arguments.get("dst", "no dst")) not in call.inputs(), "a stage would check its own output"
    file = CONF_DIR / f"{path.rpartition('_')[0] if path.startswith(SECTIONS) else path}.yaml"
    for target in [*found, *targets(OmegaConf.to_container(OmegaConf.load(file)))]:
        module, _, name = target.rpartition(".")
        assert callable(getattr(importlib.import_module(module), name)), target


def targets(node: object) -> list[str]:
    if isinstance(node, dict):
        own = [node["_target_"]] if "_target_" in node else []
        return own + [target for value in node.values() for target in targets(value)]
    return [target for value in node for target in targets(value)] if isinstance(node, list) else []


def layer_of(module: str) -> int | None:
    top = module.split(".")[1] if "." in module else ""
    return next((depth for depth, names in enumerate(LAYERS) if top in names), None)


def test_imports_run_one_way() -> None:
    problems = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if path == PACKAGE / "__init__.py":
            continue
        own = layer_of("echodream." + path.relative_to(PACKAGE).parts[0].removesuffix(".py"))
        assert own is not None, f"{path} belongs to no layer: give it one in the table of docs/architecture.md"
        above = [module for module in imported(path) if (layer_of(module) or 0) > own]
        problems += [f"{path.relative_to(ROOT)} imports {module}, which stands above it" for module in above]
    assert not problems, "\n".join(problems)


def test_the_figure_and_the_table_of_the_packages_are_complete() -> None:
    modules = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in PACKAGE.rglob("*.py")}
    assert sorted(name for names in LAYERS for name in names) == sorted(modules - {"__init__"})
    drawn = (ROOT / "docs/images/architecture.svg").read_text()
    assert drawn == architecture_svg(LAYERS[::-1]), "run python benchmarks/architecture_figure.py"


def imported(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("echodream"):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names if alias.name.startswith("echodream")]
    return names


def test_no_modules_import_each_other() -> None:
    paths = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
    modules = {name.removesuffix(".__init__"): path for name, path in paths.items()}
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        graph[name] = {used if used in modules else used.rpartition(".")[0] for used in imported(path)} & set(modules)
    while ends := [
        name for name in graph if not graph[name] & set(graph) or not any(name in used for used in graph.values())
    ]:
        for name in ends:
            del graph[name]
    assert not graph, f"a cycle of imports among {', '.join(sorted(graph))}"


def test_stages_has_one_file_for_each_stage() -> None:
    files = {path.name for path in (PACKAGE / "stages").iterdir() if path.name != "__pycache__"}
    assert files == {"__init__.py", *(f"{name}.py" for name in choices("stage"))}


def test_every_section_of_the_report_is_registered_and_has_a_template() -> None:
    from echodream.report.sections import SECTIONS as registered

    names = sorted(section.name for section in registered)
    for folder in (PACKAGE / "report" / "sections", PACKAGE / "report" / "templates" / "sections"):
        files = [path.stem for path in folder.iterdir() if path.is_file() and path.stem != "__init__"]
        assert sorted(files) == names, folder


def test_sizes() -> None:
    lines = {path: len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    rooms = {
        room.name: sum(count for path, count in lines.items() if room in path.parents)
        for room in PACKAGE.iterdir()
        if room.is_dir()
    }
    largest = max(rooms, key=lambda room: rooms[room])
    assert rooms[largest] <= 0.15 * sum(lines.values()), largest
    total = f"the package has {sum(lines.values())} lines, more than MOST_LINES"
    assert sum(lines.values()) <= MOST_LINES, f"{total}: delete lines, or raise MOST_LINES and say why in the commit"
    assert sum(path.is_file() for path in CONF_DIR.rglob("*")) <= 190


def test_entry_files_are_sentences_and_the_engine_is_short() -> None:
    for name in ("train.py", "sample.py"):
        code = [line for line in (ROOT / name).read_text().splitlines() if line.strip()]
        assert len(code) == 3
    assert len((PACKAGE / "engine.py").read_text().splitlines()) <= 120


def test_the_process_layer_knows_neither_lightning_nor_configuration() -> None:
    below = ["store", "networks", "losses", "metrics", "diffusion", "privacy", "phantom"]
    for path in (path for name in below for path in (PACKAGE / name).rglob("*.py")):
        text = path.read_text()
        assert "pytorch_lightning" not in text, path
        assert "hydra" not in text, path


def test_no_pickle_and_no_bare_except() -> None:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert given.get("weights_only") == "True", path
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in ("pickle.load", "pickle.loads", "eval", "exec"), path
            if isinstance(node, ast.ExceptHandler):
                assert node.type is not None, path
