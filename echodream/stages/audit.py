"""``stage=audit``: what a synthetic set still says about its training patients, measured and not guaranteed."""

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from echodream import validation
from echodream.audit import leakage as privacy
from echodream.audit import membership_inference as attack
from echodream.audit import quality
from echodream.audit.embedding_sets import EmbeddingSetConfig
from echodream.audit.figures import pictures
from echodream.audit.measure import PRIVACY, Measure, Sides, compared
from echodream.datamodules.recordings import Recordings, select_recordings
from echodream.datamodules.views import View
from echodream.diffusion.model import DiffusionModel
from echodream.errors import UserError
from echodream.filtering.embedding import FrameEmbedder, check_trained, drawn_with
from echodream.networks.autoencoder import load_frozen_autoencoder
from echodream.privacy.decision import SCOPE
from echodream.runs.atomic_folder import made_whole, read_record, require_same, write_record
from echodream.runs.summary import Summary
from echodream.store import Store
from echodream.store.schema import CHECKSUMS, SPLITS
from echodream.weights import fingerprint

RECORD = "audit.json"
_KIND = "an audit"
STATEMENT = (
    "Measured on one synthetic set with one identity network, with 95 % intervals over patients or samples: what is "
    "not found here may still be there, and a harmless value of one measure proves nothing by itself (DCR least of "
    f"all, arXiv 2505.01524). The bound is the filter's, for its declared transforms. {SCOPE}"
)
MEMBERSHIP = "membership inference"
LEAKS: dict[str, Callable[[Sides], list[Measure]]] = {
    "linkability": privacy.linking,
    "DCR and NNDR": privacy.closest,
    "data copying, C_T": privacy.copying,
    "authenticity": privacy.authentic,
}
"""Measured by the identity network, and by the latents as they are: it knows the training patients, they do not."""
OTHERS: dict[str, Callable[[Sides], list[Measure]]] = {
    "precision, recall, density, coverage": quality.faithful,
    "image retrieval score": quality.retrieved,
    "collisions between seeds": quality.colliding,
    "identity drift": quality.drifting,
}


@dataclass(frozen=True)
class Inputs:
    """What is audited, opened and checked."""

    samples: Recordings
    train: Recordings
    held_out: Recordings
    embedder: FrameEmbedder
    generator: tuple[DiffusionModel, View] | None
    """The network that drew the samples, and the view it was trained on."""
    decoder: Any
    """The autoencoder of the latents; None where no picture is asked for."""


def audit(
    *,
    on: str,
    stores: Mapping[str, str],
    networks: Mapping[str, str | None],
    held_out: Sequence[str],
    look: Mapping[str, int],
    cells: int | None,
    far: float,
    pairs: int,
    membership: Mapping[str, int],
    command: str,
    code_version: str,
) -> Summary:
    """Measure the synthetic latents ``stores``["src"] against the patients of "real"; write the folder "dst".

    ``on``, "image" or "video", chose these folders where they were not given.
    ``networks`` are the artifacts "reid", "vae" and "generator" (None: no membership inference); patients of the
    splits ``held_out`` are those that the generator never saw. The folder is made as ``<dst>.partial`` and renamed at
    the end. Raises ``UserError`` for what cannot be compared, and where ``dst`` holds something else.
    """
    seen, effort, target = EmbeddingSetConfig(**look), attack.Attack(**membership), Path(stores["dst"])
    _check(on, cells, far, pairs)
    inputs = _inputs(stores, networks, held_out, pictures=pairs > 0)
    asked = {**_fingerprints(inputs), "held_out": sorted(held_out), **asdict(seen)}
    asked |= {"cells": cells, "far": far, "pairs": pairs}
    asked["membership"] = effort.settings() if inputs.generator else None
    with made_whole(target) as work:
        if work is None:
            return _already(target, asked)
        for left in work.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        rows = (inputs.samples, inputs.train, inputs.held_out)
        spaces = list(compared(inputs.embedder, *rows, seen, far, cells))
        found = _written(work, spaces, inputs, effort, pairs)
        record = {**asked, **found, "command": command, "code_version": code_version}
        write_record(work / RECORD, _finite(record))
    return _summary(target, "done", read_record(target / RECORD) or {})


