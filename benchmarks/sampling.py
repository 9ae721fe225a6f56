"""Quality and cost of samplers, spacings and numbers of steps, for images (``lidm``) or videos (``lvdm``), in one run.

    python benchmarks/sampling.py [--kind image] [--models models/phantom] [--real data/phantom/videos] [--n 400]
        [--settings unipc:quadratic:12 ddpm:trailing:256] [--samplers unipc] [--spacings trailing] [--steps 20]
        [--reference dpmpp_2m:trailing:20] [--guidance 2] [--intervals 0:1 0.2:0.8] [--extractors lite0 classifier]

The settings are those of ``--settings``, and all combinations of ``--samplers``, ``--spacings``, ``--steps`` and
``--intervals``. The setting ``models/phantom/lidm_distilled@4`` is a distilled model with 4 steps. The script needs
the artifacts lidm or lvdm, vae and classifier in ``--models``, a store of real videos and, for videos, a store of
latent images, ``--src``. Each batch of rows is sampled with all settings in turn, so that other load on the machine
affects all settings equally. The script prints, for each setting,

- the network evaluations per sample and the milliseconds per sample (median over batches, without decoding), and
  the ratios of both numbers to those of ``--reference``;
- the peak signal-to-noise ratio (PSNR) of the whitened latents against samples of ``--exact`` with the same noise, in
  decibels; the peak is the range of these latents. Stochastic samplers have no PSNR;
- for each of ``--extractors``, the Frechet distance of the decoded images, or of clips of the decoded videos, to real
  TEST recordings, and its ratio to the distance of ``--reference`` with a 90 % interval (bootstrap over samples). The
  line above the table has the distance between equally many real TRAIN and TEST recordings;
- with the extractor classifier, the share of samples for which it predicts the requested class (column agreement).
"""

import argparse
import itertools
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from measuring import run_timed
from torch import Tensor

from echodream.datamodules.frame_budget_batches import FrameBatch
from echodream.datamodules.normalization import from_uint8
from echodream.datamodules.sampling_requests import SamplingRequest, SamplingRequests
from echodream.datamodules.views import Clips
from echodream.diffusion.guidance import Guidance
from echodream.diffusion.model import DiffusionModel, load_diffusion_model
from echodream.diffusion.samplers import SAMPLERS
from echodream.evaluation.feature_extraction import FeatureExtraction, RecordingSet, load_recordings, select_recordings
from echodream.metrics.frechet import frechet_estimate
from echodream.modules.vae import VaeDecoder, load_vae
from echodream.networks.extractors.base import Extractor
from echodream.networks.extractors.encoder import ClassifierExtractor
from echodream.networks.extractors.lite0 import Lite0
from echodream.sampling.sampling_module import ClipLengthConfig, SamplingConfig, SamplingModule
from echodream.stages import video
from echodream.store import Store


@dataclass
class Setting:
    """A sampling configuration and its measurements."""

    module: SamplingModule
    text: str
    """The setting as it is written on the command line."""
    evaluations: int = 0
    """Number of network evaluations, summed over the samples of all calls."""
    seconds: list[float] = field(default_factory=list)
    """Seconds per sample, one entry for each batch."""
    squared_errors: list[float] = field(default_factory=list)
    """Mean squared difference between whitened latents and those of ``--exact``, divided by peak^2, for each batch."""
    features: dict[str, list[Tensor]] = field(default_factory=dict)
    """Features of the decoded samples by extractor: one tensor (N, D) for each batch."""
    is_correct: list[Tensor] = field(default_factory=list)
    """Whether the classifier predicts the requested class: one boolean tensor (N,) for each batch."""

    def sample(self, request: SamplingRequest) -> Tensor:
        """Sample the rows of ``request``, (B, C, F, H, W), and record time and network evaluations."""
        count = [0]
        denoiser = self.module.model.denoiser
        hook = denoiser.register_forward_pre_hook(lambda _, inputs: count.append(len(inputs[0])))
        timing = run_timed(lambda: self.module.sample_latents(request.rows, request.values))
        hook.remove()
        self.seconds.append(timing.wall / len(request.rows))
        self.evaluations += sum(count)
        latents: Tensor = timing.result
        return latents

    def name(self) -> str:
        """Text of the first columns of the table: sampler, spacing, steps and guidance interval."""
        config = self.module.config
        if "@" in self.text:
            return f"{self.text.rsplit('/', 1)[-1]:<40}"
        low, high = config.guidance.interval
        return f"{config.sampler:<9} {config.spacing:<10}{config.steps:>5}{low:>5g} to {high:<4g}"


