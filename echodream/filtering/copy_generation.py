"""What copies of training patients are made with: their frames, the autoencoder, and the generator."""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from echodream.datamodules.key_frames import find_triples, nearest_triple
from echodream.datamodules.normalization import unwhiten, whiten
from echodream.datamodules.recordings import Recordings
from echodream.diffusion.guidance import Guidance
from echodream.diffusion.model import DiffusionModel
from echodream.diffusion.noise import sample_noise
from echodream.errors import UserError
from echodream.modules.vae import split_into_chunks
from echodream.networks.autoencoder import load_frozen_autoencoder
from echodream.weights import fingerprint

TOGETHER = 64
"""Frames, or images, that are made together; a fixed number, so that a copy does not depend on how many there are."""

T = TypeVar("T")


@dataclass(frozen=True)
class FrameSelection:
    """The frames ``places``, int64 (f,), of the recording number ``row``."""

    row: int
    places: np.ndarray


class CopyGenerator:
    """What copies of the recordings ``rows`` are made with.

    ``vae`` is the folder of the autoencoder that made their latents. ``generator`` and ``guidance`` are what samples
    were drawn with, and ``steps`` would lead from noise to nothing; only ``Regenerated`` needs them. What is random is
    a function of ``seed``, the names of recording and transform. Raises ``UserError`` for networks of other latents.
    """

    def __init__(
        self,
        rows: Recordings,
        vae: str,
        generator: DiffusionModel | None = None,
        guidance: Guidance | None = None,
        steps: int = 20,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.rows, self.steps, self.seed, self.device = rows, steps, seed, torch.device(device)
        self.vae = load_frozen_autoencoder(vae).to(self.device)
        self.guidance = guidance or Guidance()
        self.generator = generator.to(self.device) if generator is not None else None
        encoder = rows.store.dataset.encoder
        if fingerprint(self.vae) != encoder:
            raise UserError(f"autoencoder={vae} is not the encoder of {rows.store.root}: give the one that made it")
        if generator is not None and generator.metadata.encoder != encoder:
            raise UserError(
                f"generator= draws latents of another encoder than that of {rows.store.root}: train it again"
            )

    @property
    def model(self) -> DiffusionModel:
        """The generator. Raises ``UserError`` without one."""
        if self.generator is None:
            raise UserError("copies redrawn by the generator need generator=, the folder of the model that drew src")
        return self.generator

    def mean(self, row: int, places: np.ndarray) -> Tensor:
        """Frames of a recording as they are stored, (f, C, H, W), float32."""
        return stored(self.rows, row, places)[0]

    def drawn(self, row: int, places: np.ndarray, rng: np.random.Generator) -> Tensor:
        """A draw from their posterior."""
        return drawn(self.rows, row, places, rng)

    def decode(self, latents: Tensor) -> Tensor:
        """Unscaled latents to pixels in [-1, 1], (n, C, H, W) each, on the CPU."""
        parts = [self.vae.decode(part).sample for part in split_into_chunks(latents.to(self.device), TOGETHER)]
        return torch.cat(parts).clamp(-1, 1).cpu()

    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels to mean and std of their posterior, (n, C, H, W) each, on the CPU."""
        parts = [self.vae.encode(part).latent_dist for part in split_into_chunks(pixels.to(self.device), TOGETHER)]
        return torch.cat([part.mean for part in parts]).cpu(), torch.cat([part.std for part in parts]).cpu()

    def groups(
        self, taken: Sequence[FrameSelection], rngs: Sequence[np.random.Generator]
    ) -> Iterator[list[tuple[FrameSelection, np.random.Generator]]]:
        """Some at a time, of about ``TOGETHER`` frames."""
        size = max(1, TOGETHER // max((len(one.places) for one in taken), default=1))
        yield from batched(list(zip(taken, rngs, strict=True)), size)

    def stacked(self, taken: list[FrameSelection], rngs: list[np.random.Generator]) -> tuple[Tensor, dict[str, Tensor]]:
        """Images as the generator draws them, whitened, (B, frames C, H, W), and the values of its conditions."""
        facts = self.model.metadata
        if wrong := [one for one in taken if len(one.places) != facts.frames]:
            raise UserError(
                f"generator= draws {facts.frames} frames at once, and samples have {len(wrong[0].places)}: give the "
                "model that drew src"
            )
        drawn = [self.drawn(one.row, one.places, rng) for one, rng in zip(taken, rngs, strict=True)]
        x = torch.stack([whiten(part, facts.statistics, dim=1).flatten(0, 1) for part in drawn])
        return x, self.asked([one.row for one in taken])

    def clips(self, taken: list[FrameSelection], rngs: list[np.random.Generator]) -> tuple[Tensor, dict[str, Tensor]]:
        """Clips as long as those of training, whitened, (B, C, F, H, W), and the values of the conditions."""
        facts, clips, references, times = self.model.metadata, [], [], []
        for one, rng in zip(taken, rngs, strict=True):
            frames, own = int(self.rows.frames[one.row]), float(self.rows.table["FPS"][one.row])
            stride = max(1, round(own / facts.fps))
            start = max(0, min(int(one.places[0]), frames - 1 - (facts.frames - 1) * stride))
            places = np.minimum(start + stride * np.arange(facts.frames), frames - 1)
            clips.append(whiten(self.drawn(one.row, places, rng), facts.statistics, dim=1).transpose(0, 1))
            shown = self._shown(one.row, places)
            references.append(whiten(self.drawn(one.row, shown, rng), facts.statistics, dim=1).transpose(0, 1))
            times.append(torch.from_numpy((shown - start) / stride).float())
        values = self.asked([one.row for one in taken])
        if "reference" in self.model.conditioner.names:
            values |= {"reference": torch.stack(references), "reference_time": torch.stack(times)}
        return torch.stack(clips), values

    def _shown(self, row: int, places: np.ndarray) -> np.ndarray:
        """The reference frames of a clip: the key frames of the beat in its middle, or as many, evenly."""
        count = max(1, len(self.model.metadata.reference_times))
        beats = beats_of(self.rows, row) if count == 3 else []
        if beats:
            return np.array(nearest_triple(beats, float(places.mean())))
        return places[:1] if count == 1 else places[spread(len(places), count)]

    def asked(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """The values of the generator's conditions for the recordings ``rows``, out of their own columns."""
        conditioner, table = self.model.conditioner, self.rows.table
        cells = {name: table[name].iloc[list(rows)].tolist() for name in conditioner.columns if name in table}
        none = [None] * len(rows)
        return conditioner.encode_request({name: cells.get(name, none) for name in conditioner.columns}, clamp=True)

    def redrawn(
        self, x: Tensor, values: Mapping[str, Tensor], strength: float, rngs: Sequence[np.random.Generator]
    ) -> Tensor:
        """Whitened ``x`` noised to ``strength`` and drawn from there: unscaled latents, (B, F, C, H, W)."""
        model, facts = self.model, self.model.metadata
        generators = [torch.Generator().manual_seed(int(rng.integers(2**63))) for rng in rngs]
        shared = facts.shared_noise if model.is_video else 0.0
        noise = torch.stack([sample_noise(tuple(x.shape[1:]), shared, generator) for generator in generators]).to(
            self.device
        )
        given = model.repeat_key_frames({name: value.to(self.device) for name, value in values.items()}, x.shape[2])
        denoise = self.guidance.guided_denoiser(model.predictor(given), model.conditioner.names, model.process)
        steps = max(1, math.ceil(strength * self.steps - 1e-9))
        x_0 = model.to_residual(x.to(self.device), given)
        found = model.process.sample(denoise, noise, steps, None, generators, x_0, strength)
        found = model.from_residual(found, given).cpu()
        if not torch.isfinite(found).all():
            raise UserError("a redrawn copy is not finite: the generator's training failed")
        found = found.transpose(1, 2) if model.is_video else found.unflatten(1, (facts.frames, facts.channels))
        return unwhiten(found, facts.statistics, dim=2)


def stored(rows: Recordings, row: int, places: np.ndarray) -> tuple[Tensor, Tensor]:
    """Mean and std of the posterior of the frames ``places``, as they are stored, (f, C, H, W) each, float32."""
    low, high = int(places.min()), int(places.max()) + 1
    mean, std = rows.store.latents(rows.names[row], low, high)
    return mean[places - low].float(), std[places - low].float()


def drawn(rows: Recordings, row: int, places: np.ndarray, rng: np.random.Generator) -> Tensor:
    """A draw from that posterior."""
    mean, std = stored(rows, row, places)
    return mean + std * normal(mean.shape, rng)


def pick(rows: Recordings, count: int, seed: int, every: int = 1) -> dict[str, FrameSelection]:
    """Of each patient ``count`` frames of one random recording, by patient, in the order of their names.

    Three frames are the key frames of a random beat, ED-ES-ED, where they are marked. With ``every`` above 1 they lie
    that far apart. Where a recording is too short for it, and else, they are spread over all of it. Frames are a
    function of ``seed``, the names and the recordings of the patient, not of the order of rows.
    """
    owner, found = rows.table["PatientID"].astype(str).to_numpy(), {}
    for patient in sorted(set(owner.tolist())):
        rng = rng_of(seed, patient)
        own = sorted(np.flatnonzero(owner == patient).tolist(), key=lambda row: rows.names[row])
        row = own[int(rng.integers(len(own)))]
        found[patient] = FrameSelection(row, _places(rows, row, count, every, rng))
    return found


def _places(rows: Recordings, row: int, count: int, every: int, rng: np.random.Generator) -> np.ndarray:
    frames = int(rows.frames[row])
    room = frames - (count - 1) * every
    if every > 1 and room > 0:
        return int(rng.integers(room)) + every * np.arange(count)
    beats = beats_of(rows, row) if every == 1 and count == 3 else []
    if beats:
        return np.array(beats[int(rng.integers(len(beats)))])
    return np.array([int(rng.integers(frames))]) if count == 1 else spread(frames, count)


def beats_of(rows: Recordings, row: int) -> list[tuple[int, int, int]]:
    """The key frames of each beat; none where they are not marked."""
    return find_triples(rows, row) if {"ED", "ES"} <= set(rows.table.columns) else []


def spread(frames: int, count: int) -> np.ndarray:
    """``count`` frames of ``frames``, evenly from the first to the last; int64. One frame is the middle one."""
    if count == 1:
        return np.array([frames // 2])
    return np.linspace(0, frames - 1, count).round().astype(np.int64)


def rng_of(seed: int, name: str) -> np.random.Generator:
    """A source of randomness that is a function of ``seed`` and ``name``."""
    words = np.frombuffer(hashlib.sha256(name.encode()).digest(), np.uint32)
    return np.random.default_rng([seed, *words.tolist()])


def normal(shape: torch.Size, rng: np.random.Generator) -> Tensor:
    """Standard normal noise, float32."""
    return torch.from_numpy(rng.standard_normal(tuple(shape), dtype=np.float32))


def batched(items: Sequence[T], size: int) -> Iterator[list[T]]:
    """``size`` of ``items`` at a time."""
    return (list(items[start : start + size]) for start in range(0, len(items), size))
