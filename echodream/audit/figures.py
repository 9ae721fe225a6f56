"""The pictures of ``stage=audit``: diagrams of what was measured, and the samples nearest to a training patient."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from echodream.audit.embedding_sets import EmbeddingSet
from echodream.audit.measure import Measure, Sides, near_train
from echodream.audit.membership_inference import Errors
from echodream.callbacks.pictures import grid
from echodream.datamodules.recordings import Recordings
from echodream.filtering.embedding import latents
from echodream.plotting import Line, histograms, intervals_of, lines_of
from echodream.privacy.attacks.membership import combined
from echodream.privacy.similarity import exact

if TYPE_CHECKING:
    from PIL.Image import Image


def drawn(sides: Sides, measures: Sequence[Measure], errors: Errors | None) -> Iterator[tuple[str, np.ndarray]]:
    """The diagrams, by name: uint8 (height, width, 3)."""
    shares = [measure for measure in measures if measure.value.low >= 0 and measure.value.high <= 1]
    rows = [(measure.name, measure.value, measure.expected) for measure in shares]
    yield "measures", intervals_of("blue: samples; orange: expected of a harmless generator (95 % intervals)", rows)
    near = {name: near_train(sides, side).score for name, side in _named(sides).items()}
    yield "nearest", histograms("similarity to the nearest training patient", near)
    for measure in measures:
        if measure.name.startswith("identity"):
            lines = {name: _curve(measure.details[name]) for name in ("samples", "new patients")}
            longest = max(len(line.x) for line in lines.values()) - 1
            low = min(0.0, *(float(np.min(line.low)) for line in lines.values() if line.low is not None))
            yield "drift", lines_of("similarity to the first frame", lines, (0, max(longest, 1)), (low, 1.0))
    if errors is not None:
        yield "membership", _roc(errors)


def _named(sides: Sides) -> dict[str, EmbeddingSet]:
    return {"samples": sides.samples, "new patients": sides.held_out}


def _curve(found: dict[str, Any]) -> Line:
    y, low, high = (np.array(found[name]) for name in ("curve", "low", "high"))
    return Line(np.arange(len(y)), y, low, high)


def _roc(errors: Errors) -> np.ndarray:
    """Of patients: training patients found against others taken for one."""
    scores = combined(errors.values)
    names, unit = np.unique(np.array(errors.patients), return_inverse=True)
    means = np.bincount(unit, scores) / np.bincount(unit)
    member = np.zeros(len(names), dtype=bool)
    member[unit] = errors.member
    limits = np.sort(means)[::-1]
    found, taken = (np.array([0.0, *((means[side][:, None] >= limits).mean(axis=0))]) for side in (member, ~member))
    chance = Line(np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    lines = {"training patients found, by others taken for one": Line(taken, found), "chance": chance}
    return lines_of("membership inference", lines, (0.0, 1.0), (0.0, 1.0))


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
        alike = torch.stack([exact(ours, row.expand_as(ours), sides.similarity) for row in theirs], dim=1)
        frame, other = divmod(int(alike.argmax()), alike.shape[1])
        above.append(_frame(samples, sides.samples, int(sample), frame))
        below.append(_frame(train, sides.train, patient, other))
    return grid([_decoded(decoder, torch.stack(row)) for row in (above, below)])


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