def _written(work: Path, spaces: Sequence[Sides], inputs: Inputs, effort: attack.Attack, pairs: int) -> dict[str, Any]:
    """What was measured, for the record; the pictures of it are in ``work``. The first of ``spaces`` is identity."""
    sides, (measures, missing) = spaces[0], _measured(spaces)
    errors: attack.Errors | None = None
    if inputs.generator is None:
        missing[MEMBERSHIP] = "generator=null: no network was given to attack"
    else:
        model, view = inputs.generator
        try:
            errors = attack.denoising_errors(model, view, inputs.train, inputs.held_out, effort, sides.seed)
            measures += attack.measured(errors, model, sides.seed)
        except UserError as error:
            missing[MEMBERSHIP] = str(error)
    if not pairs:
        missing["picture of the nearest samples"] = "pairs=0: not asked for"
    rows = (inputs.samples, inputs.train)
    for name, picture in pictures(sides, measures, errors, rows, inputs.decoder, pairs):
        picture.save(work / f"{name}.png")
    return _record(sides, inputs, measures, missing)


def _check(on: str, cells: int | None, far: float, pairs: int) -> None:
    validation.one_of("on", on, ("image", "video"))
    if cells is not None:
        validation.whole_number("cells", cells, note=", or null")
    validation.number("far", far, above=0, below=1, note=", for example 0.01")
    validation.whole_number("pairs", pairs, 0)


def _inputs(
    stores: Mapping[str, str], networks: Mapping[str, str | None], held_out: Sequence[str], pictures: bool
) -> Inputs:
    wrong = [split for split in held_out if split not in SPLITS or split == "TRAIN"]
    if wrong or not held_out:
        raise UserError(f"held_out={list(held_out)} is not possible: give VAL, TEST, or both")
    source, real = Store(stores["src"]), Store(stores["real"])
    if not source.dataset.synthetic:
        raise UserError(f"src={source.root} is not synthetic: give samples, as stage=filter leaves them")
    if real.dataset.synthetic:
        raise UserError(f"real={real.root} is synthetic: give the latents of the patients the generator was trained on")
    device, vae, folder = "cuda" if torch.cuda.is_available() else "cpu", str(networks["vae"]), networks["generator"]
    embedder = FrameEmbedder(str(networks["reid"]), vae, device)
    for store in (source, real):
        if not (store.root / CHECKSUMS).is_file():
            raise UserError(f"{store.root / CHECKSUMS} is missing: {store.root} is not a complete store")
        embedder.check(store)
    if source.dataset.encoder != real.dataset.encoder:
        raise UserError(f"{source.root} and {real.root} were made by different encoders: encode and draw again")
    decoder = _decoder(vae, str(real.dataset.encoder), device) if pictures else None
    samples, train = select_recordings(source, SPLITS, "src"), select_recordings(real, ["TRAIN"], "real")
    generator = None if folder is None else attack.load_generator(folder)
    if generator is not None:
        _check_generator(generator[0], source, real, str(folder))
        generator[0].to(device)
    return Inputs(samples, train, select_recordings(real, sorted(held_out), "held_out"), embedder, generator, decoder)


def _decoder(folder: str, encoder: str, device: str) -> Any:
    network = load_frozen_autoencoder(folder)
    if fingerprint(network) != encoder:
        raise UserError(
            f"autoencoder={folder} did not make these latents: give the one that did, or no picture (pairs=0)"
        )
    return network.to(device)


