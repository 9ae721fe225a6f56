"""Compares published image sampling (256 DDPM steps with guidance at every step) with faster settings.

    python benchmarks/sampling.py [--models models/phantom] [--videos data/phantom/videos] [--n 400] [--guidance 2]
        [--samplers dpmpp_2m unipc] [--steps 10 16 20 30] [--intervals 0:1 0.2:0.8]

The script needs the artifacts lidm, vae and classifier in ``--models`` and a store of real videos. Each batch of rows
is sampled with all settings in turn, so that other load on the machine affects all settings equally. For each setting
the script prints the network evaluations per sample; milliseconds per sample (median over batches, without decoding);
the Frechet distance of the decoded images to real TEST frames in the classifier's features, and its ratio to the
distance of the published setting with a 90 % interval (bootstrap over samples); and how often the classifier predicts
the requested class. The floor is the distance between equally many real TRAIN and TEST frames.
"""

import argparse
import itertools
import statistics
from dataclasses import dataclass, field

import numpy as np
import torch
from measuring import run_timed
from torch import Tensor

from echodream.datamodules.frame_budget_batches import FrameBatch
from echodream.datamodules.normalization import from_uint8
from echodream.diffusion.guidance import Guidance
from echodream.diffusion.model import load_diffusion_model
from echodream.evaluation.feature_extraction import FeatureExtraction, load_recordings
from echodream.metrics.frechet import frechet_distance
from echodream.modules.vae import VaeDecoder, load_vae
from echodream.networks.extractors.encoder import ClassifierExtractor
from echodream.sampling.sampling_module import SamplingConfig, SamplingModule

PUBLISHED = "ddpm"


@dataclass
class Setting:
    """A sampling configuration and its measurements."""

    config: SamplingConfig
    module: SamplingModule
    evaluations: int = 0
    """Number of network evaluations, summed over the rows of all calls."""
    seconds: list[float] = field(default_factory=list)
    """Seconds per sample, one entry for each batch."""
    features: list[Tensor] = field(default_factory=list)
    correct: list[Tensor] = field(default_factory=list)

    def sample(self, rows: list[int], values: dict[str, Tensor]) -> Tensor:
        """Sample the rows ``rows``, (B, C, H, W), and record time and network evaluations."""
        count = [0]
        denoiser = self.module.model.denoiser
        hook = denoiser.register_forward_pre_hook(lambda _, inputs: count.append(len(inputs[0])))
        timing = run_timed(lambda: self.module.sample_latents(rows, values)[:, :, 0])
        self.seconds.append(timing.wall / len(rows))
        hook.remove()
        self.evaluations += sum(count)
        latents: Tensor = timing.result
        return latents

    def name(self) -> str:
        """Sampler, steps and guidance interval, as the first columns of the table."""
        low, high = self.config.guidance.interval
        return f"{self.config.sampler:<9}{self.config.steps:>6}{low:>7g} to {high:<4g}"


def build_settings(options: argparse.Namespace) -> list[Setting]:
    """Settings to compare; the published setting is first."""
    model = load_diffusion_model(f"{options.models}/lidm", "lidm")
    combinations = [(PUBLISHED, options.published, "0:1")]
    combinations += itertools.product(options.samplers, options.steps, options.intervals)
    settings = []
    for sampler, steps, interval in combinations:
        low, high = map(float, interval.split(":"))
        guidance = Guidance({options.condition: options.guidance}, (low, high))
        config = SamplingConfig(options.seed, steps, model.process.check_sampler(steps, sampler), guidance)
        settings.append(Setting(config, SamplingModule(model, config).to(options.device)))
    return settings


