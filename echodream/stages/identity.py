"""What ``stage=filter`` and ``stage=audit`` share: frames of latent stores as embeddings of the identity network."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from echodream.datamodules.recordings import Recordings
from echodream.errors import UserError
from echodream.modules.reid import load_reid
from echodream.networks.autoencoder import load_folder
from echodream.store import Store
from echodream.weights import fingerprint

CHUNK = 256
"""Frames that go through the networks at once. Chunks are filled up, so that a frame's embedding is its own."""


class Embedder:
    """The identity network at ``reid`` for frames of latent stores.

    A network that looks at pixels is given frames decoded by the autoencoder at ``vae``, the one that the latents are
    of. ``device`` is where networks run. Raises ``UserError`` for networks that do not fit each other.
    """

    def __init__(self, reid: str, vae: str, device: str = "cpu") -> None:
        self.encoder = load_reid(reid).to(device)
        self.folder, self.sees, self.device = reid, self.encoder.sees, torch.device(device)
        self.decoder: Any = None
        if self.sees.on == "pixels":
            self.decoder = load_folder(vae).requires_grad_(False).eval().to(device)
            if self.sees.encoder is not None and fingerprint(self.decoder) != self.sees.encoder:
                raise UserError(
                    f"artifact={reid} looks at pixels decoded by another autoencoder than vae={vae}: give the one "
                    "that made data/<study>/decoded, or train the reid again"
                )

    def check(self, store: Store) -> None:
        """Raise ``UserError`` unless ``store`` holds latents of the encoder that the network was trained on."""
        dataset = store.dataset
        if dataset.kind != "latent":
            raise UserError(f"{store.root} holds {dataset.kind}s, and copies are looked for among latents: give those")
        if self.sees.encoder is not None and dataset.encoder != self.sees.encoder:
            raise UserError(
                f"{store.root} was made by another encoder than the latents that {self.folder} was trained on, so "
                "the two cannot be compared: encode and draw again, or train the reid again"
            )

    @torch.no_grad()
    def embed(self, latents: Tensor) -> Tensor:
        """Unscaled latents, (n, C, H, W), to embeddings, (n, D), float32 on the CPU; ``UserError`` where not finite."""
        parts = []
        for part in latents.float().split(CHUNK):
            filled = torch.cat([part, part.new_zeros(CHUNK - len(part), *part.shape[1:])]).to(self.device)
            seen = self._pixels(filled) if self.decoder is not None else filled
            parts.append(self.encoder.embed(seen)[: len(part)].cpu())
        found = torch.cat(parts)
        if not torch.isfinite(found).all():
            raise UserError(f"artifact={self.folder} gives embeddings that are NaN or infinite: train the reid again")
        return found

    def _pixels(self, latents: Tensor) -> Tensor:
        pixels = self.decoder.decode(latents).sample.clamp(-1, 1)
        return pixels.mean(dim=1, keepdim=True) if self.sees.channels == 1 else pixels

    def recordings(self, rows: Recordings, every: int = 1) -> Iterator[tuple[Tensor, list[str]]]:
        """For each recording, embeddings of every ``every``-th frame, (f, D), and their patient, f times."""
        patients = rows.table["PatientID"].astype(str).tolist()
        for row, patient in enumerate(patients):
            places = np.arange(0, rows.frames[row], every)
            yield self.embed(latents(rows, row, places)), [patient] * len(places)


def latents(rows: Recordings, row: int, places: Sequence[int] | np.ndarray) -> Tensor:
    """The frames ``places`` of a recording as they are stored: posterior means, unscaled, (f, C, H, W), float32."""
    wanted = np.asarray(places)
    low, high = int(wanted.min()), int(wanted.max()) + 1
    return rows.store.latents(rows.names[row], low, high)[0][wanted - low].float()


def spread(frames: int, count: int) -> np.ndarray:
    """``count`` frames of ``frames``, evenly from the first to the last; int64. One frame is the middle one."""
    if count == 1:
        return np.array([frames // 2])
    return np.linspace(0, frames - 1, count).round().astype(np.int64)
