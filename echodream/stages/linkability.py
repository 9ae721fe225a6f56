"""``stage=linkability``: verification metrics of anonymized images, with the thresholds of original images."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from echodream import validation
from echodream.anonymization.comparison_spaces import EmbeddingAugmentation, comparison_spaces, embed_images
from echodream.anonymization.image_pairs import ImageSet, match_images, open_original_and_anonymized, select_images
from echodream.anonymization.verification_pairs import read_pairs, sample_version_pairs
from echodream.config.stage_signature import InputPath, OutputPath
from echodream.datamodules.recordings import indices_by_value
from echodream.errors import UserError
from echodream.metrics import verification
from echodream.metrics.verification import Pairs, auc, bootstrap_pairs
from echodream.privacy.attacks.linkability import linkability as attack
from echodream.runs.atomic_folder import write_record
from echodream.runs.summary import Summary

RECORD = "linkability.json"
SET_DESCRIPTIONS = {
    "originals": "pairs of original images: of one patient, or of two patients",
    "inner": "pairs of anonymized images: of one patient, or of two patients",
    "outer": "pairs of an original and an anonymized image: the same image, or images of two patients",
}
STATEMENT = (
    "Thresholds were chosen on pairs of original validation images. 95 % intervals are over patients. With an AUC of "
    "0.5, this network cannot link images; another network, or one trained on anonymized images, may link them."
)


def linkability(
    *,
    src: InputPath,
    real: InputPath,
    pairs: InputPath,
    artifact: InputPath | None,
    autoencoder: InputPath,
    dst: OutputPath,
    match: str,
    frames: int,
    far: float,
    folds: int,
    repeats: int,
    views: Mapping[str, Any],
    seed: int,
    command: str,
    code_version: str,
) -> Summary:
    """Verify TEST pairs of originals ``real``, of anonymized images ``src``, and of originals with anonymized images.

    ``pairs`` is a folder with VAL.csv and TEST.csv. Two thresholds are chosen on VAL pairs of originals: the best F1 in
    ``folds``-fold cross-validation, and a false accept rate of ``far``. Without the identity network ``artifact``,
    images are compared by correlation. Writes ``dst``/linkability.json. Raises ``UserError`` for unsuitable images.
    """
    validation.number("far", far, above=0, below=1, note=", for example 0.001")
    validation.whole_number("folds", folds, 2)
    validation.whole_number("repeats", repeats, 100)
    augmentation = EmbeddingAugmentation(**views)
    original_store, anonymized_store = open_original_and_anonymized(real, src)
    test, val = (select_images(original_store, [split], frames, "real") for split in ("TEST", "VAL"))
    anonymized = match_images(test, anonymized_store, match)
    val_pairs, test_pairs = (read_pairs(Path(pairs) / f"{x.recordings.split}.csv", x) for x in (val, test))
    space = augmentation.augment(comparison_spaces(original_store, anonymized_store, artifact, autoencoder)[0])
    inputs = ((test, "originals"), (anonymized, "anonymized"), (val, "validation"))
    (x,), (y,), (z,) = (embed_images(images, [space], progress) for images, progress in inputs)
    thresholds, chosen = _decision_thresholds(score_pairs(z, z, val_pairs, val), far, folds, seed, pairs)
    sets = {
        "originals": score_pairs(x, x, test_pairs, test),
        "inner": score_pairs(y, y, test_pairs, test),
        "outer": score_pairs(x, y, sample_version_pairs(test, seed), test),
    }
    risk, reason = residual_risk(x, y, test, seed)
    results = {name: _verification_metrics(scored, thresholds, repeats, seed) for name, scored in sets.items()}
    record: dict[str, Any] = {
        "statement": STATEMENT,
        "sets": {name: {"means": SET_DESCRIPTIONS[name], **result} for name, result in results.items()},
        "thresholds": chosen,
        "residual risk": risk,
        "not measured": reason,
        "compared by": space.description,
        "network": space.fingerprint,
        "views": asdict(augmentation),
        "seed": seed,
        "repeats": repeats,
        "frames": frames,
        "real": original_store.checksum,
        "source": anonymized_store.checksum,
        "command": command,
        "code_version": code_version,
    }
    write_record(Path(dst) / RECORD, record)
    return Summary(f"linkability: {dst}/{RECORD} done", _summary_lines(record))


def score_pairs(x: Tensor, y: Tensor, pairs: np.ndarray, images: ImageSet) -> Pairs:
    """Similarity of the unit vectors ``x[i]`` and ``y[j]``, both (N, D), for each pair (i, j) in ``pairs``, (P, 2)."""
    first, second = torch.from_numpy(pairs).T
    score = (x[first].double() * y[second].double()).sum(dim=1).numpy()
    return verification.pairs_from_scores(score, images.patients[pairs[:, 0]], images.patients[pairs[:, 1]])


def _decision_thresholds(
    pairs: Pairs, far: float, folds: int, seed: int, folder: str
) -> tuple[dict[str, float], dict[str, dict[str, Any]]]:
    """Thresholds by name, and their record; for a threshold that cannot be chosen, the record has the reason."""
    if not pairs.genuine.any() or pairs.genuine.all():
        raise UserError(f"{folder}/VAL.csv needs pairs of one patient and pairs of two patients: run stage=pairs again")
    best, strict = verification.cross_validated_threshold(pairs, folds, seed), verification.threshold_at_far(pairs, far)
    thresholds, name = {"best F1": best.threshold}, f"FAR {far:g}"
    record: dict[str, dict[str, Any]] = {"best F1": {**asdict(best), "squared distance": 2 - 2 * best.threshold}}
    if math.isfinite(strict):
        thresholds[name] = strict
        record[name] = {"threshold": strict, "squared distance": 2 - 2 * strict}
        return thresholds, record
    reason = "a pair of two patients has the highest similarity: no pair could be accepted"
    if math.isnan(strict):
        count = int(np.count_nonzero(~pairs.genuine))
        reason = f"it needs {math.ceil(1 / far)} pairs of two patients in validation, but there are {count}"
    return thresholds, {**record, name: {"why not": reason}}


def _verification_metrics(pairs: Pairs, thresholds: Mapping[str, float], repeats: int, seed: int) -> dict[str, Any]:
    """AUC, EER, and rates at each threshold, with intervals from ``repeats`` bootstrap samples of patients."""

    def interval_of(statistic: Any) -> dict[str, float]:
        return asdict(bootstrap_pairs(pairs, statistic, repeats, seed=seed))

    figures: dict[str, Any] = {"AUC": interval_of(auc), "EER": interval_of(verification.equal_error_rate)}
    for name, threshold in thresholds.items():
        figures[name] = {rate: interval_of(_rate_statistic(rate, threshold)) for rate in verification.RATE_NAMES}
    same = int(pairs.genuine.sum())
    return {**figures, "pairs": {"of one patient": same, "of two": len(pairs.score) - same, "patients": pairs.patients}}


def _rate_statistic(name: str, threshold: float) -> Callable[..., float]:
    return lambda pairs, weight=None: float(getattr(verification.verification_rates(pairs, threshold, weight), name))


def residual_risk(x: Tensor, y: Tensor, originals: ImageSet, seed: int) -> tuple[dict[str, Any] | None, str | None]:
    """Risk that an attacker links two originals of a patient by the published anonymized version of the first original.

    ``x``, ``y``: embeddings of ``originals`` and of the anonymized images, (n, D). Patients with two recordings are
    split at random: the anonymized first images of one half are published; the other half is the control group.
    Returns the risk, or None and the reason why the risk cannot be measured.
    """
    rng, owner = np.random.default_rng([seed, 2]), originals.patients
    pairs = []
    for images in indices_by_value(owner).values():
        other_recording = images[originals.row[images] != originals.row[images[0]]]
        if len(other_recording):
            pairs.append((int(images[0]), int(other_recording[0])))
    order = rng.permutation(len(pairs))
    half = len(pairs) // 2
    if half < 2:
        return None, f"residual risk needs 4 patients with two recordings, but there are {len(pairs)}"
    first, second = torch.from_numpy(np.array(pairs)[order]).T
    single = np.flatnonzero(~np.isin(owner, owner[first]))
    published = torch.cat([first[:half], torch.from_numpy(single)])
    attacked, control = ((x[first[part]], x[second[part]]) for part in (slice(half), slice(half, None)))
    try:
        result = attack(attacked, control, (y[published], y[published]))
    except UserError as error:
        return None, str(error)
    return {**asdict(result), "patients": half, "control patients": len(pairs) - half, "images": len(published)}, None


def _summary_lines(record: Mapping[str, Any]) -> dict[str, object]:
    """Lines of the summary: thresholds, verification metrics and residual risk."""
    summary: dict[str, object] = {"compared by": record["compared by"]}
    for name, entry in record["thresholds"].items():
        summary[f"threshold, {name}"] = f"{entry['threshold']:.4f}" if "threshold" in entry else entry["why not"]
    for name, figures in record["sets"].items():
        summary[name] = f"AUC {_format_interval(figures['AUC'])}, EER {_format_interval(figures['EER'])}"
        for threshold in (threshold for threshold in record["thresholds"] if threshold in figures):
            recall, far, f1 = (_format_interval(figures[threshold][rate]) for rate in ("recall", "far", "f1"))
            summary[f"{name}, {threshold}"] = f"linked {recall}, falsely {far}, F1 {f1}"
    summary["residual risk"] = f"not measured: {record['not measured']}"
    if (risk := record["residual risk"]) is not None:
        groups = f"{risk['patients']} patients, {risk['control patients']} in control"
        summary["residual risk"] = f"{_format_interval(risk['risk'])} of {groups}"
    return summary


def _format_interval(entry: Mapping[str, float]) -> str:
    return f"{entry['value']:.3f} [{entry['low']:.3f}, {entry['high']:.3f}]"
