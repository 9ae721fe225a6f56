"""Requests for conditions: values learned from the training rows, valid requests, and the recorded request columns."""

import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from echodream.diffusion.conditioning.category import Category
from echodream.diffusion.conditioning.class_id import ClassId
from echodream.diffusion.conditioning.conditioner import Conditioner
from echodream.diffusion.conditioning.published_checkpoints import PublishedToken
from echodream.diffusion.conditioning.reference import Reference
from echodream.diffusion.conditioning.scalar import Scalar
from echodream.errors import UserError
from tests.support.conditions import REST, TABLE, C, D, batch, conditioner, tokens


def test_near_numbers_have_near_tokens_and_the_range_is_told_apart() -> None:
    made = conditioner(width=64, EF=Scalar("EF"))
    found = tokens(made, {"EF": np.linspace(20, 80, 61).tolist()})[:, 0].double()
    steps = (found[1:] - found[:-1]).norm(dim=1)
    apart = torch.cdist(found, found, compute_mode="donot_use_mm_for_euclid_dist")
    assert steps.min() > 1e-4
    assert steps.max() < 0.25 * apart.max()
    assert all(apart[row].argsort()[1] in (row - 1, row + 1) for row in range(61))


def test_a_request_is_what_a_batch_of_it_is() -> None:
    made = conditioner()
    raw = {
        "class_id": [0, 3, -1, 1],
        "EF": [55.5, None, 20, 80],
        "View": ["A4C", "", "PSAX", "PLAX"],
    }
    cells = {
        "class_id": torch.tensor(raw["class_id"]),
        "EF": torch.tensor([55.5, math.nan, 20, 80]),
        "View": raw["View"],
    }
    asked, found = made.encode_request(raw), made.encode_batch(batch(4, **cells))
    assert set(found) == {*asked, "reference", "reference_time"}
    for name, value in asked.items():
        assert value.dtype == found[name].dtype
        assert torch.equal(value.nan_to_num(-1), found[name].nan_to_num(-1)), name
    as_float = made.encode_batch(batch(4, **{**cells, "class_id": torch.tensor([0.0, 3.0, math.nan, 1.0])}))
    assert torch.equal(as_float["class_id"], found["class_id"])
    assert all(len(value) == 4 for value in found.values())


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (
            {"class_id": [0, 2]},
            r"class_id=2 was not in the training data of the model: give one of 0 ASD, 1 ",
        ),
        ({"class_id": [9]}, r"class_id=9 was not in the training data of the model: .*3 PAH$"),
        ({"class_id": [0.5]}, r"class_id=0.5 was not in the training data"),
        ({"class_id": ["ASD"]}, r"class_id is 'ASD', not a number"),
        ({"EF": [55.0, 0.55]}, r"EF=0.55 is outside of the training range 20 to 80: give percent"),
        (
            {"EF": [81]},
            r"EF=81 is outside of the training range 20 to 80: give a value in this unit and range",
        ),
        ({"EF": [math.inf]}, r"EF=inf is outside of the training range"),
        ({"EF": [None, "", "high"]}, r"EF is 'high', not a number"),
        ({"View": ["A5C"]}, r"View=A5C was not in the training data of the model: give one of A4C, PLAX, PSAX"),
        ({"view": ["A4C"]}, r"view is not a condition of this model; its conditions are class_id, EF, View"),
        ({"class_id": [0], "EF": [50, 60]}, r"the conditions have different numbers of values: .*1.*2"),
    ],
)
def test_requests_that_cannot_be(raw: dict[str, list[Any]], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        conditioner().encode_request(raw)


def test_a_fraction_is_refused_in_a_range_that_holds_it() -> None:
    made = conditioner(EF=Scalar("EF", 0, 100))
    made.encode_request({"EF": [5, 99.0, 20]})
    with pytest.raises(UserError, match=r"EF=0.55 is outside of the training range 0 to 100: give percent"):
        made.encode_request({"EF": [0.55]})


def test_percent_is_refused_by_a_model_of_fractions() -> None:
    made = Conditioner({"EF": Scalar("EF")}, D)
    made.fit(TABLE.assign(EF=TABLE["EF"] / 100), C)
    made.encode_request({"EF": [0.55]})
    with pytest.raises(UserError, match=r"EF=55 is outside of the training range 0.2 to 0.8: give a value in this"):
        made.encode_request({"EF": [55]})


def test_what_adapt_learns() -> None:
    made = conditioner()
    facts = {item["name"]: item["facts"] for item in made.settings()["conditions"]}
    assert facts["class_id"]["classes"] == [
        {"id": 0, "name": "ASD", "count": 3},
        {"id": 1, "name": "Non-ASD", "count": 1},
        {"id": 3, "name": "PAH", "count": 3},
    ]
    assert made.conditions["class_id"].embedding.num_embeddings == 4
    assert facts["EF"] == {"low": 20, "high": 80, "least": 20, "greatest": 80, "count": 6}
    assert facts["view"]["categories"] == [
        {"name": "A4C", "count": 3},
        {"name": "PLAX", "count": 2},
        {"name": "PSAX", "count": 1},
    ]
    nameless = Conditioner({"class_id": ClassId()}, D)
    nameless.fit(TABLE[["FileName", "class_id"]].astype({"class_id": float}), C)
    assert nameless.settings()["conditions"][0]["facts"]["classes"][2] == {"id": 3, "name": "", "count": 3}


@pytest.mark.parametrize(
    ("module", "table", "sentence"),
    [
        (
            Scalar("ESV"),
            TABLE,
            r"conditioning=it needs the column 'ESV', which the store does not have; it has FileName, cl",
        ),
        (ClassId(), TABLE.assign(class_id=math.nan), r"class_id is empty in all TRAIN rows: fill it, or remove it"),
        (ClassId(), TABLE.assign(class_id=-2), r"class_id is -2, not a whole number from 0 to 9999"),
        (ClassId(), TABLE.assign(class_id=10**9), r"class_id is 1e\+09, not a whole number"),
        (ClassId(), TABLE.assign(class_id="ASD"), r"class_id is 'ASD', not a number"),
        (Scalar("EF"), TABLE.assign(EF=55.0), r"EF is 55 in all TRAIN rows: remove it from conditioning="),
        (Scalar("EF"), TABLE.assign(EF=math.nan), r"EF is empty in all TRAIN rows"),
        (Scalar("EF", high=70), TABLE, r"EF is 20 to 80 in TRAIN, not within 20 to 70"),
        (Category("View"), TABLE.assign(View=""), r"View is empty in all TRAIN rows"),
        (PublishedToken("EF"), TABLE.assign(EF=math.nan), r"EF is empty in all TRAIN rows"),
    ],
)
def test_columns_that_cannot_be_learnt(module: nn.Module, table: pd.DataFrame, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Conditioner({"it": module}, D).fit(table, C)


def test_sets_of_conditions_that_cannot_be() -> None:
    with pytest.raises(UserError, match=r"conditioning.frame: give the name reference to reference frames only"):
        Conditioner({"frame": Reference()}, D)
    with pytest.raises(UserError, match=r"conditioning.reference: give the name reference to reference frames only"):
        Conditioner({"reference": ClassId()}, D)
    with pytest.raises(UserError, match=r"conditioning.class_id is a published condition, .*: remove EF"):
        Conditioner({"class_id": PublishedToken("class_id"), "EF": Scalar("EF")}, D)
    with pytest.raises(UserError, match=r"conditioning.x is a Linear"):
        Conditioner({"x": nn.Linear(1, 1)}, D)
    with pytest.raises(UserError, match=r"the width of the condition's tokens is 0"):
        Conditioner({}, 0)
    with pytest.raises(UserError, match=r"the range of EF is 9 to 9"):
        Scalar("EF", 9, 9)


def test_requests_spread_over_all_that_was_seen() -> None:
    made = conditioner()
    asked = made.uniform_requests(90)
    pairs = list(zip(asked["class_id"], asked["View"], strict=True))
    assert {pair: pairs.count(pair) for pair in pairs} == {
        (number, view): 10 for number in (0, 1, 3) for view in ("A4C", "PLAX", "PSAX")
    }
    for pair in set(pairs):
        values = np.sort([value for value, own in zip(asked["EF"], pairs, strict=True) if own == pair])
        assert values.min() >= 20
        assert values.max() <= 80
        assert np.diff([20, *values, 80]).max() < 14  # ten values in a range of width 60
    assert {name: cells[:7] for name, cells in asked.items()} == made.uniform_requests(7)
    assert all(len(value) == 90 for value in made.encode_request(asked).values())
    assert Conditioner({}, D).uniform_requests(3) == {}


def test_a_grid_has_all_categories_and_evenly_spaced_numbers() -> None:
    grid = conditioner().grid_values(3)
    assert grid == {"class_id": [0, 1, 3], "EF": [30.0, 50.0, 70.0], "View": ["A4C", "PLAX", "PSAX"]}
    assert Conditioner({}, D).grid_values(3) == {}


def test_what_a_row_says_of_what_was_asked() -> None:
    made = conditioner()
    assert made.filelist_columns({"class_id": 3, "EF": 40.5, "View": ""}) == {
        "class_id": 3,
        "class_name": "PAH",
        "EF": 40.5,
    }
    assert made.filelist_columns({"class_id": -1, "EF": math.nan, "View": "A4C"}) == {"View": "A4C"}


def test_settings_and_weights_make_it_again() -> None:
    truth = conditioner()
    written = json.dumps(truth.settings(), sort_keys=True)
    torch.manual_seed(7)
    found = Conditioner.from_settings(json.loads(written))
    assert found.settings() == truth.settings()
    assert (found.names, found.columns, found.extra_channels, found.width) == (
        truth.names,
        truth.columns,
        truth.extra_channels,
        truth.width,
    )
    data = batch(2, class_id=torch.tensor([0, 3]), EF=torch.tensor([21.0, math.nan]), View=["A4C", "PSAX"])
    kept = {name: torch.tensor([True, number % 2 == 0]) for number, name in enumerate(truth.names)}
    before = [made(made.encode_batch(data), kept, REST) for made in (truth, found)]
    assert not torch.equal(before[0].tokens, before[1].tokens)
    found.load_state_dict(truth.state_dict())
    after = [made(made.encode_batch(data), kept, REST) for made in (truth, found)]
    assert torch.equal(after[0].tokens, after[1].tokens)
    assert torch.equal(after[0].channels, after[1].channels)
    with pytest.raises(
        UserError, match=r"class_id=2 was not in the training data of the model: .* 0 ASD, 1 Non-ASD, 3 PAH"
    ):
        found.encode_request({"class_id": [2]})


@pytest.mark.parametrize(
    "damage", [{"conditions": [{"name": "x"}]}, {"conditions": 3}, {"width": "a"}, {"channels": ""}]
)
def test_damaged_settings(damage: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"the settings of the conditions are damaged|width of the condition"):
        Conditioner.from_settings({**conditioner().settings(), **damage})
