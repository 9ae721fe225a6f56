"""What a classifier says of the recordings of a store: one answer each, from the clip that it was tested on."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from echodream import validation
from echodream.artifact import Artifact, read_artifact
from echodream.datamodules.dataset import ViewDataset, collate
from echodream.datamodules.recordings import Recordings
from echodream.datamodules.views import Clips
from echodream.errors import UserError
from echodream.networks.classifiers import Classifier, clip_start, load_classifier
from echodream.store import Store


@dataclass(frozen=True)
class OpenClassifier:
    """A classifier, opened."""

    folder: str
    network: Classifier
    facts: dict[str, Any]
    artifact: Artifact


def open_classifier(folder: str) -> OpenClassifier:
    """The classifier in ``folder``. Raises ``UserError`` when there is none."""
    artifact = read_artifact(folder, "classifier")
    network, facts = load_classifier(Path(folder))
    return OpenClassifier(folder, network, facts, artifact)


@torch.inference_mode()
def predict_split(model: OpenClassifier, store: Store, split: str, batch: int = 16) -> tuple[pd.DataFrame, np.ndarray]:
    """The rows of ``split`` and what ``model`` says of each: outputs, float64 (N, K).

    Raises ``UserError`` when the recordings are not of the size that it was trained on.
    """
    validation.whole_number("batch", batch)
    rows = Recordings(store, split)
    _check_size(model, store, rows.table)
    samples = ViewDataset(rows, clip_view(model.facts), seed=0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = model.network.to(device)
    found = []
    for start in tqdm(range(0, len(samples), batch), f"asking {model.folder}", unit="batch", disable=None):
        clips = collate([samples[k] for k in range(start, min(start + batch, len(samples)))])
        found.append(network(clips["x"].to(device)).double().cpu())
    return rows.table, torch.cat(found).numpy()


def clip_view(facts: Mapping[str, Any]) -> Clips:
    """How a classifier that says these ``facts`` looks at a recording: a clip of so many frames, as in its tests."""
    return Clips(frames=facts["frames"], stride=facts["stride"], start=clip_start(facts))


def _check_size(model: OpenClassifier, store: Store, table: pd.DataFrame) -> None:
    facts = model.facts
    wanted = (int(facts["height"]), int(facts["width"]), int(facts["architecture"]["channels"]))
    for height, width in set(zip(table["FrameHeight"], table["FrameWidth"], strict=True)):
        if (found := (int(height), int(width), store.dataset.channels)) != wanted:
            raise UserError(
                f"{store.root} has recordings of {_size(found)}, and {model.folder} was trained on {_size(wanted)}: "
                "bring both to one data.size, data.grey"
            )


def _size(found: tuple[int, int, int]) -> str:
    return f"{found[1]}x{found[0]} with {found[2]} channel{'s' * (found[2] > 1)}"
