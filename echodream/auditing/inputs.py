"""Inputs of ``stage=audit``: recordings and networks, with the checks that they match."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from echodream.artifact import read_artifact
from echodream.auditing.membership_inference import load_generator
from echodream.datamodules.encoded_store import EncodedStore
from echodream.datamodules.recordings import Recordings, select_recordings
from echodream.datamodules.views import View
from echodream.diffusion.model import DiffusionModel
from echodream.errors import UserError
from echodream.filtering.embedding import FrameEmbedder, check_initial_model, check_training_store, has_known_generator
from echodream.networks.autoencoder import load_frozen_autoencoder
from echodream.store import Store, open_complete
from echodream.store.schema import SPLITS
from echodream.weights import fingerprint


@dataclass(frozen=True)
class AuditInputs:
    """Recordings and networks of an audit."""

    samples: Recordings
    train: Recordings
    held_out: Recordings
    embedder: FrameEmbedder
    generator: tuple[DiffusionModel, View] | None
    """The diffusion model that generated the samples, and its training view; without it, no membership inference."""
    decoder: Any
    """The autoencoder that encoded the latents; None if no figure needs pixels."""
    generator_known: bool = True
    """Whether the samples record their generator; False for samples of another program."""

    def fingerprints(self) -> dict[str, Any]:
        """Checksums of the stores and fingerprints of the networks."""
        return {
            "source": self.samples.store.checksum,
            "real": self.train.store.checksum,
            "reid": fingerprint(self.embedder.encoder.network),
            "encoder": self.train.store.dataset.encoder,
            "generator": self.generator[0].fingerprint() if self.generator else None,
        }


def open_inputs(
    src: str, real: str, held_out: Sequence[str], artifact: str, autoencoder: str, generator: str | None, decode: bool
) -> AuditInputs:
    """Open the stores ``src`` and ``real``, the identity network ``artifact``, and the other networks.

    If the samples are videos of another program, ``EncodedStore`` encodes them, and their generator is not known.
    ``held_out``: splits that the generator was not trained on. ``decode``: whether to load the autoencoder, for
    plots. Raises ``UserError`` if stores and networks do not match.
    """
    invalid_splits = [split for split in held_out if split not in SPLITS or split == "TRAIN"]
    if invalid_splits or not held_out:
        raise UserError(f"held_out={list(held_out)} is not possible: give VAL, TEST, or both")
    source, patients = open_complete(src, "src"), open_complete(real, "real")
    if not source.dataset.synthetic:
        raise UserError(f"src={source.root} is not synthetic: give samples that stage=filter wrote")
    if patients.dataset.synthetic:
        raise UserError(f"real={real} is synthetic: give the latents of the patients that the generator was trained on")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    embedder = FrameEmbedder(artifact, autoencoder, device)
    on_pixels = source.dataset.kind == "video"
    decoder = load_frozen_autoencoder(autoencoder).to(device) if decode or on_pixels else None
    if on_pixels and decoder is not None:
        if fingerprint(decoder) != patients.dataset.encoder:
            raise UserError(f"autoencoder={autoencoder} did not encode {real}: give its autoencoder")
        source = EncodedStore(source, decoder, patients)
    for store in (source, patients):
        embedder.check_encoder(store)
    if source.dataset.encoder != patients.dataset.encoder:
        raise UserError(f"{src} and {real} were encoded by different autoencoders: encode and sample again")
    if decoder is not None and fingerprint(decoder) != patients.dataset.encoder:
        remedy = "give the autoencoder that encoded them, or pairs=0"
        raise UserError(f"autoencoder={autoencoder} did not encode the latents of {real}: {remedy}")
    samples, train = select_recordings(source, SPLITS, "src"), select_recordings(patients, ["TRAIN"], "real")
    generator_known = has_known_generator(source)
    model_and_view = load_generator(generator) if generator_known and generator is not None else None
    if model_and_view is not None:
        _check_generator(model_and_view[0], source, patients, str(generator))
        model_and_view[0].to(device)
    held_out_patients = select_recordings(patients, sorted(held_out), "held_out")
    return AuditInputs(samples, train, held_out_patients, embedder, model_and_view, decoder, generator_known)


def _check_generator(model: DiffusionModel, source: Store, real: Store, folder: str) -> None:
    """Raise ``UserError`` if, by its records, ``model`` was not trained on ``real`` or did not generate ``source``."""
    kind = "lvdm" if model.is_video else "lidm"
    check_training_store(folder, kind, real, "generator")
    check_initial_model(folder, kind, "generator")
    if read_artifact(folder, kind).canaries:
        problem = f"generator={folder} was not trained on all training patients, because it has canaries"
        raise UserError(f"{problem}: give canaries=true, or a generator without canaries")
    if model.metadata.encoder != real.dataset.encoder:
        raise UserError(f"generator={folder} and real={real.root} have different autoencoders: give another generator")
    recorded_generator = source.dataset.sampling_settings.get("model")
    if recorded_generator is not None and recorded_generator != model.fingerprint():
        remedy = "give the lidm or lvdm that generated it, or generator=null"
        raise UserError(f"generator={folder} did not generate {source.root}: {remedy}")
