"""How much better an identity network tells patients apart than the correlation of pixels, on the same pairs.

python benchmarks/identity.py data/chest_xray/videos models/chest_xray/identity data/chest_xray/pairs
"""

import sys
from pathlib import Path

import numpy as np
import torch

from echodream.anonymization.image_pairs import chosen, images
from echodream.metrics.verification import Pairs, all_pairs, auc, similarities
from echodream.modules.reid import load_reid
from echodream.stages.pairs import read_pairs
from echodream.store import Store

DRAWS = 1000


def main(store: str, artifact: str, pairs: str) -> None:
    """Print both AUCs and their difference, its interval from drawing patients anew."""
    network = load_reid(artifact)
    for split in ("VAL", "TEST"):
        shown = images(chosen(Store(store), [split], "src"), 1)
        rng = np.random.default_rng(0)
        x = torch.stack([shown.rows.read(row, [0], rng)[:, 0] for row in range(len(shown.rows))])
        tables = [similarities(x.flatten(1).numpy(), "pearson"), similarities(network.embed(x).numpy())]
        owner = np.unique(shown.patients, return_inverse=True)[1]
        listed = read_pairs(Path(pairs) / f"{split}.csv", shown)
        for name in ("stage=pairs", "all pairs"):
            kinds = [all_pairs(table, owner) if name == "all pairs" else some(table, listed, owner) for table in tables]
            print(split, name, *compared(*kinds), flush=True)


def some(table: np.ndarray, listed: np.ndarray, owner: np.ndarray) -> Pairs:
    """The pairs ``listed``, (P, 2), of a table of similarities."""
    score = table[listed[:, 0], listed[:, 1]]
    order = np.argsort(-score, kind="stable")
    return Pairs(score[order], owner[listed[order, 0]], owner[listed[order, 1]], int(owner.max()) + 1)


def compared(pixels: Pairs, network: Pairs) -> tuple[str, ...]:
    """AUC of both, and the difference with its 95 % interval."""
    rng, patients = np.random.default_rng(0), pixels.patients
    drawn = [rng.multinomial(patients, np.full(patients, 1 / patients)) for _ in range(DRAWS)]
    values = np.array([[auc(each, each.weights(counts)) for each in (pixels, network)] for counts in drawn])
    values = values[np.isfinite(values).all(axis=1)]
    both = [auc(each) for each in (pixels, network)]
    parts = [*zip(("pixels", "network", "difference"), [*both, both[1] - both[0]], strict=True)]
    samples = [values[:, 0], values[:, 1], values[:, 1] - values[:, 0]]
    bounds = [np.quantile(each, [0.025, 0.975]) for each in samples]
    return tuple(f"{n} {v:.3f} [{low:.3f}, {high:.3f}]" for (n, v), (low, high) in zip(parts, bounds, strict=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
