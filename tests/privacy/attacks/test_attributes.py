"""Attribute disclosure compared with planted copies, samples without copies, and brute force."""

import numpy as np
import pytest

from echodream.errors import UserError
from echodream.metrics.bootstrap import wilson_interval
from echodream.privacy.attacks.attributes import AttributeDisclosure, attribute_disclosure

TRAIN, HELD, SAMPLES, WIDTH = 80, 50, 90, 8
MEMBER = np.arange(TRAIN + HELD) < TRAIN


def attacked(seed: int, copies: int = 0, quantity: bool = False) -> AttributeDisclosure:
    """Attack on an attribute that correlates with coordinate 0; the first ``copies`` samples copy training patients."""
    generator = np.random.default_rng(seed)
    patients, samples = generator.normal(size=(TRAIN + HELD, WIDTH)), generator.normal(size=(SAMPLES, WIDTH))
    values = [50 + 8 * rows[:, 0] + 8 * generator.normal(size=len(rows)) for rows in (patients, samples)]
    samples[:copies], values[1][:copies] = patients[:copies] + 0.1 * samples[:copies], values[0][:copies]
    if not quantity:
        values = [np.array(["low", "high"])[(part > 50).astype(int)] for part in values]
    distances = np.linalg.norm(samples[:, None] - patients, axis=2)
    return attribute_disclosure(distances, values[1], values[0], MEMBER)


@pytest.mark.parametrize("quantity", [False, True])
def test_attributes_of_copied_patients_are_disclosed(quantity: bool) -> None:
    found = attacked(0, copies=TRAIN, quantity=quantity)
    assert found.attack.value > 0.95
    assert found.control.value < 0.75
    assert found.risk.low > 0.5
    assert found.attack.low > found.baseline


@pytest.mark.parametrize("quantity", [False, True])
@pytest.mark.slow
def test_a_harmless_set_discloses_as_much_about_new_patients(quantity: bool) -> None:
    """Without copies, an attribute visible in the image is guessed equally well for training and for new patients."""
    found = [attacked(seed, quantity=quantity) for seed in range(200)]
    assert np.mean([each.risk.low > 0 for each in found]) <= 0.055  # expected: .025; with three standard errors: .058
    assert np.mean([each.attack.value - each.control.value for each in found]) == pytest.approx(0, abs=0.02)


def test_the_attack_by_brute_force() -> None:
    """Samples and patients with an unknown attribute are left out; a numeric guess is correct within 5 %."""
    generator = np.random.default_rng(1)
    distances = generator.uniform(size=(7, 9))
    samples = np.array([60.0, np.nan, 57.1, 40.0, 62.9, 63.1, 100.0])
    patients = np.array([60.0, 42.0, np.nan, 99.0, 60.0, 38.0, 60.0, 41.0, 105.0])
    member = np.arange(9) < 5
    found = attribute_disclosure(distances, samples, patients, member)
    correct = {}
    for patient in range(9):
        if np.isfinite(patients[patient]):
            order = [row for row in distances[:, patient].argsort() if np.isfinite(samples[row])]
            correct[patient] = abs(samples[order[0]] - patients[patient]) <= 0.05 * patients[patient]
    attack, control = ([value for patient, value in correct.items() if member[patient] == group] for group in (1, 0))
    assert (found.patients, found.controls) == (4, 4)
    assert found.attack == wilson_interval(sum(attack), 4)
    assert found.control == wilson_interval(sum(control), 4)
    assert found.baseline == 0.5  # the constant guess 60 is correct for two of four training patients
    texts = attribute_disclosure(distances, np.array(["a", "", *"abbab"]), np.array([*"aabb", "", *"abab"]), member)
    assert (texts.patients, texts.controls) == (4, 4)


def test_too_few_known_attributes_are_refused() -> None:
    with pytest.raises(UserError, match="two training patients and two held-out patients with a known attribute"):
        attribute_disclosure(np.ones((3, 4)), np.array([*"abc"]), np.array(["a", "b", "a", ""]), np.arange(4) < 2)