def _check_generator(model: DiffusionModel, source: Store, real: Store, folder: str) -> None:
    """The generator learnt from these latents, and drew these samples where the store says who did."""
    check_trained(folder, "lvdm" if model.is_video else "lidm", real, "generator")
    if model.facts.encoder != real.dataset.encoder:
        raise UserError(f"generator={folder} is of another encoder than real={real.root}: give another one, or null")
    drew = drawn_with(source).get("model")
    if drew is not None and drew != model.fingerprint():
        raise UserError(
            f"generator={folder} did not draw {source.root}: give the lidm or lvdm that did, or generator=null"
        )


def _fingerprints(inputs: Inputs) -> dict[str, Any]:
    """What the audit is of."""
    return {
        "source": inputs.samples.store.checksum,
        "real": inputs.train.store.checksum,
        "reid": fingerprint(inputs.embedder.encoder.network),
        "encoder": inputs.train.store.dataset.encoder,
        "generator": inputs.generator[0].fingerprint() if inputs.generator else None,
    }


def _measured(spaces: Sequence[Sides]) -> tuple[list[Measure], dict[str, str]]:
    """All that can be measured, and why the rest cannot."""
    todo = [(f"{name}{sides.suffix}", leak, sides) for name, leak in LEAKS.items() for sides in spaces]
    todo += [(name, other, spaces[0]) for name, other in OTHERS.items()]
    found: list[Measure] = []
    missing = {}
    for name, measure, sides in tqdm(todo, "measures", disable=None, leave=False):
        try:
            found += measure(sides)
        except UserError as error:  # too few of something: networks and stores have been checked before
            missing[name] = str(error)
    return found, missing


def _record(sides: Sides, inputs: Inputs, measures: Sequence[Measure], missing: Mapping[str, str]) -> dict[str, Any]:
    rows = {"samples": inputs.samples, "training": inputs.train, "held out": inputs.held_out}
    people = {"samples": sides.samples, "training": sides.train, "held out": sides.held_out}
    sizes = {
        name: {
            "units": len(people[name]),
            "recordings": len(rows[name]),
            "frames of each as a sample": int(people[name].seen.shape[1]),
            "frames of each": int(people[name].frames.shape[1]),
        }
        for name in rows
    }
    return {
        "statement": STATEMENT,
        "sizes": sizes,
        "similarity": sides.similarity,
        "measures": [asdict(measure) for measure in measures],
        "not measured": dict(missing),
    }


def _already(target: Path, asked: Mapping[str, Any]) -> Summary:
    """What to say when ``target`` is there."""
    require_same(target / RECORD, asked, _KIND)
    return _summary(target, "already complete, nothing to do", read_record(target / RECORD) or {})


def _summary(target: Path, state: str, record: Mapping[str, Any]) -> Summary:
    sizes = record["sizes"]
    counts = ", ".join(f"{sizes[name]['units']} {name}" for name in ("samples", "training", "held out"))
    facts: dict[str, object] = {"compared": counts}
    for found in record["measures"]:
        mark = "  <- stands out" if found["stands_out"] else ""
        facts[found["name"]] = f"{_text(found['value'])}, expected {_text(found['expected'])}{mark}"
    for name, reason in record["not measured"].items():
        facts[name] = f"not measured: {reason}"
    worse = [each["name"] for each in record["measures"] if each["stands_out"] and each["about"] == PRIVACY]
    facts["privacy"] = (
        f"{len(worse)} of the measures stand out: {', '.join(worse)}" if worse else "no measure stands out; no proof"
    )
    return Summary(f"audit: {target}/{RECORD} {state}", facts)


def _text(interval: Mapping[str, float] | None) -> str:
    if interval is None:
        return "-"
    value, low, high = (interval[name] for name in ("value", "low", "high"))
    return f"{value:.3g}" if low == high else f"{value:.3g} [{low:.3g}, {high:.3g}]"


def _finite(value: Any) -> Any:
    """``value`` for json, which has no NaN and no infinity."""
    if isinstance(value, Mapping):
        return {str(key): _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if isinstance(value, np.generic):
        return _finite(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value
