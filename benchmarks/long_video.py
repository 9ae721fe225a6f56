"""Seams, network evaluations and time of videos longer than a window, by how their windows are joined.

    python benchmarks/long_video.py [overrides of stage=video] [--study phantom] [--src samples/phantom/images] [--n 52]
        [--frames 64 96 192] [--joins crossfade continue drop]

Run where models/ and samples/ of the study are. Videos are drawn by stage=video and decoded by stage=decode.
"crossfade" and "continue" are stage=video's ways. "drop" is the published one: windows half a window apart at every
step, of which a later one gives only what those before have not covered. The seam ratio is the mean change of the
decoded frames at the joins over that elsewhere, over all videos together, 1 where no seam can be seen, with an interval
(95 %) from drawing videos anew. It is told twice: for the frames where a window begins, and for those where the window
before has ended, which is where "drop" goes from one to the next. "real" are held-out recordings that are as
long, at the joins of "crossfade".
"""

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from unittest import mock

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor

from echodream import engine
from echodream.config.paths import CONF_DIR
from echodream.diffusion.model import DiffusionModel, load_diffusion_model
from echodream.diffusion.processes.base import Denoise
from echodream.diffusion.sliding_window import window_starts
from echodream.metrics.cardiac_cycle import frame_difference_curve
from echodream.sampling.sampling_module import SamplingModule, shift_references
from echodream.stages import video
from echodream.store import Store


class Dropper(SamplingModule):
    """Draws with windows whose overlap is predicted twice, the second prediction of which is thrown away."""

    def _windowed(self, values: Mapping[str, Tensor]) -> Denoise:
        length = self.length
        assert length is not None
        firsts = window_starts(length.frames, length.window, length.overlap)

        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            made = x_t[:, :, :0]
            for first in firsts:
                window = x_t[:, :, first : first + length.window]
                found = self._denoise(shift_references(values, [first]))(window, t)
                made = torch.cat([made, found[:, :, made.shape[2] - first :]], dim=2)
            return made

        return denoise


def run(*overrides: str) -> None:
    """One stage."""
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        engine.sample(compose("sample", ["notes=null", *overrides]))


def drawn(options: argparse.Namespace, frames: int, join: str) -> tuple[list[np.ndarray], list[int], str]:
    """The decoded videos, each (F, H, W) grey levels; the joins; and what it took to draw them."""
    count = [0]
    forward = DiffusionModel.forward

    def counted(self: DiffusionModel, x_t: Tensor, *rest: object) -> Tensor:
        count[0] += len(x_t)
        return forward(self, x_t, *rest)  # type: ignore[arg-type]

    with tempfile.TemporaryDirectory() as folder:
        study = f"data={options.study}"
        asked = [f"src={options.src}", f"dst={folder}/latents", f"n={options.n}", f"frames={frames}"]
        asked += [f"join={'crossfade' if join == 'drop' else join}", *options.overrides]
        begin = time.perf_counter()
        kind = Dropper if join == "drop" else SamplingModule
        with mock.patch.object(video, "SamplingModule", kind), mock.patch.object(DiffusionModel, "forward", counted):
            run("stage=video", study, *asked)
        seconds = time.perf_counter() - begin
        run("stage=decode", study, f"src={folder}/latents", f"dst={folder}/videos", "reference=/nowhere")
        store = Store(f"{folder}/videos", kind="video")
        joins = [int(place) for place in str(store.table["Joins"].iloc[0]).split()]
        videos = [store.frames(name, range(frames)).mean(axis=-1) for name in store.table["FileName"]]
    return videos, joins, f"{count[0] / options.n:9.0f}{seconds / options.n:11.2f}"


def seam(videos: Sequence[np.ndarray], joins: Sequence[int], draws: int = 2000) -> str:
    """The change at ``joins`` over that elsewhere, all videos together, with its interval."""
    if not videos or not joins:
        return "         -          "
    curves = [frame_difference_curve(clip.astype(np.uint8)) for clip in videos]  # entry k is from frame k to k + 1
    at = np.isin(np.arange(len(curves[0])) + 1, joins)
    both = np.array([[curve[at].mean(), curve[~at].mean()] for curve in curves])
    picked = np.random.default_rng(0).integers(len(both), size=(draws, len(both)))
    again = both[picked].mean(axis=1)
    low, high = np.percentile(again[:, 0] / again[:, 1], [2.5, 97.5])
    return f"{both[:, 0].mean() / both[:, 1].mean():.3f} ({low:.3f} to {high:.3f})"


def real(options: argparse.Namespace, frames: int) -> list[np.ndarray]:
    """Held-out recordings that are long enough."""
    store = Store(f"data/{options.study}/videos", kind="video")
    rows = store.table[store.table["Split"].isin(["TEST", "VAL"]) & (store.table["NumberOfFrames"] >= frames)]
    return [store.frames(name, range(frames)).mean(axis=-1) for name in rows["FileName"]]


def main() -> None:
    """Draw videos of all lengths in all ways, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    joins = ("crossfade", "continue", "drop")
    parser.add_argument("--study", default="phantom")
    parser.add_argument("--src", default="samples/phantom/images", help="store of latent images")
    parser.add_argument("--frames", type=int, nargs="+", default=[64, 96, 192])
    parser.add_argument("--joins", nargs="+", choices=joins, default=list(joins))
    parser.add_argument("--n", type=int, default=52, help="videos")
    parser.add_argument("overrides", nargs="*", help="for stage=video, as steps=20 guidance.class_id=2")
    options = parser.parse_args()
    window = load_diffusion_model(f"models/{options.study}/lvdm", "lvdm").facts.frames
    print(f"{options.n} videos, window {window}, {' '.join(options.overrides) or 'defaults'}")
    print("frames  join       rows/video  s/video  seam where one begins    where one ends           change")
    for frames in options.frames:
        begins: list[int] = []
        for join in options.joins:
            videos, begins, cost = drawn(options, frames, join)
            half = join != "continue"
            ends = [place + window // 2 for place in begins if place + window // 2 < frames] if half else begins
            change = np.mean([frame_difference_curve(clip.astype(np.uint8)).mean() for clip in videos])
            print(
                f"{frames:>6}  {join:<9}{cost}  {seam(videos, begins)}  {seam(videos, ends)}{change:8.2f}", flush=True
            )
        places = window_starts(frames, window, window // 2)[1:] if frames > window else []
        print(f"{frames:>6}  real                          {seam(real(options, frames), places)}", flush=True)


if __name__ == "__main__":
    main()
