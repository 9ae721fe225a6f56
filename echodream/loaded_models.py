"""Trained models for notebooks and scripts, which run the code of the stages on numpy arrays and tensors."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from echodream import validation
from echodream.artifact import METADATA_FILE, Artifact, read_artifact
from echodream.datamodules.frame_budget_batches import FrameBatch, plan_batches
from echodream.datamodules.normalization import from_uint8
from echodream.datamodules.sampling_requests import References, SamplingRequests
from echodream.diffusion.model import DiffusionModel, load_diffusion_model
from echodream.embedding_arrays import as_tensor
from echodream.errors import UserError
from echodream.evaluation.classifier_inference import open_classifier, predict_split
from echodream.filtering.embedding import FrameEmbedder
from echodream.modules.vae import VaeDecoder, VaeEncoder, load_vae
from echodream.progress import progress_bar
from echodream.sampling import sample_store
from echodream.sampling.sampling_module import SamplingModule
from echodream.stages.video import clip_config, reference_reader, sample_beats
from echodream.store import Store

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

Frames = np.ndarray | Tensor
_DEFAULT_GUIDANCE: dict[str, Any] = {"interval": (0.0, 1.0), "rescale": 0.0, "auto": {"artifact": None, "scale": 1.0}}
"""Default guidance settings other than the scales, as in conf/guidance/default.yaml."""


@dataclass(frozen=True)
class LoadedModel:
    """A trained model; ``artifact`` is its metadata, None for a folder of diffusers without artifact.json."""

    folder: Path
    device: torch.device
    artifact: Artifact | None

    def __repr__(self) -> str:
        trained = "" if self.artifact is None else f" {self.artifact.model} of the study {self.artifact.study}"
        return f"{type(self).__name__}({str(self.folder)!r}):{trained} on {self.device}"


@dataclass(frozen=True, repr=False)
class Autoencoder(LoadedModel):
    """An autoencoder of frames (model=vae). ``network`` is the AutoencoderKL of diffusers."""

    network: "AutoencoderKL"

    def encode(self, frames: Frames, budget: int = 64) -> tuple[Tensor, Tensor]:
        """Encode pixels as posterior mean and standard deviation: unscaled latents, float32, as in ``Store.latents``.

        ``frames``: uint8 (F, H, W, C), or N clips (N, F, H, W, C). Returns two tensors (F, D, h, w), or (N, F, D, h,
        w). ``budget``: frames per batch.
        """
        pixels = as_tensor("frames", frames, (4, 5))
        if pixels.dtype != torch.uint8 or pixels.shape[-1] != self.network.config.in_channels:
            expected = f"uint8 (..., H, W, {self.network.config.in_channels})"
            raise UserError(f"frames are {pixels.dtype} {tuple(pixels.shape)}: give {expected}, like Store.frames")
        clips = pixels if pixels.ndim == 5 else pixels[None]
        parts = self._predict(VaeEncoder(self.network, budget), clips.permute(0, 1, 4, 2, 3), [], budget, "encode")
        mean, std = (torch.stack(tensors) for tensors in zip(*parts, strict=True))
        return (mean, std) if pixels.ndim == 5 else (mean[0], std[0])

    def decode(self, latents: Frames, *, grey: bool = True, names: Sequence[str] = (), budget: int = 64) -> np.ndarray:
        """Decode unscaled latents, (F, D, h, w) or (N, F, D, h, w), to pixels: uint8 (F, H, W, C) or (N, F, H, W, C).

        ``grey``: whether to return one channel. ``names``: FileNames of the N clips, which seed the decoder noise as in
        stage=decode; by default the numbers of the clips. ``budget``: frames per batch.
        """
        x = as_tensor("latents", latents, (4, 5)).float()
        if x.shape[-3] != self.network.config.latent_channels:
            expected = f"(F, {self.network.config.latent_channels}, h, w), like Store.latents"
            raise UserError(f"latents are {tuple(x.shape)}: give {expected}")
        clips = x if x.ndim == 5 else x[None]
        module = VaeDecoder(self.network, budget, grey and self.network.config.out_channels > 1)
        pixels = np.stack([part.numpy() for part in self._predict(module, clips, names, budget, "decode")])
        return pixels if x.ndim == 5 else pixels[0]

    @torch.no_grad()
    def _predict(self, module: Any, clips: Tensor, names: Sequence[str], budget: int, title: str) -> list[Any]:
        """Predictions of ``module`` for each of the ``clips``, (N, F, C, H, W), in batches of ``budget`` frames."""
        names = list(names) or [str(number) for number in range(len(clips))]
        if len(names) != len(clips):
            raise UserError(f"{len(names)} names and {len(clips)} clips: give one name for each clip")
        lengths, shapes = [clips.shape[1]] * len(clips), [(clips.shape[3], clips.shape[4])] * len(clips)
        parts: list[Any] = []
        for rows in progress_bar(plan_batches(lengths, shapes, budget), title, unit="batch", leave=False):
            frames = clips[rows].flatten(0, 1).contiguous()
            batch = FrameBatch(tuple(names[row] for row in rows), tuple(lengths[row] for row in rows), frames)
            parts += module.eval().predict_step(batch.to(self.device), 0)
        return parts


@dataclass(frozen=True, repr=False)
class Generator(LoadedModel):
    """A diffusion model of images (model=lidm) or clips (model=lvdm)."""

    model: DiffusionModel

    @property
    def conditions(self) -> tuple[str, ...]:
        """Names of the conditions, which are keyword arguments of ``sample``."""
        return tuple(self.model.conditioner.columns)

    def sample(
        self,
        n: int | None = None,
        *,
        seed: int = 0,
        images: Store | Frames | None = None,
        frames: int | None = None,
        steps: int | None = None,
        sampler: str | None = None,
        spacing: str | None = None,
        clip: float | None = None,
        guidance: Mapping[str, float] | None = None,
        join: str = "crossfade",
        overlap: int | None = None,
        windows: int | str = "auto",
        batch: int | None = None,
        **conditions: Any,
    ) -> Tensor:
        """Generate samples as unscaled latents, float32 (n, F, C, H, W), as stage=image and stage=video do.

        ``conditions``: one value or n values per condition, such as class_id=2. Without conditions, images have evenly
        distributed values, and clips the values of the store ``images``. ``images``: source images of clips, a store of
        latents or latents (n, R, C, H, W). ``frames``: number of frames of a clip, by default as in training.
        ``steps``: number of sampling steps, by default 12 for images and 6 for clips. ``guidance``: scale of each
        condition. Other settings: see conf/stage/image.yaml and video.yaml. Raises ``UserError`` for settings
        that are impossible for the model.
        """
        model = self.model
        scales = {**_DEFAULT_GUIDANCE, **(guidance or {})}
        config = sample_store.sampling_config(model, seed, steps, sampler, spacing, scales, clip)
        length, references, defaults = None, None, dict[str, list[Any]]()
        if model.is_video:
            length = clip_config(model, frames or model.metadata.frames, join, overlap, windows)
            table, read = _open_source_images(images, model, n)
            count = len(table)
            defaults = {name: table[name].tolist() for name in model.conditioner.columns if name in table}
            if "reference" in model.conditioner.names:
                beats = sample_beats(model, config.seed, count)
                references = reference_reader(model, read, table, "images", beats, length)
        elif images is not None or frames is not None:
            raise UserError("images and frames are for a model of clips (model=lvdm), and this model samples images")
        else:
            count = validation.whole_number("n", n)
            defaults = {} if conditions else model.conditioner.uniform_requests(count)
        requests = {**defaults, **{name: _repeat_value(name, cells, count) for name, cells in conditions.items()}}
        values = model.conditioner.encode_request(requests)
        sample_store.columns_without_values(model, config.guidance, requests)
        module = SamplingModule(model, config, length)
        return self._sample_batches(module, count, values, batch or (4 if model.is_video else 64), references)

    @torch.no_grad()
    def _sample_batches(
        self,
        module: SamplingModule,
        count: int,
        values: Mapping[str, Tensor],
        batch: int,
        references: References | None,
    ) -> Tensor:
        requests = SamplingRequests([str(row) for row in range(count)], values, batch, (), references)
        numbers = progress_bar(range(len(requests)), "sample", unit="batch", leave=False)
        batches = (requests[number] for number in numbers)
        module = module.to(self.device).eval()
        return torch.stack([sample for part in batches for sample in module.predict_step(part.to(self.device), 0)])


def _open_source_images(
    images: Any, model: DiffusionModel, n: int | None
) -> tuple[pd.DataFrame, Callable[[int, int], Tensor]]:
    """Table with one row per source image, and a function ``read(row, count)`` for its first ``count`` frames."""
    if images is None:
        if "reference" in model.conditioner.names:
            raise UserError("images= is needed: give a store of latents, or latents (n, R, C, H, W)")
        count, size = validation.whole_number("n", n), model.metadata
        images = torch.zeros(count, 1, size.channels, size.height, size.width)
    if isinstance(images, Store):
        store, table = images, images.table
        if store.dataset.encoder != model.metadata.encoder:
            raise UserError(f"{store.root} was encoded by another autoencoder than this model needs: encode it again")
        names = table["FileName"].tolist()

        def read(row: int, count: int) -> Tensor:
            return store.latents(names[row], 0, count)[0].float()
    else:
        x = as_tensor("images", images, (5,)).float()
        numbers = [f"images[{row}]" for row in range(len(x))]
        sizes = {"NumberOfFrames": x.shape[1], "FrameHeight": x.shape[3], "FrameWidth": x.shape[4]}
        table = pd.DataFrame({"FileName": numbers, **sizes})

        def read(row: int, count: int) -> Tensor:
            return x[row, :count]

    if n is not None and validation.whole_number("n", n, maximum=len(table), note=", the number of images") < len(
        table
    ):
        table = table.iloc[:n]
    return table, read


def _repeat_value(name: str, cells: Any, count: int) -> list[Any]:
    """``count`` values of a condition, from one value or a sequence of values."""
    if isinstance(cells, str) or not isinstance(cells, Sequence | np.ndarray | Tensor | pd.Series):
        return [cells] * count
    values = [sample_store.to_python_value(cell) for cell in cells]
    if len(values) != count:
        raise UserError(f"{name} has {len(values)} values for {count} samples: give one value, or {count}")
    return values


@dataclass(frozen=True, repr=False)
class IdentityModel(LoadedModel):
    """A re-identification network (model=reid)."""

    embedder: FrameEmbedder

    def embed(self, frames: Frames) -> np.ndarray:
        """Embeddings of frames: float32 (n, D), or (n, F, D) for clips.

        A network on latents takes unscaled latents, (n, C, H, W) or (n, F, C, H, W); a network on pixels takes uint8,
        (n, H, W, C) or (n, F, H, W, C).
        """
        x = as_tensor("frames", frames, (4, 5))
        if self.embedder.input_spec.on == "pixels":
            x = from_uint8(x).movedim(-1, -3)
        embeddings = self.embedder.embed(x.reshape(-1, *x.shape[-3:]).float())
        return embeddings.reshape(*x.shape[:-3], -1).numpy()


@dataclass(frozen=True, repr=False)
class ClassifierModel(LoadedModel):
    """A classifier or regressor of clips (model=classifier)."""

    def predict(self, store: Store, split: str = "TEST", batch: int = 16) -> pd.DataFrame:
        """Table of the recordings of ``split``, with the network outputs in the columns output_0, output_1, ..."""
        table, outputs = predict_split(open_classifier(str(self.folder)), store, split, batch)
        return table.assign(**{f"output_{number}": column for number, column in enumerate(outputs.T)})


def load_model(folder: Path, device: str | None) -> LoadedModel:
    """Load the artifact of train.py, or autoencoder of diffusers, in ``folder``. Raises ``UserError`` without one."""
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    is_diffusers = (folder / "config.json").is_file() and not (folder / METADATA_FILE).is_file()
    artifact = None if is_diffusers else read_artifact(folder, "vae", "lidm", "lvdm", "reid", "identity", "classifier")
    name = "vae" if artifact is None else artifact.model
    if name == "vae":
        return Autoencoder(folder, place, artifact, load_vae(str(folder)).to(place))
    if name in ("lidm", "lvdm"):
        return Generator(folder, place, artifact, load_diffusion_model(str(folder), name).to(place))
    if name == "classifier":
        return ClassifierModel(folder, place, artifact)
    embedder = FrameEmbedder(str(folder), "", str(place), kind="input")
    return IdentityModel(folder, place, artifact, embedder)
