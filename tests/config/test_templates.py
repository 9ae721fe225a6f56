"""The files *.yaml.template in conf/ work as config files without changes after copying."""

import inspect
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_object, instantiate

from echodream.config.own_studies import check_own_study
from echodream.config.paths import CONF_DIR

OVERRIDES = {
    "data": ("sample", ["stage=ingest", "data=new_study", "raw=raw"]),
    "conditioning": ("train", ["model=lidm", "data=phantom", "conditioning=[class_id,new_condition]"]),
    "stage": ("sample", ["stage=new_stage", "data=phantom"]),
}


def test_the_templates_are_these() -> None:
    assert {path.parent.name for path in CONF_DIR.rglob("*.template")} == set(OVERRIDES)


@pytest.mark.parametrize("group", OVERRIDES)
def test_a_copy_of_a_template_works(tmp_path: Path, group: str) -> None:
    (template,) = (CONF_DIR / group).glob("new_*.yaml.template")
    (tmp_path / group).mkdir()
    (tmp_path / group / template.stem).write_text(template.read_text())
    config, overrides = OVERRIDES[group]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose(config, [*overrides, f"hydra.searchpath=[file://{tmp_path}]"])
    if group == "data":
        check_own_study(["--config-dir", str(tmp_path), *overrides])
        assert cfg.data.name == "new_study"
        assert list(instantiate(cfg.data.source).classes) == ["healthy", "ill"]
    elif group == "conditioning":
        assert instantiate(cfg.conditioning.new_condition).column == "Column"
    else:
        parameters = inspect.signature(get_object(cfg.stage._target_)).parameters
        assert set(cfg) >= set(parameters) - {"command", "code_version"}
