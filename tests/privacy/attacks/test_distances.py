"""Distances, closeness, copying and PRDC compared with brute force, closed forms and planted copies."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.distance import cdist
from torch import Tensor

from echodream.errors import UserError
from echodream.metrics.bootstrap import unit_indices
from echodream.privacy import nearest_neighbors as neighbors
from echodream.privacy.attacks.closeness import Closeness, dcr_and_nndr
from echodream.privacy.attacks.copying import Copying, cell_centers, copying_score, mann_whitney_z
from echodream.privacy.attacks.embedding_prdc import prdc_intervals

N, M, WIDTH = 31, 47, 5


def normal(rows: int, seed: int, width: int = WIDTH) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "DISTANCE_ROWS", 7)


def test_distances_by_blocks_are_scipys() -> None:
    x, y = (each.double() for each in (normal(N, 0), normal(M, 1)))
    truth, own = cdist(x, y), cdist(y, y)
    unit = np.arange(M) % 6
    value, place = neighbors.nearest_rows(x, y)
    assert value.numpy() == pytest.approx(truth.min(axis=1))
    assert place.tolist() == truth.argmin(axis=1).tolist()
    assert neighbors.neighbor_radii(y, 3).numpy() == pytest.approx(
        np.sort(own, axis=1)[:, 3]
    )  # column 0 is the distance of each row to itself
    others = np.where(unit[:, None] == unit[None], np.inf, own).min(axis=1)
    assert neighbors.nearest_other_patient(y, unit).numpy() == pytest.approx(others)
    by_unit = np.stack([truth[:, unit == one].min(axis=1) for one in range(6)], axis=1)
    assert neighbors.distance_to_each_patient(x, y, unit).numpy() == pytest.approx(by_unit)


def test_equal_rows_are_neighbours_too() -> None:
    x = normal(3, 0).double().repeat(2, 1)
    assert neighbors.neighbor_radii(x, 1).tolist() == [0.0] * 6
    assert neighbors.neighbor_radii(x, 2).min() > 0


def brute_prdc(x: np.ndarray, y: np.ndarray, k: int) -> dict[str, float]:
    """Precision, recall, density and coverage by the equations of Naeem et al., with loops over all pairs."""
    ball = [np.sort([np.linalg.norm(a - b) for b in x])[k] for a in x]
    balls = [np.sort([np.linalg.norm(a - b) for b in y])[k] for a in y]
    d = [[np.linalg.norm(a - b) for b in y] for a in x]
    return {
        "precision": np.mean([any(d[i][j] < balls[j] for j in range(len(y))) for i in range(len(x))]),
        "recall": np.mean([any(d[i][j] < ball[i] for i in range(len(x))) for j in range(len(y))]),
        "density": np.mean([sum(d[i][j] < balls[j] for j in range(len(y))) / k for i in range(len(x))]),
        "coverage": np.mean([any(d[i][j] < balls[j] for i in range(len(x))) for j in range(len(y))]),
    }


@pytest.mark.parametrize("k", [1, 3])
def test_prdc_is_the_papers_pair_by_pair(k: int) -> None:
    x, y = normal(N, 0) * 0.7 + 0.4, normal(M, 1)
    found = prdc_intervals(x, y, k=k)
    for name, value in brute_prdc(x.double().numpy(), y.double().numpy(), k).items():
        interval = found[name]
        assert interval.value == pytest.approx(value), name
        assert interval.low <= value <= interval.high
        assert interval.low < interval.high


def closeness(
    x: Tensor, y: Tensor, y_patients: list[str], z: Tensor, z_patients: list[str], repeats: int = 20
) -> Closeness:
    tables = [
        neighbors.distance_to_each_patient(x.double(), rows.double(), unit_indices(names, len(rows))).numpy()
        for rows, names in ((y, y_patients), (z, z_patients))
    ]
    return dcr_and_nndr(tables[0], tables[1], repeats=repeats)


def data_copying(x: Tensor, train: Tensor, held: Tensor, cells: int = 1, least: int = 10) -> Copying:
    centers = cell_centers(train.double(), cells, 0)
    samples, reference = (
        (
            neighbors.nearest_rows(rows.double(), train.double())[0].numpy(),
            neighbors.nearest_rows(rows.double(), centers)[1].numpy(),
        )
        for rows in (x, held)
    )
    return copying_score(samples, reference, cells, least)


def test_half_of_harmless_samples_are_nearest_in_training() -> None:
    names = [f"t{number // 2}" for number in range(160)], [f"h{number // 2}" for number in range(160)]
    x, y, z = normal(300, 0), normal(160, 1), normal(160, 2)
    found = closeness(x, y, names[0], z, names[1], repeats=300)
    both = (cdist(x.double(), each.double()).min(axis=1) for each in (y, z))
    assert found.nearest_in_train.value == pytest.approx(np.mean(np.less(*both)))
    assert found.nearest_in_train.low < 0.5 < found.nearest_in_train.high
    assert found.p_value > 0.02
    assert found.dcr_train.value == pytest.approx(np.median(cdist(x.double(), y.double()).min(axis=1)))
    per = np.stack([cdist(x.double(), y[2 * i : 2 * i + 2].double()).min(axis=1) for i in range(80)], axis=1)
    first, second = np.sort(per, axis=1)[:, :2].T
    assert found.nndr_train.value == pytest.approx(np.median(first / second))
    assert found.patients == 80


def test_planted_copies_are_nearer_to_training() -> None:
    y, z = normal(80, 1), normal(50, 2)
    x = torch.cat([normal(60, 0), y[:70] + 0.01 * normal(70, 3)])
    found = closeness(x, y, [f"t{i}" for i in range(80)], z, [f"h{i}" for i in range(50)], repeats=300)
    assert found.nearest_in_train.value > 0.55
    assert found.p_value < 0.05
    assert found.patients == 50  # training patients are subsampled to the number of held-out patients
    twin = closeness(y, y, [f"t{i}" for i in range(80)], z, [f"h{i}" for i in range(50)], repeats=20)
    assert twin.nndr_train.low == 0
    same = closeness(x, y.new_zeros(4, WIDTH), list("abcd"), z, [f"h{i}" for i in range(50)], repeats=20)
    assert same.nndr_train.value == 1  # all training patients are equal, so every ratio is 1


def test_a_ratio_of_zero_to_zero_is_one() -> None:
    y = torch.cat([normal(1, 0)] * 3)
    found = closeness(y, y, list("abc"), normal(3, 1), list("def"), repeats=20)
    assert found.nndr_train.value == 1
    assert found.dcr_train.value == 0


def test_mann_whitney_is_scipys() -> None:
    generator = np.random.default_rng(0)
    for decimals in (9, 1):  # 9 decimals: no ties; 1 decimal: ties
        held, samples = generator.normal(0.4, 1, 23).round(decimals), generator.normal(0, 1, 31).round(decimals)
        truth = stats.mannwhitneyu(samples, held, use_continuity=False, method="asymptotic", alternative="greater")
        assert stats.norm.sf(mann_whitney_z(held, samples)) == pytest.approx(truth.pvalue)
    assert mann_whitney_z(np.ones(4), np.ones(5)) == 0


def test_data_copying_tells_copies_from_new_and_from_far() -> None:
    train, held = normal(300, 0), normal(200, 1)
    scores = [
        data_copying(x, train, held, cells=cells).score.value
        for cells in (1, 4)
        for x in (train[:200] + 0.05 * normal(200, 2), normal(200, 3), 3 * normal(200, 4))
    ]
    for copied, new, far in (scores[:3], scores[3:]):
        assert copied < -3
        assert abs(new) < 3
        assert far > 3


def test_c_t_is_the_weighted_mean_of_its_cells() -> None:
    """Two distant clusters as cells: the score is the mean of the cells' z, weighted by their held-out rows."""
    shift = torch.tensor([50.0] + [0.0] * (WIDTH - 1))
    train = torch.cat([normal(60, 0), normal(40, 1) + shift])
    held = torch.cat([normal(50, 2), normal(20, 3) + shift])
    x = torch.cat([normal(30, 4), train[60:75] + shift * 0 + 0.01 * normal(15, 5)])
    found = data_copying(x, train, held, cells=2)
    near, far = (cdist(each.double(), train.double()).min(axis=1) for each in (x, held))
    z = [mann_whitney_z(far[:50], near[:30]), mann_whitney_z(far[50:], near[30:])]
    assert sorted(found.cells) == pytest.approx(sorted(z))
    assert found.score.value == pytest.approx((50 * z[0] + 20 * z[1]) / 70)
    assert found.score.high - found.score.value == pytest.approx(1.96 * np.hypot(50, 20) / 70)
    fewer = data_copying(x, train, held, cells=2, least=20)
    assert (fewer.left_out, fewer.score.value) == (1, pytest.approx(z[0]))