def build_setting(model: DiffusionModel, text: str, options: argparse.Namespace) -> Setting:
    """The ``Setting`` of ``text``: sampler:spacing:steps[:low:high], or artifact@steps for a distilled model."""
    low, high = 0.0, 1.0
    if "@" in text:
        folder, steps = text.rsplit("@", 1)
        model = load_diffusion_model(folder, "lvdm" if model.is_video else "lidm")
        assert model.process.few_steps is not None
        sampler, spacing = model.process.first_order_sampler, model.process.few_steps.spacing
    else:
        sampler, spacing, steps, *interval = text.split(":")
        low, high = map(float, interval or (0, 1))
    scales = {options.condition: options.guidance} if options.condition in model.conditioner.names else {}
    config = SamplingConfig(options.seed, int(steps), sampler, Guidance(scales, (low, high)), spacing)
    model.process.for_sampling(spacing).check_sampler(config.steps, sampler)
    return Setting(SamplingModule(model, config, clip_length(model, options)).to(options.device), text)


def clip_length(model: DiffusionModel, options: argparse.Namespace) -> ClipLengthConfig | None:
    """Length of the sampled videos; None for images."""
    if not model.is_video:
        return None
    frames = options.frames or model.metadata.frames
    return video.clip_config(model, frames, "crossfade", options.overlap, options.windows)


def sampling_requests(model: DiffusionModel, options: argparse.Namespace) -> SamplingRequests:
    """Batches of the samples: images with evenly distributed conditions, or videos of the images in ``--src``."""
    names, references = [f"sample-{row:06d}" for row in range(options.n)], None
    if model.is_video:
        store = Store(options.src, kind="latent")
        sources = video._select_sources(store.table, options.n, True)
        requests = video._requested_values(model, sources, None).values
        beats, length = video.sample_beats(model, options.seed, options.n), clip_length(model, options)
        assert length is not None

        def read_latents(row: int, count: int) -> Tensor:
            return store.latents(sources["FileName"][row], 0, count)[0].float()

        references = video.reference_reader(model, read_latents, sources, options.src, beats, length)
    else:
        requests = model.conditioner.uniform_requests(options.n)
    values = model.conditioner.encode_request(requests)
    return SamplingRequests(names, values, options.batch, (), references)


def frames_for_features(extractor: Extractor, frames: int, is_video: bool) -> range:
    """Frames of a sample whose features are computed: all frames of an image sample, or one clip of a video."""
    if not is_video:
        return range(frames)
    length, stride = extractor.clip_types[0]
    view = Clips(frames=length, stride=stride, start=extractor.start)
    return view.frame_range(frames, np.random.default_rng(0))


