"""Accuracy of key frame detection on phantoms with various frame rates, sizes, gains, noise levels and heart rates.

python benchmarks/keyframes.py [--n 20] [--seed 2000] [--only fast slow]
"""

import argparse
import time
from dataclasses import dataclass, replace

import numpy as np

from echodream.metrics.key_frames import detect_key_frames, match_key_frames
from echodream.phantom.render import render
from echodream.phantom.scene import Scene, key_frame_times, sample_scene


@dataclass(frozen=True)
class PhantomSettings:
    """Settings of simulated recordings: ``size`` in pixels, duration in ``seconds``, ``heart_rate`` in beats/min.

    ``gain`` and ``noise``, in dB, are added to the values of the phantom study. ``share`` is the fraction of the
    ``--n`` recordings that is rendered.
    """

    fps: float = 32.0
    size: int = 64
    seconds: tuple[float, float] = (2.0, 3.0)
    heart_rate: tuple[float, float] | None = None
    gain: float = 0.0
    noise: float = 0.0
    share: float = 1.0


PHANTOMS = {
    "20 fps": PhantomSettings(fps=20.0),
    "25 fps": PhantomSettings(fps=25.0),
    "50 fps": PhantomSettings(fps=50.0),
    "80 fps": PhantomSettings(fps=80.0, seconds=(1.5, 2.5), share=0.5),
    "45 to 58 beats/min": PhantomSettings(heart_rate=(45, 58), seconds=(2.5, 4.0)),
    "100 to 140 beats/min": PhantomSettings(heart_rate=(100, 140)),
    "gain + 8 dB": PhantomSettings(gain=8.0),
    "gain - 8 dB": PhantomSettings(gain=-8.0),
    "noise + 12 dB": PhantomSettings(noise=12.0),
    "48 x 48": PhantomSettings(size=48),
    "112 x 112": PhantomSettings(size=112, share=0.5),
    "6 to 8 s": PhantomSettings(seconds=(6.0, 8.0), share=0.5),
}


def sample_scenes(phantom: PhantomSettings, count: int, seed: int) -> list[Scene]:
    """Sample ``count`` scenes of alternating classes with the settings ``phantom``."""
    rng, scenes = np.random.default_rng(seed), []
    for k in range(count):
        scene = sample_scene((seed, k % 4, k // 4 + 1, 1), phantom.size, phantom.fps, phantom.seconds)
        if phantom.heart_rate is not None:
            rate = float(rng.uniform(*phantom.heart_rate))
            scene = replace(scene, anatomy=replace(scene.anatomy, heart_rate=rate))
        settings = scene.settings
        changes = {"gain": settings.gain + phantom.gain, "noise_level": settings.noise_level + phantom.noise}
        scenes.append(replace(scene, settings=replace(settings, **changes)))
    return scenes


def main() -> None:
    """Render the recordings of all settings, detect key frames, and count matches within one frame."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=20)
    parser.add_argument("--seed", type=int, default=2000)
    parser.add_argument("--only", nargs="*", default=None, help="words in the names of the settings to run")
    arguments = parser.parse_args()
    print(f"{'':<22}{'recordings':>11}{'kind':>6}{'marks':>7}{'found':>7}{'missed':>8}{'spurious':>10}{'s each':>8}")
    for number, (name, phantom) in enumerate(PHANTOMS.items()):
        if arguments.only is not None and not any(word in name for word in arguments.only):
            continue
        counts, seconds = np.zeros((2, 3), int), 0.0
        scenes = sample_scenes(phantom, round(arguments.n * phantom.share), arguments.seed + number)
        for scene in scenes:
            frames, start = render(scene), time.perf_counter()
            detected = detect_key_frames(frames, scene.fps)
            seconds += time.perf_counter() - start
            for row, (kind, marks) in enumerate((("ED", detected.ed), ("ES", detected.es))):
                times = key_frame_times(scene)[kind].tolist()
                truth = [min(round(time_ * scene.fps), scene.frame_count - 1) for time_ in times]
                match = match_key_frames(marks, truth)
                counts[row] += (match.matched, match.missed, match.spurious)
        for kind, (matched, missed, spurious) in zip(("ED", "ES"), counts, strict=True):
            total = matched + missed
            line = f"{name:<22}{len(scenes):>11}{kind:>6}{total:>7}{matched:>7}{missed:>8}{spurious:>10}"
            print(f"{line}{seconds / max(len(scenes), 1):>8.2f}", flush=True)


if __name__ == "__main__":
    main()
