"""The features of one of the project's own classifiers."""

from pathlib import Path

from torch import Tensor

from echodream.networks.classifiers import Classifier, clip_start, load_classifier
from echodream.networks.extractors.base import CLIPS, FRAMES, Extractor
from echodream.weights import fingerprint


class ClassifierExtractor(Extractor):
    """The classifier artifact in ``folder``: what its last layer sees, of frames and of clips as in its training."""

    network: Classifier
    sees = (FRAMES, CLIPS)

    def __init__(self, folder: str, name: str | None = None) -> None:
        self.network, self.trained = load_classifier(folder)
        self.name = name or Path(folder).absolute().name
        self.weights = fingerprint(self.network)
        self.clips = ((int(self.trained["frames"]), int(self.trained["stride"])),)
        self.start = clip_start(self.trained)
        self.size = (int(self.trained["height"]), int(self.trained["width"]), self.network.settings["channels"])
        self.resize = f"none: {self.size[1]}x{self.size[0]}"

    def features(self, x: Tensor) -> Tensor:
        return self.network.features(x)

    def scores(self, features: Tensor) -> Tensor | None:
        found: Tensor = self.network.head(features)
        return found
