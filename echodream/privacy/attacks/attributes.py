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

    ``attack``: share of training patients whose attribute is guessed. ``control``: share of patients that the generator
    was not trained on. ``baseline``: success rate, on training patients, of the best guess that is the same for all
    patients. ``risk``: (attack - control) / (1 - control), in [0, 1]. If ``attack`` is not above ``baseline``, the
    attack failed and ``risk`` has no meaning. ``patients``, ``controls``: patients with a known attribute.
    """

    attack: Interval
    control: Interval
    baseline: float
    risk: Interval
    patients: int
    controls: int


def attribute_disclosure(
    distances: np.ndarray, samples: np.ndarray, patients: np.ndarray, member: np.ndarray
) -> AttributeDisclosure:
    """The attack that guesses the attribute of a patient from the nearest sample with a known attribute.

    ``distances``, (n, P): of n samples to P patients. ``samples``, (n,), and ``patients``, (P,): attributes, texts or
    numbers; an unknown attribute is "" or NaN. A guess of a number may be wrong by ``TOLERANCE`` times the true value.
    ``member``, bool (P,): training patients. Raises ``UserError`` if a group has fewer than two known attributes.
    """
    known_samples, known = _known(samples), _known(patients)
    if min((known & member).sum(), (known & ~member).sum()) < 2 or not known_samples.any():
        raise UserError(
            "attribute disclosure needs samples, and two or more patients in training and held out, with it"
        )
    guesses, truth, inside = samples[known_samples], patients[known], member[known]
    nearest = distances[known_samples][:, known].argmin(axis=0)
    correct = _is_correct(guesses[nearest], truth)
    baseline = max(float(_is_correct(guess, truth[inside]).mean()) for guess in np.unique(guesses))
    attack, control = (wilson_interval(int(correct[group].sum()), int(group.sum())) for group in (inside, ~inside))
    risk = residual_risk(attack, control)
    return AttributeDisclosure(attack, control, baseline, risk, int(inside.sum()), int((~inside).sum()))


def _known(values: np.ndarray) -> np.ndarray:
    known: np.ndarray = np.isfinite(values) if values.dtype.kind == "f" else values != ""
    return known


def _is_correct(guess: np.ndarray, truth: np.ndarray) -> np.ndarray:
    correct: np.ndarray = (
        np.abs(guess - truth) <= TOLERANCE * np.abs(truth) if truth.dtype.kind == "f" else guess == truth
    )
    return correct
