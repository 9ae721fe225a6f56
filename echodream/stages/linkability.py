"""``stage=linkability``: are anonymised images still taken for those of their patient, at a threshold of originals?"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from echodream import validation
from echodream.anonymization.image_pairs import (
    Images,
    Space,
    check_alike,
    chosen,
    embedded,
    images,
    opened,
    partners,
    spaces,
    versions,
)
from echodream.errors import UserError
from echodream.metrics import verification_threshold as at
from echodream.metrics.verification import Pairs, auc, bootstrap_pairs
from echodream.privacy.attacks.linkability import linkability as attack
from echodream.privacy.similarity import Similarity, normalised
from echodream.runs.atomic_folder import write_record
from echodream.runs.summary import Summary
from echodream.stages.pairs import read_pairs

REPORT = "linkability.json"
MEANS = {
    "originals": "two original images of one patient, against two of two patients: what the network can do",
    "inner": "two anonymised images of one patient, against two of two patients",
    "outer": "an original image and its own anonymised one, against that of another patient",
}
STATEMENT = (
    "Thresholds were chosen on original validation pairs and then fixed. 95 % intervals are over patients. An AUC of "
    ".5 means that this network cannot link; another network, or one trained on anonymised images, may."
)


@dataclass(frozen=True)
class Views:
    """Ways in which an image is also seen at test time; its embedding is the mean."""

    flip: bool = False
    degrees: float = 0.0

    def __post_init__(self) -> None:
        validation.true_or_false("views.flip", self.flip)
        validation.number("views.degrees", self.degrees, 0, 45)

    def of(self, space: Space) -> Space:
        """``space`` with images seen in all ways; its embeddings are unit vectors."""
        similarity: Similarity = "cosine" if space.fingerprint is not None else "pearson"

        def embed(frames: Tensor) -> Tensor:
            ways = [frames, frames.flip(-1)] if self.flip else [frames]
            turns = [_turned(frames, sign * self.degrees) for sign in (1, -1)] if self.degrees else []
            parts = [normalised(space.embed(way), similarity, "embeddings") for way in [*ways, *turns]]
            return normalised(torch.stack(parts).mean(dim=0), "cosine", "embeddings")

        means = space.means if space.fingerprint is not None else f"correlation of {space.name}"
        return replace(space, means=means, embed=embed)


def _turned(frames: Tensor, degrees: float) -> Tensor:
    """``frames``, (n, C, H, W), about their middle; what comes in from outside repeats the edge."""
    turn, (height, width) = math.radians(degrees), frames.shape[2:]
    cos, sin = math.cos(turn), math.sin(turn)
    matrix = torch.tensor([[cos, -sin * height / width, 0.0], [sin * width / height, cos, 0.0]])
    grid = torch.nn.functional.affine_grid(matrix.expand(len(frames), 2, 3), list(frames.shape), align_corners=False)
    return torch.nn.functional.grid_sample(frames, grid, padding_mode="border", align_corners=False)


def linkability(
    *,
    src: str,
    real: str,
    pairs: str,
    artifact: str | None,
    autoencoder: str,
    dst: str,
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
    """Verify TEST pairs of the originals ``real``, of the anonymised ``src``, and of one with the other.

    ``pairs`` is a folder with VAL.csv and TEST.csv. The thresholds, of the best F1 by ``folds`` folds and of a false
    accept rate of ``far``, are of original VAL pairs. Without ``artifact`` images are compared by correlation. Writes
    ``dst``/linkability.json. Raises ``UserError`` for what cannot be compared.
    """
    _check(far, folds, repeats)
    seen = Views(**views)
    original, source = opened(real, "real"), opened(src, "src")
    check_alike(original, source)
    test, valid = (images(chosen(original, [split], "real"), frames) for split in ("TEST", "VAL"))
    made = versions(test, partners(test.rows, source, match))
    listed = {"VAL": read_pairs(Path(pairs) / "VAL.csv", valid), "TEST": read_pairs(Path(pairs) / "TEST.csv", test)}
    space = seen.of(spaces(original, [source], artifact, autoencoder)[0])
    (a,), (b,), (v,) = (
        embedded(side, [space], what)
        for side, what in ((test, "originals"), (made, "anonymised"), (valid, "validation"))
    )
    cuts, chose = _thresholds(scored(v, v, listed["VAL"], valid), far, folds, seed, pairs)
    crossed = across(test, seed)
    sets = {
        "originals": scored(a, a, listed["TEST"], test),
        "inner": scored(b, b, listed["TEST"], test),
        "outer": scored(a, b, crossed, test),
    }
    found = {name: {"means": MEANS[name], **_figures(each, cuts, repeats, seed)} for name, each in sets.items()}
    risk, why = residual(a, b, test, seed)
    record: dict[str, Any] = {"statement": STATEMENT, "sets": found, "thresholds": chose, "residual risk": risk}
    record |= {"not measured": why, "compared by": space.means, "network": space.fingerprint, "views": asdict(seen)}
    record |= {"seed": seed, "repeats": repeats, "frames": frames}
    record |= {"real": original.checksum, "source": source.checksum}
    Path(dst).mkdir(parents=True, exist_ok=True)
    write_record(Path(dst) / REPORT, _plain({**record, "command": command, "code_version": code_version}))
    return Summary(f"linkability: {dst}/{REPORT} done", _lines(record))


def _check(far: float, folds: int, repeats: int) -> None:
    validation.number("far", far, above=0, below=1, note=", for example 0.001")
    validation.whole_number("folds", folds, 2)
    validation.whole_number("repeats", repeats, 100)


def scored(x: Tensor, y: Tensor, listed: np.ndarray, shown: Images) -> Pairs:
    """The similarity of rows of ``x`` and ``y``, unit vectors, for each of the pairs ``listed``, (P, 2)."""
    first, second = torch.from_numpy(listed).T
    score = (x[first].double() * y[second].double()).sum(dim=1).numpy()
    return at.pairs_of(score, shown.patients[listed[:, 0]], shown.patients[listed[:, 1]])


def across(shown: Images, seed: int) -> np.ndarray:
    """Each image with its own version, and with that of a random image of a random other patient: (2n, 2)."""
    rng, owner = np.random.default_rng([seed, 1]), shown.patients
    everybody = np.unique(owner)
    if len(everybody) < 2:
        raise UserError(f"{shown.rows.store.root} has one patient only in {shown.rows.split}: nobody to compare with")
    found = []
    for image, patient in enumerate(owner):
        others = everybody[everybody != patient]
        other = rng.choice(np.flatnonzero(owner == others[int(rng.integers(len(others)))]))
        found += [(image, image), (image, int(other))]
    return np.array(found, np.int64)


def _thresholds(
    pairs: Pairs, far: float, folds: int, seed: int, folder: str
) -> tuple[dict[str, float], dict[str, dict[str, Any]]]:
    """Both thresholds, by name, and how they were chosen."""
    if not pairs.same.any() or pairs.same.all():
        raise UserError(f"{folder}/VAL.csv must have pairs of one patient and pairs of two: run stage=pairs again")
    best, strict = at.by_folds(pairs, folds, seed), at.at_far(pairs, far)
    impostors = int(np.count_nonzero(~pairs.same))
    chose: dict[str, dict[str, Any]] = {"best F1": {**asdict(best), "squared distance": 2 - 2 * best.threshold}}
    cuts = {"best F1": best.threshold}
    name = f"FAR {far:g}"
    if math.isfinite(strict):
        cuts[name] = strict
        chose[name] = {"threshold": strict, "squared distance": 2 - 2 * strict}
    elif math.isnan(strict):
        needs = f"it needs {math.ceil(1 / far)} pairs of two patients in validation, and there are {impostors}"
        chose[name] = {"why not": needs}
    else:
        chose[name] = {"why not": "pairs of two patients have the highest similarity: nothing could be accepted"}
    return cuts, chose


def _figures(pairs: Pairs, cuts: Mapping[str, float], repeats: int, seed: int) -> dict[str, Any]:
    """AUC, EER, and all rates at each threshold, with intervals."""

    def with_interval(statistic: Any) -> dict[str, float]:
        return asdict(bootstrap_pairs(pairs, statistic, repeats, seed=seed))

    found: dict[str, Any] = {"AUC": with_interval(auc), "EER": with_interval(at.eer)}
    for name, cut in cuts.items():
        found[name] = {rate: with_interval(partial(_rate, cut=cut, name=rate)) for rate in at.NAMES}
    same = int(pairs.same.sum())
    return {**found, "pairs": {"of one patient": same, "of two": len(pairs.score) - same, "patients": pairs.patients}}


def _rate(pairs: Pairs, weight: np.ndarray | None = None, *, cut: float, name: str) -> float:
    return float(getattr(at.rates(pairs, cut, weight), name))


def residual(x: Tensor, y: Tensor, shown: Images, seed: int) -> tuple[dict[str, Any] | None, str | None]:
    """Does a patient's anonymised image help to link two originals, more than it does of patients who have none?

    Patients with two recordings are halved at random: of one half the version of the first image is in the set, of the
    other half, the control group, none. Returns the risk, or why there is none.
    """
    rng, owner = np.random.default_rng([seed, 2]), shown.patients
    views = []
    for patient in np.unique(owner):
        own = np.flatnonzero(owner == patient)
        other = own[shown.row[own] != shown.row[own[0]]]
        if len(other):
            views.append((int(own[0]), int(other[0])))
    order = rng.permutation(len(views))
    half = len(views) // 2
    if half < 2:
        return None, f"residual risk needs 4 patients with two recordings, and there are {len(views)}"
    first, second = np.array(views)[order].T
    alone = np.setdiff1d(np.arange(len(owner)), np.flatnonzero(np.isin(owner, owner[first])))
    published = torch.from_numpy(np.concatenate([first[:half], alone]))
    sides = [
        (x[torch.from_numpy(first[part])], x[torch.from_numpy(second[part])])
        for part in (slice(half), slice(half, None))
    ]
    try:
        found = attack(sides[0], sides[1], (y[published], y[published]))
    except UserError as error:
        return None, str(error)
    return {**asdict(found), "patients": half, "control patients": len(views) - half, "images": len(published)}, None


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _text(entry: Mapping[str, float]) -> str:
    return f"{entry['value']:.3f} [{entry['low']:.3f}, {entry['high']:.3f}]"


def _lines(record: Mapping[str, Any]) -> dict[str, object]:
    facts: dict[str, object] = {"compared by": record["compared by"]}
    for name, chose in record["thresholds"].items():
        facts[f"threshold, {name}"] = f"{chose['threshold']:.4f}" if "threshold" in chose else chose["why not"]
    for name, found in record["sets"].items():
        facts[name] = f"AUC {_text(found['AUC'])}, EER {_text(found['EER'])}"
        for cut in (cut for cut in record["thresholds"] if cut in found):
            rates = found[cut]
            facts[f"{name}, {cut}"] = (
                f"linked {_text(rates['recall'])}, falsely {_text(rates['far'])}, F1 {_text(rates['f1'])}"
            )
    risk = record["residual risk"]
    facts["residual risk"] = (
        f"not measured: {record['not measured']}"
        if risk is None
        else (f"{_text(risk['risk'])} of {risk['patients']} patients, {risk['control patients']} in control")
    )
    return facts
