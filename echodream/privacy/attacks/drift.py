"""Identity drift: do all frames of a generated video show the same patient?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from echodream.errors import UserError
from echodream.metrics.bootstrap import Interval, bootstrap_mean, clopper_pearson_interval, unit_indices
from echodream.privacy.similarity import Similarity, normalize, paired_similarity


@dataclass(frozen=True)
class Drift:
    """Similarity of the frames of videos to a reference frame; intervals are bootstrapped over patients.

    ``curve``, (F,): mean similarity of frame f over the videos with at least f + 1 frames; its interval is ``low`` to
    ``high``, (F,) each. ``last``: mean similarity of the last frame. ``step``: mean similarity of consecutive frames.
    ``lost``: share of videos with a frame below the threshold, with its exact interval for the number of patients; None
    without a threshold.
    """

    curve: np.ndarray
    low: np.ndarray
    high: np.ndarray
    last: Interval
    step: Interval
    lost: Interval | None


def drift(
    videos: Sequence[Tensor],
    references: Sequence[Tensor] | None = None,
    patients: Sequence[object] | None = None,
    threshold: float | None = None,
    similarity: Similarity = "cosine",
    seed: int = 0,
) -> Drift:
    """Drift of ``videos``, embeddings (F_i, D) each, from ``references``, (D,) each; default: their first frames.

    Without ``patients``, each video counts as one patient. Raises ``UserError`` if all videos have a single frame.
    """
    if not videos or (references is not None and len(references) != len(videos)):
        raise UserError(f"drift needs at least one video and a reference for each of the {len(videos)}.")
    names = list(range(len(videos))) if patients is None else list(patients)
    curves, steps = [], []
    for number, video in enumerate(videos):
        frames = normalize(video, similarity, "frames")
        first = frames[:1]
        if references is not None:
            first = normalize(references[number][None], similarity, "reference frames")
        curves.append(paired_similarity(frames, first.expand_as(frames), similarity).cpu().numpy())
        if len(frames) > 1:
            steps.append((float(paired_similarity(frames[1:], frames[:-1], similarity).mean()), names[number]))
    if not steps:
        raise UserError("Every video has a single frame: drift needs two or more.")
    points = []
    for frame in range(max(map(len, curves))):
        longer = [number for number, curve in enumerate(curves) if len(curve) > frame]
        values = np.array([curves[number][frame] for number in longer])
        points.append(bootstrap_mean(values, [names[number] for number in longer], seed=seed))
    below = None if threshold is None else np.array([float((curve < threshold).any()) for curve in curves])
    step, step_names = zip(*steps, strict=True)
    return Drift(
        curve=np.array([point.value for point in points]),
        low=np.array([point.low for point in points]),
        high=np.array([point.high for point in points]),
        last=bootstrap_mean(np.array([curve[-1] for curve in curves]), names, seed=seed),
        step=bootstrap_mean(np.array(step), step_names, seed=seed),
        lost=None if below is None else _exact_proportion(below, names),
    )


def _exact_proportion(values: np.ndarray, patients: Sequence[object]) -> Interval:
    """Mean of zeros and ones, (n,), with the exact interval of a proportion of as many trials as patients."""
    unit = unit_indices(patients, len(values))
    share = float(np.mean(values))
    exact = clopper_pearson_interval(round(share * (int(unit.max()) + 1)), int(unit.max()) + 1)
    return Interval(share, min(exact.low, share), max(exact.high, share))
