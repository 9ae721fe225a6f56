"""Identity losses, compared with sums by hand."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor

from echodream.config.paths import CONF_DIR
from echodream.errors import UserError
from echodream.losses.identity import (
    ArcFaceLoss,
    CopyCodeLoss,
    CopyContrastiveLoss,
    IdentityLoss,
    NTXentLoss,
    PublishedPairLoss,
)

N, D = 5, 7
IDENTITY = torch.tensor([0, 2, 0, 1, 0])
PAIRS = torch.tensor([[0, 2], [1, 3], [4, 0]])


def features() -> Tensor:
    return torch.randn(N, D, generator=torch.Generator().manual_seed(0))


def none(a: Tensor, b: Tensor) -> Tensor:
    raise AssertionError("only the published head compares pairs")


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / a.norm() / b.norm())


def test_the_published_loss_is_binary_cross_entropy_of_the_pairs() -> None:
    def compare(a: Tensor, b: Tensor) -> Tensor:
        return 2 - (a - b).abs().sum(dim=1)

    x = features()
    found = PublishedPairLoss()(x, IDENTITY, PAIRS, compare)
    terms = []
    for (first, second), same in zip(PAIRS.tolist(), [True, False, True], strict=True):
        chance = 1 / (1 + math.exp(-float(2 - (x[first] - x[second]).abs().sum())))
        terms.append(-math.log(chance if same else 1 - chance))
    assert float(found) == pytest.approx(sum(terms) / 3, rel=1e-5)


@pytest.mark.parametrize("other_frames", ["ignored", "negative"])
def test_the_loss_of_copies_knows_the_frame_and_not_the_patient(other_frames: str) -> None:
    """Copies of the same frame are positives. Rows 0 and 3, 1 and 4 are copies of two frames of one patient."""
    x, temperature = torch.randn(6, D, generator=torch.Generator().manual_seed(0)), 0.3
    identity = torch.tensor([7, 7, 7, 7, 7, 4])
    pairs = torch.tensor([[0, 3], [1, 4]])
    found = float(CopyContrastiveLoss(temperature, other_frames)(x, identity, pairs, none))
    terms = []
    for i, j in ((0, 3), (3, 0), (1, 4), (4, 1)):
        own = math.exp(cosine(x[i], x[j]) / temperature)
        negatives = [5] if other_frames == "ignored" else [k for k in range(6) if k not in (i, j)]
        others = sum(math.exp(cosine(x[i], x[k]) / temperature) for k in negatives)
        terms.append(-math.log(own / (own + others)))
    assert found == pytest.approx(sum(terms) / 4, rel=1e-5)
    for wrong, key in (((0.0,), "temperature"), ((0.1, "positive"), "other_frames")):
        with pytest.raises(UserError, match=f"head.{key} is"):
            CopyContrastiveLoss(*wrong)  # type: ignore[arg-type]


def test_nt_xent_contrasts_each_positive_with_all_negatives() -> None:
    x, temperature = features(), 0.3
    found = float(NTXentLoss(temperature)(x, IDENTITY, PAIRS, none))
    terms = []
    for i in range(N):
        for j in range(N):
            if i == j or IDENTITY[i] != IDENTITY[j]:
                continue
            own = math.exp(cosine(x[i], x[j]) / temperature)
            others = sum(math.exp(cosine(x[i], x[k]) / temperature) for k in range(N) if IDENTITY[k] != IDENTITY[i])
            terms.append(-math.log(own / (own + others)))
    assert len(terms) == 6
    assert found == pytest.approx(sum(terms) / 6, rel=1e-5)


def test_arcface_adds_the_margin_to_the_angle_of_the_correct_class() -> None:
    margin, scale = 20.0, 8.0
    head = ArcFaceLoss(margin, scale)
    torch.manual_seed(0)
    head.configure(D, 3)
    directions = next(head.parameters())
    assert directions.numel() == D * 3  # the directions of the classes are trained with the network
    x, columns = features(), directions.detach().reshape(D, 3).T
    found = float(head(x, IDENTITY, PAIRS, none).detach())
    terms = []
    for row, own in zip(x, IDENTITY.tolist(), strict=True):
        angles = [math.acos(cosine(row, column)) for column in columns]
        logits = [scale * math.cos(a + (math.radians(margin) if k == own else 0)) for k, a in enumerate(angles)]
        terms.append(-math.log(math.exp(logits[own]) / sum(map(math.exp, logits))))
    assert found == pytest.approx(sum(terms) / N, rel=1e-4)


def test_the_copy_code_loss_is_the_squared_distance_of_codes() -> None:
    """The squared distance of codes ignores the two constants that are appended to each code."""
    x, targets = features(), features().flip(0) + 0.5
    found = float(CopyCodeLoss(features=4)(x, IDENTITY, PAIRS, none, targets))
    assert found == pytest.approx(float(((x - targets)[:, :4] ** 2).sum() / N), rel=1e-5)


def test_components_are_weighted_by_their_posterior_standard_deviation() -> None:
    """Component weights equal the posterior standard deviation after noising and redrawing, as in a simulation."""
    variance, sigma, generator = torch.tensor([0.05, 0.5, 3.0], dtype=torch.float64), 0.8, np.random.default_rng(0)
    mean = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    weight, bias = CopyCodeLoss(features=2, sigma=sigma).linear_code(mean, variance, torch.eye(3, dtype=torch.float64))
    assert weight.shape == (2, 3)
    assert weight[:, 0].tolist() == [0, 0]  # the component with the smallest variance has no weight
    left = []
    for spread in (0.5, 3.0):
        noised = 1.0 + sigma * generator.normal(size=400_000)  # noised values of a frame whose value is 1
        gain = spread / (spread + sigma**2)
        left.append(float(np.var(gain * noised + np.sqrt(gain) * sigma * generator.normal(size=400_000))))
    assert float(weight[0, 1] / weight[1, 2]) == pytest.approx(math.sqrt(left[1] / left[0]), rel=0.01)
    assert float(weight[0, 1] ** 2 * 0.5 + weight[1, 2] ** 2 * 3.0) == pytest.approx(1)
    assert torch.allclose(weight @ mean + bias, torch.zeros(2, dtype=torch.float64))


@pytest.mark.parametrize(
    ("name", "kind"),
    [("published", PublishedPairLoss), ("cosine", NTXentLoss), ("arcface", ArcFaceLoss), ("code", CopyCodeLoss)],
)
def test_each_head_yaml_builds_its_loss(name: str, kind: type[IdentityLoss]) -> None:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose("train", ["model=reid", "data=phantom", f"head={name}"])
    head = instantiate(cfg.model.module.head)
    assert type(head) is kind
    assert (head.needs_pair_layer, head.similarity) == ((True, "pearson") if name == "published" else (False, "cosine"))


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: NTXentLoss(0.0), "temperature"),
        (lambda: ArcFaceLoss(margin=90), "margin"),
        (lambda: ArcFaceLoss(margin=-1), "margin"),
        (lambda: ArcFaceLoss(scale=math.inf), "scale"),
        (lambda: CopyCodeLoss(features=0), "features"),
        (lambda: CopyCodeLoss(sigma=0.0), "sigma"),
    ],
)
def test_invalid_settings_are_refused(make: Any, key: str) -> None:
    with pytest.raises(UserError, match=f"head.{key} is "):
        make()
