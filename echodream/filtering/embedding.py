"""Embeddings of frames of stores by the identity network."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from echodream.artifact import read_artifact
from echodream.datamodules.recordings import Recordings
from echodream.errors import UserError
from echodream.modules.reid import load_reid
from echodream.networks.autoencoder import load_frozen_autoencoder
from echodream.store import Store
from echodream.weights import fingerprint

BATCH_FRAMES = 256
"""Frames per batch. The last batch is padded, so that an embedding does not depend on the number of frames."""

View = Callable[[Tensor], list[Tensor]]
"""Latents (n, C, H, W) to transformed versions of them."""


def sampling_settings(store: Store) -> Mapping[str, Any]:
    """The settings that the samples of ``store`` were generated with; also if the store is the result of a filter."""
    settings: Mapping[str, Any] = store.dataset.settings
    while isinstance(settings.get("samples"), Mapping):
        settings = settings["samples"]
    return settings


def check_training_store(folder: str, name: str, real: Store, key: str) -> None:
    """Raise ``UserError`` if the ``name`` at ``folder``, set by ``key``, was not trained on the store ``real``.

    The split of ``real`` says who was in training; a model of another split was trained on other patients.
    """
    source = read_artifact(folder, name).source
    if source and source != real.checksum:
        raise UserError(
            f"{key}={folder} was trained on another store than real={real.root}, so its training patients are unknown: "
            "give the store that it was trained on"
        )


class FrameEmbedder:
    """The identity network at ``reid``, for frames of latent stores, or of video stores with ``kind`` "video".

    For a network on pixels, latents are decoded by their autoencoder at ``vae``. Raises ``UserError`` for networks that
    do not belong together.
    """

    def __init__(self, reid: str, vae: str, device: str = "cpu", kind: str = "latent") -> None:
        self.encoder = load_reid(reid).to(device)
        self.folder, self.input_spec, self.kind = reid, self.encoder.input_spec, kind
        self.device = torch.device(device)
        self.decoder: Any = None
        on_pixels = self.input_spec.on == "pixels"
        if kind == "video" and not on_pixels:
            raise UserError(f"artifact={reid} embeds latents, and the images are pixels: give stores of latents")
        if kind != "video" and on_pixels:
            self.decoder = load_frozen_autoencoder(vae).to(device)
            if self.input_spec.encoder is not None and fingerprint(self.decoder) != self.input_spec.encoder:
                raise UserError(
                    f"artifact={reid} embeds pixels that autoencoder={vae} did not decode: give the one "
                    "that made data/<study>/decoded, or train the reid again"
                )

    def check(self, store: Store) -> None:
        """Raise ``UserError`` for a store that is not of the latents that the network was trained on."""
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
        """Unscaled latents, or pixels, (n, C, H, W), to embeddings, (n, D), float32 on the CPU. They must be finite."""
        return self._embed(latents, self.encoder.embed)

    def embed_references(self, latents: Tensor) -> Tensor:
        """Embeddings of reference frames, (n, D): ``embed``, or the linear code of a network that has one."""
        has_code = self.encoder.has_linear_code
        return self._embed(latents, self.encoder.embed_linear_code if has_code else self.encoder.embed)

    def embed_views(self, latents: Tensor, views: Sequence[View] = ()) -> list[Tensor]:
        """All embeddings of queries, (n, D) each: ``embed`` of the frames, and reference embeddings of their ``views``.

        A network with a linear code also compares the code of the frames themselves: what is only shifted, flipped or
        sampled again needs no correction.
        """
        unchanged = [latents] if self.encoder.has_linear_code else []
        versions = [*unchanged, *(version for view in views for version in view(latents))]
        return [self.embed(latents), *(self.embed_references(version) for version in versions)]

    @torch.no_grad()
    def _embed(self, latents: Tensor, network: Callable[[Tensor], Tensor]) -> Tensor:
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
        self, recordings: Recordings, every: int = 1, first: bool = False
    ) -> Iterator[tuple[Tensor, list[str]]]:
        """For each recording the embeddings of its ``reference_frames``, (f, D), and its patient, f times.

        Several recordings go through the network together.
        """
        patients = recordings.table["PatientID"].astype(str).tolist()
        waiting: list[Tensor] = []
        for row in range(len(recordings)):
            waiting.append(recordings.posterior(row, reference_frames(recordings, row, every, first))[0])
            if row + 1 == len(recordings) or sum(map(len, waiting)) >= 4 * BATCH_FRAMES:
                parts = self.embed_references(torch.cat(waiting)).split([len(part) for part in waiting])
                for number, part in enumerate(parts, row + 1 - len(waiting)):
                    yield part, [patients[number]] * len(part)
                waiting = []


def reference_frames(recordings: Recordings, row: int, every: int = 1, first: bool = False) -> np.ndarray:
    """Frames of a recording that are references: every ``every``-th, or only the ``first``; int64."""
    return np.arange(0, 1 if first else recordings.frames[row], every)
