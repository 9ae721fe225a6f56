"""MarginSoftmaxLoss and combined_margin, compared with sums by hand and with pytorch_metric_learning."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from pytorch_metric_learning.losses import ArcFaceLoss, CosFaceLoss
from torch import Tensor

from echodream.config.paths import CONF_DIR
from echodream.errors import UserError
from echodream.losses.identity import MarginSoftmaxLoss, combined_margin

N, D, K = 6, 5, 9
IDENTITY = torch.tensor([0, 7, 0, 3, 7, 8])
NONE = torch.zeros(0, 2, dtype=torch.int64)


def features() -> Tensor:
    return torch.randn(N, D, generator=torch.Generator().manual_seed(0))


def head(**changes: Any) -> MarginSoftmaxLoss:
    made = MarginSoftmaxLoss(**changes)
    torch.manual_seed(1)
    made.configure(D, K)
    with torch.no_grad():
        made.centers.mul_(50)
    return made


def loss(made: MarginSoftmaxLoss, x: Tensor) -> Tensor:
    def compare(a: Tensor, b: Tensor) -> Tensor:
        raise AssertionError("no pairs are compared")

    return made(x, IDENTITY, NONE, compare)


def by_hand(made: MarginSoftmaxLoss, x: Tensor, among: list[int]) -> float:
    """Expected loss: mean cross-entropy over the centers ``among``, computed row by row."""
    (m1, m2, m3), terms = made.margins, []
    rows, centres = x.double().numpy(), made.centers.detach().double().numpy()
    for row, own in zip(rows, IDENTITY.tolist(), strict=True):
        logits = {}
        for k in among:
            cosine = row @ centres[k] / np.linalg.norm(row) / np.linalg.norm(centres[k])
            angle = m1 * math.acos(cosine) + m2
            assert k != own or angle < math.pi
            logits[k] = made.scale * (math.cos(angle) - m3 if k == own else cosine)
        terms.append(math.log(sum(math.exp(logit - logits[own]) for logit in logits.values())))
    return sum(terms) / N


@pytest.mark.parametrize("margins", [(1.0, 0.3, 0.0), (1.0, 0.0, 0.35), (1.0, 0.2, 0.1), (1.1, 0.1, 0.05)])
def test_margins_apply_to_the_correct_class_only(margins: tuple[float, float, float]) -> None:
    made, x = head(margins=margins, scale=6.0), features()
    assert float(loss(made, x).detach()) == pytest.approx(by_hand(made, x, [*range(K)]), rel=1e-5)


@pytest.mark.parametrize(
    ("margins", "library"),
    [
        ((1.0, 0.5, 0.0), ArcFaceLoss(K, D, margin=math.degrees(0.5), scale=64)),
        ((1.0, 0.0, 0.4), CosFaceLoss(K, D, margin=0.4, scale=64)),
    ],
)
def test_arcface_and_cosface_match_pytorch_metric_learning(margins: Any, library: Any) -> None:
    made, x, y = head(margins=margins), features().requires_grad_(), features().requires_grad_()
    library.W.data = made.centers.detach().T.clone()
    mine, theirs = loss(made, x), library(y, IDENTITY)
    assert float(mine.detach()) == pytest.approx(float(theirs.detach()), rel=1e-5)
    mine.backward()
    theirs.backward()
    assert x.grad is not None
    assert torch.allclose(x.grad, y.grad, rtol=1e-3, atol=1e-4)
    assert torch.allclose(made.centers.grad, library.W.grad.T, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("margins", [(1.0, 0.5, 0.0), (4.0, 0.0, 0.0), (3.0, 0.7, 0.2)])
def test_the_logit_decreases_monotonically_with_the_angle(margins: tuple[float, float, float]) -> None:
    angle = torch.linspace(0.001, math.pi - 0.001, 2001, dtype=torch.float64)
    found = combined_margin(angle.cos(), *margins)
    assert (found.diff() <= 1e-9).all()
    assert float(found.diff().abs().max()) < 0.02  # the margin function is continuous
    inside = margins[0] * angle + margins[1] < math.pi
    expected = torch.cos(margins[0] * angle + margins[1]) - margins[2]
    assert torch.allclose(found[inside], expected[inside], atol=1e-9)


def test_a_share_of_centers_is_the_softmax_over_the_sampled_centers() -> None:
    made, x = head(share=0.4, seed=3, scale=6.0), features()
    kept = head(share=0.4, seed=3).sample_centers(IDENTITY).tolist()
    assert {0, 3, 7, 8} <= set(kept)
    assert len(kept) == 4 + 2  # 40 % of the five classes that are not in the batch
    assert float(loss(made, x).detach()) == pytest.approx(by_hand(made, x, kept), rel=1e-5)


def test_sampled_centers_depend_only_on_seed_and_step() -> None:
    def course(seed: int, steps: int, identity: Tensor = IDENTITY) -> list[list[int]]:
        made = head(share=0.4, seed=seed)
        return [made.sample_centers(identity).tolist() for _ in range(steps)]

    plain = course(0, 12)
    torch.manual_seed(99)
    assert course(0, 12) == plain
    assert course(0, 12, IDENTITY.flip(0)) == plain
    assert len({tuple(kept) for kept in plain}) > 4
    assert course(1, 12) != plain
    resumed = head(share=0.4)
    resumed.step.fill_(7)
    assert resumed.sample_centers(IDENTITY).tolist() == plain[7]
    assert "step" in resumed.state_dict()
    counts = np.bincount(np.concatenate([kept for each in range(40) for kept in course(each, 5)]), minlength=K) / 200
    assert counts[[0, 3, 7, 8]].tolist() == [1, 1, 1, 1]
    assert np.abs(counts[[1, 2, 4, 5, 6]] - 0.4).max() < 0.12


def test_share_one_keeps_all_centers() -> None:
    x = features()
    assert float(loss(head(), x).detach()) == float(loss(head(share=1.0, seed=5), x).detach())
    everybody = head(share=0.9)
    assert everybody.sample_centers(torch.arange(K)).tolist() == [*range(K)]
    assert len(head(share=0.01).sample_centers(IDENTITY)) == 5  # at least one class that is not in the batch


def test_cosines_are_computed_in_full_precision() -> None:
    x = features()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = loss(head(), x)
    assert float(mixed.detach()) == float(loss(head(), x).detach())


def test_margin_yaml_builds_this_loss() -> None:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose("train", ["model=identity", "data=phantom", "seed=4"])
    made = instantiate(cfg.model.module.head)
    assert (type(made), made.margins, made.scale, made.share, made.seed) == (
        MarginSoftmaxLoss,
        (1.0, 0.5, 0.0),
        64.0,
        1.0,
        4,
    )


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"margins": [1.0, 0.5]}, "margins"),
        ({"margins": [0.5, 0.5, 0.0]}, "margins"),
        ({"margins": [1.0, 2.0, 0.0]}, "margins"),
        ({"margins": [1.0, 0.0, -0.1]}, "margins"),
        ({"scale": 0.0}, "scale"),
        ({"share": 0.0}, "share"),
        ({"share": 1.5}, "share"),
    ],
)
def test_invalid_settings_are_refused(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(UserError, match=f"head.{key} is "):
        MarginSoftmaxLoss(**changes)
