"""Identity drift: do all frames of a generated video show the same patient?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from echodream.errors import UserError
from echodream.metrics.bootstrap import Interval, bootstrap_mean, clopper_pearson_interval
from echodream.privacy.similarity import Similarity, normalize, paired_similarity


@dataclass(frozen=True)
class Drift:
    """Similarity of the frames of videos to their first frame; intervals are bootstrapped over videos.

    ``curve``, (F,): mean similarity of frame f over the videos with at least f + 1 frames; its interval is ``low`` to
    ``high``, (F,) each. ``last``: mean similarity of the last frame. ``step``: mean similarity of consecutive frames.
    ``lost``: share of videos with a frame whose similarity is below the threshold, with its exact interval.
    """

    curve: np.ndarray
    low: np.ndarray
    high: np.ndarray
    last: Interval
    step: Interval
    lost: Interval


def drift(videos: Sequence[Tensor], threshold: float, similarity: Similarity = "cosine", seed: int = 0) -> Drift:
    """Drift of ``videos``, embeddings (F_i, D) each, from their first frames.

    Raises ``UserError`` if all videos have a single frame.
    """
    if not videos:
        raise UserError("drift needs at least one video.")
    curves, steps, with_steps = [], [], []
    for number, video in enumerate(videos):
        frames = normalize(video, similarity, "frames")
        curves.append(paired_similarity(frames, frames[:1].expand_as(frames), similarity).cpu().numpy())
        if len(frames) > 1:
            steps.append(float(paired_similarity(frames[1:], frames[:-1], similarity).mean()))
            with_steps.append(number)
    if not steps:
        raise UserError("Every video has a single frame: drift needs two or more.")
    points = []
    for frame in range(max(map(len, curves))):
        longer = [number for number, curve in enumerate(curves) if len(curve) > frame]
        points.append(bootstrap_mean(np.array([curves[number][frame] for number in longer]), longer, seed=seed))
    return Drift(
        curve=np.array([point.value for point in points]),
        low=np.array([point.low for point in points]),
        high=np.array([point.high for point in points]),
        last=bootstrap_mean(np.array([curve[-1] for curve in curves]), range(len(curves)), seed=seed),
        step=bootstrap_mean(np.array(steps), with_steps, seed=seed),
        lost=clopper_pearson_interval(sum(bool((curve < threshold).any()) for curve in curves), len(curves)),
    )
