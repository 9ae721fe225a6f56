"""Spaces in which images are compared: identity embeddings, latents, or pixels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from echodream import validation
from echodream.anonymization.image_pairs import ImageSet
from echodream.datamodules.augmentation import affine
from echodream.datamodules.normalization import whiten
from echodream.datamodules.recordings import Recordings
from echodream.filtering.embedding import FrameEmbedder, group_parts
from echodream.privacy.similarity import Similarity, normalize
from echodream.progress import progress_bar
from echodream.store import Store
from echodream.weights import fingerprint

GROUP_FRAMES = 1024
"""Smallest number of frames that are embedded together; the last group of frames may be smaller."""


@dataclass(frozen=True)
class ComparisonSpace:
    """Space with a function ``embed`` from unscaled latents, or pixels in [-1, 1], (n, C, H, W), to vectors (n, D).

    ``name`` is "identity", "latents" or "pixels". ``fingerprint``: hash of the identity network, None in other spaces.
    """

    name: str
    description: str
    embed: Callable[[Tensor], Tensor]
    fingerprint: str | None = None


def comparison_spaces(
    original: Store, anonymized: Store, artifact: str | None, autoencoder: str
) -> list[ComparisonSpace]:
    """Spaces in which the images of two stores are compared: identity embeddings, then latents or pixels.

    Identity embeddings need the identity network ``artifact``; None leaves this space out. Latents are whitened with
    the statistics of ``original``. Raises ``UserError`` for latents of another encoder than the network was trained on.
    """
    spaces = []
    if artifact is not None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        embedder = FrameEmbedder(artifact, autoencoder, device, original.dataset.kind)
        for store in (original, anonymized):
            embedder.check_encoder(store)
        similarity = cast(Similarity, embedder.encoder.input_spec.similarity)
        description = f"unit vectors of the identity network, for {similarity} similarity"

        def embed(frames: Tensor) -> Tensor:
            return normalize(embedder.embed(frames), similarity, "embeddings")

        spaces.append(ComparisonSpace("identity", description, embed, fingerprint(embedder.encoder.network)))
    if original.dataset.kind == "video":
        return [*spaces, ComparisonSpace("pixels", "pixels in [-1, 1]", lambda x: x.flatten(1))]
    statistics = original.dataset.statistics
    assert statistics is not None  # ``Recordings`` refuses a latent store without statistics
    description = "posterior means, whitened by the mean and standard deviation of each channel in the TRAIN originals"
    whitened = ComparisonSpace("latents", description, lambda x: whiten(x.float(), statistics, dim=1).flatten(1))
    return [*spaces, whitened]


def embed_images(images: ImageSet, spaces: Sequence[ComparisonSpace], progress_label: str) -> list[Tensor]:
    """Embeddings of ``images`` in each of the ``spaces``, float32 (n, D). Each frame is read once for all spaces."""
    starts = np.flatnonzero(np.diff(images.row, prepend=-1))
    bar: Any = progress_bar(np.split(np.arange(len(images)), starts[1:]), progress_label, unit="rec", leave=False)
    read = (_read_frames(images.recordings, int(images.row[part[0]]), images.frame[part]) for part in bar)
    embedded = [[space.embed(frames) for space in spaces] for frames in map(torch.cat, group_parts(read, GROUP_FRAMES))]
    return [torch.cat(parts) for parts in zip(*embedded, strict=True)]


def _read_frames(recordings: Recordings, row: int, frames: np.ndarray) -> Tensor:
    """Unscaled posterior means, or pixels in [-1, 1], of ``frames`` of a recording: float32 (f, C, H, W)."""
    if recordings.store.dataset.kind == "latent":
        return recordings.posterior(row, frames)[0]
    return recordings.read(row, frames.tolist(), np.random.default_rng(0)).transpose(0, 1)


@dataclass(frozen=True)
class EmbeddingAugmentation:
    """Test-time augmentation: mean embedding of an image, its mirror image, and its rotations by +-``degrees``."""

    flip: bool = False
    degrees: float = 0.0

    def __post_init__(self) -> None:
        validation.true_or_false("views.flip", self.flip)
        validation.number("views.degrees", self.degrees, 0, 45)

    def augment(self, space: ComparisonSpace) -> ComparisonSpace:
        """A copy of ``space`` whose embeddings are means over the augmented images, scaled to unit vectors.

        In a space of latents or of pixels, the similarity of two images is their Pearson correlation.
        """
        similarity: Similarity = "cosine" if space.fingerprint is not None else "pearson"

        def embed(frames: Tensor) -> Tensor:
            versions = [frames, frames.flip(-1)] if self.flip else [frames]
            versions += [affine(frames, degrees=sign * self.degrees) for sign in (1, -1)] if self.degrees else []
            embeddings = [normalize(space.embed(version), similarity, "embeddings") for version in versions]
            return normalize(torch.stack(embeddings).mean(dim=0), "cosine", "embeddings")

        description = space.description if space.fingerprint is not None else f"correlation of {space.name}"
        return replace(space, description=description, embed=embed)
