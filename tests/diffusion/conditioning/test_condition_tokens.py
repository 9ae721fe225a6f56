"""Tokens of the conditions: the token of each value, the learned null token, and the dropout of conditions."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from scipy.stats import binom
from torch import nn

from echodream.config.paths import CONF_DIR
from echodream.diffusion.conditioning.category import Category
from echodream.diffusion.conditioning.class_id import ClassId
from echodream.diffusion.conditioning.conditioner import Conditioner
from echodream.diffusion.conditioning.reference import Reference
from echodream.diffusion.conditioning.scalar import Scalar
from echodream.errors import UserError
from echodream.types import Condition
from tests.support.conditions import REST, TABLE, C, D, batch, conditioner, keep, tokens


def test_every_class_has_its_token_and_none_of_them_is_the_null() -> None:
    made = conditioner(class_id=ClassId())
    given = tokens(made, {"class_id": [0, 1, 3, None]})
    assert given.shape == (4, 1, D)
    dropped = tokens(made, {"class_id": [0, 1, 3, None]}, "nothing")
    assert torch.equal(dropped, dropped[:1].expand(4, -1, -1))
    assert torch.equal(given[3], dropped[3])
    # class 0 also differs from the null token
    assert torch.cdist(given[:, 0], given[:, 0]).fill_diagonal_(9).min() > 0.1
    off_a_line = torch.linalg.svdvals((given - given.mean(0))[:, 0])
    assert off_a_line[2] > 0.1


def test_each_condition_has_its_own_token_and_null() -> None:
    made = conditioner()
    raw = {"class_id": [0, 3], "EF": [20.0, 71.0], "View": ["A4C", "PSAX"]}
    assert made.names == ("reference", "class_id", "EF", "view")
    full, empty = tokens(made, raw), tokens(made, raw, "nothing")
    assert full.shape == (2, 3, D)
    assert torch.equal(empty[0], empty[1])
    assert torch.cdist(empty[0], empty[0]).fill_diagonal_(9).min() > 0.1
    for place, name in enumerate(("class_id", "EF", "view")):
        one = tokens(made, raw, name)
        for other in range(3):
            assert torch.equal(one[:, other], (full if other == place else empty)[:, other])
        assert ((one - empty)[:, place].abs().amax(1) > 1e-2).all()


def test_rows_are_kept_one_by_one() -> None:
    made = conditioner(class_id=ClassId(), EF=Scalar("EF"))
    values = made.encode_request({"class_id": [0, 1, 3], "EF": [30.0, 40.0, 50.0]})
    kept = {"class_id": torch.tensor([True, False, True]), "EF": torch.tensor([False, False, True])}
    found = made(values, kept, REST).tokens
    full, empty = (made(values, keep(made, 3, *names), REST).tokens for names in (made.names, ()))
    assert torch.equal(found, torch.stack([torch.stack([full[0, 0], empty[0, 1]]), empty[1], full[2]]))


@pytest.mark.parametrize(
    ("name", "module", "column", "missing"),
    [
        ("class_id", ClassId(), torch.tensor([0, -1]), -1),
        ("class_id", ClassId(), torch.tensor([0.0, math.nan]), ""),
        ("EF", Scalar("EF"), torch.tensor([20.0, math.nan]), math.nan),
        ("view", Category("View"), ["A4C", ""], ""),
    ],
)
def test_missing_cells_give_exactly_the_null(name: str, module: nn.Module, column: Any, missing: Any) -> None:
    made = conditioner(**{name: module})
    column_name = made.columns[0]
    values = made.encode_batch(batch(**{column_name: column}))
    found = made(values, keep(made, 2, name), REST).tokens
    null = made(values, keep(made, 2), REST).tokens
    assert torch.equal(found[1], null[1])
    assert torch.equal(found[1], tokens(made, {column_name: [missing]})[0])
    assert not torch.equal(found[0], null[0])
    assert torch.equal(null[0], null[1])
    found.sum().backward()
    grads = [weight.grad for weight in made.parameters()]
    assert all(grad is not None and torch.isfinite(grad).all() for grad in grads)
    first = next(made.conditions[name].parameters())
    assert first.grad.abs().sum() > 0


def test_what_training_has_not_seen_is_missing_in_a_batch() -> None:
    """Values without an embedding become missing values, without an error: classes 2 and 7, and view A5C."""
    made = conditioner(class_id=ClassId(), view=Category("View"))
    values = made.encode_batch(
        batch(5, class_id=torch.tensor([0, 2, 3, 7, 1]), View=["PSAX", "A5C", "", "A4C", "PLAX"])
    )
    assert values["class_id"].tolist() == [0, -1, 3, -1, 1]
    assert values["view"].tolist() == [2, -1, -1, 0, 1]


def test_columns_left_out_of_a_request_are_null() -> None:
    made = conditioner(class_id=ClassId(), EF=Scalar("EF"), view=Category("View"))
    found = tokens(made, {"EF": [33.0, 44.0]})
    assert torch.equal(found[:, [0, 2]], tokens(made, {"EF": [33.0, 44.0]}, "EF")[:, [0, 2]])
    alone = made({}, keep(made, 2, *made.names), REST).tokens
    assert torch.equal(alone, tokens(made, {"EF": [33.0, 44.0]}, "nothing"))


def test_no_conditions_at_all() -> None:
    made = Conditioner({"EF": None}, D)
    made.fit(TABLE, C)
    assert (made.names, made.columns, made.extra_channels, made.width) == ((), (), 0, D)
    assert made.sample_dropout(3) == made.encode_batch(batch()) == made.encode_request({}) == {}
    found = made({}, {}, REST)
    assert torch.equal(found.tokens, torch.zeros(1, 1, D))
    assert found.channels is None


def test_dropout_is_what_was_set_for_each_condition_and_row_by_itself() -> None:
    shares = {"reference": 0.5, "class_id": 0.1, "EF": 0.3, "view": 0.0}
    made = conditioner(
        class_id=ClassId(0.1), EF=Scalar("EF", dropout=0.3), reference=Reference(0.5), view=Category("View", 0.0)
    )
    count = 4000
    masks = made.sample_dropout(count, torch.Generator().manual_seed(1))
    assert list(masks) == ["reference", "class_id", "EF", "view"]
    assert all(mask.shape == (count,) and mask.dtype == torch.bool for mask in masks.values())
    dropped = {name: ~mask.numpy() for name, mask in masks.items()}

    def likely(found: int, probability: float) -> bool:
        low, high = binom.interval(1 - 1e-6, count, probability)
        return low <= found <= high

    for name, share in shares.items():
        assert likely(dropped[name].sum(), share), name
        for other in shares:
            if other != name:
                assert likely((dropped[name] & dropped[other]).sum(), share * shares[other]), (name, other)
    again = made.sample_dropout(count, torch.Generator().manual_seed(1))
    assert all(torch.equal(masks[name], again[name]) for name in masks)
    assert not torch.equal(made.sample_dropout(count)["EF"], made.sample_dropout(count)["EF"])


def test_a_share_of_rows_is_told_nothing_at_all() -> None:
    """Joint dropout drops all conditions of a row at once, so that D(null) is trained often enough for guidance."""
    parts = {"reference": Reference(0.1), "class_id": ClassId(0.2)}
    made, count = Conditioner(parts, D, joint_dropout=0.3), 4000
    masks = made.sample_dropout(count, torch.Generator().manual_seed(1))
    nothing = int((~masks["reference"] & ~masks["class_id"]).sum())
    alone = int((~masks["class_id"] & masks["reference"]).sum())
    for found, probability in ((nothing, 0.3 + 0.7 * 0.02), (alone, 0.7 * 0.2 * 0.9)):
        low, high = binom.interval(1 - 1e-6, count, probability)
        assert low <= found <= high
    single = Conditioner({"class_id": ClassId(0.2)}, D, joint_dropout=0.9)
    assert 0.15 < 1 - single.sample_dropout(count)["class_id"].float().mean() < 0.25
    for wrong in (1.0, -0.1, "much", True):
        with pytest.raises(UserError, match=r"model\.joint_dropout is"):
            Conditioner(parts, D, joint_dropout=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [path.stem for path in sorted((CONF_DIR / "conditioning").glob("*.yaml"))])
def test_a_misspelt_setting_is_an_error_and_dropout_arrives(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose(overrides=[f"+conditioning={name}"]).conditioning
    (key,) = cfg
    assert key == name.removeprefix("published_") or (name, key) == ("published", "class_id")
    if name == "text":
        cfg[key].folder = str(tmp_path)
    cfg[key].dropout = 0.25
    assert instantiate(cfg)[key].dropout == 0.25
    with pytest.raises(InstantiationException, match="drop_out"):
        instantiate(cfg[key], drop_out=0.25)


def test_files_combine_into_one_conditioner() -> None:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose(overrides=["+conditioning=[class_id,EF,view,reference]"])
    made = Conditioner(instantiate(cfg.conditioning), 8)
    made.fit(TABLE, 5)
    assert made.names == ("reference", "class_id", "EF", "view")
    assert made.columns == ("class_id", "EF", "View")
    assert (made.extra_channels, made.width) == (8, 8)


@pytest.mark.parametrize("dropout", [-0.1, 1.0, 2])
def test_a_dropout_that_cannot_be(dropout: float) -> None:
    with pytest.raises(UserError, match=r"the dropout of class_id is .*: give a number from 0 to below 1"):
        ClassId(dropout)


def test_a_conditioned_network_hears_every_condition_and_every_null() -> None:
    """The network predicts four different results for the four sets of conditions of guidance, also for class 0."""
    from echodream.networks.denoisers.unet import build_unet

    torch.manual_seed(0)
    made = conditioner(class_id=ClassId(), reference=Reference())
    network = build_unet(C, made.extra_channels, made.width, True, [32, 64], 1, ["cross", "cross"], 2).eval()
    x, t = torch.randn(3, C, *REST), torch.tensor([400, 500, 600])
    data = batch(3, class_id=torch.tensor([0, 1, 3]))
    sets = [(), ("reference",), ("class_id",), ("reference", "class_id")]
    with torch.no_grad():
        found = [network(x, t, made(made.encode_batch(data), keep(made, 3, *names), REST)) for names in sets]
    for first in range(4):
        for second in range(first):
            assert ((found[first] - found[second]).abs().flatten(1).amax(1) > 1e-3).all(), (first, second)


def test_conditions_are_known_by_type() -> None:
    condition = Condition(torch.zeros(1, 1, 1))
    with pytest.raises(AttributeError):
        condition.tokens = torch.ones(1)  # type: ignore[misc]
