"""Audit of a generator that was trained with canaries: a lower bound of the epsilon of its training."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from echodream import validation
from echodream.artifact import TRAINING_FILE, read_artifact
from echodream.auditing.measure import PRIVACY, Measure, exact_interval
from echodream.auditing.membership_inference import MembershipConfig, denoising_errors, load_generator
from echodream.datamodules.recordings import Recordings, training_patients
from echodream.errors import UserError
from echodream.filtering.embedding import check_training_store
from echodream.metrics.classification import auc_interval
from echodream.metrics.rounding import bound_text
from echodream.privacy.canaries import Canaries, EpsilonBound, assign_canaries, audit_canaries
from echodream.runs.summary import Summary
from echodream.store import Store

MEASURE = "epsilon, lower bound by canaries"
MIN_GROUP = 2
"""Smallest number of canaries in each group for which an AUC is computed."""


@dataclass(frozen=True)
class CanaryConfig:
    """``delta`` of the bound, and ``guesses``: tested fractions of the canaries for which a guess is made."""

    delta: float
    guesses: Sequence[float]

    def __post_init__(self) -> None:
        validation.number("canary.delta", self.delta, 0, below=1)
        if not validation.list_of_values("canary.guesses", self.guesses):
            validation.refuse("canary.guesses", [], "give fractions above 0 and up to 1, such as [0.1, 0.5, 1.0]")
        for share in self.guesses:
            validation.number("canary.guesses", share, above=0, maximum=1)


def read_canaries(folder: str, real: Store) -> Canaries:
    """Assignment of the canaries of the generator in ``folder``, from its settings and the patients of ``real``.

    Raises ``UserError`` if the generator has no canaries, or was not trained on ``real``.
    """
    artifact = read_artifact(folder, "lidm", "lvdm")
    if not artifact.canaries:
        raise UserError(f"generator={folder} was trained without canaries: train a generator with canaries=100")
    check_training_store(folder, artifact.model, real, "generator")
    path = Path(folder) / TRAINING_FILE
    try:
        settings: Any = OmegaConf.to_container(OmegaConf.load(path))
        canaries = assign_canaries(training_patients(real), settings["canaries"], settings["seed"])
    except (OSError, KeyError, TypeError, ValueError, OmegaConfBaseException, YAMLError) as error:
        raise UserError(f"{path} does not record the canaries: train the generator again") from error
    if canaries.digest != artifact.canaries:
        remedy = "give the store that the generator was trained on"
        raise UserError(f"real={real.root} has other patients than the canaries of generator={folder}: {remedy}")
    return canaries


def canary_record(
    generator: str, real: str, config: CanaryConfig, membership: MembershipConfig, seed: int
) -> tuple[dict[str, Any], Any]:
    """Settings of the audit, and a function that measures and returns the remaining entries of audit.json.

    The score of a canary is the error of the generator, relative to the error of linear denoisers that were fitted to
    other canaries, in or out of training. The bound holds because only the weights of the generator depend on the coin
    flips. Raises ``UserError`` for inputs that do not match.
    """
    store = Store(real, kind="latent")
    if store.dataset.synthetic:
        raise UserError(f"real={real} is synthetic: give the latents of the patients that the generator was trained on")
    canaries = read_canaries(generator, store)
    claim = read_artifact(generator, "lidm", "lvdm").privacy
    if claim is not None:
        config = replace(config, delta=max(config.delta, float(claim["delta"])))
    model, view = load_generator(generator)
    settings = {
        "real": store.checksum,
        "generator": model.fingerprint(),
        "canaries": canaries.digest,
        "canary": {"delta": config.delta, "guesses": list(config.guesses)},
        "membership": membership.settings(),
        "seed": seed,
    }

    def measure_canaries() -> dict[str, Any]:
        model.to("cuda" if torch.cuda.is_available() else "cpu")
        rows = Recordings(store, "TRAIN")
        is_canary = rows.table["PatientID"].astype(str).isin(canaries.patients)
        recordings = rows.select(np.flatnonzero(is_canary).tolist())
        errors = denoising_errors(model, view, recordings, None, membership, seed)
        scores, names = errors.scores()[0], sorted(set(errors.patients))
        measure = canary_measure(scores, names, canaries, config, "lvdm" if model.is_video else "lidm", claim)
        return {
            "statement": bound_statement(measure, model.fingerprint()),
            "measures": [asdict(measure)],
            "not measured": {},
        }

    return settings, measure_canaries


def canary_measure(
    scores: np.ndarray,
    patients: Sequence[str],
    canaries: Canaries,
    config: CanaryConfig,
    kind: str,
    claim: Mapping[str, Any] | None = None,
) -> Measure:
    """The bound from the ``scores`` of ``patients``, (n,) each; no guess is made for canaries without a score.

    ``claim``: epsilon and delta that the artifact states. A bound above this epsilon refutes the claim.
    """
    is_included = dict(zip(canaries.patients, canaries.included.tolist(), strict=True))
    included = np.array([is_included[name] for name in patients])
    bound: EpsilonBound = audit_canaries(scores, included, config.guesses, config.delta, canaries=len(is_included))
    groups = scores[included], scores[~included]
    auc = asdict(auc_interval(*groups)) if min(map(len, groups)) >= MIN_GROUP else None
    claimed = float(claim["epsilon"]) if claim is not None else 0.0
    details = {**asdict(bound), "generator": kind, "included": int(canaries.included.sum()), "auc": auc}
    details["claimed"] = None if claim is None else claimed
    return Measure(
        MEASURE,
        PRIVACY,
        f"lower bound, with {100 * bound.confidence:g} % confidence, of the epsilon for which the training of the "
        f"generator is (epsilon, {config.delta:g})-differentially private for patients, from guesses about which "
        "patients a coin put into training",
        "0: the guesses are not better than chance; a low value does not show that a generator is private",
        exact_interval(bound.epsilon),
        exact_interval(claimed),
        bound.epsilon > claimed,
        details,
    )


def bound_statement(measure: Measure, weights: str) -> str:
    """The bound in words; ``weights``: fingerprint of the audited generator."""
    details = measure.details
    claim = "" if details["claimed"] is None else bound_text(details["claimed"], 3, upper=True)
    claim = claim and f" The training claims epsilon {claim}."
    claim += " The bound refutes this claim." if claim and measure.stands_out else ""
    bound, kind = bound_text(details["epsilon"], 2, upper=False), details["generator"]
    largest = bound_text(max(each["largest"] for each in details["by_guesses"]), 2, upper=False)
    return (
        f"A coin put each of {details['canaries']} training patients into or out of the training of a separate {kind} "
        f"(weights {weights[:12]}) that was trained with canaries. From "
        f"guesses about which patients were in, the epsilon of the training is at least {bound} at delta "
        f"{details['delta']:g}, with {100 * details['confidence']:g} % confidence (arXiv 2305.08846); the largest "
        f"bound that so many patients can show is {largest}. A low bound does not show that the training is private. "
        f"The bound applies to the training of the diffusion model, not of the autoencoder.{claim}"
    )


def summarize_canaries(path: Path, state: str, record: Mapping[str, Any]) -> Summary:
    """Summary of the audit ``record`` at ``path``."""
    details = record["measures"][0]["details"]
    lines: dict[str, object] = {}
    for each in details["by_guesses"]:
        bound, largest = (bound_text(each[name], 3, upper=False) for name in ("epsilon", "largest"))
        lines[f"{each['guesses']} guesses"] = (
            f"{each['correct']} correct, epsilon at least {bound} (of {largest} if all were correct)"
        )
    return Summary(f"audit: {path} {state}", {**lines, "canaries": record["statement"]})
