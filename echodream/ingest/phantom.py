"""Source of the phantom: simulated patients with a beating heart in an apical four-chamber view."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from echodream import validation
from echodream.errors import Rejected, UserError
from echodream.ingest.source import CellValue, Limits, Recording, Video
from echodream.phantom.anatomy import CLASSES
from echodream.phantom.render import render
from echodream.phantom.scene import Scene, key_frame_times, sample_patient, sample_scene


@dataclass(frozen=True)
class Phantom:
    """A study of simulated patients, each with an individual heart and one or more recordings.

    Pixels are a function of the seed, the class, the number of the patient in the class, and the number of the
    recording of the patient. A study with more patients contains all recordings of a smaller study. Class ids: 0 ASD,
    1 Non-ASD, 2 Non-PAH, 3 PAH.
    """

    patients: int = 160
    """Number of patients of all classes."""
    seed: int = 0
    size: int = 112
    """Side of the square image in pixels."""
    fps: float = 32.0
    seconds: tuple[float, float] = (2.0, 3.0)
    """Smallest and largest duration of a recording in seconds."""
    per_patient: tuple[int, int] = (1, 3)
    """Smallest and largest number of recordings per patient."""
    shares: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    """Relative numbers of patients per class, in the order of the class ids."""
    severity: float = 1.0
    """Severity of ASD and PAH, from 0 (a healthy heart) to 1 (pronounced disease)."""

    def __post_init__(self) -> None:
        key = "the phantom's "
        for name, count in (("seconds", 2), ("per_patient", 2), ("shares", 4)):
            values = validation.list_of_values(key + name, getattr(self, name))
            check = validation.whole_number if name == "per_patient" else validation.number
            if len(values) != count or not all(check(key + name, value, 0) >= 0 for value in values):
                validation.refuse(key + name, values, f"give {count} numbers")
            object.__setattr__(self, name, values if name == "per_patient" else tuple(map(float, values)))
        validation.whole_number(key + "patients", self.patients, 1, 100_000)
        validation.whole_number(key + "seed", self.seed, 0)
        validation.whole_number(key + "size", self.size, 32, 1024)
        validation.number(key + "fps", self.fps, 1, 500)
        validation.number(key + "severity", self.severity, 0, 1)
        if not 2 / self.fps <= self.seconds[0] <= self.seconds[1] <= 600:
            remedy = "give the shortest duration, two frames or more, and the longest, up to 600 s"
            validation.refuse(key + "seconds", self.seconds, remedy)
        if not 1 <= self.per_patient[0] <= self.per_patient[1] <= 100:
            validation.refuse(key + "per_patient", self.per_patient, "give a smallest and a largest number, 1 to 100")
        if not sum(self.shares):
            validation.refuse(key + "shares", self.shares, "give four numbers that are not all 0")

    def recordings(self, raw: Path | None) -> list[Recording]:
        """List all recordings by class, with ground truth as columns, without rendering frames."""
        if raw is not None:
            raise UserError(f"the phantom reads no files, but raw={raw} is set: use data=cardiacnet for raw files")
        return [
            Recording(name, f"{CLASSES[class_id]}-P{patient:03d}", columns=_ground_truth_columns(self.scene(name)))
            for name, (_, class_id, patient, _) in _recording_keys(self).items()
        ]

    def read(self, recording: Recording, limits: Limits) -> Video:
        """Render one recording as gray frames."""
        scene = self.scene(recording.name)
        limits.check(scene.frame_count, scene.size, scene.size, channels=1)
        marks = {name: times.tolist() for name, times in key_frame_times(scene).items()}
        return Video(frames=render(scene)[..., None], times=scene.times, fps=self.fps, marks=marks)

    def scene(self, name: str) -> Scene:
        """Return the scene of the recording ``name`` with its ground truth. Raises ``Rejected`` for an unknown name."""
        if (key := _recording_keys(self).get(name)) is None:
            raise Rejected(f"the phantom has no recording {name!r}: give the name of a listed recording")
        return sample_scene(key, self.size, self.fps, self.seconds, self.severity)


@lru_cache(maxsize=8)
def _recording_keys(phantom: Phantom) -> dict[str, tuple[int, int, int, int]]:
    """Map recording names to (seed, class id, patient number in the class, recording number of the patient).

    Each patient is assigned to the class that is furthest below its share, so a larger study extends a smaller study.
    """
    low, high = phantom.per_patient
    counts, total = [0] * len(CLASSES), sum(phantom.shares)
    for assigned in range(1, phantom.patients + 1):
        deficit = [share * assigned / total - count for share, count in zip(phantom.shares, counts, strict=True)]
        counts[deficit.index(max(deficit))] += 1
    keys: dict[str, tuple[int, int, int, int]] = {}
    for class_id, patients in enumerate(counts):
        number = 0
        for patient in range(1, patients + 1):
            recordings = low + int(sample_patient(phantom.seed, class_id, patient)[0] * (high - low + 1))
            for recording in range(1, recordings + 1):
                number += 1
                keys[f"{CLASSES[class_id]}-{number:03d}"] = (phantom.seed, class_id, patient, recording)
    return keys


def _ground_truth_columns(scene: Scene) -> dict[str, CellValue]:
    """Return the ground truth of a recording as columns: EF in percent, HeartRate per minute, areas in cm2."""
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
