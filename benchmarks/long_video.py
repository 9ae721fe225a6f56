"""Seams, network evaluations and time of videos longer than a window, by how their windows are joined.

    python benchmarks/long_video.py [--lvdm models/phantom/lvdm] [--vae models/phantom/vae] [--n 8] [--batch 4]
        [--latents data/phantom/latents] [--frames 64 96 192] [--joins crossfade continue drop] [--guidance class_id=2]

Each video begins from the first latent of a recording of split TEST. "crossfade" and "continue" are stage=video's.
"drop" is the published way: windows half a window apart at every step, of which a later one gives only what those
before have not covered. The seam ratio is the mean change of the decoded frames at the joins over that elsewhere, 1
where no seam can be seen: its mean over videos, with the standard error of that. It is told twice, for joins where a
window begins, which is what stage=video writes to FileList.csv, and for those where the window before has ended, which
is where "drop" goes from one to the next. "real" are recordings of split TEST that are as long, at the joins of
"crossfade".
"""

import argparse
import statistics
import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from echodream.datamodules.packs import Pack
from echodream.datamodules.transforms import whiten
from echodream.diffusion import Diffusion, load_diffusion
from echodream.metrics.beat import change_curve, seam_ratio
from echodream.modules.drawing import Drawer, Length, Recipe, _from
from echodream.modules.vae import Decoder
from echodream.process.guidance import Guidance
from echodream.process.process import Denoise
from echodream.process.windows import starts
from echodream.stages.encode import load_vae
from echodream.store import Store


class Dropper(Drawer):
    """Draws with windows whose overlap is predicted twice, the second prediction of which is thrown away."""

    def _windowed(self, values: Mapping[str, Tensor]) -> Denoise:
        length = self.length
        assert length is not None
        firsts = starts(length.frames, length.window, length.overlap)

        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            made = x_t[:, :, :0]
            for first in firsts:
                window = x_t[:, :, first : first + length.window]
                found = self._denoise(_from(values, [first]))(window, t)
                made = torch.cat([made, found[:, :, made.shape[2] - first :]], dim=2)
            return made

        return denoise


def places(length: Length) -> tuple[list[int], list[int]]:
    """The frames at which a window begins, other than the first, and at which the one before it has ended."""
    if length.frames <= length.window:
        return [], []
    step = length.window - length.overlap
    if length.join == "continue":
        ends = list(range(length.window, length.frames, step))
        return ends, ends
    firsts = starts(length.frames, length.window, length.overlap)
    return firsts[1:], [first + length.window for first in firsts[:-1]]


def mean(values: Sequence[float]) -> str:
    """The mean of those that are numbers, with its standard error."""
    known = [value for value in values if np.isfinite(value)]
    if len(known) < 2:
        return "      -        "
    return f"{statistics.mean(known):7.3f} +-{statistics.stdev(known) / len(known) ** 0.5:6.3f}"


def ask(model: Diffusion, store: Store, n: int) -> dict[str, Tensor]:
    """The conditions of ``n`` videos, from recordings of split TEST: their columns, and their first latent."""
    rows = store.table[store.table["Split"] == "TEST"]
    rows = rows.iloc[np.linspace(0, len(rows) - 1, n).round().astype(int)]  # of all classes
    values = model.conditioner.request({column: rows[column].tolist() for column in model.conditioner.columns})
    if "reference" in model.conditioner.names:
        means = [store.latents(name, 0, 1)[0].float().transpose(0, 1) for name in rows["FileName"]]
        values["reference"] = torch.stack([whiten(first, model.facts.statistics) for first in means])
        values["reference_time"] = torch.zeros(n, 1)
    return values


