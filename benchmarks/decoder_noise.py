"""Trainings of the decoder noise with several seeds, with and without the energy score (``loss.lite0_energy``).

    python benchmarks/decoder_noise.py [--root .] [--seeds 0 1 2] [--weights 0 0.3] [--epochs 6]
        [--recordings 156] [--out decoder_noise]

``--root`` is a folder in which ``make demo`` was run. For each weight of the energy score and each seed, the decoder
noise of the demo's autoencoder is trained anew, while encoder and decoder stay as they are. The script prints the
Frechet distance in EfficientNet-lite0 features and the log-spectral distance to key frames of further patients, of
reconstructions of these frames and of the decoded images that passed the filter, each with two frames of up to
``--recordings`` recordings. A rerun repeats no training.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from echodream.evaluation.feature_extraction import RecordingSet, load_recordings
from echodream.metrics.frechet import frechet_estimate
from echodream.metrics.texture import log_spectral_estimate, radial_power
from echodream.networks.autoencoder import load_frozen_autoencoder
from echodream.networks.decoder_noise import noise_seeds
from echodream.networks.extractors.lite0 import Lite0
from echodream.store import Store

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

CODE = Path(__file__).resolve().parent.parent
WEIGHTS = "diffusion_pytorch_model.safetensors"


def copy_without_noise(source: Path, target: Path) -> None:
    """Write the autoencoder ``source`` without its decoder noise to the folder ``target``."""
    target.mkdir(parents=True, exist_ok=True)
    config = json.loads((source / "config.json").read_text())
    config = {name: value for name, value in config.items() if not name.startswith("decoder_noise")}
    (target / "config.json").write_text(json.dumps(config))
    weights = load_file(source / WEIGHTS)
    save_file({key: value for key, value in weights.items() if not key.startswith("decoder_noise")}, target / WEIGHTS)


def key_frames(recordings: RecordingSet, count: int) -> Tensor:
    """The first two key frames of up to ``count`` recordings, (N, C, H, W)."""
    rows = range(min(count, len(recordings.rows)))
    frames = [recordings.read(row, recordings.comparable_frames(row)[:2].tolist()) for row in rows]
    return torch.cat(frames, dim=1).transpose(0, 1)


def decode_images(autoencoder: "AutoencoderKL", store: Store, count: int) -> Tensor:
    """The first two frames of up to ``count`` sampled images, (N, C, H, W)."""
    frames = []
    for seed, name in enumerate(store.table["FileName"][:count]):
        with noise_seeds(autoencoder, [seed] * 2, [0, 1]):
            frames.append(autoencoder.decode(store.latents(name)[0][:2].float()).sample.clamp(-1, 1))
    return torch.cat(frames)


def distance_cells(frames: Tensor, real: Tensor) -> str:
    """Frechet distance in lite0 features and log-spectral distance of ``frames`` to ``real``, as cells of a table."""
    sets = (frames, real)
    lite0 = Lite0()
    features = [torch.cat([lite0.features(x) for x in each[:, :, None].split(32)]).double().numpy() for each in sets]
    power = [radial_power(each.mean(dim=1).numpy()) for each in sets]
    return f"{frechet_estimate(*features).value:.1f} | {log_spectral_estimate(*power).value:.2f} dB"


@torch.inference_mode()
def main() -> None:
    """Train, and print one line per weight and seed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--root", type=Path, default=Path())
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--weights", nargs="+", type=float, default=[0.0, 0.3])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--recordings", type=int, default=156)
    parser.add_argument("--out", default="decoder_noise")
    options = parser.parse_args()
    root, study = options.root, ["data=phantom", "experiment=demo"]
    start = f"{options.out}/start"
    copy_without_noise(root / "models/phantom/vae", root / start)
    further = load_recordings(str(root / "data/phantom_further/videos"), "further")
    further = RecordingSet(further.store, further.rows, further.cli_arg, only_key_frames=True)
    real = key_frames(further, options.recordings)
    print("| weight | seed | reconstructions: lite0 | LSD | images: lite0 | LSD |")
    print("| --- | --- | --- | --- | --- | --- |")
    for weight in options.weights:
        for seed in options.seeds:
            model = f"{options.out}/vae_{weight:g}_{seed}"
            command = [sys.executable, str(CODE / "train.py"), "model=vae", *study]
            command += [
                f"vae.weights={start}",
                f"dst={model}",
                "loss.adversarial.start=0",
                "loss.adversarial.decoder_start=0",
                f"seed={seed}",
            ]
            command += [f"trainer.{name}={options.epochs}" for name in ("max_epochs", "check_val_every_n_epoch")]
            command += [f"loss.lite0_energy.weight={weight:g}"]
            subprocess.run(command, cwd=root, check=True, stdout=sys.stderr)
            autoencoder = load_frozen_autoencoder(root / model)
            reconstructions = RecordingSet(further.store, further.rows, further.cli_arg, None, True, autoencoder)
            decoded = decode_images(
                autoencoder, Store(root / "samples/phantom/private", kind="latent"), options.recordings
            )
            cells = [distance_cells(each, real) for each in (key_frames(reconstructions, options.recordings), decoded)]
            print(f"| {weight:g} | {seed} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
