"""Embeddings of frames of stores by the identity network."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor
from yaml import YAMLError

from echodream.artifact import TRAINING_FILE, read_artifact
from echodream.datamodules.recordings import Recordings
from echodream.errors import UserError
from echodream.modules.reid import load_reid
from echodream.networks.autoencoder import load_frozen_autoencoder
from echodream.store import Store
from echodream.store.checksums import file_sha256
from echodream.store.schema import CHECKSUMS
from echodream.weights import fingerprint

BATCH_FRAMES = 256
"""Frames per batch. The last batch is padded, so that an embedding does not depend on the number of frames."""

UNKNOWN = "unknown"
"""Value in records for a generator that is not known."""

View = Callable[[Tensor], list[Tensor]]
"""Function from latents, (n, C, H, W), to transformed versions of these latents."""


def has_known_generator(store: Store) -> bool:
    """Whether ``store`` records the model that generated its samples; False for samples of another program."""
    settings = store.dataset.sampling_settings
    return isinstance(settings.get("model"), str) and settings.get("images") != UNKNOWN


def check_training_store(folder: str, name: str, real: Store, key: str, accept_videos: bool = False) -> None:
    """Raise ``UserError`` unless the model ``name`` in ``folder``, set by ``key``, was trained on the store ``real``.

    A model of another store may have been trained on patients of any split of ``real``. ``accept_videos``: also accept
    a model that was trained on videos that ``real`` was encoded from, or that were decoded from ``real``.
    """
    artifact = read_artifact(folder, name)
    sources = {artifact.source}
    if accept_videos:
        videos = real.root.with_name("decoded")  # for artifacts that do not record the origin of their store
        if (videos / CHECKSUMS).is_file() and file_sha256(videos / CHECKSUMS) == artifact.source:
            sources.add(str(Store(videos).dataset.settings.get("source")))
        sources |= {artifact.origin, real.checksum if artifact.source == real.dataset.settings.get("source") else ""}
    if artifact.source and real.checksum not in sources:
        raise UserError(
            f"{key}={folder} was trained on another store than real={real.root}, so its training patients are unknown: "
            "give the store that the model was trained on"
        )


def check_initial_model(folder: str, name: str, key: str) -> None:
    """Raise ``UserError`` if the generator in ``folder`` was fine-tuned from a model of another store.

    Differentially private training may start from a model of another store, which has to be public.
    """
    artifact = read_artifact(folder, name)
    if artifact.privacy is None and any(record["source"] != artifact.source for record in artifact.lineage()):
        raise UserError(
            f"{key}={folder} is refused: its training began with a model of another store, and its initial model's "
            "patients are not covered by filter and audit; train without it, or with trainer.privacy.epsilon="
        )


def check_unused_for_model_selection(folder: str | None, key: str, splits: Sequence[str]) -> None:
    """Raise ``UserError`` if ``splits`` has VAL, and a metric of VAL patients selected the model in ``folder``.

    VAL patients of early stopping or of a hyperparameter search are not new to the model. ``key``: name of the setting
    that gave ``folder``, for the error message.
    """
    path = Path(str(folder)) / TRAINING_FILE
    if folder is None or "VAL" not in splits or not path.is_file():
        return
    try:
        config: Any = OmegaConf.to_container(OmegaConf.load(path))
        callbacks = [part for part in (config.get("callbacks") or {}).values() if isinstance(part, Mapping)]
    except (OSError, ValueError, AttributeError, OmegaConfBaseException, YAMLError) as error:
        raise UserError(f"{path} cannot be read, so the use of VAL in training is unknown: train again") from error
    monitors = [str(part["monitor"]) for part in callbacks if part.get("monitor")]
    if used := [name for name in (*monitors, config.get("objective")) if name and str(name).startswith("val")]:
        raise UserError(
            f"calibration={[*splits]} is not possible: {key}={folder} was selected by {used[0]}, a metric of the VAL "
            "patients (early stopping or hyperparameter search), so they are not new to it; give calibration=[TEST]"
        )


def group_parts(parts: Iterable[Tensor], min_frames: int) -> Iterator[list[Tensor]]:
    """Consecutive ``parts``, (f, ...) each, in groups of ``min_frames`` or more frames; the last may be smaller."""
    group: list[Tensor] = []
    count = 0
    for part in parts:
        group.append(part)
        count += len(part)
        if count >= min_frames:
            yield group
            group, count = [], 0
    if group:
        yield group


class FrameEmbedder:
    """The identity network in ``reid``, for frames of stores of the ``kind`` "latent" or "video".

    With ``kind`` "input", frames are the network's own input, latents or pixels. For a network on pixels, the
    autoencoder in ``vae`` decodes the frames of latent stores. Raises ``UserError`` if another autoencoder decoded the
    training images of the network.
    """

    def __init__(self, reid: str, vae: str, device: str = "cpu", kind: str = "latent") -> None:
        self.encoder = load_reid(reid).to(device)
        self.folder, self.input_spec, self.kind = reid, self.encoder.input_spec, kind
        self.device = torch.device(device)
        self.decoder: Any = None
        on_pixels = self.input_spec.on == "pixels"
        if kind == "video" and not on_pixels:
            raise UserError(f"artifact={reid} embeds latents, and the images are pixels: give stores of latents")
        if kind == "latent" and on_pixels:
            self.decoder = load_frozen_autoencoder(vae).to(device)
            if self.input_spec.encoder is not None and fingerprint(self.decoder) != self.input_spec.encoder:
                raise UserError(
                    f"artifact={reid} embeds pixels that autoencoder={vae} did not decode: give the "
                    "autoencoder that made data/<study>/decoded, or train the reid again"
                )

    def check_encoder(self, store: Store) -> None:
        """Raise ``UserError`` unless ``store`` has latents of the same encoder as the training data of the network."""
        dataset = store.dataset
        if self.kind == "video":
            return
        if dataset.kind != "latent":
            raise UserError(f"{store.root} holds {dataset.kind}s, and the filter compares latents: give a latent store")
        if self.input_spec.encoder is not None and dataset.encoder != self.input_spec.encoder:
            raise UserError(
                f"{store.root} was made by another encoder than the latents that {self.folder} was trained on, so "
                "the two cannot be compared: encode and sample again, or train the reid again"
            )

    def embed(self, latents: Tensor) -> Tensor:
        """Embeddings of unscaled latents or pixels, (n, C, H, W): finite, float32 (n, D), on the CPU."""
        return self._embed_batches(latents, self.encoder.embed)

    def embed_references(self, latents: Tensor) -> Tensor:
        """Embeddings of reference frames, (n, D): the linear embedding if the network has one, else ``embed``."""
        encoder = self.encoder
        return self._embed_batches(latents, encoder.embed_linearly if encoder.has_linear_embedding else encoder.embed)

    def embed_versions(self, latents: Tensor, versions: Sequence[Tensor]) -> list[Tensor]:
        """Embeddings of queries, (n, D) each: ``embed`` of ``latents``, and reference embeddings of their ``versions``.

        If the network has a linear embedding, the unchanged ``latents`` are also a version.
        """
        unchanged = [latents] if self.encoder.has_linear_embedding else []
        return [self.embed(latents), *(self.embed_references(version) for version in (*unchanged, *versions))]

    @torch.no_grad()
    def _embed_batches(self, latents: Tensor, network: Callable[[Tensor], Tensor]) -> Tensor:
        parts = []
        for part in latents.float().split(BATCH_FRAMES):
            batch = torch.cat([part, part.new_zeros(BATCH_FRAMES - len(part), *part.shape[1:])]).to(self.device)
            parts.append(network(self._decode(batch) if self.decoder is not None else batch)[: len(part)].cpu())
        embeddings = torch.cat(parts)
        if not torch.isfinite(embeddings).all():
            raise UserError(f"artifact={self.folder} gives embeddings that are NaN or infinite: train the reid again")
        return embeddings

    def _decode(self, latents: Tensor) -> Tensor:
        pixels: Tensor = self.decoder.decode(latents).sample.clamp(-1, 1)
        return pixels.mean(dim=1, keepdim=True) if self.input_spec.channels == 1 else pixels

    def embed_recordings(
        self, recordings: Recordings, stride: int = 1, first_only: bool = False
    ) -> Iterator[tuple[Tensor, list[str]]]:
        """Yield embeddings of the ``reference_frames`` of each recording, (f, D), and the patient of each frame."""
        indices = (reference_frames(recordings, row, stride, first_only) for row in range(len(recordings)))
        parts = (recordings.posterior(row, frames)[0] for row, frames in enumerate(indices))
        patients = iter(recordings.table["PatientID"].astype(str))
        for group in group_parts(parts, 4 * BATCH_FRAMES):
            for part in self.embed_references(torch.cat(group)).split([len(part) for part in group]):
                yield part, [next(patients)] * len(part)


def reference_frames(recordings: Recordings, row: int, stride: int = 1, first_only: bool = False) -> np.ndarray:
    """Indices of the reference frames of a recording, int64: frames ``stride`` apart, or only the first frame."""
    return np.arange(0, 1 if first_only else recordings.frames[row], stride)
