"""Attribute disclosure: do the nearest samples reveal more about a training patient than about a new patient?"""

from dataclasses import dataclass

import numpy as np

from echodream.errors import UserError
from echodream.metrics.bootstrap import Interval, wilson_interval
from echodream.privacy.attacks.linkability import residual_risk

TOLERANCE = 0.05
"""Largest relative error of a correct guess of a number, as in Anonymeter."""


@dataclass(frozen=True)
class AttributeDisclosure:
    """Success rates of the attack on an attribute, and the residual risk (Giomi et al., arXiv 2211.10459).

    ``attack``: share of training patients whose attribute is guessed correctly. ``control``: the corresponding share of
    patients on whom the generator was not trained. ``baseline``: success rate, on training patients, of the best guess
    that is the same for all patients. ``risk``: (attack - control) / (1 - control), in [0, 1]. If ``attack`` is not
    above ``baseline``, the attack failed and ``risk`` has no meaning. ``patients``, ``controls``: numbers of training
    and other patients with a known attribute.
    """

    attack: Interval
    control: Interval
    baseline: float
    risk: Interval
    patients: int
    controls: int


def attribute_disclosure(
    distances: np.ndarray, samples: np.ndarray, patients: np.ndarray, is_member: np.ndarray
) -> AttributeDisclosure:
    """Success of an attack that guesses the attribute of a patient from the nearest sample with a known attribute.

    ``distances``, (n, P): distances of n samples to P patients. ``samples``, (n,), and ``patients``, (P,): attributes,
    texts or numbers; an unknown attribute is "" or NaN. A guess of a number may be wrong by ``TOLERANCE`` times the
    true value. ``is_member``, bool (P,): training patients. Raises ``UserError`` if a group has fewer than two known
    attributes.
    """
    known_samples, known = _is_known(samples), _is_known(patients)
    if min((known & is_member).sum(), (known & ~is_member).sum()) < 2 or not known_samples.any():
        raise UserError(
            "attribute disclosure needs samples, two training patients and two held-out patients with a known attribute"
        )
    guesses, truth, inside = samples[known_samples], patients[known], is_member[known]
    nearest = distances[known_samples][:, known].argmin(axis=0)
    correct = _is_correct(guesses[nearest], truth)
    baseline = max(float(_is_correct(guess, truth[inside]).mean()) for guess in np.unique(guesses))
    attack, control = (wilson_interval(int(correct[group].sum()), int(group.sum())) for group in (inside, ~inside))
    risk = residual_risk(attack, control)
    return AttributeDisclosure(attack, control, baseline, risk, int(inside.sum()), int((~inside).sum()))


def _is_known(values: np.ndarray) -> np.ndarray:
    known: np.ndarray = np.isfinite(values) if values.dtype.kind == "f" else values != ""
    return known


def _is_correct(guess: np.ndarray, truth: np.ndarray) -> np.ndarray:
    is_number = truth.dtype.kind == "f"
    correct: np.ndarray = np.abs(guess - truth) <= TOLERANCE * np.abs(truth) if is_number else guess == truth
    return correct
