"""The phantom: a parametric beating heart in an apical four-chamber view, echodream's embedded data."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from echodream.errors import Rejected, UserError
from echodream.ingest.source import CellValue, Limits, Recording, Video
from echodream.phantom.anatomy import CLASSES
from echodream.phantom.render import render
from echodream.phantom.scene import Scene, key_moments, sample_patient, sample_scene


@dataclass(frozen=True)
class Phantom:
    """A study of simulated patients: each has a heart of its own and is recorded once or a few times.

    Pixels depend on the seed, the class, the patient's number within the class and the recording's number within the
    patient; adding patients changes none of those that were there. Class ids are fixed by name: 0 ASD, 1 Non-ASD,
    2 Non-PAH, 3 PAH.
    """

    patients: int = 160
    """How many, all classes together."""
    seed: int = 0
    size: int = 112
    """Side of the square image in pixels."""
    fps: float = 32.0
    seconds: tuple[float, float] = (2.0, 3.0)
    """Shortest and longest recording."""
    per_patient: tuple[int, int] = (1, 3)
    """Fewest and most recordings of one patient."""
    shares: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    """Relative number of patients in each class, in the order of the class ids."""

    def __post_init__(self) -> None:
        for name, convert in (("seconds", float), ("per_patient", int), ("shares", float)):
            object.__setattr__(self, name, _numbers(name, getattr(self, name), convert, 4 if name == "shares" else 2))
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
        """List the study, class by class, with the truth about each recording in its columns; nothing is drawn."""
        if raw is not None:
            raise UserError(f"the phantom reads no files, but raw={raw} was given: use data=cardiacnet for a raw tree")
        listed = []
        for class_id, known in enumerate(_study(self)):
            for k, (patient, n) in enumerate(known, start=1):
                scene = self._scene(class_id, patient, n)
                name, person = f"{CLASSES[class_id]}-{k:03d}", f"{CLASSES[class_id]}-P{patient:03d}"
                listed.append(Recording(name=name, patient=person, columns=_columns(scene)))
        return listed

    def read(self, recording: Recording, limits: Limits) -> Video:
        """Draw one recording, grey."""
        scene = self.scene(recording.name)
        limits.check(scene.frames, scene.size, scene.size, channels=1)
        marks = {name: moments.tolist() for name, moments in key_moments(scene).items()}
        return Video(frames=render(scene)[..., None], times=scene.times, fps=self.fps, marks=marks)

    def scene(self, name: str) -> Scene:
        """What is to be drawn for the recording ``name``: where the truth about it comes from."""
        class_name, _, number = name.rpartition("-")
        if class_name in CLASSES and number.isdecimal():
            class_id = CLASSES.index(class_name)
            known = _study(self)[class_id]
            if 1 <= int(number) <= len(known):
                return self._scene(class_id, *known[int(number) - 1])
        raise Rejected("this phantom has no such recording")

    def _scene(self, class_id: int, patient: int, number: int) -> Scene:
        return sample_scene((self.seed, class_id, patient, number), self.size, self.fps, self.seconds)


@lru_cache(maxsize=8)
def _study(phantom: Phantom) -> tuple[tuple[tuple[int, int], ...], ...]:
    """For each class, (patient, recording) numbers from 1 in the order of the recordings' names.

    Patients are dealt one by one to the class that lacks most, so that a larger study extends a smaller one.
    """
    few, many = phantom.per_patient
    counts, total = [0] * len(CLASSES), sum(phantom.shares)
    for dealt in range(1, phantom.patients + 1):
        lack = [share * dealt / total - count for share, count in zip(phantom.shares, counts, strict=True)]
        counts[lack.index(max(lack))] += 1
    return tuple(
        tuple(
            (patient, n)
            for patient in range(1, count + 1)
            for n in range(1, few + int(sample_patient(phantom.seed, class_id, patient)[0] * (many - few + 1)) + 1)
        )
        for class_id, count in enumerate(counts)
    )


def _columns(scene: Scene) -> dict[str, CellValue]:
    """The truth about a recording that its listing carries. EF in percent, HeartRate per minute, areas in cm2."""
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


def _numbers(name: str, value: Sequence[float], convert: type, count: int) -> tuple[float, ...]:
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