def measure_settings(settings: list[Setting], options: argparse.Namespace, classifier: ClassifierExtractor) -> None:
    """Sample, decode and classify ``options.n`` images with all settings, batch by batch."""
    model = settings[0].module.model
    network = load_vae(f"{options.models}/vae").eval().to(options.device)
    decoder = VaeDecoder(network, 64, classifier.size[2] == 1)
    requests = model.conditioner.uniform_requests(options.n)
    values = model.conditioner.encode_request(requests)
    target = torch.tensor([classifier.metadata["class_ids"].index(number) for number in requests["class_id"]])
    warm_up = {name: value[:2].to(options.device) for name, value in values.items()}
    settings[-1].module.sample_latents([0, 1], warm_up)
    for rows in torch.arange(options.n).split(options.batch):
        batch_values = {name: value[rows].to(options.device) for name, value in values.items()}
        for setting in settings:
            latents = setting.sample(rows.tolist(), batch_values)
            batch = FrameBatch(("",) * len(rows), (1,) * len(rows), latents.to(options.device))
            pixels = from_uint8(torch.stack(decoder.predict_step(batch, 0))).permute(0, 4, 1, 2, 3)  # b f h w c
            features = classifier.features(pixels.to(options.device))
            setting.features.append(features.double().cpu())
            setting.correct.append(classifier.network.head(features).argmax(dim=1).cpu() == target[rows])


def ratio_interval(
    features: np.ndarray, published: np.ndarray, real: np.ndarray, resamples: int
) -> tuple[float, float]:
    """90 % bootstrap interval of the Frechet distance to ``real``, divided by that of the published setting."""
    rng = np.random.default_rng(0)
    ratios = []
    for _ in range(resamples):
        rows = rng.integers(len(features), size=len(features))
        ratios.append(frechet_distance(features[rows], real) / frechet_distance(published[rows], real))
    low, high = np.percentile(ratios, [5, 95])
    return float(low), float(high)


def print_table(settings: list[Setting], classifier: ClassifierExtractor, options: argparse.Namespace) -> None:
    """Print one row of measurements for each setting."""
    extraction = FeatureExtraction(options.n, 64, options.seed)
    test, train = (
        extraction.frames(load_recordings(options.videos, "videos", split), classifier).features
        for split in ("TEST", "TRAIN")
    )
    count = min(options.n, len(test), len(train))
    real, published = test[:count], torch.cat(settings[0].features).numpy()[:count]
    print(f"{options.n} images, {options.condition} guided by {options.guidance:g}, batches of {options.batch}")
    print(
        f"real TRAIN against real TEST, {count} frames of each: "
        f"frechet[classifier] {frechet_distance(train[:count], real):.3f}"
    )
    print(
        "sampler   steps   guidance   rows/sample  fewer   ms/sample  faster   frechet  ratio   90 % of it   agreement"
    )
    for setting in settings:
        features = torch.cat(setting.features).numpy()[:count]
        distance, base = frechet_distance(features, real), frechet_distance(published, real)
        low, high = (
            ratio_interval(features, published, real, options.bootstrap) if setting is not settings[0] else (1.0, 1.0)
        )
        faster = statistics.median(a / b for a, b in zip(settings[0].seconds, setting.seconds, strict=True))
        print(
            f"{setting.name()}{setting.evaluations / options.n:12.1f}"
            f"{settings[0].evaluations / setting.evaluations:7.1f}"
            f"{1000 * statistics.median(setting.seconds):12.2f}{faster:8.1f}{distance:10.3f}{distance / base:7.3f}"
            f"  {low:.3f} to {high:.3f}{torch.cat(setting.correct).double().mean():10.3f}"
        )


@torch.inference_mode()
def main() -> None:
    """Measure all settings and print the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="models/phantom", help="folder of the artifacts lidm, vae, classifier")
    parser.add_argument("--videos", default="data/phantom/videos", help="store of real videos")
    parser.add_argument("--n", type=int, default=400, help="number of images")
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--condition", default="class_id", help="guided condition")
    parser.add_argument("--guidance", type=float, default=2.0, help="guidance scale")
    parser.add_argument("--published", type=int, default=256, help="number of DDPM steps of the published setting")
    parser.add_argument("--samplers", nargs="+", default=["dpmpp_2m"])
    parser.add_argument("--steps", type=int, nargs="+", default=[20])
    parser.add_argument(
        "--intervals", nargs="+", default=["0:1"], help="intervals of diffusion times in which guidance is applied"
    )
    parser.add_argument("--bootstrap", type=int, default=200, help="bootstrap resamples for the interval of the ratio")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    classifier = ClassifierExtractor(f"{options.models}/classifier")
    classifier.network.to(options.device)
    settings = build_settings(options)
    measure_settings(settings, options, classifier)
    print_table(settings, classifier, options)


if __name__ == "__main__":
    main()
