"""Settings of conditions: invalid settings are refused, and the published conditions are recorded correctly."""

from typing import Any

import pandas as pd
import pytest

from echodream.diffusion.conditioning.category import Category
from echodream.diffusion.conditioning.class_id import ClassId
from echodream.diffusion.conditioning.conditioner import Conditioner
from echodream.diffusion.conditioning.published_checkpoints import PublishedReference, PublishedToken
from echodream.diffusion.conditioning.reference import Reference
from echodream.diffusion.conditioning.scalar import Scalar
from echodream.errors import UserError

MAKES: dict[str, Any] = {
    "class_id": ClassId,
    "scalar": lambda **given: Scalar("EF", **given),
    "category": lambda **given: Category("View", **given),
    "reference": Reference,
    "published_token": lambda **given: PublishedToken("class_id", **given),
    "published_reference": PublishedReference,
}


@pytest.mark.parametrize("kind", MAKES)
@pytest.mark.parametrize("dropout", ["abc", None, True, -0.1, 1, 1.5, float("nan")])
def test_a_dropout_that_is_no_share_is_refused(kind: str, dropout: object) -> None:
    with pytest.raises(
        UserError, match=rf"^conditioning: the dropout of {kind} is .*: give a number from 0 to below 1"
    ):
        MAKES[kind](dropout=dropout)
    assert [MAKES[kind](dropout=share).dropout for share in (0, 0.5)] == [0, 0.5]


@pytest.mark.parametrize("scale", ["abc", None, True, 0, -1.0, float("nan"), float("inf")])
def test_a_scale_that_is_no_positive_number_is_refused(scale: Any) -> None:
    with pytest.raises(UserError, match=r"^conditioning: the scale of EF is .*: give a number above 0"):
        PublishedToken("EF", scale=scale)


def test_a_published_class_is_a_whole_number_with_its_name() -> None:
    table = pd.DataFrame(
        {
            "class_id": [0.0, 3.0, 3.0, 1.0, None, 3.0],
            "class_name": ["ASD", "PAH", "PAH", "", "nobody", "mistyped"],
        }
    )
    told = Conditioner({"class_id": PublishedToken("class_id")}, 1)
    told.fit(table, 4)
    again = Conditioner.from_settings(told.settings())
    for made in (told, again):
        described = [made.filelist_columns({"class_id": cell}) for cell in (0.0, 3, "3", 1.0, None, float("nan"), "")]
        pah = {"class_id": 3, "class_name": "PAH"}
        assert described == [{"class_id": 0, "class_name": "ASD"}, pah, pah, {"class_id": 1}, {}, {}, {}]
        assert all(type(row["class_id"]) is int for row in described if row)


def test_a_published_number_stays_what_it_is() -> None:
    told = Conditioner({"EF": PublishedToken("EF", scale=100.0)}, 1)
    told.fit(pd.DataFrame({"EF": [20.0, 55.5], "class_name": ["a", "b"]}), 4)
    assert [told.filelist_columns({"EF": cell}) for cell in (55.5, 50.0, None)] == [{"EF": 55.5}, {"EF": 50}, {}]
    # a condition of published weights, which have no table of training rows
    untold = Conditioner({"class_id": PublishedToken("class_id")}, 1)
    untold.build(4)
    assert untold.filelist_columns({"class_id": 2.0}) == {"class_id": 2}
