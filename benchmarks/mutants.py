"""Mutation test: plants known mistakes in a copy of the checkout, one at a time, and checks that a fast test fails.

    python benchmarks/mutants.py [name ...]

A mutant replaces one line of code by a wrong line, such as a mistake of a published pipeline. The script prints
"caught" for each mutant for which a test fails, and otherwise "MISSED"; it exits with status 1 if a mutant was missed.
tests/test_mutants.py checks that every line to replace is in the code exactly once.
tests/diffusion/test_process_mutants.py has the mutants of the noise processes.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class Mutant(NamedTuple):
    """A mistake in a line of code, and its tests; at least one test must fail if the code has the mistake.

    ``file`` is a path below echodream/. ``tests`` has paths below tests/, separated by spaces.
    """

    file: str
    code: str
    mistake: str
    tests: str


MUTANTS = {
    "null embedding of a class is the embedding of class 0": Mutant(
        "diffusion/conditioning/base.py",
        "return torch.where((keep & (value != MISSING))[:, None], tokens, self.null)[:, None]",
        "return torch.where((keep & (value != MISSING))[:, None], tokens, self.embedding.weight[0])[:, None]",
        "diffusion/conditioning",
    ),
    "conditions are never dropped in training": Mutant(
        "diffusion/conditioning/conditioner.py",
        "return torch.rand(count, generator=generator, device=device) >= dropout",
        "return torch.rand(count, generator=generator, device=device) >= 0",
        "diffusion/conditioning",
    ),
    "rectified flow with the opposite sign": Mutant(
        "diffusion/processes/rectified_flow.py",
        "t, noise - x_0, torch.ones_like(t))",
        "t, x_0 - noise, torch.ones_like(t))",
        "diffusion/test_process_closed_forms.py",
    ),
    "overlapping windows have equal weight at their ends": Mutant(
        "diffusion/sliding_window.py",
        "weight = torch.minimum(positions + 1, window - positions).to(windows.dtype)",
        "weight = torch.ones(window, device=windows.device, dtype=windows.dtype)",
        "diffusion/test_sliding_window.py",
    ),
    "latents are padded although their size fits": Mutant(
        "networks/denoisers/base.py",
        "missing = -size % multiple",
        "missing = multiple - size % multiple",
        "networks/denoisers",
    ),
    "padded frames of short clips count in the loss": Mutant(
        "losses/denoising.py",
        "return (frames * recorded).sum(dim=1) / recorded.sum(dim=1).clamp(min=1)",
        "return (frames * recorded).sum(dim=1) / recorded.shape[1]",
        "losses/test_denoising.py",
    ),
    "the posterior mean is used in place of a sample": Mutant(
        "datamodules/recordings.py",
        "mean = gaussian_sample(mean, std, rng)",
        "mean = mean + 0 * std",
        "datamodules/test_views.py",
    ),
    "the last incomplete batch of requests is dropped": Mutant(
        "datamodules/sampling_requests.py",
        "for start in range(0, len(self.names), batch)]",
        "for start in range(0, len(self.names) - batch + 1, batch)]",
        "datamodules/test_sampling_requests.py",
    ),
    "samples ignore the seed": Mutant(
        "sampling/sampling_module.py",
        "return seeded_generator(seed, row, int(video))",
        "return seeded_generator(0, row, int(video))",
        "sampling",
    ),
    "positive pairs come from the same recording": Mutant(
        "datamodules/views.py",
        "others = members[members != row]",
        "others = members[members == row]",
        "datamodules/test_views.py",
    ),
    "random numbers of a sample repeat in every epoch": Mutant(
        "datamodules/dataset.py",
        "rng = np.random.default_rng((self.seed, epoch, index))",
        "rng = np.random.default_rng((self.seed, 0, index))",
        "datamodules/test_dataset.py",
    ),
    "only the first frame of a training video is a reference": Mutant(
        "filtering/embedding.py",
        "return np.arange(0, 1 if first_only else recordings.frames[row], stride)",
        "return np.arange(0, 1, stride)",
        "filtering stages/test_filter.py",
    ),
    "conformal p-value without the sample itself": Mutant(
        "privacy/conformal.py",
        "return (1 + as_close) / (len(ordered) + 1)",
        "return as_close / len(ordered)",
        "privacy/test_conformal.py",
    ),
    "conformal threshold one patient too low": Mutant(
        "privacy/conformal.py",
        "return float(np.nextafter(np.sort(calibration)[-rank], math.inf))",
        "return float(np.nextafter(np.sort(calibration)[-rank - 1], math.inf))",
        "privacy/test_conformal.py",
    ),
    "Benjamini-Hochberg without ranks": Mutant(
        "privacy/conformal.py",
        "rejected = ordered <= alpha * np.arange(1, len(p) + 1) / len(p) + 1e-12",
        "rejected = ordered <= alpha + 1e-12",
        "privacy/test_conformal.py",
    ),
    "Clopper-Pearson bound with one pass too few": Mutant(
        "metrics/binomial_bounds.py",
        "float(betaincinv(passes + 1, trials - passes, 1 - delta))",
        "float(betaincinv(max(passes, 0.5), trials - passes + 1, 1 - delta))",
        "privacy",
    ),
    "AUC counts ties as wins": Mutant(
        "metrics/classification.py",
        "ordered = (positives * (np.cumsum(negatives, axis=1) - negatives / 2)).sum(axis=1)",
        "ordered = (positives * np.cumsum(negatives, axis=1)).sum(axis=1)",
        "metrics/test_classification.py metrics/test_verification.py",
    ),
    "folds are not grouped by patient": Mutant(
        "datamodules/patient_folds.py",
        "enumerate(split.split(strata, strata, patients))",
        "enumerate(split.split(strata, strata, np.arange(len(patients))))",
        "datamodules training/test_cross_validation.py",
    ),
    "height and width are exchanged in FileList.csv": Mutant(
        "stages/encode.py",
        'return {"FrameHeight": mean.shape[2], "FrameWidth": mean.shape[3]}',
        'return {"FrameHeight": mean.shape[3], "FrameWidth": mean.shape[2]}',
        "stages/test_encode_decode.py",
    ),
    "an unreadable file is skipped and not recorded": Mutant(
        "stages/ingest.py",
        '                writer.reject(recording.name, f"{result}{file}")',
        "                pass",
        "stages/test_ingest.py",
    ),
    "pixels outside of the sector are kept": Mutant(
        "ingest/dicom.py",
        "frames = mask_outside(frames, sector_mask(frames, boxes))",
        "frames = np.where(True, frames, mask_outside(frames, sector_mask(frames, boxes)))",
        "ingest/test_dicom.py",
    ),
    "a table may name files outside of the raw folder": Mutant(
        "ingest/listing.py",
        "return path.resolve().is_relative_to(root.resolve())",
        "return True",
        "ingest",
    ),
    "membership threshold that admits one false positive more": Mutant(
        "privacy/attacks/membership.py",
        "threshold = np.sort(others)[-1 - allowed] if allowed < len(others) else -np.inf",
        "threshold = np.sort(others)[-2 - allowed] if allowed + 1 < len(others) else -np.inf",
        "privacy/attacks",
    ),
    "selected rows keep the cached totals of all rows": Mutant(
        "datamodules/recordings.py",
        "            subset.__dict__.pop(name, None)",
        "            pass",
        "datamodules/test_recordings.py",
    ),
}


def is_caught(mutant: Mutant, checkout: Path) -> bool:
    """Whether a test of ``mutant`` fails if ``checkout`` has its mistake; the file is restored afterwards."""
    path = checkout / "echodream" / mutant.file
    text = path.read_text()
    path.write_text(text.replace(mutant.code, mutant.mistake))
    try:
        tests = [f"tests/{name}" for name in mutant.tests.split()]
        command = [sys.executable, "-m", "pytest", "-n", "0", "-x", "-q", "-m", "not slow", *tests]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(command, cwd=checkout, env=environment, capture_output=True).returncode == 1
    finally:
        path.write_text(text)


def main() -> int:
    """Test the mutants that the command line names, or all mutants; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("names", nargs="*", choices=[*MUTANTS, []], metavar="name", help=", ".join(MUTANTS))
    names = parser.parse_args().names or list(MUTANTS)
    missed = []
    with tempfile.TemporaryDirectory() as folder:
        checkout = Path(folder) / "echodream"
        for name in ("echodream", "conf", "tests", "benchmarks", "launch", "docs"):
            shutil.copytree(ROOT / name, checkout / name)
        for name in ("pyproject.toml", "README.md", "train.py", "sample.py"):
            shutil.copy(ROOT / name, checkout)
        for name in names:
            caught = is_caught(MUTANTS[name], checkout)
            missed += [] if caught else [name]
            print(f"{'caught' if caught else 'MISSED'}  {name}", flush=True)
    print(f"{len(names) - len(missed)} of {len(names)} caught")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
