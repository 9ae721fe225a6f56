"""Evaluation of one store of images or videos with all extractors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from echodream.errors import UserError
from echodream.evaluation.class_agreement import check_classes, class_agreement, training_data_warnings
from echodream.evaluation.feature_extraction import (
    FeatureExtraction,
    FeatureSets,
    RecordingSet,
    check_frame_size,
    check_frame_sizes,
)
from echodream.evaluation.fidelity_records import fidelity_metrics, frame_rate_warning
from echodream.evaluation.protocol import Protocol, samples_per_set
from echodream.evaluation.table import MetricRecord
from echodream.networks.extractors.base import Extractor
from echodream.networks.extractors.encoder import ClassifierExtractor
from echodream.networks.extractors.registry import BUILT_IN_EXTRACTORS

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


@dataclass(frozen=True)
class Comparison:
    """Comparison of synthetic with real recordings, with the settings of a protocol."""

    extraction: FeatureExtraction
    extractors: Sequence[Extractor]
    classifier: ClassifierExtractor | None
    """Classifier for the class agreement, which may be one of ``extractors``."""
    test: RecordingSet
    train: RecordingSet
    autoencoder: "AutoencoderKL | None"
    """Autoencoder whose error is measured, as distances of reconstructed TEST recordings; None: not measured."""
    protocol: Protocol
    protocol_path: str | None
    protocol_counts: Mapping[str, int] | None
    """Number of samples of each kind in the protocol at ``protocol_path``; None without a protocol."""
    min_samples: int
    """Minimum number of samples in a set."""
    used_counts: dict[str, int] = field(default_factory=dict)
    """Number of compared samples, by kind of sample."""

    def check_recordings(self, recordings: Sequence[RecordingSet], regressor: ClassifierExtractor | None) -> None:
        """Raise ``UserError`` unless each classifier was trained on the frame size and classes of the recordings."""
        check_frame_sizes((self.test, self.train, *recordings), self.extractors)
        for each in (self.test, self.train, *recordings):
            if self.classifier is not None:
                check_classes(each, self.classifier)
            for extractor in (*self.extractors, regressor, self.classifier):
                if isinstance(extractor, ClassifierExtractor):
                    check_frame_size(each.store, each.rows, extractor.size, each.cli_arg, "the classifier")

    def metrics(self, section: str, synthetic: RecordingSet) -> dict[str, MetricRecord]:
        """Fidelity metrics and class agreement of ``synthetic``, by name; ``section`` is "images" or "videos"."""
        metrics: dict[str, MetricRecord] = {}
        only_key_frames = section == "images" and {"ED", "ES"} <= set(synthetic.rows)
        real_sets = [replace(each, only_key_frames=only_key_frames) for each in (self.test, self.train)]
        for extractor in self.extractors:
            for kind in self.extraction.sample_kinds(section, extractor):
                recordings = [synthetic, *real_sets]
                sets = FeatureSets(extractor, kind.frame_count, *(kind.extract(each) for each in recordings))
                if self.autoencoder is not None and extractor.name in BUILT_IN_EXTRACTORS:
                    test = replace(recordings[1], autoencoder=self.autoencoder)
                    sets = replace(sets, reconstructed=kind.extract(test, max_count=sets.smallest_set_size()))
                counts, available = self.protocol_counts, sets.smallest_set_size()
                count = samples_per_set(self.protocol_path, counts, kind.name, available, self.min_samples)
                if self.used_counts.setdefault(kind.name, count) != count:
                    raise UserError(
                        f"{extractor.name} has another number of {kind.name} than other extractors: evaluate it alone"
                    )
                warnings = frame_rate_warning(synthetic, self.test) if kind.frame_count > 1 else []
                if isinstance(extractor, ClassifierExtractor):
                    warnings += training_data_warnings(extractor, self.test)
                settings = self.protocol.neighbours, self.protocol.seed
                metrics |= fidelity_metrics(sets, count, *settings, warnings)
                if extractor is self.classifier:
                    pairs = (synthetic, sets.synthetic), (self.test, sets.test)
                    metrics |= class_agreement(extractor, *pairs, self.protocol.seed)
        if self.classifier is not None and self.classifier not in self.extractors:
            kind = next(self.extraction.sample_kinds(section, self.classifier))
            pairs = (synthetic, kind.extract(synthetic)), (self.test, kind.extract(self.test))
            metrics |= class_agreement(self.classifier, *pairs, self.protocol.seed)
        return metrics
