"""A diffusion model as other stages use it: network, conditions, noise process, and the facts that samples need."""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from echodream import validation
from echodream.artifact import read_artifact
from echodream.diffusion.conditioning import Conditioner, beating, between
from echodream.diffusion.guidance import Predict
from echodream.diffusion.processes.base import Process
from echodream.diffusion.processes.base import make as make_process
from echodream.errors import UserError
from echodream.networks.denoisers.unet import ImageDenoiser, VideoDenoiser, load_denoiser
from echodream.store import Statistics
from echodream.types import Batch
from echodream.weights import fingerprint, load_exactly, read_weights

FACTS = "diffusion.json"
CONDITIONER = "conditioner.safetensors"


@dataclass(frozen=True)
class ModelMetadata:
    """What was trained on: shapes of latents, and how to bring samples back to the scale of a Store."""

    channels: int
    """Of one latent frame."""
    height: int
    width: int
    frames: int
    """Frames of a training clip; of an image 1, or 3 key frames drawn jointly."""
    fps: float
    """Frames per second of a clip as the network sees it."""
    statistics: Statistics
    """Of the latents: samples are whitened with it."""
    encoder: str
    """Fingerprint of the VAE that the latents are of."""
    reference_times: tuple[float, ...] = ()
    """Where references lay in training, in frames: of key frames counted from the first; empty: anywhere."""
    beat_spread: float | None = None
    """Standard deviation of the beat's length over its mean; None where references are not the key frames of a beat."""
    shared_noise: float = 0.0
    """Share of the noise that all frames of a clip have in common."""
    residual: tuple[float, ...] | None = None
    """Standard deviation, for each channel, of what is drawn where that is how a clip differs from what lies between
    its reference frames; None where it is the clip itself."""

    def __post_init__(self) -> None:
        sizes, numbers = (self.channels, self.height, self.width, self.frames), (self.fps, self.beat_spread or 0.0)
        if not all(validation.is_whole(size, 1) for size in sizes) or not 0 <= float(self.shared_noise) < 1:
            raise ValueError(f"impossible sizes {sizes}, or shared noise of {self.shared_noise}")
        if not all(map(math.isfinite, (*numbers, *self.reference_times))) or self.fps <= 0 or numbers[1] < 0:
            raise ValueError(f"impossible times: {numbers}, {self.reference_times}")
        if self.beat_spread is not None and len(self.reference_times) != 3:
            raise ValueError(f"a beat has 3 key frames, not {len(self.reference_times)}")
        if not re.fullmatch(r"([0-9a-f]{64})?", self.encoder):
            raise ValueError(f"{self.encoder[:80]!r} is no fingerprint of an encoder")
        if len(self.statistics.mean) != self.channels:
            raise ValueError(f"statistics of {len(self.statistics.mean)} channels, not of {self.channels}")
        spreads = self.residual or (1.0,) * self.channels
        if len(spreads) != self.channels or not all(math.isfinite(spread) and spread > 0 for spread in spreads):
            raise ValueError(f"residuals with standard deviations {spreads}")


