"""Plots of ``stage=audit``: diagrams of the measures, and the samples nearest to a training patient."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from echodream.auditing.embedding_sets import AuditSets, EmbeddingSet
from echodream.auditing.inputs import AuditInputs
from echodream.auditing.measure import Measure
from echodream.auditing.membership_inference import DenoisingErrors
from echodream.callbacks.image_logging import image_grid
from echodream.datamodules.recordings import Recordings
from echodream.metrics.classification import roc_curve
from echodream.plotting import LinePlot, Series, plot_histograms, plot_intervals, plot_lines, plot_roc
from echodream.privacy.similarity import paired_similarity


def audit_plots(
    inputs: AuditInputs, sets: AuditSets, measures: Sequence[Measure], errors: DenoisingErrors | None, pairs: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Name and pixels, uint8 (height, width, 3), of each plot; ``pairs``: number of pairs in "nearest_pairs"."""
    shares = [measure for measure in measures if measure.value.low >= 0 and measure.value.high <= 1]
    rows = [(measure.name, measure.value, measure.expected) for measure in shares]
    names = ("samples", "expected for a harmless generator")
    yield "measures", plot_intervals("Audit: measures with 95 % intervals", rows, "value of the measure", names)
    compared = {"samples": sets.samples, "new patients": sets.held_out}
    similarity = {name: sets.nearest_training_patient(part).score for name, part in compared.items()}
    yield "nearest", plot_histograms("Similarity to the nearest training patient", similarity, "similarity")
    for measure in measures:
        if measure.name.startswith("identity"):
            lines, last_frame, lowest = {}, 1, 0.0
            for name in compared:
                y, low, high = (np.array(measure.details[name][key]) for key in ("curve", "low", "high"))
                lines[name] = Series(np.arange(len(y)), y, low, high)
                last_frame, lowest = max(last_frame, len(y) - 1), min(lowest, float(low.min()))
            title, axes = "Similarity to the first frame, mean and 95 % interval", ("embedded frame", "similarity")
            yield "drift", plot_lines(LinePlot(title, lines, *axes, (0, last_frame), (lowest, 1.0)))
    if errors is not None:
        yield "membership", _plot_membership_roc(errors)
    if pairs:
        yield "nearest_pairs", _draw_nearest_pairs(inputs, sets, pairs)


def _plot_membership_roc(errors: DenoisingErrors) -> np.ndarray:
    scores, _, control, member = errors.scores()
    curves = {"training patients": roc_curve(scores, member), "control": roc_curve(control, member)}
    return plot_roc(curves, "Membership inference: ROC curve over patients")


def _draw_nearest_pairs(inputs: AuditInputs, sets: AuditSets, pairs: int) -> np.ndarray:
    """Decoded frames of the ``pairs`` samples nearest to a training patient, above the frames of these patients.

    Each pair shows the most similar ``sample_frames`` of sample and patient. Returns uint8 (height, width, 3).
    """
    nearest = sets.nearest_training_patient(sets.samples)
    index = {name: number for number, name in enumerate(sets.train.names)}
    sample_latents, patient_latents = [], []
    for sample in np.argsort(-nearest.score, kind="stable")[:pairs]:
        patient = index[nearest.patient[sample]]
        x, y = sets.samples.sample_frames[sample], sets.train.sample_frames[patient]
        similarity = torch.stack([paired_similarity(x, frame.expand_as(x), sets.similarity) for frame in y], dim=1)
        sample_frame, patient_frame = divmod(int(similarity.argmax()), similarity.shape[1])
        sample_latents.append(_posterior_mean(inputs.samples, sets.samples, int(sample), sample_frame))
        patient_latents.append(_posterior_mean(inputs.train, sets.train, patient, patient_frame))
    return image_grid([_decode_latents(inputs.decoder, torch.stack(row)) for row in (sample_latents, patient_latents)])


def _posterior_mean(recordings: Recordings, embedding_set: EmbeddingSet, number: int, frame: int) -> Tensor:
    """Posterior mean of a frame of sample or patient ``number``, unscaled: (C, H, W)."""
    row, indices = embedding_set.frame_plan[number]
    return recordings.posterior(row, indices[frame : frame + 1])[0][0]


def _decode_latents(decoder: Any, latents: Tensor) -> Tensor:
    """Latents (N, C, H, W) to pixels in [-1, 1], (N, 1 or 3, H', W')."""
    batches = [decoder.decode(batch.to(decoder.device)).sample for batch in latents.split(16)]
    return torch.cat(batches).clamp(-1, 1).float().cpu()
