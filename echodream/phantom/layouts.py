"""The phantom written as a raw study, with the quirks such studies have, so that it enters by a hospital's door."""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Row = Mapping[str, Any]


def cardiacnet(root: Path, name: str, frames: np.ndarray, labels: np.ndarray, fps: float) -> None:
    """Write one recording below ``root`` as CardiacNet has it: ``CardiacNet-PAH/PAH/007_image.nii.gz`` and its label.

    ``frames`` and ``labels`` are uint8, (F, H, W); volumes are (W, H, F) with the frame time in the header. Every third
    image is a folder called ``NNN_image.nii`` that holds the file, and every fifth label breaks off in the middle.
    """
    import nibabel

    kind, _, number = name.rpartition("-")
    folder = root / f"CardiacNet-{kind.removeprefix('Non-')}" / kind
    for part, volume in (("image", frames), ("label", labels)):
        image = nibabel.Nifti1Image(np.ascontiguousarray(volume.transpose(2, 1, 0)), np.eye(4), dtype=np.uint8)
        image.header.set_zooms((1.0, 1.0, 1.0 / fps))
        wrapped = part == "image" and int(number) % 3 == 0
        path = folder / (f"{number}_{part}.nii/{number}_{part}.nii.gz" if wrapped else f"{number}_{part}.nii.gz")
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}")  # nibabel chooses the format by the ending
        nibabel.save(image, fresh)
        if part == "label" and int(number) % 5 == 0:
            fresh.write_bytes(fresh.read_bytes()[:-200])
        fresh.replace(path)


def cardiacnet_table(root: Path, rows: Sequence[Row]) -> None:
    """Write ``recordings.csv``: what the tree itself cannot say, the patient of each recording first of all."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with (root / "recordings.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


Writer = Callable[[Path, str, np.ndarray, np.ndarray, float], None]
LAYOUTS: dict[str, tuple[Writer, Callable[[Path, Sequence[Row]], None]]] = {
    "cardiacnet": (cardiacnet, cardiacnet_table)
}
"""For each study layout what writes a recording, and what writes the table over all of them."""
