"""Source of the phantom: simulated patients with a beating heart in an apical four-chamber view."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from echodream.errors import Rejected, UserError
from echodream.ingest.source import CellValue, Limits, Recording, Video
from echodream.phantom.anatomy import CLASSES
from echodream.phantom.render import render
from echodream.phantom.scene import Scene, key_frame_times, sample_patient, sample_scene


@dataclass(frozen=True)
class Phantom:
    """A study of simulated patients, each with an individual heart and one or more recordings.

    The pixels are a function of the seed, the class, the number of the patient within the class and the number of the
    recording within the patient: adding patients does not change the existing ones. Class ids: 0 ASD, 1 Non-ASD,
    2 Non-PAH, 3 PAH.
    """

    patients: int = 160
    """Number of patients of all classes."""
    seed: int = 0
    size: int = 112
    """Side of the square image in pixels."""
    fps: float = 32.0
    seconds: tuple[float, float] = (2.0, 3.0)
    """Duration of the shortest and the longest recording, in seconds."""
    per_patient: tuple[int, int] = (1, 3)
    """Smallest and largest number of recordings per patient."""
    shares: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    """Relative numbers of patients per class, in the order of the class ids."""

    def __post_init__(self) -> None:
        for name, convert in (("seconds", float), ("per_patient", int), ("shares", float)):
            object.__setattr__(
                self, name, _parse_numbers(name, getattr(self, name), convert, 4 if name == "shares" else 2)
            )
        _check(
            "patients", self.patients, isinstance(self.patients, int) and 1 <= self.patients <= 100_000, "1 to 100000"
        )
        _check("seed", self.seed, isinstance(self.seed, int) and self.seed >= 0, "0 or more")
        _check("size", self.size, isinstance(self.size, int) and 32 <= self.size <= 1024, "32 to 1024")
        _check("fps", self.fps, isinstance(self.fps, int | float) and 1 <= self.fps <= 500, "1 to 500")
        low, high = self.seconds
        _check("seconds", self.seconds, 0 < low <= high <= 600, "a shortest and a longest length, up to 600")
        _check("seconds", self.seconds, low * self.fps >= 2, "long enough for two frames")
        few, many = self.per_patient
        _check("per_patient", self.per_patient, 1 <= few <= many <= 100, "a least and a greatest number, 1 to 100")
        good = all(0 <= share < math.inf for share in self.shares) and sum(self.shares) > 0
        _check("shares", self.shares, good, "four numbers, none negative and not all 0")

    def recordings(self, raw: Path | None) -> list[Recording]:
        """List all recordings by class, with their ground truth as columns, without rendering them."""
        if raw is not None:
            raise UserError(f"the phantom reads no files, but raw={raw} is set: use data=cardiacnet for raw files")
        listed = []
        for class_id, recordings_of_class in enumerate(_recordings_per_class(self)):
            for k, (patient, n) in enumerate(recordings_of_class, start=1):
                scene = self._scene(class_id, patient, n)
                name, person = f"{CLASSES[class_id]}-{k:03d}", f"{CLASSES[class_id]}-P{patient:03d}"
                listed.append(Recording(name=name, patient=person, columns=_ground_truth_columns(scene)))
        return listed

    def read(self, recording: Recording, limits: Limits) -> Video:
        """Render one recording, gray."""
        scene = self.scene(recording.name)
        limits.check(scene.frames, scene.size, scene.size, channels=1)
        marks = {name: moments.tolist() for name, moments in key_frame_times(scene).items()}
        return Video(frames=render(scene)[..., None], times=scene.times, fps=self.fps, marks=marks)

    def scene(self, name: str) -> Scene:
        """Scene of the recording ``name``, which holds its ground truth. Raises ``Rejected`` for an unknown name."""
        class_name, _, number = name.rpartition("-")
        if class_name in CLASSES and number.isdecimal():
            class_id = CLASSES.index(class_name)
            recordings_of_class = _recordings_per_class(self)[class_id]
            if 1 <= int(number) <= len(recordings_of_class):
                return self._scene(class_id, *recordings_of_class[int(number) - 1])
        raise Rejected("this phantom has no such recording")

    def _scene(self, class_id: int, patient: int, number: int) -> Scene:
        return sample_scene((self.seed, class_id, patient, number), self.size, self.fps, self.seconds)


@lru_cache(maxsize=8)
def _recordings_per_class(phantom: Phantom) -> tuple[tuple[tuple[int, int], ...], ...]:
    """For each class, (patient, recording) numbers from 1, in the order of the names of the recordings.

    Each patient is assigned to the class that is furthest below its share: a larger study extends a smaller one.
    """
    few, many = phantom.per_patient
    counts, total = [0] * len(CLASSES), sum(phantom.shares)
    for assigned in range(1, phantom.patients + 1):
        deficit = [share * assigned / total - count for share, count in zip(phantom.shares, counts, strict=True)]
        counts[deficit.index(max(deficit))] += 1
    return tuple(
        tuple(
            (patient, n)
            for patient in range(1, count + 1)
            for n in range(1, few + int(sample_patient(phantom.seed, class_id, patient)[0] * (many - few + 1)) + 1)
        )
        for class_id, count in enumerate(counts)
    )


def _ground_truth_columns(scene: Scene) -> dict[str, CellValue]:
    """Ground truth of a recording as columns: EF in percent, HeartRate per minute, areas in cm2."""
    largest, smallest = scene.lv_area
    return {
        "class_id": scene.class_id,
        "class_name": CLASSES[scene.class_id],
        "EF": round(100 * scene.ef, 2),
        "HeartRate": round(scene.heart_rate, 2),
        "View": "A4C",
        "Cohort": scene.cohort,
        "LVArea_ED": round(largest, 3),
        "LVArea_ES": round(smallest, 3),
    }


def _parse_numbers(name: str, value: Sequence[float], convert: type, count: int) -> tuple[float, ...]:
    try:
        numbers = tuple(convert(v) for v in value)
    except (TypeError, ValueError, OverflowError):
        numbers = ()
    if convert is int and any(v != number for v, number in zip(value, numbers, strict=False)):
        numbers = ()
    _check(name, value, len(numbers) == count, f"{count} numbers")
    return numbers


def _check(name: str, value: object, good: bool, wanted: str) -> None:
    if not good:
        raise UserError(f"the phantom's {name} is {value!r}: it must be {wanted}")
