"""One figure of an audit, and who is compared for it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from echodream.audit.embedding_sets import EmbeddingSet, EmbeddingSetBuilder, EmbeddingSetConfig
from echodream.datamodules.normalization import whiten
from echodream.datamodules.recordings import Recordings
from echodream.errors import UserError
from echodream.filtering.embedding import FrameEmbedder
from echodream.metrics.bootstrap import Interval
from echodream.privacy.nearest_neighbors import NearestPatients, nearest_patients
from echodream.privacy.similarity import Similarity

PRIVACY, QUALITY = "privacy", "quality"
LEVEL = 0.025
"""Of one-sided tests: that of a 95 % interval."""


@dataclass(frozen=True)
class Measure:
    """One figure with its 95 % interval, and what it is to be compared with."""

    name: str
    about: str
    """"privacy" or "quality"."""
    means: str
    harmless: str
    """What a generator gives that copies nobody, in words."""
    value: Interval
    expected: Interval | None
    """The same of new patients, or of chance; None where ``harmless`` says all."""
    stands_out: bool = False
    """Whether the value is worse than expected, by the intervals."""
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Sides:
    """Who is compared."""

    samples: EmbeddingSet
    train: EmbeddingSet
    held_out: EmbeddingSet
    similarity: Similarity
    seed: int
    far: float
    """Share of pairs of different people that a threshold may take for one."""
    cells: int | None
    """For C_T; None: one for every 20 held-out patients."""
    suffix: str = ""
    """Of a measure's name: by what else than the identity network samples and patients are compared."""


def compared(
    embedder: FrameEmbedder,
    samples: Recordings,
    train: Recordings,
    held_out: Recordings,
    look: EmbeddingSetConfig,
    far: float,
    cells: int | None,
) -> Iterator[Sides]:
    """Samples, training and held-out patients, as the identity network sees them; then by their whitened latents."""
    statistics, sees = train.store.dataset.statistics, embedder.encoder.input_spec
    assert statistics is not None  # Recordings have refused others

    def whitened(latents: Tensor) -> Tensor:
        return whiten(latents, statistics, dim=1).flatten(1)

    ways: tuple[tuple[str, Callable[[Tensor], Tensor], str], ...] = (
        ("", embedder.embed, sees.similarity),
        (" by latents", whitened, "euclidean"),
    )
    for suffix, embed, similarity in ways:
        gallery = EmbeddingSetBuilder(embed, cast(Similarity, similarity), look, samples)
        known = gallery.of_patients(train, "training patients", sequences=False)
        new = gallery.of_patients(held_out, "held-out patients", sequences=not suffix)
        yield Sides(gallery.of_samples(), known, new, gallery.similarity, look.seed, far, cells, suffix)


def exactly(value: float) -> Interval:
    """A number that is known."""
    return Interval(value, value, value)


def near_train(sides: Sides, side: EmbeddingSet) -> NearestPatients:
    """The nearest training patient of each of ``side``, by its nearest frame."""
    count, frames = side.seen.shape[:2]
    train = sides.train.frames
    names = np.repeat(sides.train.names, train.shape[1]).tolist()
    groups = np.repeat(np.arange(count), frames)
    return nearest_patients(side.seen.flatten(0, 1), [(train.flatten(0, 1), names)], sides.similarity, groups)


def threshold(sides: Sides) -> float:
    """The similarity that a share ``far`` of pairs of different held-out patients reach, one frame of each."""
    rows = sides.held_out.first()
    pairs = len(rows) * (len(rows) - 1) // 2
    if pairs * sides.far < 1:
        needed = int(np.ceil((1 + np.sqrt(1 + 8 / sides.far)) / 2))
        raise UserError(
            f"a threshold that {sides.far:g} of pairs of different people reach needs {needed} held-out patients, and "
            f"there are {len(rows)}"
        )
    alike = (rows.double() @ rows.double().T)[tuple(torch.triu_indices(len(rows), len(rows), 1))]
    return float(torch.quantile(alike, 1 - sides.far, interpolation="higher"))
