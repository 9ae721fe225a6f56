"""Images by the published sampling, 256 steps of DDPM with guidance at every step, and by faster ways, turn by turn.

    python benchmarks/sampling.py [--models models/phantom] [--videos data/phantom/videos] [--n 400] [--guidance 2]
        [--samplers dpmpp_2m unipc] [--steps 10 16 20 30] [--intervals 0:1 0.2:0.8]

Takes the artifacts lidm, vae and classifier of ``--models`` and a store of real videos. Each batch of rows is drawn in
all ways one after the other, so that whatever else the machine does meets all alike. Told for each way are: how many
rows go through the network for one sample; milliseconds of drawing for one sample (median over batches, without
decoding); the Frechet distance of the decoded images to real TEST frames in the classifier's features, its ratio to
that of the published sampling with a 90 % interval (bootstrap over the drawn rows); and how many images are of the
class that was asked for, in the classifier's eyes. The floor is real TRAIN against real TEST frames, as many of each.
"""

import argparse
import itertools
import statistics
import time
from dataclasses import dataclass, field

import numpy as np
import torch
from echodream.metrics.frechet_distance import frechet_distance
from torch import Tensor

from echodream.datamodules.frame_budget_batches import FrameBatch
from echodream.datamodules.normalization import from_uint8
from echodream.diffusion.guidance import Guidance
from echodream.diffusion.model import load_diffusion_model
from echodream.evaluation.feature_extraction import FeatureExtraction, load_recordings
from echodream.modules.vae import VaeDecoder, load_vae
from echodream.networks.extractors.encoder import ClassifierExtractor
from echodream.sampling.sampling_module import SamplingConfig, SamplingModule

PUBLISHED = "ddpm"


@dataclass
class Way:
    """One way to sample, and what came of it so far."""

    recipe: SamplingConfig
    drawer: SamplingModule
    rows: int = 0
    """That went through the network."""
    seconds: list[float] = field(default_factory=list)
    """For one sample, in each batch."""
    features: list[Tensor] = field(default_factory=list)
    right: list[Tensor] = field(default_factory=list)

    def draw(self, rows: list[int], values: dict[str, Tensor]) -> Tensor:
        """Latents of the samples number ``rows``, (B, C, H, W), against the clock."""
        count = [0]
        network = self.drawer.model.denoiser
        hook = network.register_forward_pre_hook(lambda _, given: count.append(len(given[0])))
        _wait()
        start = time.perf_counter()
        drawn = self.drawer.sample_latents(rows, values)[:, :, 0]
        _wait()
        self.seconds.append((time.perf_counter() - start) / len(rows))
        hook.remove()
        self.rows += sum(count)
        return drawn

    def name(self) -> str:
        """As it stands in the table."""
        low, high = self.recipe.guidance.interval
        return f"{self.recipe.sampler:<9}{self.recipe.steps:>6}{low:>7g} to {high:<4g}"


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def ways(options: argparse.Namespace) -> list[Way]:
    """The published sampling, then the others."""
    model = load_diffusion_model(f"{options.models}/lidm", "lidm")
    asked = [(PUBLISHED, options.published, "0:1")]
    asked += itertools.product(options.samplers, options.steps, options.intervals)
    made = []
    for sampler, steps, interval in asked:
        low, high = map(float, interval.split(":"))
        guidance = Guidance({options.condition: options.guidance}, (low, high))
        recipe = SamplingConfig(options.seed, steps, model.process.check_sampler(steps, sampler), guidance)
        made.append(Way(recipe, SamplingModule(model, recipe).to(options.device)))
    return made


