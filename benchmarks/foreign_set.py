"""A set of frames with planted copies, as from another program: write the files, and count the rejected files.

    python benchmarks/foreign_set.py write [--videos data/phantom/videos] [--out raw/foreign] [--severity 0.5]
    python benchmarks/foreign_set.py count [--scores reports/phantom/filter_image/scores.csv]

``write`` writes 200 gray png files, one folder per kind: 100 copies of frames of patients of ``--videos``, each of
another patient, and 100 frames of new phantom patients, who are simulated with another random seed. Copies of TRAIN
patients are unchanged, blurred (Gaussian, 1 pixel), noised (standard deviation 8 gray levels) or brighter (by 20 %);
copies of VAL and TEST patients are unchanged. New frames are unchanged, blurred or noised in the same way. ``count``
prints how many files of each kind ``stage=filter`` rejected, with the exact 95 % interval. docs/foreign.md describes
the stages to run between ``write`` and ``count``.
"""

import argparse
import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from echodream.ingest.phantom import Phantom
from echodream.ingest.preprocessing import resize
from echodream.ingest.source import Limits
from echodream.metrics.bootstrap import clopper_pearson_interval
from echodream.store import Store

Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]
CHANGES: dict[str, Change] = {
    "unchanged": lambda frame, rng: frame,
    "blurred": lambda frame, rng: gaussian_filter(frame, 1.0),
    "noised": lambda frame, rng: frame + rng.normal(0, 8, frame.shape),
    "brighter": lambda frame, rng: 1.2 * frame,
}
COPIES = {"unchanged": 20, "blurred": 20, "noised": 20, "brighter": 20}
"""Number of copies of TRAIN patients under each change."""
HELD_OUT_COPIES = 20
"""Number of unchanged copies of VAL and TEST patients."""
NEW_PATIENTS = {"unchanged": 40, "blurred": 30, "noised": 30}
"""Number of new patients whose frames get each change."""


def write_set(videos: Path, out: Path, severity: float) -> None:
    """Write all files of the set to folders in ``out``."""
    store, rng = Store(videos, kind="video"), np.random.default_rng(0)
    by_patient = store.table.drop_duplicates("PatientID")
    train = by_patient[by_patient["Split"] == "TRAIN"].sample(frac=1, random_state=0).to_dict("records")
    held_out = by_patient[by_patient["Split"] != "TRAIN"].sample(n=HELD_OUT_COPIES, random_state=0).to_dict("records")
    copies = [(f"copy_{name}", name, train.pop()) for name, count in COPIES.items() for _ in range(count)]
    copies += [("copy_outside_TRAIN", "unchanged", row) for row in held_out]
    for number, (folder, change, row) in enumerate(copies):
        index = int(rng.integers(row["NumberOfFrames"]))
        _save_changed_frame(
            out / folder / f"{number:03d}.png", store.frames(row["FileName"], [index])[0, ..., 0], change, rng
        )
    size = int(store.table["FrameHeight"].iloc[0])
    phantom = Phantom(sum(NEW_PATIENTS.values()), seed=4711, severity=severity, per_patient=(1, 1))
    changes = [name for name, count in NEW_PATIENTS.items() for _ in range(count)]
    recordings = phantom.recordings(None)
    for number, (row, change) in enumerate(zip(rng.permutation(len(recordings)), changes, strict=True)):
        frames = phantom.read(recordings[int(row)], Limits()).frames
        frame = resize(frames[[int(rng.integers(len(frames)))]], (size, size))[0, ..., 0]
        _save_changed_frame(out / f"new_{change}" / f"{number:03d}.png", frame, change, rng)


def _save_changed_frame(path: Path, frame: np.ndarray, change: str, rng: np.random.Generator) -> None:
    """Write ``frame``, uint8 (H, W), with the change of pixels named ``change``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    changed = CHANGES[change](frame.astype(np.float64), rng)
    Image.fromarray(np.clip(np.rint(changed), 0, 255).astype(np.uint8)).save(path)


def count_rejected(scores: Path) -> None:
    """Print the number of rejected files of each kind; the kind is the folder in the column RawFile."""
    with scores.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for kind in sorted({row["RawFile"].partition("/")[0] for row in rows}):
        kept = [row["Kept"] == "true" for row in rows if row["RawFile"].startswith(f"{kind}/")]
        share = clopper_pearson_interval(kept.count(False), len(kept))
        print(f"{kind:20} {kept.count(False):3} of {len(kept):3} rejected, {share.low:.2f} to {share.high:.2f}")


def main() -> None:
    """Write the set, or count its rejected files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("write", "count"))
    parser.add_argument("--videos", type=Path, default=Path("data/phantom/videos"))
    parser.add_argument("--out", type=Path, default=Path("raw/foreign"))
    parser.add_argument("--severity", type=float, default=0.5)
    parser.add_argument("--scores", type=Path, default=Path("reports/phantom/filter_image/scores.csv"))
    options = parser.parse_args()
    if options.action == "write":
        write_set(options.videos, options.out, options.severity)
    else:
        count_rejected(options.scores)


if __name__ == "__main__":
    main()
