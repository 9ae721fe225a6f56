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

    The pixels are a function of the seed, the class, the number of the patient within the class and the number of the
    recording within the patient: a study with more patients contains the recordings of a smaller one unchanged. Class
    ids: 0 ASD, 1 Non-ASD, 2 Non-PAH, 3 PAH.
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
    severity: float = 1.0
    """Severity of ASD and PAH: 1 pronounced, 0 as in a healthy heart."""

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
            validation.refuse(key + "per_patient", self.per_patient, "give the smallest and the largest, 1 to 100")
        if not sum(self.shares):
            validation.refuse(key + "shares", self.shares, "give four numbers that are not all 0")

    def recordings(self, raw: Path | None) -> list[Recording]:
        """List all recordings by class, with their ground truth as columns, without rendering them."""
        if raw is not None:
            raise UserError(f"the phantom reads no files, but raw={raw} is set: use data=cardiacnet for raw files")
        listed = []
        for class_id, recordings_of_class in enumerate(_recordings_per_class(self)):
            for k, (patient, n) in enumerate(recordings_of_class, start=1):
                scene = self._sample_scene(class_id, patient, n)
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
                return self._sample_scene(class_id, *recordings_of_class[int(number) - 1])
        raise Rejected("this phantom has no such recording")

    def _sample_scene(self, class_id: int, patient: int, number: int) -> Scene:
        return sample_scene((self.seed, class_id, patient, number), self.size, self.fps, self.seconds, self.severity)


@lru_cache(maxsize=8)
def _recordings_per_class(phantom: Phantom) -> tuple[tuple[tuple[int, int], ...], ...]:
    """For each class, (patient, recording) numbers from 1, in the order of the names of the recordings.

    Each patient goes to the class that is furthest below its share, so that a larger study extends a smaller one.
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