class DiffusionModel(nn.Module):
    """A denoiser with its conditioner and process.

    Latents are whitened: images (B, C, H, W), C three times ``facts.channels`` for key frames drawn jointly, clips
    (B, C, F, H, W).
    """

    def __init__(
        self, denoiser: ImageDenoiser | VideoDenoiser, conditioner: Conditioner, process: Process, facts: ModelMetadata
    ) -> None:
        super().__init__()
        self.denoiser, self.conditioner = denoiser, conditioner
        self.process, self.facts = process, facts

    @property
    def is_video(self) -> bool:
        """Whether samples are clips."""
        return isinstance(self.denoiser, VideoDenoiser)

    def forward(self, x_t: Tensor, t: Tensor, values: Mapping[str, Tensor], keep: Mapping[str, Tensor]) -> Tensor:
        """The prediction for x_t, (B, C, *rest), at t, (B,), from those of the conditions' ``values`` to ``keep``."""
        return self.denoiser(x_t, t, self.conditioner(values, keep, x_t.shape[2:]))

    def values(self, batch: Batch) -> dict[str, Tensor]:
        """The values of the conditions for a batch, as in drawing."""
        return self.everywhere(self.conditioner.values(batch), batch["x"].shape[2])

    def everywhere(self, values: dict[str, Tensor], frames: int) -> dict[str, Tensor]:
        """``values`` in which the key frames of a beat come again in every beat of a clip of ``frames``."""
        if self.facts.beat_spread is None:
            return values
        again = beating(values["reference"], values["reference_time"], frames)
        return {**values, "reference": again[0], "reference_time": again[1]}

    def drawn(self, x: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """What the process makes of whitened latents ``x``: they themselves, or their residual over its spread."""
        if self.facts.residual is None:
            return x
        return (x - self._between(x, values)) / self._spread(x)

    def latents(self, drawn: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """The whitened latents of which ``drawn`` is made: the inverse of ``drawn``."""
        if self.facts.residual is None:
            return drawn
        return drawn * self._spread(drawn) + self._between(drawn, values)

    def _between(self, x: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        return between(values["reference"].to(x), values["reference_time"], x.shape[2])

    def _spread(self, x: Tensor) -> Tensor:
        return x.new_tensor(self.facts.residual).view(-1, 1, 1, 1)

    def predictor(self, values: Mapping[str, Tensor]) -> Predict:
        """The network with ``values`` as its conditions: all sets of kept conditions in one call."""

        def predict(x_t: Tensor, t: Tensor, kept: Sequence[frozenset[str]]) -> Tensor:
            sets, rows = len(kept), len(x_t)
            keep = {
                name: torch.tensor([name in names for names in kept], device=x_t.device).repeat_interleave(rows)
                for name in self.conditioner.names
            }
            x = x_t.repeat(sets, *[1] * (x_t.ndim - 1))
            return self(x, t.repeat(sets), repeated(values, sets), keep).unflatten(0, (sets, rows))

        return predict

    def fingerprint(self) -> str:
        """SHA-256 of all weights, and of the settings that they were trained with."""
        told = json.dumps(self.settings(), sort_keys=True)
        return hashlib.sha256(f"{fingerprint(self)}\n{told}".encode()).hexdigest()

    def settings(self) -> dict[str, Any]:
        """Process, conditions and facts, as plain json."""
        return {
            "process": self.process.settings(),
            "conditioning": self.conditioner.settings(),
            "facts": asdict(self.facts),
        }

    def save(self, folder: Path) -> None:
        """Write the network as diffusers does, the conditioner's weights, and the facts as json."""
        from safetensors.torch import save_file

        self.denoiser.save(folder)
        state = {name: value.detach().cpu().contiguous() for name, value in self.conditioner.state_dict().items()}
        save_file(state, folder / CONDITIONER)
        (folder / FACTS).write_text(json.dumps(self.settings(), indent=2) + "\n", encoding="utf-8")


def repeated(values: Mapping[str, Tensor], times: int) -> dict[str, Tensor]:
    """The conditions' values for ``times`` copies of the batch, one copy after another."""
    return {name: value.repeat(times, *[1] * (value.ndim - 1)) for name, value in values.items()}


def load_diffusion(folder: str, name: str) -> DiffusionModel:
    """The model of the artifact at ``folder``, which train.py model=``name`` left. Raises ``UserError``."""
    artifact, root, network = read_artifact(folder, name), Path(folder), load_denoiser(folder)
    try:
        written: Any = json.loads((root / FACTS).read_text(encoding="utf-8"))
        facts = dict(written["facts"])
        facts["statistics"] = Statistics(*(tuple(facts["statistics"][key]) for key in ("mean", "std")))
        facts["reference_times"] = tuple(facts["reference_times"])
        facts["residual"] = facts.get("residual") and tuple(facts["residual"])
        process, conditioner = make_process(written["process"]), Conditioner.from_settings(written["conditioning"])
        made = DiffusionModel(network, conditioner, process, ModelMetadata(**facts))
        drawn = made.facts.channels * (1 if made.is_video else made.facts.frames)
        network.check(drawn, conditioner.extra, conditioner.width)
    except UserError as error:
        raise UserError(f"{root / FACTS}: {error}") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{root / FACTS} is not readable: train the {name} again") from error
    file = str(root / CONDITIONER)
    load_exactly(conditioner, read_weights(file), file, f"{FACTS} is of other conditions: train the {name} again")
    if made.fingerprint() != artifact.fingerprint:
        raise UserError(f"{folder}: weights or {FACTS} have changed since training: train the {name} again")
    return made.requires_grad_(False).eval()
