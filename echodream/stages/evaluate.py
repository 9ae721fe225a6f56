"""``stage=evaluate``: how close synthetic images and videos are to real ones, with real against real as the measure."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from echodream import validation
from echodream.config.stage_signature import ExtractorPath, InputPath, OutputPath
from echodream.errors import UserError
from echodream.evaluation import table
from echodream.evaluation.adherence import adherence, identity_over_time, load_regressor
from echodream.evaluation.cardiac_cycle import CardiacCycleMetrics, cardiac_cycle_metrics, frame_difference_curves
from echodream.evaluation.distances import (
    FeatureSets,
    check_classes,
    class_agreement,
    fidelity_metrics,
    frame_rate_warning,
    training_data_warnings,
)
from echodream.evaluation.feature_extraction import (
    ExtractedFeatures,
    FeatureExtraction,
    RecordingSet,
    check_frame_size,
    load_recordings,
)
from echodream.evaluation.protocol import FILE, Protocol, sample_counts, samples_per_set
from echodream.evaluation.table import MetricRecord, json_value
from echodream.networks.extractors.base import CLIPS, FRAMES, Extractor
from echodream.networks.extractors.encoder import ClassifierExtractor
from echodream.networks.extractors.registry import load_extractors
from echodream.runs.atomic_folder import write_record
from echodream.runs.summary import Summary

REPORT = "evaluation.json"


def evaluate(
    *,
    real: InputPath,
    images: InputPath | None,
    videos: InputPath | None,
    artifact: InputPath | None,
    extractors: Sequence[ExtractorPath],
    lengths: Sequence[int],
    regressor: InputPath | None,
    audit: InputPath | None,
    protocol: InputPath | None,
    dst: OutputPath,
    most: int,
    least: int,
    neighbours: int,
    seed: int,
    batch: int,
    command: str,
    code_version: str,
) -> Summary:
    """Judge the decoded ``images`` and ``videos``, stores, against ``real``, by the features of ``extractors``.

    Real are the TEST patients; the floor is TRAIN against TEST, with as many samples on each side. A store that is not
    synthetic, as one decoded from real latents, counts by its TEST rows. ``artifact`` is the classifier that is asked
    whether samples are of the class they should be. Writes ``dst``/evaluation.json and protocol.json. ``UserError``.
    """
    least_of = {"most": (most, 2), "least": (least, 2), "neighbours": (neighbours, 1), "batch": (batch, 1)}
    for name, (value, low) in {**least_of, "seed": (seed, 0)}.items():
        validation.whole_number(name, value, low)
    if images is None and videos is None:
        raise UserError("nothing to evaluate: give images= or videos=, a store that stage=decode made")
    networks = load_extractors(extractors, lengths)
    judge = judging(artifact, networks)
    number = None if regressor is None else load_regressor(regressor)
    test, train = (load_recordings(real, "real", split) for split in ("TEST", "TRAIN"))
    made = {
        key: load_recordings(path, key) for key, path in (("images", images), ("videos", videos)) if path is not None
    }
    _check((test, train, *made.values()), [*networks, *([number] if number else [])], judge)
    rules = Protocol(seed, most, neighbours, {each.name: each.facts() for each in networks}, _source(test), {})
    counts = None if protocol is None else sample_counts(protocol, rules)
    section = Sections(FeatureExtraction(most, batch, seed), networks, judge, rules, (protocol, counts), least)
    judged = {key: section.judged(key, side, test, train) for key, side in made.items()}
    found: dict[str, Any] = {**judged}
    if "videos" in made:
        found |= _along(made["videos"], test, section.look, number, audit)
    for key, side in made.items():
        found[key]["store"] = _source(side)
    rules = replace(rules, count=section.used)
    record = {"protocol": rules.record(), **found, "command": command, "code_version": code_version}
    Path(dst).mkdir(parents=True, exist_ok=True)
    write_record(Path(dst) / FILE, json_value(rules.record()))
    write_record(Path(dst) / REPORT, json_value(record))
    return Summary(f"evaluate: {dst}/{REPORT} done", dict(table.summary_lines(found)), files=(REPORT, FILE))


class Sections:
    """Judges images and videos; ``used`` is N of each kind of samples that were compared."""

    def __init__(
        self,
        look: FeatureExtraction,
        networks: Sequence[Extractor],
        judge: ClassifierExtractor | None,
        rules: Protocol,
        wanted: tuple[str | None, Mapping[str, int] | None],
        least: int,
    ) -> None:
        self.look, self.networks, self.judge, self.rules = look, networks, judge, rules
        self.wanted, self.least = wanted, least
        self.used: dict[str, int] = {}

    def judged(self, key: str, made: RecordingSet, test: RecordingSet, train: RecordingSet) -> dict[str, MetricRecord]:
        """All figures of ``made``, the store that was given as ``key``."""
        found: dict[str, MetricRecord] = {}
        for network in self.networks:
            for name, frames, look in self._ways(key, network):
                sight = FeatureSets.extract(network, frames, look, (made, test, train))
                count = samples_per_set(*self.wanted, name, sight.count(), self.least)
                if self.used.setdefault(name, count) != count:
                    raise UserError(f"{name}: {network.name} is given other samples than the extractors before it")
                told = frame_rate_warning(made, test) if frames > 1 else []
                told += training_data_warnings(network, test) if isinstance(network, ClassifierExtractor) else []
                found |= fidelity_metrics(sight, count, self.rules.neighbours, self.rules.seed, told)
                if network is self.judge:
                    found |= class_agreement(network, (made, sight.synthetic), (test, sight.test), self.rules.seed)
        if self.judge is not None and self.judge not in self.networks:
            (_, _, look), *_ = self._ways(key, self.judge)
            found |= class_agreement(self.judge, (made, look(made)), (test, look(test)), self.rules.seed)
        return found

    def _ways(
        self, key: str, network: Extractor
    ) -> Iterator[tuple[str, int, Callable[[RecordingSet], ExtractedFeatures]]]:
        """What samples are called, how many frames they have, and how ``network`` looks at them."""
        if key == "videos" and CLIPS in network.sees:
            for frames, stride in network.clips:
                yield key, frames, partial(self.look.clips, extractor=network, frames=frames, stride=stride)
        elif FRAMES in network.sees:
            name = "images" if key == "images" else "frames of videos"
            yield name, 1, partial(self.look.frames, extractor=network)


def _along(
    made: RecordingSet,
    test: RecordingSet,
    look: FeatureExtraction,
    number: ClassifierExtractor | None,
    audit: str | None,
) -> dict[str, Any]:
    """What is told of videos alone: how hearts beat, the number they should show, and whether they stay one person."""
    both = CardiacCycleMetrics(made, look), CardiacCycleMetrics(test, look)
    figures, lines = identity_over_time(audit, made)
    shown = {"frame difference": frame_difference_curves(*both)} | ({"identity": lines} if lines else {})
    asked = {} if number is None else dict(adherence(number, look, made, test))
    return {"beat": {**dict(cardiac_cycle_metrics(*both)), **asked, **figures}, "curves": shown}


def judging(artifact: str | None, networks: Sequence[Extractor]) -> ClassifierExtractor | None:
    """The classifier ``artifact``, which is asked for classes: one of ``networks`` where it is among them."""
    if artifact is None:
        return None
    judge = ClassifierExtractor(artifact)
    return next(
        (each for each in networks if isinstance(each, ClassifierExtractor) and each.weights == judge.weights), judge
    )


def _check(sides: Sequence[RecordingSet], networks: Sequence[Extractor], judge: ClassifierExtractor | None) -> None:
    """Refuse stores that the networks cannot look at, before any of them is asked."""
    for side in sides:
        if judge is not None:
            check_classes(side, judge)
        for encoder in [each for each in (*networks, judge) if isinstance(each, ClassifierExtractor)]:
            check_frame_size(side, encoder)


def _source(side: RecordingSet) -> dict[str, Any]:
    facts = {"recordings": len(side.rows), "frames": int(side.rows["NumberOfFrames"].sum())}
    classes = {}
    if "class_id" in side.rows:
        classes = {str(key): int(n) for key, n in side.rows["class_id"].value_counts().sort_index().items()}
    fps = sorted(set(map(float, side.rows["FPS"])))[:8]
    return {"sha256": side.store.checksum, **facts, "class_id": classes, "fps": fps}
