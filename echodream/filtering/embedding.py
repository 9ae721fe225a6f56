"""What several stages share: frames of stores as embeddings of the identity network."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from echodream.artifact import read_artifact
from echodream.datamodules.recordings import Recordings
from echodream.errors import UserError
from echodream.filtering.copy_generation import spread as spread
from echodream.filtering.copy_generation import stored
from echodream.modules.reid import load_reid
from echodream.networks.autoencoder import load_frozen_autoencoder
from echodream.store import Store
from echodream.weights import fingerprint

CHUNK = 256
"""Frames that go through the networks at once. Chunks are filled up, so that a frame's embedding is its own."""


def drawn_with(store: Store) -> Mapping[str, Any]:
    """The settings that a store of samples was drawn with, also of those that a filter left."""
    found: Mapping[str, Any] = store.dataset.settings
    while isinstance(found.get("samples"), Mapping):
        found = found["samples"]
    return found


def check_trained(folder: str, name: str, real: Store, key: str) -> None:
    """Raise ``UserError`` when the ``name`` at ``folder``, given as ``key``, was not trained on the store ``real``.

    Who was in training is what the split of ``real`` says; a model of another split has seen other patients.
    """
    source = read_artifact(folder, name).source
    if source and source != real.checksum:
        raise UserError(
            f"{key}={folder} was trained on another store than real={real.root}, so who was in training is not known: "
            "give the store that it was trained on"
        )


class FrameEmbedder:
    """The identity network at ``reid`` for frames of latent stores, or of video stores, if their ``kind`` is "video".

    A network that looks at pixels is given frames of latents decoded by the autoencoder at ``vae``, the one that the
    latents are of. ``device`` is where networks run. Raises ``UserError`` for networks that do not fit each other.
    """

    def __init__(self, reid: str, vae: str, device: str = "cpu", kind: str = "latent") -> None:
        self.encoder = load_reid(reid).to(device)
        self.folder, self.sees, self.device, self.kind = reid, self.encoder.input_spec, torch.device(device), kind
        self.decoder: Any = None
        if kind == "video" and self.sees.on != "pixels":
            raise UserError(f"artifact={reid} looks at latents, and the images are pixels: give latents of both sides")
        if kind != "video" and self.sees.on == "pixels":
            self.decoder = load_frozen_autoencoder(vae).to(device)
            if self.sees.encoder is not None and fingerprint(self.decoder) != self.sees.encoder:
                raise UserError(
                    f"artifact={reid} looks at pixels that autoencoder={vae} did not decode: give the one "
                    "that made data/<study>/decoded, or train the reid again"
                )

    def check(self, store: Store) -> None:
        """Raise ``UserError`` for latents of another encoder than the network was trained on."""
        dataset = store.dataset
        if self.kind == "video":
            return
        if dataset.kind != "latent":
            raise UserError(f"{store.root} holds {dataset.kind}s, and copies are looked for among latents: give those")
        if self.sees.encoder is not None and dataset.encoder != self.sees.encoder:
            raise UserError(
                f"{store.root} was made by another encoder than the latents that {self.folder} was trained on, so "
                "the two cannot be compared: encode and draw again, or train the reid again"
            )

    def embed(self, latents: Tensor) -> Tensor:
        """Unscaled latents, or pixels, (n, C, H, W), to embeddings, (n, D), float32 on the CPU. They must be finite."""
        return self._embed(latents, self.encoder.embed)

    def reference(self, latents: Tensor) -> Tensor:
        """The embeddings of frames to which nothing was done: of a network that corrects a code, the code alone."""
        return self._embed(
            latents, self.encoder.embed_linear_code if self.encoder.has_linear_code else self.encoder.embed
        )

    def ways(self, latents: Tensor, views: Sequence[Callable[[Tensor], list[Tensor]]] = ()) -> list[Tensor]:
        """All embeddings by which frames are compared with references, (n, D) each: of them and of their ``views``.

        A network that corrects a code sees the frames themselves; their code, and those of the views, count, too, since
        what is only shifted, flipped or drawn anew needs no correction.
        """
        plain = [latents] if self.encoder.has_linear_code else []
        seen = [*plain, *(part for view in views for part in view(latents))]
        return [self.embed(latents), *(self.reference(part) for part in seen)]

    @torch.no_grad()
    def _embed(self, latents: Tensor, network: Callable[[Tensor], Tensor]) -> Tensor:
        parts = []
        for part in latents.float().split(CHUNK):
            filled = torch.cat([part, part.new_zeros(CHUNK - len(part), *part.shape[1:])]).to(self.device)
            seen = self._pixels(filled) if self.decoder is not None else filled
            parts.append(network(seen)[: len(part)].cpu())
        found = torch.cat(parts)
        if not torch.isfinite(found).all():
            raise UserError(f"artifact={self.folder} gives embeddings that are NaN or infinite: train the reid again")
        return found

    def _pixels(self, latents: Tensor) -> Tensor:
        pixels = self.decoder.decode(latents).sample.clamp(-1, 1)
        return pixels.mean(dim=1, keepdim=True) if self.sees.channels == 1 else pixels

    def recordings(self, rows: Recordings, every: int = 1, first: bool = False) -> Iterator[tuple[Tensor, list[str]]]:
        """For each recording, references of every ``every``-th frame, (f, D), and their patient, f times.

        With ``first`` of the first frame alone. Frames of several recordings go through the network together.
        """
        patients = rows.table["PatientID"].astype(str).tolist()
        held: list[Tensor] = []
        begin = 0
        for row in range(len(rows)):
            held.append(latents(rows, row, places(rows, row, every, first)))
            if row + 1 == len(rows) or sum(map(len, held)) >= 4 * CHUNK:
                parts = self.reference(torch.cat(held)).split([len(part) for part in held])
                for number, part in enumerate(parts, begin):
                    yield part, [patients[number]] * len(part)
                held, begin = [], row + 1


def places(rows: Recordings, row: int, every: int = 1, first: bool = False) -> np.ndarray:
    """The frames of a recording that are references: every ``every``-th, or only the ``first``; int64."""
    return np.arange(0, 1 if first else rows.frames[row], every)


def latents(rows: Recordings, row: int, places: Sequence[int] | np.ndarray) -> Tensor:
    """The frames ``places`` of a recording as they are stored: posterior means, unscaled, (f, C, H, W), float32."""
    return stored(rows, row, np.asarray(places))[0]
