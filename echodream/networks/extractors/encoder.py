"""Features of a classifier trained with model=classifier (``extractors=[encoder:<folder>]``)."""

from pathlib import Path

from torch import Tensor

from echodream.networks.classifiers import Classifier, clip_start, load_classifier
from echodream.networks.extractors.base import CLIPS, FRAMES, Extractor
from echodream.weights import fingerprint


class ClassifierExtractor(Extractor):
    """Penultimate features of the classifier in ``folder``. Clips have the classifier's length and stride."""

    network: Classifier
    inputs = (FRAMES, CLIPS)

    def __init__(self, folder: str, name: str | None = None) -> None:
        self.network, self.metadata = load_classifier(folder)
        self.name = name or Path(folder).absolute().name
        self.weights_hash = fingerprint(self.network)
        self.clip_types = ((int(self.metadata["frames"]), int(self.metadata["stride"])),)
        self.start = clip_start(self.metadata)
        self.size = (int(self.metadata["height"]), int(self.metadata["width"]), self.network.settings["channels"])
        """Frame size (H, W, C) of the classifier."""
        self.resizing = f"none: {self.size[1]}x{self.size[0]}"

    def features(self, x: Tensor) -> Tensor:
        return self.network.features(x)

    def class_logits(self, features: Tensor) -> Tensor | None:
        return self.network.head(features)
