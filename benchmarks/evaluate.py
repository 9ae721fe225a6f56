"""Time, memory and correctness of the distances of ``stage=evaluate``, with floor and intervals.

    python benchmarks/evaluate.py [--samples 2000] [--features 2048] [--threads 2]

The benchmark has three sets of random vectors: synthetic, TEST and TRAIN, with 10 vectors per patient. For comparison,
the values without intervals are computed with torch and torchmetrics: the Frechet distance from covariances and
eigenvalues, the kernel distance from torchmetrics, precision, recall, density and coverage with torch.cdist. Memory is
the increase of the peak memory of the process.
"""

import argparse
import os
from collections.abc import Callable
from typing import Any

from measuring import Timing, run_timed, run_with_peak_memory


def measure_time_and_memory(run: Callable[[], Any]) -> tuple[Timing, float]:
    """Result and time of ``run``, and its peak memory in GB."""
    timing = run_timed(lambda: run_with_peak_memory(run))
    result, memory = timing.result
    return timing._replace(result=result), memory


def distances_by_torch(x: Any, y: Any, k: int = 5) -> dict[str, float]:
    """Distances of the float64 feature vectors ``x`` and ``y``, (N, D), by torch and torchmetrics."""
    import torch
    from torchmetrics.image.fid import _compute_fid
    from torchmetrics.image.kid import poly_mmd

    values = {"frechet": float(_compute_fid(x.mean(0), x.T.cov(), y.mean(0), y.T.cov()))}
    values["kernel"] = float(poly_mmd(y, x))
    between, within, others = torch.cdist(x, y), torch.cdist(x, x), torch.cdist(y, y)
    for distances in (within, others):
        distances.fill_diagonal_(torch.inf)
    radii_x, radii_y = within.kthvalue(k, dim=1).values, others.kthvalue(k, dim=1).values
    inside = between < radii_y
    values |= {"precision": float(inside.any(1).double().mean()), "density": float(inside.sum(1).double().mean() / k)}
    recalled = (between < radii_x[:, None]).any(0)
    return values | {"recall": float(recalled.double().mean()), "coverage": float(inside.any(0).double().mean())}


def main() -> None:
    """Print time and memory of compare_features and of torch alone, and the largest difference of a value."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"samples": 2000, "features": 2048, "threads": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(options.threads)  # before numpy is imported
    import numpy as np
    import torch

    from echodream.metrics.bootstrap import SamplingUnits
    from echodream.metrics.fidelity import Features, compare_features

    torch.set_num_threads(options.threads)
    rng, n = np.random.default_rng(0), options.samples
    units = SamplingUnits(np.arange(n) // 10)
    synthetic, test, train = (
        Features(rng.normal(size=(n, options.features)) * scale + shift, units)
        for scale, shift in ((0.9, 0.02), (1.0, 0.0), (1.0, 0.0))
    )
    few = [Features(each.rows[:50], each.units.select(slice(50))) for each in (synthetic, test, train)]
    compare_features(*few)
    x, y = torch.from_numpy(synthetic.rows), torch.from_numpy(test.rows)
    ours = measure_time_and_memory(lambda: compare_features(synthetic, test, train))
    torch_alone = measure_time_and_memory(lambda: distances_by_torch(x, y))
    print(f"{n} x {n} vectors of {options.features}, {options.threads} threads")
    for text, (timing, memory) in (("values, floor, intervals", ours), ("torch alone: values", torch_alone)):
        print(f"{text:<37}{timing.wall:6.1f} s, {timing.cpu:6.1f} s of processor, {memory:5.2f} GB")
    values, expected = ours[0].result, torch_alone[0].result
    worst = max(abs(values[name].value.value - value) / max(abs(value), 1e-9) for name, value in expected.items())
    print(f"largest relative difference of a value {worst:.1e}  (targets: 30 s, 2 GB)")


if __name__ == "__main__":
    main()
