"""Time, memory and correctness of the fidelity metrics of ``stage=evaluate``, with floor and intervals.

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
    between, within_x, within_y = torch.cdist(x, y), torch.cdist(x, x), torch.cdist(y, y)
    for distances in (within_x, within_y):
        distances.fill_diagonal_(torch.inf)
    radii_x, radii_y = within_x.kthvalue(k, dim=1).values, within_y.kthvalue(k, dim=1).values
    in_ball_of_y = between < radii_y
    values |= {"precision": float(in_ball_of_y.any(1).double().mean())}
    values["density"] = float(in_ball_of_y.sum(1).double().mean() / k)
    in_ball_of_x = (between < radii_x[:, None]).any(0)
    return values | {
        "recall": float(in_ball_of_x.double().mean()),
        "coverage": float(in_ball_of_y.any(0).double().mean()),
    }


def main() -> None:
    """Print time and memory of compare_features and of torch alone, and the largest difference of their values."""
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
    small_sets = [Features(part.rows[:50], part.units.select(slice(50))) for part in (synthetic, test, train)]
    compare_features(*small_sets)  # warm-up
    x, y = torch.from_numpy(synthetic.rows), torch.from_numpy(test.rows)
    echodream_run = measure_time_and_memory(lambda: compare_features(synthetic, test, train))
    torch_run = measure_time_and_memory(lambda: distances_by_torch(x, y))
    print(f"{n} x {n} vectors of {options.features}, {options.threads} threads")
    for text, (timing, memory) in (("values, floor, intervals", echodream_run), ("torch alone: values", torch_run)):
        print(f"{text:<37}{timing.wall:6.1f} s, {timing.cpu:6.1f} s of processor, {memory:5.2f} GB")
    values, expected = echodream_run[0].result, torch_run[0].result
    largest = max(abs(values[name].value.value - value) / max(abs(value), 1e-9) for name, value in expected.items())
    print(f"largest relative difference of a value {largest:.1e}  (targets: 30 s, 2 GB)")


if __name__ == "__main__":
    main()
