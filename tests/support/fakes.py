"""For tests of store and ingest: a raw study without files, stores of random pixels, and contents of folders."""

import errno
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from echodream.errors import Rejected
from echodream.ingest.source import Limits, Recording, Video
from echodream.store import Dataset, Statistics, Store, StoreWriter
from echodream.store.latents import write_latents
from echodream.store.video import write_video

ENCODER = "0123456789abcdef" * 4


def noise(frames: int = 5, height: int = 19, width: int = 23, channels: int = 1, seed: int = 0) -> np.ndarray:
    """Random pixels, uint8 (F, H, W, C), which no codec can compress well."""
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, channels), dtype=np.uint8)


@dataclass(frozen=True)
class Fake:
    """A raw study of ``count`` noisy recordings, two for each patient. ``moods``: index of a recording -> defect."""

    count: int = 6
    frames: int = 12
    side: int = 20
    seed: int = 0
    seconds: float = 0.0
    """Time to read one recording, in seconds."""
    moods: Mapping[str, str] = field(default_factory=dict)
    split: str | None = None

    def recordings(self, raw: Path | None) -> list[Recording]:
        return [self._recording(index) for index in range(self.count)]

    def _recording(self, index: int) -> Recording:
        mood = self.moods.get(str(index), "")
        columns = {"class_id": index % 3, "class_name": "abc"[index % 3], "EF": 50 + index / 7}
        return Recording(
            f"rec-{index:03d}",
            f"{index // 2:03d}",
            split=self.split,
            columns=columns,
            problem={"unlisted": "no such file", "readme": "not a recording: .txt"}.get(mood),
            counted=mood != "readme",
        )

    def read(self, recording: Recording, limits: Limits) -> Video:
        index = int(recording.name[-3:])
        time.sleep(self.seconds)
        frames = noise(self.frames, self.side, self.side + 3, seed=self.seed * 1000 + index)
        times = np.arange(self.frames) / 25
        mood = self.moods.get(str(index), "")
        if mood:
            frames, times = _upset(mood, frames, times)
        return Video(frames, times, 25.0, {"Extra": index}, {"ED": (0.0, (self.frames - 1) / 25)})


def _upset(mood: str, frames: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if mood == "rejected":
        raise Rejected("unreadable: no video stream")
    if mood == "defect":
        raise KeyError("a secret path")
    if mood == "full":
        raise OSError(errno.ENOSPC, "No space left on device")
    if mood == "abort":
        os.abort()
    if mood == "hang":
        time.sleep(3600)
    if mood == "memory":
        np.ones(200 << 30, np.uint8)
    wrong = {
        "float": (frames.astype(float), times),
        "flat": (frames[..., 0], times),
        "rgba": (np.repeat(frames, 4, axis=3), times),
        "times": (frames, times[:-1]),
        "late": (frames, times + 1),
        "nan": (frames, np.where(times > 0, np.nan, 0.0)),
        "black": (np.zeros_like(frames), times),
        "huge": (frames, times * 1e7),
        "empty": (frames[:0], times[:0]),
    }
    return wrong[mood]


def video_dataset(**changes: object) -> Dataset:
    return Dataset(**{"kind": "video", "channels": 1, "settings": {"limits": {"min_frames": 2}}, **changes})  # type: ignore[arg-type]


def row(index: int, frames: np.ndarray, fps: float = 32.0, **columns: object) -> dict[str, object]:
    return {
        "FileName": f"rec-{index:03d}",
        "Split": ("TRAIN", "VAL", "TEST")[index % 3],
        "PatientID": f"00{index}",
        "NumberOfFrames": len(frames),
        "FPS": fps,
        "FrameHeight": frames.shape[1],
        "FrameWidth": frames.shape[2],
        "EF": 55.5 + index,
        **columns,
    }


def video_store(root: Path, count: int = 3, channels: int = 1) -> Store:
    """A finished store of ``count`` noisy recordings, each of another length."""
    with StoreWriter(root, video_dataset(channels=channels)) as writer:
        for index in range(count):
            frames = noise(index + 2, channels=channels, seed=index)
            media = writer.scratch_path(f"rec-{index:03d}")
            write_video(media, frames, 32.0)
            writer.commit(row(index, frames), media)
        writer.reject("lost", "unreadable: cut short")
        return writer.finish([*(f"rec-{index:03d}" for index in range(count)), "lost"])


def posterior(frames: int = 7, channels: int = 4, height: int = 5, width: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Random mean and std of latents, float16 (F, C, H, W)."""
    rng = np.random.default_rng(frames)
    mean = rng.normal(size=(frames, channels, height, width)).astype(np.float16)
    return mean, np.abs(rng.normal(size=mean.shape)).astype(np.float16)


def latent_store(root: Path, count: int = 2) -> Store:
    """A finished store of latents, 4 channels of 5x6."""
    dataset = Dataset(
        kind="latent", channels=4, height=5, width=6, fidelity="float16", layout="F,C,H,W", encoder=ENCODER
    )
    names = [f"rec-{index:03d}" for index in range(count)]
    with StoreWriter(root, dataset) as writer:
        for index, name in enumerate(names):
            mean, std = posterior(index + 3)
            write_latents(writer.scratch_path(name), mean, std)
            writer.commit(row(index, mean.transpose(0, 2, 3, 1)), writer.scratch_path(name))
        return writer.finish(names, Statistics((0.0,) * 4, (1.0,) * 4))


def tree(root: Path) -> dict[str, bytes]:
    """Relative path -> bytes, for every file below ``root``."""
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def flip(path: Path, at: int = -20) -> None:
    """Change one bit of the byte at index ``at`` of a file."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def reseal(root: Path) -> None:
    """Update SHA256SUMS to the present files of the store."""

    from echodream.store.checksums import file_sha256

    names = [line.split("  ")[1] for line in (root / "SHA256SUMS").read_text().splitlines()]
    (root / "SHA256SUMS").write_text("".join(f"{file_sha256(root / name)}  {name}\n" for name in names))