def measure_settings(
    settings: Sequence[Setting], exact: Setting | None, extractors: Mapping[str, Extractor], options: argparse.Namespace
) -> None:
    """Sample, decode and classify ``options.n`` samples with all settings, batch by batch."""
    model = settings[0].module.model
    network = load_vae(f"{options.models}/vae").eval().to(options.device)
    decoder = VaeDecoder(network, 64, network.config.in_channels == 1 or not options.color)
    requests = sampling_requests(model, options)
    std = torch.tensor(model.metadata.statistics.std, device=options.device).view(1, -1, 1, 1, 1)
    for number in range(len(requests)):
        request = requests[number].to(options.device)
        truth = None if exact is None else exact.sample(request) / std
        for setting in settings:
            latents = setting.sample(request)
            if truth is not None:
                peak = truth.max() - truth.min()
                setting.squared_errors.append(float(((latents / std - truth) / peak).square().mean()))
            for name, extractor in extractors.items():
                features = decoded_features(extractor, decoder, request, latents, model.is_video)
                setting.features.setdefault(name, []).append(features.double().cpu())
                if isinstance(extractor, ClassifierExtractor) and "class_id" in request.values:
                    ids = torch.tensor(extractor.metadata["class_ids"])
                    target = request.values["class_id"].cpu().repeat_interleave(len(features) // len(request.rows))
                    setting.is_correct.append(ids[extractor.network.head(features).argmax(dim=1).cpu()] == target)
        print(".", end="", flush=True)
    print()


def decoded_features(
    extractor: Extractor, decoder: VaeDecoder, request: SamplingRequest, latents: Tensor, is_video: bool
) -> Tensor:
    """Features of the decoded ``latents``: of all frames of image samples, or of one clip of each video, (N, D)."""
    frames = frames_for_features(extractor, latents.shape[2], is_video)
    selected = latents[:, :, list(frames)].transpose(1, 2)
    batch = FrameBatch(request.names, (len(frames),) * len(request.rows), selected.flatten(0, 1))
    pixels = from_uint8(torch.stack(decoder.predict_step(batch, 0))).permute(0, 4, 1, 2, 3)  # b c f h w
    if not is_video:
        pixels = pixels.transpose(1, 2).flatten(0, 1)[:, :, None]
    return torch.cat([extractor.features(chunk.to(latents.device)) for chunk in pixels.split(16)])


def real_features(
    extractor: Extractor, options: argparse.Namespace, split: str, is_video: bool, key_frames: bool, count: int
) -> np.ndarray:
    """Features of ``count`` real frames or clips of ``split``: (N, D)."""
    extraction = FeatureExtraction(count, 16, options.seed)
    if split == "TEST":
        recordings = load_recordings(options.real, "real")
    else:
        recordings = select_recordings(Store(options.train or options.real, kind="video"), "train", split)
    if is_video:
        length, stride = extractor.clip_types[0]
        return extraction.clips(recordings, extractor, length, stride).features
    recordings = RecordingSet(recordings.store, recordings.rows, recordings.cli_arg, only_key_frames=key_frames)
    return extraction.frames(recordings, extractor).features


def ratio_interval(features: np.ndarray, reference: np.ndarray, real: np.ndarray, resamples: int) -> str:
    """Frechet distance to ``real`` divided by that of ``reference``, with a 90 % bootstrap interval, as text."""
    rng, ratios = np.random.default_rng(0), []
    for _ in range(resamples):
        rows = rng.integers(len(features), size=len(features))
        ratios.append(frechet_estimate(features[rows], real).value / frechet_estimate(reference[rows], real).value)
    ratio = frechet_estimate(features, real).value / frechet_estimate(reference, real).value
    if not resamples or features is reference:
        return f"{ratio:6.3f}                 "
    low, high = np.percentile(ratios, [5, 95])
    return f"{ratio:6.3f} ({low:.3f} to {high:.3f})"


def table_lines(
    settings: Sequence[Setting], extractors: Mapping[str, Extractor], options: argparse.Namespace
) -> Iterator[str]:
    """Lines of the table; the first setting is the reference of all ratios."""
    first = settings[0]
    model = first.module.model
    key_frames, real = model.metadata.frames == 3 and not model.is_video, {}
    header = "sampler   spacing   steps guidance   rows/sample  fewer  ms/sample  faster   PSNR"
    for name, extractor in extractors.items():
        count = sum(map(len, first.features[name]))
        real_sets = [
            real_features(extractor, options, split, model.is_video, key_frames, count) for split in ("TEST", "TRAIN")
        ]
        size = min(map(len, real_sets))
        real[name] = real_sets[0]
        floor = frechet_estimate(real_sets[1][:size], real_sets[0][:size]).value
        yield f"{name}: {count} samples against {len(real_sets[0])} of TEST; {size} of TRAIN against TEST: {floor:.3f}"
        header += f"  {f'frechet[{name}]':>20}  ratio (90 % interval)   "
    yield header + "  agreement"
    entries = SAMPLERS[model.process.name]
    for setting in settings:
        speedup = statistics.median(a / b for a, b in zip(first.seconds, setting.seconds, strict=True))
        psnr = "     -"
        if setting.squared_errors and not entries[str(setting.module.config.sampler)].stochastic:
            psnr = f"{-10 * math.log10(max(statistics.mean(setting.squared_errors), 1e-12)):6.1f}"
        line = (
            f"{setting.name()}{setting.evaluations / options.n:12.1f}{first.evaluations / setting.evaluations:7.1f}"
            f"{1000 * statistics.median(setting.seconds):11.2f}{speedup:8.1f} {psnr}"
        )
        for name in extractors:
            features, base = (torch.cat(each.features[name]).numpy() for each in (setting, first))
            base = features if setting is first else base
            line += f"  {frechet_estimate(features, real[name]).value:20.3f} "
            line += ratio_interval(features, base, real[name], options.bootstrap)
        yield line + (f"{torch.cat(setting.is_correct).double().mean():11.3f}" if setting.is_correct else "")


@torch.inference_mode()
def main() -> None:
    """Measure all settings and print the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=("image", "video"), default="image")
    parser.add_argument("--models", default="models/phantom", help="folder of the artifacts")
    parser.add_argument("--real", default="data/phantom/videos", help="store of real videos with the split TEST")
    parser.add_argument("--train", help="store of real videos with the split TRAIN; default: --real")
    parser.add_argument("--src", default="samples/phantom/private", help="store of latent images, for videos")
    parser.add_argument("--n", type=int, default=400, help="number of samples")
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--frames", type=int, help="number of frames of a video; default: as in training")
    parser.add_argument(
        "--overlap", type=int, help="number of frames that windows share; default: a quarter of a window"
    )
    parser.add_argument("--windows", type=int, default=8, help="number of windows of a video in one network call")
    parser.add_argument("--condition", default="class_id", help="condition to which guidance is applied")
    parser.add_argument("--guidance", type=float, default=1.0, help="guidance scale")
    parser.add_argument(
        "--reference", default="dpmpp_2m:trailing:20", help="setting that all other settings are compared with"
    )
    parser.add_argument("--exact", default="unipc:quadratic:128", help="setting for the PSNR, or none for no PSNR")
    parser.add_argument("--settings", nargs="+", default=[], help="settings, such as unipc:quadratic:12")
    parser.add_argument("--samplers", nargs="+", default=[])
    parser.add_argument("--spacings", nargs="+", default=["trailing", "quadratic"])
    parser.add_argument("--steps", type=int, nargs="+", default=[20])
    parser.add_argument(
        "--intervals", nargs="+", default=["0:1"], help="intervals of diffusion times in which guidance is applied"
    )
    parser.add_argument("--extractors", nargs="*", choices=("lite0", "classifier"), default=["lite0", "classifier"])
    parser.add_argument("--color", action="store_true", help="decode three channels")
    parser.add_argument("--bootstrap", type=int, default=200, help="bootstrap resamples for the interval of the ratio")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    name = {"image": "lidm", "video": "lvdm"}[options.kind]
    model = load_diffusion_model(f"{options.models}/{name}", name)
    combined = itertools.product(options.samplers, options.spacings, map(str, options.steps), options.intervals)
    texts = [options.reference, *options.settings, *map(":".join, combined)]
    settings = [build_setting(model, text, options) for text in dict.fromkeys(texts)]
    extractors: dict[str, Extractor] = {}
    if "lite0" in options.extractors:
        extractors["lite0"] = Lite0()
    if "classifier" in options.extractors:
        extractors["classifier"] = ClassifierExtractor(f"{options.models}/classifier")
    for extractor in extractors.values():
        extractor.network.to(options.device)
    exact = None if options.exact == "none" else build_setting(model, options.exact, options)
    measure_settings(settings, exact, extractors, options)
    print(f"{options.n} samples, {options.condition} guided by {options.guidance:g}, batches of {options.batch}")
    for line in table_lines(settings, extractors, options):
        print(line)


if __name__ == "__main__":
    main()
