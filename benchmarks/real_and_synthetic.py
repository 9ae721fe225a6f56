"""An animated picture for the documentation: real recordings above synthetic recordings, one class per column.

python benchmarks/real_and_synthetic.py data/phantom/videos samples/phantom/videos docs/images/real_and_synthetic.webp

The first recording of each class is shown, without manual selection. The real recordings are of TEST patients. Pictures
of real patients must not be published.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from echodream.errors import UserError
from echodream.store import Store

MARGIN = 16
"""Height of a line of text, in pixels."""


def first_clips(store: Store, frames: int, split: str | None) -> dict[str, np.ndarray]:
    """The first recording of each class that has enough frames: uint8, (F, H, W), by class name."""
    table = store.table if split is None else store.table[store.table["Split"] == split]
    table = table[table["NumberOfFrames"] >= frames].drop_duplicates("class_name").sort_values("class_id")
    names = zip(table["class_name"], table["FileName"], strict=True)
    return {str(label): store.frames(str(name), range(frames))[..., 0] for label, name in names}


def draw_frames(rows: dict[str, dict[str, np.ndarray]], frames: int, scale: int) -> list[Image.Image]:
    """The frames of the picture: a row of clips for each entry of ``rows``, with a line of text above each row."""
    classes = list(next(iter(rows.values())))
    size = next(iter(next(iter(rows.values())).values())).shape[-1] * scale
    pictures = []
    for number in range(frames):
        picture = Image.new("L", (size * len(classes), (size + MARGIN) * len(rows)))
        for row, (title, clips) in enumerate(rows.items()):
            top = row * (size + MARGIN)
            for column, name in enumerate(classes):
                ImageDraw.Draw(picture).text((column * size + 4, top + 2), f"{title}, {name}", fill=210)
                still = Image.fromarray(clips[name][number]).resize((size, size), Image.Resampling.BICUBIC)
                picture.paste(still, (column * size, top + MARGIN))
        pictures.append(picture)
    return pictures


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("real", help="store of videos with the split TEST")
    parser.add_argument("synthetic", help="store of synthetic videos of the same size")
    parser.add_argument("dst", type=Path, help="file to write: webp or gif")
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--scale", type=int, default=2, help="factor by which frames are enlarged")
    parser.add_argument("--quality", type=int, default=60, help="quality of a webp file, 0 to 100")
    options = parser.parse_args()
    stores = {"real": Store(options.real, kind="video"), "synthetic": Store(options.synthetic, kind="video")}
    rows = {
        title: first_clips(store, options.frames, None if store.dataset.synthetic else "TEST")
        for title, store in stores.items()
    }
    if set(rows["real"]) != set(rows["synthetic"]):
        raise UserError(f"the classes differ: {', '.join(rows['real'])} and {', '.join(rows['synthetic'])}")
    first, *rest = draw_frames(rows, options.frames, options.scale)
    fps = float(stores["real"].table["FPS"].iloc[0])
    settings = {"quality": options.quality, "method": 6} if options.dst.suffix == ".webp" else {}
    first.save(options.dst, save_all=True, append_images=rest, duration=round(1000 / fps), loop=0, **settings)
    print(f"{options.dst}: {options.dst.stat().st_size} bytes")


if __name__ == "__main__":
    main()
