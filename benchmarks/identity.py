"""Verification AUC of an identity network, compared with that of pixel correlation, on pairs of images.

python benchmarks/identity.py data/chest_xray/videos models/chest_xray/identity data/chest_xray/pairs
"""

import sys
from pathlib import Path

import numpy as np
import torch

from echodream.anonymization.image_pairs import select_images
from echodream.anonymization.verification_pairs import read_pairs
from echodream.metrics.verification import Pairs, all_pairs, auc, similarity_matrix
from echodream.modules.reid import load_reid
from echodream.store import Store

REPEATS = 1000


def main(store: str, artifact: str, pairs: str) -> None:
    """Print the AUC of pixels, the AUC of the network, and their difference, with bootstrap intervals over patients."""
    network = load_reid(artifact)
    for split in ("VAL", "TEST"):
        images = select_images(Store(store), [split], 1, "src")
        recordings, rng = images.recordings, np.random.default_rng(0)
        x = torch.stack([recordings.read(row, [0], rng)[:, 0] for row in range(len(recordings))])
        similarity = [similarity_matrix(x.flatten(1).numpy(), "pearson"), similarity_matrix(network.embed(x).numpy())]
        patient = np.unique(images.patients, return_inverse=True)[1]
        pair_list = read_pairs(Path(pairs) / f"{split}.csv", images)
        print(split, "stage=pairs", *auc_texts(*(select_pairs(table, pair_list, patient) for table in similarity)))
        print(split, "all pairs", *auc_texts(*(all_pairs(table, patient) for table in similarity)), flush=True)


def select_pairs(similarity: np.ndarray, pairs: np.ndarray, patient: np.ndarray) -> Pairs:
    """Pairs of images, (P, 2), with scores from the similarity matrix, (N, N), sorted by descending score."""
    score = similarity[pairs[:, 0], pairs[:, 1]]
    order = np.argsort(-score, kind="stable")
    return Pairs(score[order], patient[pairs[order, 0]], patient[pairs[order, 1]], int(patient.max()) + 1)


def auc_texts(pixels: Pairs, network: Pairs) -> tuple[str, ...]:
    """AUC of pixels, AUC of the network and their difference, each with its 95 % interval, as text."""
    rng, patients = np.random.default_rng(0), pixels.patients
    counts = [rng.multinomial(patients, np.full(patients, 1 / patients)) for _ in range(REPEATS)]
    values = np.array([[auc(part, part.weights(count)) for part in (pixels, network)] for count in counts])
    values = values[np.isfinite(values).all(axis=1)]
    pixel_auc, network_auc = auc(pixels), auc(network)
    parts = [*zip(("pixels", "network", "difference"), [pixel_auc, network_auc, network_auc - pixel_auc], strict=True)]
    samples = [values[:, 0], values[:, 1], values[:, 1] - values[:, 0]]
    bounds = [np.quantile(sample, [0.025, 0.975]) for sample in samples]
    return tuple(f"{n} {v:.3f} [{low:.3f}, {high:.3f}]" for (n, v), (low, high) in zip(parts, bounds, strict=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
