"""Classes of samples (copy, half-memorized, novel) compared with the definition of the classification rule."""

import numpy as np
import pytest

from echodream.errors import UserError
from echodream.privacy.memorization import CLASSES, NEIGHBORS, copy_rule, relative_distances


def test_classes_are_separated_by_the_distances_of_real_patients() -> None:
    own, others = np.arange(1, 21) / 100, np.array([0.7, 0.5, 0.9])
    rule = copy_rule(own, others)
    # 19 of 20 own distances are at most 0.19
    assert (rule.copy, rule.novel, rule.own, rule.others) == (0.19, 0.5, 20, 3)
    found = rule.classify(np.array([0.0, 0.19, 0.1901, 0.4999, 0.5, 2.0]))
    assert [CLASSES[code] for code in found] == ["copy", "copy", "half", "half", "novel", "novel"]


def test_nobody_is_a_copy_who_is_no_nearer_than_another_patient() -> None:
    """If distances within a patient exceed distances between patients, only the latter set the threshold."""
    rule = copy_rule(np.array([1.0, 3.0]), np.array([2.0, 4.0]))
    assert [CLASSES[code] for code in rule.classify(np.array([1.9, 2.0, 2.5]))] == ["copy", "novel", "novel"]


def test_a_new_patient_is_called_memorized_as_rarely_as_the_rule_says() -> None:
    """The probability is 1 / (m + 1) with m other patients, for any distribution of distances."""
    rng = np.random.default_rng(0)
    distances = rng.gamma(3.0, size=(40_000, 20))
    found = [copy_rule(np.zeros(3), one[1:]).classify(one[:1])[0] != 2 for one in distances[:4_000]]
    assert np.mean(found) == pytest.approx(1 / 20, abs=4 * np.sqrt(0.05 * 0.95 / 4_000))


@pytest.mark.parametrize(("own", "others"), [([], [1.0]), ([1.0], [])])
def test_a_rule_needs_real_distances(own: list[float], others: list[float]) -> None:
    with pytest.raises(UserError, match="memoriser=true needs patients with several frames, and patients outside"):
        copy_rule(np.array(own), np.array(others))


def test_distances_are_relative_to_the_nearest_others() -> None:
    rng = np.random.default_rng(1)
    nearest, others = rng.random(7), rng.random((7, NEIGHBORS + 11))
    expected = [one / np.mean(sorted(row)[:NEIGHBORS]) for one, row in zip(nearest, others, strict=True)]
    assert relative_distances(nearest, others) == pytest.approx(expected)
    others[2, 5:] = np.inf  # five finite distances are left, so all rows use five neighbors
    expected = [one / np.mean(sorted(row)[:5]) for one, row in zip(nearest, others, strict=True)]
    assert relative_distances(nearest, others) == pytest.approx(expected)
    others[3] = np.inf
    with pytest.raises(UserError, match="memoriser=true needs two TRAIN patients outside of the fine-tuning"):
        relative_distances(nearest, others)


def test_the_mean_image_is_nobodys_copy() -> None:
    """The mean image is close to every patient, but no closer to one patient than to the others."""
    rng = np.random.default_rng(2)
    patients = rng.normal(size=(60, 400))

    def relative(x: np.ndarray, left_out: int | None = None) -> float:
        distances = np.sqrt(((x - patients) ** 2).mean(axis=1))
        others = np.where(np.arange(60) == left_out, np.inf, distances)[4:]
        return float(relative_distances(distances[:4].min(keepdims=True), others[None])[0])

    rule = copy_rule(np.array([0.05]), np.array([relative(patients[k], k) for k in range(4, 60)]))
    mean, copied = patients.mean(axis=0), patients[1] + 0.01 * rng.normal(size=400)
    assert np.sqrt(((mean - patients) ** 2).mean(axis=1)).max() < 1.2  # the distance between two patients is about 1.41
    half = patients[1] + 0.4 * (rng.normal(size=400) - patients[1])
    found = rule.classify(np.array([relative(each) for each in (mean, copied, half)]))
    assert [CLASSES[code] for code in found] == ["novel", "copy", "half"]