def measure(drawer: Drawer, decoder: Decoder, values: Mapping[str, Tensor], batch: int) -> tuple[list[np.ndarray], str]:
    """The decoded videos, each (F, H, W) grey levels, and what it took to draw them."""
    n, count, seconds, videos = len(next(iter(values.values()))), [0], [], []
    hook = drawer.model.denoiser.register_forward_pre_hook(lambda _, given: count.append(len(given[0])))
    for rows in torch.arange(n).split(batch):
        start = time.perf_counter()
        latents = drawer.draw(rows.tolist(), {name: value[rows].to(drawer.device) for name, value in values.items()})
        latents = latents.transpose(1, 2).cpu()  # waits for the device
        seconds.append((time.perf_counter() - start) / len(rows))
        pack = Pack(("",) * len(rows), (latents.shape[1],) * len(rows), latents.flatten(0, 1).to(drawer.device))
        videos += [pixels.float().mean(dim=-1).round().byte().numpy() for pixels in decoder.predict_step(pack, 0)]
    hook.remove()
    return videos, f"{sum(count) / n:9.0f}{statistics.median(seconds):11.2f}"


def real(options: argparse.Namespace, frames: int, joins: list[int]) -> list[float]:
    """The seam ratio of real recordings of split TEST that are long enough, at the ``joins`` of ``frames``."""
    store = Store(options.videos, kind="video")
    rows = store.table[(store.table["Split"] == "TEST") & (store.table["NumberOfFrames"] >= frames)]
    clips = (store.frames(name, range(frames)).mean(axis=-1) for name in rows["FileName"])
    return [seam_ratio(clip.astype(np.uint8), joins) for clip in clips]


@torch.inference_mode()
def main() -> None:
    """Draw videos of all lengths in all ways, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("lvdm", "vae"):
        parser.add_argument(f"--{name}", default=f"models/phantom/{name}", help="artifact")
    for name in ("latents", "videos"):
        parser.add_argument(f"--{name}", default=f"data/phantom/{name}", help="store of real recordings")
    parser.add_argument("--frames", type=int, nargs="+", default=[64, 96, 192])
    parser.add_argument(
        "--joins", nargs="+", choices=("crossfade", "continue", "drop"), default=["crossfade", "continue", "drop"]
    )
    parser.add_argument("--n", type=int, default=8, help="videos")
    parser.add_argument("--batch", type=int, default=4, help="videos drawn at once")
    parser.add_argument("--windows", type=int, default=4, help="of a video that go through the network at once")
    parser.add_argument("--overlap", type=int, help="of crossfade; default: half a window")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--sampler", help="default: the process's first")
    parser.add_argument("--guidance", nargs="*", default=[], help="scales, as class_id=2")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    model = load_diffusion(options.lvdm, "lvdm")
    scales = {name: float(scale) for name, _, scale in (text.partition("=") for text in options.guidance)}
    recipe = Recipe(options.seed, options.steps, model.process.check(options.steps, options.sampler), Guidance(scales))
    network = load_vae(options.vae).eval().to(options.device)
    decoder, values = (
        Decoder(network, 64, network.config.out_channels > 1),
        ask(model, Store(options.latents), options.n),
    )
    window = model.facts.frames
    print(
        f"{options.n} videos, window {window}, {recipe.sampler} in {options.steps} steps, guidance {scales or 'none'}"
    )
    print("frames  join       rows/video  s/video  seam where one begins  where one ends     change elsewhere")
    for frames in options.frames:
        for join in options.joins:
            overlap = {"continue": 1, "drop": window // 2}.get(join, options.overlap or window // 2)
            length = Length(frames, window, overlap, options.windows, join)
            drawer = (Dropper if join == "drop" else Drawer)(model, recipe, length).to(options.device)
            videos, cost = measure(drawer, decoder, values, options.batch)
            begins, ends = places(length)
            seams = [mean([seam_ratio(video, joins) for video in videos]) for joins in (begins, ends)]
            change = statistics.mean(float(change_curve(video).mean()) for video in videos)
            print(f"{frames:>6}  {join:<9}{cost}      {seams[0]}    {seams[1]}{change:12.2f}", flush=True)
        begins, ends = places(Length(frames, window, options.overlap or window // 2, 1))
        seams = [mean(real(options, frames, joins)) for joins in (begins, ends)]
        print(f"{frames:>6}  real                              {seams[0]}    {seams[1]}")


if __name__ == "__main__":
    main()