@pytest.mark.slow
def test_the_interval_of_c_t_covers_zero_where_nothing_is_copied() -> None:
    """Two cells of unequal size without copies, 400 repeats: about 95 % of the intervals contain zero."""
    hits = 0
    for seed in range(400):
        shift = torch.tensor([50.0] + [0.0] * (WIDTH - 1))
        train, held, x = (
            torch.cat([normal(30, 3 * seed + k), normal(15, 9999 + 3 * seed + k) + shift]) for k in range(3)
        )
        score = data_copying(x, train, held, cells=2).score
        hits += score.low <= 0 <= score.high
    assert 0.92 <= hits / 400 <= 0.98


def test_what_cannot_be_audited_is_refused() -> None:
    x = normal(N, 0)
    bad = x.clone()
    bad[0, 0] = float("nan")
    with pytest.raises(UserError, match="PRDC was given NaN"):
        prdc_intervals(x, bad)
    with pytest.raises(UserError, match="same D"):
        prdc_intervals(x, normal(5, 0, 3))
    with pytest.raises(UserError, match="k=31 neighbors"):
        prdc_intervals(x, x, k=N)
    with pytest.raises(UserError, match="only one patient"):
        neighbors.nearest_other_patient(x, np.zeros(N, dtype=int))
    with pytest.raises(UserError, match="two or more patients"):
        closeness(x, x, ["a"] * N, x, ["b"] * N)
    with pytest.raises(UserError, match="No cell has 40"):
        data_copying(x, x, x, least=40)