def run(made: list[Way], options: argparse.Namespace, judge: ClassifierExtractor) -> None:
    """Draw, decode and look at ``options.n`` samples in all ways, batch by batch."""
    model = made[0].drawer.model
    network = load_vae(f"{options.models}/vae").eval().to(options.device)
    decoder = VaeDecoder(network, 64, judge.size[2] == 1)
    asked = model.conditioner.spread(options.n)
    values = model.conditioner.encode_request(asked)
    target = torch.tensor([judge.metadata["class_ids"].index(number) for number in asked["class_id"]])
    warm = {name: value[:2].to(options.device) for name, value in values.items()}
    made[-1].drawer.draw([0, 1], warm)
    for rows in torch.arange(options.n).split(options.batch):
        given = {name: value[rows].to(options.device) for name, value in values.items()}
        for way in made:
            latents = way.draw(rows.tolist(), given)
            pack = FrameBatch(("",) * len(rows), (1,) * len(rows), latents.to(options.device))
            pixels = from_uint8(torch.stack(decoder.predict_step(pack, 0))).permute(0, 4, 1, 2, 3)  # b f h w c
            features = judge.features(pixels.to(options.device))
            way.features.append(features.double().cpu())
            way.right.append(judge.network.head(features).argmax(dim=1).cpu() == target[rows])


def interval(features: np.ndarray, published: np.ndarray, real: np.ndarray, times: int) -> tuple[float, float]:
    """The ratio of both distances to ``real``, 5th and 95th percentile over ``times`` draws of rows with return."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(times):
        rows = rng.integers(len(features), size=len(features))
        found.append(frechet_distance(features[rows], real) / frechet_distance(published[rows], real))
    low, high = np.percentile(found, [5, 95])
    return float(low), float(high)


def show(made: list[Way], judge: ClassifierExtractor, options: argparse.Namespace) -> None:
    """Print the table."""
    look = FeatureExtraction(options.n, 64, options.seed)
    test, train = (
        look.frames(load_recordings(options.videos, "videos", split), judge).features for split in ("TEST", "TRAIN")
    )
    count = min(options.n, len(test), len(train))
    real, first = test[:count], torch.cat(made[0].features).numpy()[:count]
    print(f"{options.n} images, {options.condition} guided by {options.guidance:g}, batches of {options.batch}")
    print(
        f"real TRAIN against real TEST, {count} frames of each: "
        f"frechet[classifier] {frechet_distance(train[:count], real):.3f}"
    )
    print(
        "sampler   steps   guidance   rows/sample  fewer   ms/sample  faster   frechet  ratio   90 % of it   agreement"
    )
    for way in made:
        features = torch.cat(way.features).numpy()[:count]
        distance, base = frechet_distance(features, real), frechet_distance(first, real)
        low, high = interval(features, first, real, options.bootstrap) if way is not made[0] else (1.0, 1.0)
        faster = statistics.median(a / b for a, b in zip(made[0].seconds, way.seconds, strict=True))
        print(
            f"{way.name()}{way.rows / options.n:12.1f}{made[0].rows / way.rows:7.1f}"
            f"{1000 * statistics.median(way.seconds):12.2f}{faster:8.1f}{distance:10.3f}{distance / base:7.3f}"
            f"  {low:.3f} to {high:.3f}{torch.cat(way.right).double().mean():10.3f}"
        )


@torch.inference_mode()
def main() -> None:
    """Draw in all ways and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="models/phantom", help="folder of the artifacts lidm, vae, classifier")
    parser.add_argument("--videos", default="data/phantom/videos", help="store of real videos")
    parser.add_argument("--n", type=int, default=400, help="images")
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--condition", default="class_id", help="that is guided")
    parser.add_argument("--guidance", type=float, default=2.0, help="its scale")
    parser.add_argument("--published", type=int, default=256, help="steps of ddpm, guided throughout")
    parser.add_argument("--samplers", nargs="+", default=["dpmpp_2m"])
    parser.add_argument("--steps", type=int, nargs="+", default=[20])
    parser.add_argument("--intervals", nargs="+", default=["0:1"], help="of noise levels in which guidance holds")
    parser.add_argument("--bootstrap", type=int, default=200, help="draws for the interval of the ratio")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    judge = ClassifierExtractor(f"{options.models}/classifier")
    judge.network.to(options.device)
    made = ways(options)
    run(made, options, judge)
    show(made, judge, options)


if __name__ == "__main__":
    main()
