"""Arguments of a stage come from top-level settings and from settings below ``stage``."""

import pytest
from hydra import compose, initialize_config_dir

from echodream.config.paths import CONF_DIR
from echodream.errors import UserError
from echodream.runs.instantiate_stage import StageCall, stage_call


def call(*overrides: str) -> StageCall:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return stage_call(compose("sample", ["data=phantom", *overrides]))


@pytest.mark.parametrize("override", ["+stage.look.seconds=3", "+stage.look={seconds: 3}", "look.seconds=3"])
def test_a_mapping_given_in_part_keeps_its_other_keys(override: str) -> None:
    assert call("stage=report", override).arguments["look"] == {"per_class": 3, "pairs": 6, "seconds": 3, "seed": 0}


def test_an_object_given_in_part_keeps_its_other_arguments() -> None:
    rule, changed = (call("stage=filter", *more).arguments["rule"] for more in ([], ["+stage.rule.alpha=0.01"]))
    assert changed == {**rule, "alpha": 0.01} != rule


def test_an_unknown_key_of_a_mapping_is_refused() -> None:
    with pytest.raises(UserError, match=r"unknown key 'stage.look.secnds'; look has per_class, pairs, seconds, seed"):
        call("stage=report", "+stage.look.secnds=3")


def test_the_scale_of_a_new_condition_is_accepted() -> None:
    scales = call("stage=image", "+stage.guidance.age=2", "guidance.class_id=3").arguments["guidance"]
    assert (scales["age"], scales["class_id"]) == (2, 3)


def test_the_store_of_the_study_is_an_input_of_ingest_only_for_a_synthetic_set() -> None:
    """Ingest with ``synthetic=true`` reads the store of the study. Ingest without ``synthetic`` writes this store."""
    study, synthetic = call("stage=ingest"), call("stage=ingest", "synthetic=true")
    assert study.inputs() == []
    assert synthetic.inputs() == [study.dst]
    assert synthetic.dst != study.dst
