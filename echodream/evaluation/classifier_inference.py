"""Inference with a trained classifier: outputs for the recordings of a store, one clip each."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.data import default_collate

from echodream import validation
from echodream.artifact import Artifact, read_artifact
from echodream.datamodules.dataset import ViewDataset
from echodream.datamodules.recordings import Recordings
from echodream.datamodules.views import Clips
from echodream.evaluation.feature_extraction import check_frame_size
from echodream.networks.classifiers import Classifier, clip_start, load_classifier
from echodream.progress import progress_bar
from echodream.store import Store


@dataclass(frozen=True)
class LoadedClassifier:
    """A classifier artifact: network and metadata."""

    folder: str
    network: Classifier
    metadata: dict[str, Any]
    """Task, classes, clip and frame size, from config.json."""
    artifact: Artifact


def open_classifier(folder: str) -> LoadedClassifier:
    """The classifier in ``folder``. Raises ``UserError`` if there is no classifier."""
    artifact = read_artifact(folder, "classifier")
    network, metadata = load_classifier(Path(folder))
    return LoadedClassifier(folder, network, metadata, artifact)


@torch.inference_mode()
def predict_split(
    classifier: LoadedClassifier, store: Store, split: str, batch: int = 16
) -> tuple[pd.DataFrame, np.ndarray]:
    """The N rows of ``split``, and the network's outputs for one clip of each recording: float64 (N, K).

    Raises ``UserError`` if the frames differ in size from those that the network was trained on.
    """
    validation.whole_number("batch", batch)
    recordings = Recordings(store, split)
    metadata = classifier.metadata
    size = (int(metadata["height"]), int(metadata["width"]), int(metadata["architecture"]["channels"]))
    check_frame_size(store, recordings.table, size, str(store.root), classifier.folder)
    samples = ViewDataset(recordings, clip_view(metadata), seed=0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = classifier.network.to(device)
    outputs = []
    for start in progress_bar(range(0, len(samples), batch), f"predict, {classifier.folder}", unit="batch"):
        clips = default_collate([samples[index] for index in range(start, min(start + batch, len(samples)))])
        outputs.append(network(clips["x"].to(device)).double().cpu())
    return recordings.table, torch.cat(outputs).numpy()


def clip_view(metadata: Mapping[str, Any]) -> Clips:
    """View that selects the test clip of a recording, for a classifier with ``metadata``."""
    return Clips(frames=metadata["frames"], stride=metadata["stride"], start=clip_start(metadata))
