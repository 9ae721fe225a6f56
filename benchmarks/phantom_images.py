"""Images of the phantom for the documentation: each class at end diastole and end systole, and one beat per class.

python benchmarks/phantom_images.py docs/images     # writes phantom.png and phantom.gif there
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from echodream.phantom.anatomy import CLASSES
from echodream.phantom.render import render
from echodream.phantom.scene import Scene, key_frame_times, sample_scene

MARGIN = 14
"""Height of a line of text, in pixels."""


def limit_to_one_beat(scene: Scene, frames: int) -> Scene:
    """Change a scene to exactly one beat in ``frames`` frames, which starts at end diastole."""
    scene = replace(scene, start_phase=0.0)
    return replace(scene, frame_count=frames, fps=frames / float(scene.beats[1]))


def _draw_text(image: Image.Image, column: int, row: int, text: str) -> None:
    ImageDraw.Draw(image).text((column, row), text, fill=200)


def draw_key_frames(patients: int, size: int, seed: int) -> Image.Image:
    """Draw a gray image with one row per class and two columns (ED, ES) per patient."""
    image = Image.new("L", (2 * patients * size, len(CLASSES) * (size + MARGIN)))
    for class_id, name in enumerate(CLASSES):
        top = class_id * (size + MARGIN)
        for patient in range(patients):
            scene = sample_scene((seed, class_id, patient + 1, 1), size, 32.0, (2.0, 2.0))
            frames = render(scene)
            for k, (mark, moments) in enumerate(key_frame_times(scene).items()):
                left = (2 * patient + k) * size
                image.paste(Image.fromarray(frames[round(moments[0] * scene.fps)]), (left, top + MARGIN))
                _draw_text(image, left + 3, top + 1, f"{name} P{patient + 1:03d} {mark}")
    return image


def draw_one_beat(frames: int, size: int, seed: int) -> list[Image.Image]:
    """Draw the frames of one beat, with one patient of each class side by side, in 48 gray levels."""
    clips = [
        render(limit_to_one_beat(sample_scene((seed, c, 1, 1), size, 32.0, (2.0, 2.0)), frames))
        for c in range(len(CLASSES))
    ]
    images = []
    for row in np.concatenate(clips, axis=2):
        image = Image.new("L", (len(CLASSES) * size, size + MARGIN))
        image.paste(Image.fromarray(np.round(row / 255 * 47).astype(np.uint8) * np.uint8(5)), (0, MARGIN))
        for class_id, name in enumerate(CLASSES):
            _draw_text(image, class_id * size + 3, 1, name)
        images.append(image)
    return images


def main(folder: str) -> None:
    """Write phantom.png and phantom.gif to ``folder``."""
    dst = Path(folder)
    draw_key_frames(patients=4, size=112, seed=0).save(dst / "phantom.png", optimize=True)
    first, *rest = draw_one_beat(frames=26, size=112, seed=0)
    first.save(dst / "phantom.gif", save_all=True, append_images=rest, duration=30, loop=0, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
