"""The pictures of ``stage=audit``: diagrams of what was measured, and the samples nearest to a training patient."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from echodream.audit.embedding_sets import EmbeddingSet
from echodream.audit.measure import Measure, Sides, near_train
from echodream.audit.membership_inference import Errors
from echodream.callbacks.image_logging import image_grid
from echodream.datamodules.recordings import Recordings
from echodream.filtering.embedding import latents
from echodream.plotting import LinePlot, Series, plot_histograms, plot_intervals, plot_lines, plot_roc
from echodream.privacy.attacks.membership import combined
from echodream.privacy.similarity import paired_similarity

if TYPE_CHECKING:
    from PIL.Image import Image


def drawn(sides: Sides, measures: Sequence[Measure], errors: Errors | None) -> Iterator[tuple[str, np.ndarray]]:
    """The diagrams, by name: uint8 (height, width, 3)."""
    shares = [measure for measure in measures if measure.value.low >= 0 and measure.value.high <= 1]
    rows = [(measure.name, measure.value, measure.expected) for measure in shares]
    names = ("samples", "expected of a harmless generator")
    yield "measures", plot_intervals("Audit: measures with 95 % intervals", rows, "value of the measure", names)
    near = {name: near_train(sides, side).score for name, side in _named(sides).items()}
    yield "nearest", plot_histograms("Similarity to the nearest training patient", near, "similarity")
    for measure in measures:
        if measure.name.startswith("identity"):
            lines = {name: _curve(measure.details[name]) for name in ("samples", "new patients")}
            longest = max(len(line.x) for line in lines.values()) - 1
            low = min(0.0, *(float(np.min(line.low)) for line in lines.values() if line.low is not None))
            title, axes = "Similarity to the first frame, mean and 95 % interval", ("embedded frame", "similarity")
            yield "drift", plot_lines(LinePlot(title, lines, *axes, (0, max(longest, 1)), (low, 1.0)))
    if errors is not None:
        yield "membership", _roc(errors)


def _named(sides: Sides) -> dict[str, EmbeddingSet]:
    return {"samples": sides.samples, "new patients": sides.held_out}


def _curve(found: dict[str, Any]) -> Series:
    y, low, high = (np.array(found[name]) for name in ("curve", "low", "high"))
    return Series(np.arange(len(y)), y, low, high)


def _roc(errors: Errors) -> np.ndarray:
    """Of patients: training patients found against others taken for one."""
    scores = combined(errors.values)
    names, unit = np.unique(np.array(errors.patients), return_inverse=True)
    means = np.bincount(unit, scores) / np.bincount(unit)
    member = np.zeros(len(names), dtype=bool)
    member[unit] = errors.member
    limits = np.sort(means)[::-1]
    found, taken = (np.array([0.0, *((means[side][:, None] >= limits).mean(axis=0))]) for side in (member, ~member))
    return plot_roc({"training patients": (taken, found)}, "Membership inference: ROC curve over patients")


def nearest_pairs(sides: Sides, samples: Recordings, train: Recordings, decoder: Any, pairs: int) -> np.ndarray:
    """Above, the ``pairs`` samples nearest to a training patient, below, the recording of that patient; decoded.

    Of each sample the frame, and of the patient the one of the frames seen as a sample's, that are most alike.
    """
    near = near_train(sides, sides.samples)
    place = {name: number for number, name in enumerate(sides.train.names)}
    above, below = [], []
    for sample in np.argsort(-near.score, kind="stable")[:pairs]:
        patient = place[near.patient[sample]]
        ours, theirs = sides.samples.seen[sample], sides.train.seen[patient]
        alike = torch.stack([paired_similarity(ours, row.expand_as(ours), sides.similarity) for row in theirs], dim=1)
        frame, other = divmod(int(alike.argmax()), alike.shape[1])
        above.append(_frame(samples, sides.samples, int(sample), frame))
        below.append(_frame(train, sides.train, patient, other))
    return image_grid([_decoded(decoder, torch.stack(row)) for row in (above, below)])


def _frame(rows: Recordings, side: EmbeddingSet, unit: int, frame: int) -> Tensor:
    """A frame's latents as they are stored: (C, H, W)."""
    row, places = side.shown[unit]
    return latents(rows, row, places[frame : frame + 1])[0]


def _decoded(decoder: Any, x: Tensor) -> Tensor:
    """(N, C, H, W) to pixels in [-1, 1], (N, 3 or 1, H', W')."""
    parts = [decoder.decode(part.to(decoder.device)).sample for part in x.split(16)]
    return torch.cat(parts).clamp(-1, 1).float().cpu()


def pictures(
    sides: Sides,
    measures: Sequence[Measure],
    errors: Errors | None,
    rows: tuple[Recordings, Recordings],
    decoder: Any,
    pairs: int,
) -> Iterator[tuple[str, "Image"]]:
    """All pictures by name, ready to be saved. ``rows`` are those of the samples and of the training patients.

    ``decoder`` is the autoencoder of the latents; None where ``pairs`` is 0.
    """
    from PIL import Image

    for name, picture in drawn(sides, measures, errors):
        yield name, Image.fromarray(picture)
    if pairs:
        yield "nearest_pairs", Image.fromarray(nearest_pairs(sides, *rows, decoder, pairs))
