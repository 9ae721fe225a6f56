"""Time and memory of the nearest-patient search, compared with a matrix product and a full correlation matrix.

    python benchmarks/filter.py [--samples 10000] [--references 200000] [--full 10000] [--features 128] [--threads 2]

References are recordings of 64 frames, each of another patient. Search and matrix product are timed in turns,
``--repeats`` times, after imports and a small first run. The matrix product of samples and references is in double
precision, with the block size of the search, and its results are discarded. Memory is the increase of the peak memory
of the process, or of the GPU. The full matrix is torch.corrcoef of samples and references together, as in the published
filter.
"""

import argparse
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import torch
from measuring import run_timed, run_with_peak_memory
from torch import Tensor

from echodream.privacy.nearest_neighbors import BLOCK, nearest_patients

Recording = tuple[Tensor, list[str]]


def split_into_recordings(references: Tensor) -> list[Recording]:
    """Split embeddings, (m, D), into recordings of 64 frames, each of another patient."""
    return [(part, [f"patient_{number}"] * len(part)) for number, part in enumerate(references.split(64))]


def matrix_product_in_blocks(samples: Tensor, references: Tensor, block: int) -> None:
    """Compute the matrix product of samples and references in blocks, into one buffer."""
    samples, references = samples.double(), references.double()
    out = torch.empty(block * block, device=samples.device, dtype=torch.float64)
    for right in references.split(block):
        for left in samples.split(block):
            torch.mm(left, right.T, out=out[: len(left) * len(right)].view(len(left), len(right)))


def highest_correlations(samples: Tensor, references: Tensor) -> Tensor:
    """The highest correlation of each sample with a reference, from the correlation matrix of all rows."""
    correlations = torch.corrcoef(torch.cat([references, samples]))
    return correlations[len(references) :, : len(references)].amax(dim=1)


def peak_memory(run: Callable[[], Any], device: str) -> float:
    """Increase of the peak memory during ``run``, in GB."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 1e9
    return run_with_peak_memory(run)[1]


def seconds_in_turns(runs: dict[str, Callable[[], Any]], repeats: int) -> Iterator[dict[str, float]]:
    """Call all ``runs`` in turn, ``repeats`` times; yield the seconds of each run by name."""
    for _ in range(repeats):
        yield {name: run_timed(run).wall for name, run in runs.items()}


def main() -> None:
    """Print times, their ratios (median and range over turns), and memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = {"samples": 10_000, "references": 200_000, "full": 10_000, "features": 128, "repeats": 3, "threads": 0}
    for name, value in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device, generator = options.device, torch.Generator().manual_seed(0)
    samples, references = (
        torch.randn(count, options.features, generator=generator).to(device)
        for count in (options.samples, options.references)
    )
    recordings, few_references = split_into_recordings(references), references[: options.full]
    few_recordings = split_into_recordings(few_references)
    nearest_patients(samples[:256], few_recordings[:8], "pearson")
    memory = peak_memory(lambda: nearest_patients(samples, recordings, "pearson"), device)
    runs = {
        "search": lambda: nearest_patients(samples, recordings, "pearson"),
        "bare product": lambda: matrix_product_in_blocks(samples, references, BLOCK[device]),
    }
    search_times = list(seconds_in_turns(runs, options.repeats))
    runs = {
        "search": lambda: nearest_patients(samples[: options.full], few_recordings, "pearson"),
        "full matrix": lambda: highest_correlations(samples[: options.full], few_references),
    }
    matrix_times = list(seconds_in_turns(runs, options.repeats))
    scores = torch.from_numpy(nearest_patients(samples[: options.full], few_recordings, "pearson").score)
    difference = (scores - highest_correlations(samples[: options.full], few_references).cpu()).abs().max().item()

    device_text = torch.cuda.get_device_name() if device == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    print(f"{options.samples} samples, {options.references} references, {options.features} features, {device_text}")
    print_ratio(search_times, "search", "bare product", "search / bare product (target 1.5 or less)")
    print(f"{'peak memory above the inputs (target below 1)':<58}{memory:8.2f} GB")
    print(f"{options.full} samples, {len(few_references)} references")
    print_ratio(matrix_times, "full matrix", "search", "full matrix / search (target 5 or more)")
    print(f"{'largest difference of a score from the full matrix':<58}{difference:8.1e}")


def print_ratio(times: list[dict[str, float]], numerator: str, denominator: str, title: str) -> None:
    """Print the median seconds of the runs ``numerator`` and ``denominator``, and median and range of the ratio."""
    for name in (numerator, denominator):
        print(f"{name:<58}{statistics.median(turn[name] for turn in times):8.2f} s")
    ratios = sorted(turn[numerator] / turn[denominator] for turn in times)
    print(f"{title:<58}{statistics.median(ratios):8.2f}  ({ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main()
