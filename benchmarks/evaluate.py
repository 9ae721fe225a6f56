"""Time, memory and correctness of the distances of ``stage=evaluate``, with floor and intervals.

    python benchmarks/evaluate.py [--samples 2000] [--features 2048] [--threads 2]

There are three sets of random vectors: synthetic, TEST and TRAIN, with 10 vectors per patient. For comparison, the same
values without intervals are computed with torch and torchmetrics: the Frechet distance from covariances and
eigenvalues, the kernel distance from torchmetrics, precision, recall, density and coverage with torch.cdist. Memory is
the increase of the peak memory of the process.
"""

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

from measuring import run_with_peak_memory


def measure(run: Callable[[], Any]) -> tuple[Any, float, float, float]:
    """Result of ``run``, wall-clock seconds, processor seconds, and peak memory in GB."""
    start, cpu = time.perf_counter(), time.process_time()
    result, memory = run_with_peak_memory(run)
    return result, time.perf_counter() - start, time.process_time() - cpu, memory


def reference(x: Any, y: Any, k: int = 5) -> dict[str, float]:
    """Values from torch and torchmetrics, of float64 tensors (N, D)."""
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
    """Print time and memory of both implementations, and the largest difference of a value."""
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
    compared, wall, cpu, memory = measure(lambda: compare_features(synthetic, test, train))
    print(f"{n} x {n} vectors of {options.features}, {options.threads} threads")
    print(f"compare: values, floor, intervals    {wall:6.1f} s, {cpu:6.1f} s of processor, {memory:5.2f} GB")
    x, y = torch.from_numpy(synthetic.rows), torch.from_numpy(test.rows)
    values, wall, cpu, memory = measure(lambda: reference(x, y))
    print(f"torch alone: values                  {wall:6.1f} s, {cpu:6.1f} s of processor, {memory:5.2f} GB")
    worst = max(abs(compared[name].value.value - value) / max(abs(value), 1e-9) for name, value in values.items())
    print(f"largest relative difference of a value {worst:.1e}  (targets: 30 s, 2 GB)")


if __name__ == "__main__":
    main()
