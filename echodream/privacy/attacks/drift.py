"""Does a generated video stay the same patient from its first frame to its last?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from echodream.errors import UserError
from echodream.metrics.bootstrap import Interval, bootstrap_mean
from echodream.privacy.similarity import Similarity, normalize, paired_similarity


@dataclass(frozen=True)
class Drift:
    """``curve``, (F,): mean similarity of frame f to the reference, over videos that are as long; ``low``, ``high``,
    (F,): its bootstrap interval over patients. ``last``: similarity of each video's last frame, averaged; ``step``:
    similarity of consecutive frames, averaged over each video's; ``lost``: the share of videos with a frame below the
    threshold that was asked for, None without one.
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
    """Of the frames' embeddings, (F_i, D) per video, to its reference frame's, (D,): its own first frame by default."""
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
        steps.append(
            float(paired_similarity(frames[1:], frames[:-1], similarity).mean()) if len(frames) > 1 else float("nan")
        )
    stepping = np.isfinite(steps)
    if not stepping.any():
        raise UserError("Every video has a single frame: drift needs two or more.")
    points = []
    for frame in range(max(map(len, curves))):
        longer = [number for number, curve in enumerate(curves) if len(curve) > frame]
        values = np.array([curves[number][frame] for number in longer])
        points.append(bootstrap_mean(values, [names[number] for number in longer], seed=seed))
    lost = None
    if threshold is not None:
        below = np.array([float((curve < threshold).any()) for curve in curves])
        lost = bootstrap_mean(below, names, seed=seed)
    return Drift(
        curve=np.array([point.value for point in points]),
        low=np.array([point.low for point in points]),
        high=np.array([point.high for point in points]),
        last=bootstrap_mean(np.array([curve[-1] for curve in curves]), names, seed=seed),
        step=bootstrap_mean(
            np.array(steps)[stepping], [n for n, ok in zip(names, stepping, strict=True) if ok], seed=seed
        ),
        lost=lost,
    )
