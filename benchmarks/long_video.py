"""Seams, network evaluations and sampling time of long videos, for each method of joining windows.

    python benchmarks/long_video.py [overrides of stage=video] [--study phantom] [--src samples/phantom/images] [--n 52]
        [--frames 64 96 192] [--joins crossfade continue drop] [--overlaps 16 8 4]

A long video has more frames than a window. Run the script in the folder with models/ and samples/ of the study. Videos
are sampled by stage=video and decoded by stage=decode. "crossfade" and "continue" are values of ``join=``. "drop" is
the published method: windows overlap by half a window at every step, and a window contributes only the frames that
earlier windows do not cover. The seam ratio is the mean frame difference at the joins divided by the mean frame
difference elsewhere, over all videos, with a 95 % bootstrap interval over videos; 1 means that no seam is visible. The
seam ratio is printed twice: for the frames where a window begins, and for the frames after the end of the previous
window, where "drop" changes from one window to the next. The row "real" has the seam ratio of held-out recordings of
equal length, at the joins of "crossfade" with the default overlap. ``--overlaps`` are values of ``overlap=``; the
default overlap is that of stage=video, and half a window for "drop".
"""

import argparse
import itertools
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


class DroppedOverlapSampling(SamplingModule):
    """Sampling with overlapping windows as published: in an overlap, only the first window is used."""

    def _clip_denoiser(self, values: Mapping[str, Tensor]) -> Denoise:
        length = self.length
        assert length is not None
        starts = window_starts(length.frames, length.window, length.overlap)

        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            joined = x_t[:, :, :0]
            for start in starts:
                window = x_t[:, :, start : start + length.window]
                prediction = self._guided_denoiser(shift_references(values, [start]))(window, t)
                joined = torch.cat([joined, prediction[:, :, joined.shape[2] - start :]], dim=2)
            return joined

        return denoise


def run_stage(*overrides: str) -> None:
    """Run sample.py with ``overrides``."""
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        engine.sample(compose("sample", ["notes=null", *overrides]))


def sample_videos(
    options: argparse.Namespace, frames: int, join: str, overlap: int | None
) -> tuple[list[np.ndarray], list[int], str]:
    """Sample and decode videos; return gray levels (F, H, W), join frames, and the cost per video as text."""
    count = [0]
    forward = DiffusionModel.forward

    def counting_forward(self: DiffusionModel, x_t: Tensor, *rest: object) -> Tensor:
        count[0] += len(x_t)
        return forward(self, x_t, *rest)  # type: ignore[arg-type]

    with tempfile.TemporaryDirectory() as folder:
        study = f"data={options.study}"
        overrides = [f"src={options.src}", f"dst={folder}/latents", f"n={options.n}", f"frames={frames}"]
        overrides += [f"join={'crossfade' if join == 'drop' else join}", *options.overrides]
        overrides += [] if overlap is None else [f"overlap={overlap}"]
        start = time.perf_counter()
        module = DroppedOverlapSampling if join == "drop" else SamplingModule
        with (
            mock.patch.object(video, "SamplingModule", module),
            mock.patch.object(DiffusionModel, "forward", counting_forward),
        ):
            run_stage("stage=video", study, *overrides)
        seconds = time.perf_counter() - start
        run_stage("stage=decode", study, f"src={folder}/latents", f"dst={folder}/videos", "reference=/nowhere")
        store = Store(f"{folder}/videos", kind="video")
        joins = [int(frame) for frame in str(store.table["Joins"].iloc[0]).split()]
        videos = [store.frames(name, range(frames)).mean(axis=-1) for name in store.table["FileName"]]
    return videos, joins, f"{count[0] / options.n:9.0f}{seconds / options.n:11.2f}"


def seam_ratio_text(videos: Sequence[np.ndarray], joins: Sequence[int], resamples: int = 2000) -> str:
    """Seam ratio over all videos with its 95 % interval, as text."""
    if not videos or not joins:
        return "         -          "
    curves = [
        frame_difference_curve(clip.astype(np.uint8)) for clip in videos
    ]  # entry k is the difference between frames k and k + 1
    at_join = np.isin(np.arange(len(curves[0])) + 1, joins)
    means = np.array([[curve[at_join].mean(), curve[~at_join].mean()] for curve in curves])
    rows = np.random.default_rng(0).integers(len(means), size=(resamples, len(means)))
    resampled = means[rows].mean(axis=1)
    low, high = np.percentile(resampled[:, 0] / resampled[:, 1], [2.5, 97.5])
    return f"{means[:, 0].mean() / means[:, 1].mean():.3f} ({low:.3f} to {high:.3f})"


def real_videos(options: argparse.Namespace, frames: int) -> list[np.ndarray]:
    """Gray levels, (F, H, W), of held-out recordings with at least ``frames`` frames."""
    store = Store(f"data/{options.study}/videos", kind="video")
    rows = store.table[store.table["Split"].isin(["TEST", "VAL"]) & (store.table["NumberOfFrames"] >= frames)]
    return [store.frames(name, range(frames)).mean(axis=-1) for name in rows["FileName"]]


def main() -> None:
    """Print one line for each number of frames and method of joining windows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    joins = ("crossfade", "continue", "drop")
    parser.add_argument("--study", default="phantom")
    parser.add_argument("--src", default="samples/phantom/images", help="store of latent images")
    parser.add_argument("--frames", type=int, nargs="+", default=[64, 96, 192])
    parser.add_argument("--joins", nargs="+", choices=joins, default=list(joins))
    parser.add_argument("--overlaps", type=int, nargs="+", default=[None], help="number of frames that windows share")
    parser.add_argument("--n", type=int, default=52, help="number of videos")
    parser.add_argument("overrides", nargs="*", help="overrides of stage=video, such as steps=20 guidance.class_id=2")
    options = parser.parse_args()
    window = load_diffusion_model(f"models/{options.study}/lvdm", "lvdm").metadata.frames
    print(f"{options.n} videos, window {window}, {' '.join(options.overrides) or 'defaults'}")
    print("frames  join       overlap rows/video  s/video  seam where one begins    where one ends           change")
    for frames in options.frames:
        begins: list[int] = []
        for join, overlap in itertools.product(options.joins, options.overlaps):
            overlap = window // 2 if overlap is None and join == "drop" else overlap
            videos, begins, cost = sample_videos(options, frames, join, overlap)
            overlapping = join != "continue"
            ends = [begin + window for begin in [0, *begins] if begin + window < frames] if overlapping else begins
            difference = np.mean([frame_difference_curve(clip.astype(np.uint8)).mean() for clip in videos])
            overlap_text = "default" if overlap is None else overlap
            seams = f"{seam_ratio_text(videos, begins)}  {seam_ratio_text(videos, ends)}"
            print(f"{frames:>6}  {join:<9}  {overlap_text:>7}{cost}  {seams}{difference:8.2f}", flush=True)
        begins = window_starts(frames, window, window // 4)[1:] if frames > window else []
        seam = seam_ratio_text(real_videos(options, frames), begins)
        print(f"{frames:>6}  real                                  {seam}", flush=True)


if __name__ == "__main__":
    main()
