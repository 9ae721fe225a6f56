"""Scores of samples, calibration patients and copies: similarity to the nearest frame of a training patient."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from echodream import validation
from echodream.datamodules.recordings import Recordings, gaussian_sample, named_rng
from echodream.errors import UserError
from echodream.filtering.copy_generation import CopyGenerator, FrameSelection, select_frames_by_patient
from echodream.filtering.embedding import FrameEmbedder, View, group_parts, reference_frames
from echodream.filtering.outliers import OutlierTest
from echodream.filtering.positive_controls import Control, generate_copies
from echodream.filtering.views import GridViews, ViewGrid, latent_views
from echodream.privacy.certification import PatientScores
from echodream.privacy.conformal import conformal_threshold, rank_grid, rank_scores
from echodream.privacy.nearest_neighbors import PatientSearch, nearest_patients
from echodream.privacy.rules import Calibrated, Evidence, Percentile, Rule
from echodream.privacy.similarity import Similarity, normalize, similarity_matrix
from echodream.progress import progress_bar
from echodream.store import Store

OUTLIERS = "Outliers"
"""Name of the outlier test in tables of networks."""
BATCH_FRAMES = 1024
"""Smallest number of query frames that are embedded together; the last group of frames may be smaller."""


@dataclass(frozen=True)
class ScoringConfig:
    """Settings of the comparison, the same for samples, calibration patients and copies.

    ``on``: "image" or "video". ``check_every``: stride of the compared frames of a sample. ``reference``: which frames
    of a training recording are references, "all" or "first". ``reference_every``: stride of the reference frames.
    ``calibration``: splits of the calibration patients. ``views``: names of controls whose transforms are views of
    every compared frame. ``patients``: number of training patients that are copied; None: all. ``steps``: sampler
    steps. ``view_grid``: grids of views; None: no grid. ``outliers``: fraction of the training variance that the
    principal components of ``OutlierTest`` explain; None: no outlier test.
    """

    on: str
    check_every: int
    reference: str
    reference_every: int
    calibration: Sequence[str]
    views: Sequence[str]
    patients: int | None
    steps: int
    seed: int
    view_grid: Sequence[ViewGrid] | None = None
    outliers: float | None = None

    def __post_init__(self) -> None:
        validation.one_of("on", self.on, ("image", "video"))
        validation.one_of("reference", self.reference, ("all", "first"))
        for name in ("check_every", "reference_every", "steps"):
            validation.whole_number(name, getattr(self, name))
        validation.whole_number("seed", self.seed, 0)
        if self.outliers is not None:
            validation.number("outliers", self.outliers, above=0, below=1)
        if self.patients is not None:
            validation.whole_number("patients", self.patients)
        splits = [self.calibration] if isinstance(self.calibration, str) else list(self.calibration)
        if not splits or not set(splits) <= {"VAL", "TEST"} or len(set(splits)) < len(splits):
            raise UserError(
                f"calibration={splits} is not possible: give TEST, VAL or both; training patients of the generator or "
                "of the reid are not new patients"
            )
        object.__setattr__(self, "calibration", splits)
        object.__setattr__(self, "views", list(self.views))

    def compared_frame_indices(self, frames: int) -> np.ndarray:
        """Indices of the compared frames of a sample of ``frames`` frames."""
        return np.arange(0, frames, self.check_every)


@dataclass(frozen=True)
class Query:
    """Embeddings of the frames of a sample or copy, (k, D); a copy also has a ``control`` and a ``selection``."""

    embeddings: Tensor
    control: Control | None = None
    selection: FrameSelection | None = None


@dataclass(frozen=True)
class QueryScores:
    """Scores of n queries, and patient, recording and frame of the nearest reference of each query: (n,) each.

    The score of a copy ignores the references that its control excludes. The score is NaN if no reference of the copied
    patient remains. The nearest reference is the nearest of all references.
    """

    score: np.ndarray
    patient: np.ndarray
    recording: np.ndarray
    frame: np.ndarray
    references: int
    patients: int

    def select(self, queries: np.ndarray) -> "QueryScores":
        arrays = {name: getattr(self, name)[queries] for name in ("score", "patient", "recording", "frame")}
        return replace(self, **arrays)


@dataclass(frozen=True)
class FilterScores:
    """Scores of samples in the order of ``names``, and the evidence for the rule.

    ``frames``: number of compared frames of each sample, calibration patient and copy. ``frames_per_sample``: number of
    all frames of a sample. ``by_network``: scores of the samples by each network, if there are several networks;
    ``samples`` then has the combined scores. ``extra_scores``: scores of the ``extra_latents`` in ``score_samples``,
    (n,). ``to_training``: scores of the samples by the training patients alone; None unless the samples were also
    compared with ``other_patients`` patients outside the training split.
    """

    names: list[str]
    samples: QueryScores
    evidence: Evidence
    frames: int
    frames_per_sample: int
    by_network: Mapping[str, np.ndarray] = field(default_factory=dict)
    ranks: np.ndarray | None = None
    """``rank_scores`` of the samples by each of K networks, without the outlier test: (K, n); scores if K is 1."""
    extra_scores: np.ndarray = field(default_factory=lambda: np.zeros(0))
    to_training: np.ndarray | None = None
    other_patients: int = 0


def score_samples(
    store: Store,
    real: Store,
    embedders: Mapping[str, FrameEmbedder],
    copy_generator: CopyGenerator,
    rule: Rule,
    controls: Mapping[str, Control],
    report_only: Sequence[str],
    config: ScoringConfig,
    extra_latents: Sequence[Tensor] = (),
    other_recordings: Recordings | None = None,
) -> FilterScores:
    """Score the samples of ``store``, the calibration patients of ``real``, and copies under each control.

    ``embedders``: networks by name. The scores of several networks are combined by ``rank_scores``. ``extra_latents``:
    further latents to score, (f, C, H, W) each, which are no evidence. ``other_recordings``: recordings outside TRAIN,
    with which only samples are compared.
    """
    recordings = copy_generator.recordings
    views: list[View] = [partial(latent_views, copy_generator, [controls[name] for name in config.views])]
    views += [] if config.view_grid is None else [GridViews(copy_generator, config.view_grid)]
    test = None if config.outliers is None else OutlierTest(copy_generator, config.outliers)
    names = sorted(store.table["FileName"].tolist())
    total = frames_per_sample(store)
    frames = len(config.compared_frame_indices(total))
    queries = Queries([*embedders.values(), *([] if test is None else [test])], views)
    queries.add(read_samples(store, names, config))
    held_out = [Recordings(real, split) for split in config.calibration]
    new = {patient: part for rows in held_out for patient, part in _read_new_patients(rows, frames, config).items()}
    queries.add(new.values())
    copied: list[tuple[str, str]] = []
    for name, control in controls.items():
        selections = _select_frames_to_copy(recordings, control, frames, config)
        copies = generate_copies(copy_generator, name, control, list(selections.values()))
        queries.add(progress_bar(copies, name, len(selections), "copy"), control, list(selections.values()))
        copied += [(name, patient) for patient in selections]
    queries.add(extra_latents)
    first = config.reference == "first"
    references = [ReferenceFrames(each, recordings, config.reference_every, first) for each in embedders.values()]
    by_network = [one.score(queries.by_network[k], rule.similarity) for k, one in enumerate(references)]
    by_network += [] if test is None else [highest_outlier_scores(queries.by_network[-1], by_network[0])]
    highest = [0.0 if rule.similarity == "euclidean" else 1.0 for _ in references] + [1.0] * (test is not None)
    share = rule.outlier_level(len(by_network)) if test is not None and isinstance(rule, Calibrated) else None
    counts = [len(names), len(names) + len(new), len(names) + len(new) + len(copied)]
    scores, ranks = combine_networks(by_network, slice(*counts[:2]), highest, share)
    to_training = None
    if other_recordings is not None:
        to_training = scores.score[: len(names)]
        for number, embedder in enumerate(embedders.values()):
            one = ReferenceFrames(embedder, other_recordings, config.reference_every, first)
            other_scores = one.score(queries.by_network[number][: len(names)], rule.similarity)
            by_network[number] = take_higher_scores(by_network[number], other_scores)
        by_network[-1:] = by_network[-1:] if test is None else [replace(by_network[0], score=by_network[-1].score)]
        scores, ranks = combine_networks(by_network, slice(*counts[:2]), highest, share)
    samples, calibration, copies_, no_evidence = np.split(np.arange(len(scores.score)), counts)
    by_control = _scores_by_control(controls, copied, scores.score[copies_], report_only)
    maxima = None
    if isinstance(rule, Percentile):
        maxima = np.max([train_to_test_similarity(references[0], rows, rule.similarity) for rows in held_out], axis=0)
    evidence = Evidence(
        calibration=PatientScores(scores.score[calibration], np.array([*new])),
        controls={name: part for name, part in by_control.items() if name not in report_only},
        reported={name: part for name, part in by_control.items() if name in report_only},
        train_to_test=maxima,
        samples=scores.score[samples] if to_training is None else to_training,
        amounts={name: control.amount for name, control in controls.items()},
        copied_patients=min(recordings.table["PatientID"].nunique(), config.patients or len(recordings)),
        networks=len(by_network),
        outliers=test is not None,
    )
    labels = [*embedders, *([] if test is None else [OUTLIERS])]
    each = dict(zip(labels, (one.score[samples] for one in by_network), strict=True)) if len(labels) > 1 else {}
    parts = (each, ranks[: len(embedders), samples], scores.score[no_evidence])
    compared = (to_training, 0 if other_recordings is None else other_recordings.table["PatientID"].nunique())
    return FilterScores(names, scores.select(samples), evidence, frames, total, *parts, *compared)


def take_higher_scores(scores: QueryScores, others: QueryScores) -> QueryScores:
    """``scores``, in which the first queries get the score and reference of ``others`` where ``others`` is higher."""
    count = len(others.score)
    nearer = others.score > scores.score[:count]
    arrays: dict[str, Any] = {}
    for name in ("score", "patient", "recording", "frame"):
        own, other = getattr(scores, name), getattr(others, name)
        arrays[name] = np.concatenate([np.where(nearer, other, own[:count]), own[count:]])
    return replace(scores, **arrays)


def highest_outlier_scores(queries: Sequence[Query], nearest: QueryScores) -> QueryScores:
    """The highest outlier score over the frames of each query, with the references of ``nearest``."""
    return replace(nearest, score=np.array([float(query.embeddings.max()) for query in queries]))


def combine_networks(
    scores: Sequence[QueryScores], calibration: slice, highest: Sequence[float], outlier_level: float | None = None
) -> tuple[QueryScores, np.ndarray]:
    """Highest ``rank_scores`` over K networks, and ``rank_scores`` of each network, (K, n).

    ``calibration``: slice object that selects the scores of calibration patients. ``highest``: largest possible score
    of each network, (K,). ``outlier_level``: level of the outlier test, which is the last network; ranks below its
    threshold become 0. The nearest reference is that of the network with the highest score. The scores of a single
    network are returned unchanged.
    """
    if len(scores) == 1:
        return scores[0], scores[0].score[None]
    pairs = zip(scores, highest, strict=True)
    ranks = np.stack([rank_scores(one.score, one.score[calibration], most) for one, most in pairs])
    if outlier_level is not None:
        tau = conformal_threshold(rank_grid(len(scores[-1].score[calibration])), outlier_level)
        ranks[-1] = np.where(ranks[-1] >= tau, ranks[-1], 0.0)
    decisive = np.where(np.isnan(ranks[0]), 0, np.argmax(ranks, axis=0))
    arrays = {name: np.stack([getattr(one, name) for one in scores]) for name in ("patient", "recording", "frame")}
    nearest = {name: np.take_along_axis(array, decisive[None], axis=0)[0] for name, array in arrays.items()}
    return replace(scores[0], score=ranks.max(axis=0), **nearest), ranks


def frames_per_sample(store: Store) -> int:
    """Number of frames of every sample. Raises ``UserError`` without samples, and for samples of different lengths."""
    lengths = sorted(set(store.table["NumberOfFrames"].tolist()))
    if not lengths:
        raise UserError(f"src={store.root} holds no sample: generate samples with stage=image or stage=video")
    if len(lengths) > 1:
        raise UserError(
            f"src={store.root} has samples of {lengths[0]} and of {lengths[-1]} frames, and new patients are compared "
            "by the same number of frames: generate samples of equal length, or ingest each length by itself "
            "(data.limits.min_frames=, data.limits.max_frames=)"
        )
    return int(lengths[0])


def read_samples(store: Store, names: Sequence[str], config: ScoringConfig) -> Iterator[Tensor]:
    """Yield the compared frames of each sample, unscaled (f, C, H, W). Raises ``UserError`` for NaN and infinity.

    Encoded frames are sampled from their posterior, like the frames of calibration patients. Generated latents have std
    0, so they are not changed.
    """
    frames = config.compared_frame_indices(frames_per_sample(store))
    for name in progress_bar(names, "samples", unit="sample"):
        mean, std = (part[frames].float() for part in store.latents(name, 0, int(frames[-1]) + 1))
        latents = gaussian_sample(mean, std, named_rng(config.seed, f"sample/{name}"))
        if not torch.isfinite(latents).all():
            raise UserError(f"src={store.root}: {name} holds NaN or infinite numbers: generate the samples again")
        yield latents


def _read_new_patients(recordings: Recordings, count: int, config: ScoringConfig) -> dict[str, Tensor]:
    """Posterior samples of ``count`` frames of each patient, by patient: (f, C, H, W) each."""

    def read(selection: FrameSelection) -> Tensor:
        rng = named_rng(config.seed, f"new/{recordings.names[selection.row]}")
        return recordings.posterior_sample(selection.row, selection.frames, rng)

    selections = select_frames_by_patient(recordings, count, config.seed, config.check_every)
    return {patient: read(selection) for patient, selection in selections.items()}


def _select_frames_to_copy(
    recordings: Recordings, control: Control, count: int, config: ScoringConfig
) -> dict[str, FrameSelection]:
    """Select ``count`` frames to copy, by patient; all controls copy the same ``config.patients`` random patients."""
    selections = select_frames_by_patient(recordings, count, config.seed, config.check_every)
    if config.patients is not None:
        order = named_rng(config.seed, "patients").permutation(len(selections))[: config.patients]
        selections = {name: selections[name] for name in np.array([*selections])[np.sort(order)].tolist()}
    if control.leave_out != "recording":
        return selections
    count_of = recordings.table["PatientID"].astype(str).value_counts()
    return {patient: selection for patient, selection in selections.items() if count_of[patient] > 1}


def _scores_by_control(
    controls: Mapping[str, Control], copies: Sequence[tuple[str, str]], scores: np.ndarray, report_only: Sequence[str]
) -> dict[str, PatientScores]:
    """``scores`` of copies, (n,), by control, without NaN; ``copies``: control and patient of each copy.

    Raises ``UserError`` for a control without scores that is not in ``report_only``.
    """
    tables: dict[str, dict[str, float]] = {name: {} for name in controls}
    for (name, patient), value in zip(copies, scores.tolist(), strict=True):
        if not np.isnan(value):
            tables[name][patient] = value
    for name, table in tables.items():
        if not table and name not in report_only:
            raise UserError(
                f"controls.{name}: no TRAIN patient has references for its copies (other recordings, or frames not "
                f"next to the copied), so it cannot be certified: set controls.{name}=null, or report_only=[{name}]"
            )
    kept = {name: table for name, table in tables.items() if table}
    return {name: PatientScores(np.array([*table.values()]), np.array([*table])) for name, table in kept.items()}


class VersionEmbedder(Protocol):
    """Maps frames and their transformed versions to embeddings; the highest score over all versions counts."""

    def embed_versions(self, latents: Tensor, versions: Sequence[Tensor]) -> list[Tensor]:
        """Embeddings, (n, D) each, of ``latents`` (n, C, H, W) and of their ``versions``."""
        ...


def embed_queries(
    embedders: Sequence[VersionEmbedder], latents: Iterable[Tensor], views: Sequence[View] = ()
) -> Iterator[list[Tensor]]:
    """Yield embeddings of each of ``latents``, (f, C, H, W), and of its ``views``: (f versions, D) by each network."""
    for group in group_parts(latents, BATCH_FRAMES):
        sizes, frames = [len(part) for part in group], torch.cat(group)
        versions = [version for view in views for version in view(frames)]
        by_network = []
        for embedder in embedders:
            parts = [part.split(sizes) for part in embedder.embed_versions(frames, versions)]
            by_network.append([torch.cat(one) for one in zip(*parts, strict=True)])
        yield from map(list, zip(*by_network, strict=True))


class Queries:
    """Embedded samples, calibration patients and copies, in the order in which they are added.

    ``by_network``: the queries for each network, in the order of ``embedders``.
    """

    def __init__(self, embedders: Sequence[VersionEmbedder], views: Sequence[View]) -> None:
        self.embedders, self.views = embedders, views
        self.by_network: list[list[Query]] = [[] for _ in embedders]

    def add(
        self,
        latents: Iterable[Tensor],
        control: Control | None = None,
        selections: Sequence[FrameSelection] | None = None,
    ) -> None:
        """Add queries, unscaled latents (f, C, H, W) each; copies have their ``control`` and ``selections``."""
        for number, embeddings in enumerate(embed_queries(self.embedders, latents, self.views)):
            selection = None if selections is None else selections[number]
            for queries, part in zip(self.by_network, embeddings, strict=True):
                queries.append(Query(part, control, selection))


class ReferenceFrames:
    """Reference frames of the training ``recordings``: frames ``stride`` apart, or the first frame only."""

    def __init__(
        self, embedder: FrameEmbedder, recordings: Recordings, stride: int = 1, first_only: bool = False
    ) -> None:
        self.embedder, self.recordings, self.stride, self.first_only = embedder, recordings, stride, first_only
        self.patients = recordings.table["PatientID"].astype(str).to_numpy()
        if len(set(self.patients.tolist())) < 2:
            raise UserError(
                f"{recordings.store.root} has one {recordings.split} patient only, and the nearest patient must be "
                "found among several: ingest more patients"
            )

    def score(self, queries: Sequence[Query], similarity: Similarity) -> QueryScores:
        """Scores of ``queries``, in one pass over the references, which need not fit in memory."""
        search = PatientSearch(torch.cat([query.embeddings for query in queries]), similarity, find_second=True)
        copies: dict[str, list[int]] = {}  # patient -> copies that are not compared with all references
        for number, query in enumerate(queries):
            if query.selection is not None and query.control is not None and query.control.leave_out != "nothing":
                copies.setdefault(self.patients[query.selection.row], []).append(number)
        own = np.full(len(queries), -np.inf)  # score by references of the copied patient that are not excluded
        stream = self.embedder.embed_recordings(self.recordings, self.stride, self.first_only)
        bar = progress_bar(stream, "references", len(self.recordings), "rec")
        for row, (embeddings, patients) in enumerate(bar):
            search.add(embeddings, patients)
            for number in copies.get(self.patients[row], ()):
                highest = self._similarity_to_recording(queries[number], row, embeddings, similarity)
                own[number] = max(own[number], highest)
        groups = np.repeat(np.arange(len(queries)), [len(query.embeddings) for query in queries])
        nearest = search.result(groups)
        assert nearest.second_score is not None
        score = nearest.score.copy()
        for patient, numbers in copies.items():
            for number in numbers:
                others = (nearest.second_score if nearest.patient[number] == patient else nearest.score)[number]
                score[number] = max(others, own[number]) if np.isfinite(own[number]) else np.nan
        rows, frames = self._locate_references(nearest.reference)
        names = np.array(self.recordings.names, dtype=object)[rows]
        return QueryScores(score, nearest.patient, names, frames, nearest.references, nearest.patients)

    def _similarity_to_recording(self, query: Query, row: int, embeddings: Tensor, similarity: Similarity) -> float:
        """Highest similarity of a copy to frames of recording ``row`` that its control does not exclude, or -inf."""
        assert query.control is not None
        assert query.selection is not None
        frames = reference_frames(self.recordings, row, self.stride, self.first_only)
        kept = torch.from_numpy(~query.control.excludes(query.selection, row, frames))
        if not kept.any():
            return -np.inf
        x = normalize(query.embeddings, similarity, "samples")
        return float(similarity_matrix(x, normalize(embeddings[kept], similarity, "references"), similarity).max())

    def _locate_references(self, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Recording row and frame number of references, from their indices in the stream; int64 (n,) each."""
        rows = range(len(self.recordings))
        sizes = [len(reference_frames(self.recordings, row, self.stride, self.first_only)) for row in rows]
        ends = np.cumsum(sizes)
        row = np.searchsorted(ends, reference, side="right")
        return row, (reference - (ends - sizes)[row]) * self.stride


def train_to_test_similarity(references: ReferenceFrames, held_out: Recordings, similarity: Similarity) -> np.ndarray:
    """Highest similarity of each training reference to a test reference, (n_train,), for the rule ``Percentile``."""
    embedder, stride, first_only = references.embedder, references.stride, references.first_only
    training = torch.cat([part for part, _ in embedder.embed_recordings(references.recordings, stride, first_only)])
    return nearest_patients(training, embedder.embed_recordings(held_out, stride, first_only), similarity).score
