"""A new type of condition needs one Python file and one yaml file to train, export, load, sample and be guided.

A condition that is a number or a text in a column needs only the yaml file
(conf/conditioning/new_condition.yaml.template).
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from echodream import engine
from echodream.config.aliases import replace_aliases
from echodream.config.checks import refuse_incompatible_choices, refuse_unknown_keys
from echodream.diffusion import conditioning
from echodream.diffusion.conditioning.base import CONDITION_CLASSES
from echodream.diffusion.model import load_diffusion_model
from echodream.errors import UserError
from echodream.store import Store
from tests.support.tiny_diffusion import latent_store, sample_cfg, train_cfg

MODULE = "echodream.diffusion.conditioning.weight"
CODE = """
from echodream.diffusion.conditioning.scalar import Scalar

class Weight(Scalar):
    kind = "weight"
"""
YAML = f"weight:\n  _target_: {MODULE}.Weight\n  column: Weight\n  dropout: 0.1\n"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Image diffusion model, trained with the conditions class_id and weight; yields the folder of the yaml file."""
    folder = tmp_path_factory.mktemp("weight")
    (folder / "code").mkdir()
    (folder / "code" / "weight.py").write_text(CODE)
    (folder / "conf" / "conditioning").mkdir(parents=True)
    (folder / "conf" / "conditioning" / "weight.yaml").write_text(YAML)
    conditioning.__path__.append(str(folder / "code"))
    latent_store(folder / "latents", Weight=[31.0 + 5 * number for number in range(8)])
    search = f"hydra.searchpath=[file://{folder}/conf]"
    engine.train(train_cfg(folder, "lidm", search, "conditioning=[class_id,weight]", "callbacks.pictures=null"))
    del sys.modules[MODULE], CONDITION_CLASSES["weight"]
    yield folder
    conditioning.__path__.remove(str(folder / "code"))
    sys.modules.pop(MODULE, None)
    CONDITION_CLASSES.pop("weight", None)


@pytest.mark.slow
def test_it_is_loaded_and_sampled_with_its_own_scale(study: Path) -> None:
    assert load_diffusion_model(str(study / "lidm"), "lidm").conditioner.names == ("class_id", "weight")
    overrides = replace_aliases(["guidance.weight=2", "guidance.class_id=3", "n=4", "steps=1"])
    assert overrides == ["+guidance.weight=2", "guidance.class_id=3", "n=4", "steps=1"]
    cfg = sample_cfg(study, "image", *overrides)
    refuse_unknown_keys(cfg, overrides)
    refuse_incompatible_choices(cfg, {"stage": "image"})
    engine.sample(cfg)
    store = Store(study / "images")
    assert store.dataset.settings["guidance"]["scales"] == {"class_id": 3.0, "weight": 2.0}
    assert set(store.table["Guidance"]) == {"class_id=3 weight=2"}
    assert store.table["Weight"].between(31, 66).all()
    assert store.table["Weight"].nunique() > 1


def test_without_a_scale_it_is_recorded_as_one(study: Path) -> None:
    engine.sample(sample_cfg(study, "image", f"dst={study}/plain", "n=1", "steps=1"))
    assert Store(study / "plain").dataset.settings["guidance"]["scales"] == {"class_id": 1.0, "weight": 1.0}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "guidance.weightt=2",
            r"unknown key 'guidance.weightt'; guidance of this model has class_id, weight, interval, ",
        ),
        ("guidance.intervall=[0,1]", r"unknown key 'guidance.intervall'; .* \(did you mean 'interval'\?\)"),
    ],
)
def test_another_scale_is_refused_before_the_model_is_loaded(study: Path, override: str, words: str) -> None:
    cfg = sample_cfg(study, "image", *replace_aliases([override]))
    refuse_unknown_keys(cfg, replace_aliases([override]))
    with pytest.raises(UserError, match=words):
        refuse_incompatible_choices(cfg, {"stage": "image"})


def test_a_scale_that_is_no_number(study: Path) -> None:
    with pytest.raises(UserError, match=r"guidance.weight is 'strong': give a number, 1 for no guidance"):
        engine.sample(sample_cfg(study, "image", f"dst={study}/strong", "+guidance.weight=strong"))
