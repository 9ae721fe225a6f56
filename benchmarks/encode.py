"""Wall time of ``stage=encode``, compared with the network alone and with the published encoding loop.

    python benchmarks/encode.py [--recordings 24] [--frames 64] [--size 112] [--channels 1] [--device cpu|cuda]

The stage runs in this process, after imports: it reads a store of phantom videos, encodes, writes and verifies. The
network alone encodes all frames from memory, in batches of ``--budget`` frames. The published loop reads, encodes and
writes one recording at a time, in float32 batches of 32 frames. Stage, network and loop encode the same frames, and are
timed in turns, ``--repeats`` times.
"""

import argparse
import functools
import statistics
import tempfile
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from measuring import run_timed
from torch import Tensor

from echodream.ingest.phantom import Phantom
from echodream.ingest.source import Limits
from echodream.modules.vae import load_vae, split_into_chunks
from echodream.networks.autoencoder import build_autoencoder
from echodream.stages.encode import encode
from echodream.store import Dataset, Store, StoreWriter
from echodream.store.latents import write_latents
from echodream.store.video import write_video


def write_store_and_autoencoder(root: Path, options: argparse.Namespace) -> Store:
    """Write a store of phantom videos to ``root``/videos, and an untrained autoencoder to ``root``/vae."""
    torch.manual_seed(0)
    is_wide = options.widths[0] >= 128
    build_autoencoder(
        options.channels, options.widths, 2 if is_wide else 1, groups=32 if is_wide else 8
    ).save_pretrained(root / "vae")
    phantom = Phantom(options.recordings, size=options.size, seconds=(options.frames / 32,) * 2, per_patient=(1, 1))
    size = {"NumberOfFrames": options.frames, "FrameHeight": options.size, "FrameWidth": options.size}
    with StoreWriter(root / "videos", Dataset(kind="video", channels=options.channels)) as writer:
        for recording in phantom.recordings(None):
            frames = phantom.read(recording, Limits()).frames[: options.frames].repeat(options.channels, axis=-1)
            write_video(writer.scratch_path(recording.name), frames, 32.0)
            row = {"FileName": recording.name, "Split": "TRAIN", "PatientID": recording.name, "FPS": 32.0, **size}
            writer.commit(row, writer.scratch_path(recording.name))
        return writer.finish(sorted(writer.done))


def run_encode_stage(root: Path, options: argparse.Namespace) -> Store:
    """Run ``stage=encode`` as the command line does; return the latent store, which is in a new folder."""
    dst = tempfile.mkdtemp(dir=root) + "/latents"
    settings = {"accelerator": "gpu" if options.device == "cuda" else "cpu", "precision": options.precision}
    trainer = functools.partial(pl.Trainer, **settings, devices=1, enable_model_summary=False, inference_mode=True)
    paths = {"src": str(root / "videos"), "dst": dst, "artifact": str(root / "vae")}
    encode(**paths, budget=options.budget, workers=options.workers, trainer=trainer, command="", code_version="")
    return Store(dst)


@torch.inference_mode()
def encode_frames(network: Any, frames: Tensor, budget: int) -> None:
    """Encode uint8 frames (N, C, H, W) from memory; ``frames`` and ``network`` are on one device."""
    for part in split_into_chunks(frames, budget):
        network.encode((part.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last))


@torch.inference_mode()
def encode_by_recording(network: Any, store: Store, root: Path, device: str) -> dict[str, Tensor]:
    """Encode one recording at a time in float32 batches of 32 frames; return mean and std, (2, F, C, H, W), by name."""
    latents = {}
    for name in store.table["FileName"]:
        frames = torch.from_numpy(store.frames(name)).permute(0, 3, 1, 2)
        posteriors = [network.encode((part.float() / 127.5 - 1).to(device)).latent_dist for part in frames.split(32)]
        moments = [torch.cat([getattr(part, moment) for part in posteriors]) for moment in ("mean", "std")]
        latents[name] = torch.stack(moments).cpu()
        write_latents(root / "one.safetensors", *latents[name].numpy())
    return latents


def main() -> None:
    """Print times, ratios, and the largest difference between stored latents and those of the published loop."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = {"recordings": 24, "frames": 64, "size": 112, "channels": 1, "budget": 64, "workers": 1, "repeats": 5}
    for name, value in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument(
        "--widths", type=int, nargs="+", default=[16, 32, 64, 64], help="channels per level; published: 128 256 256 512"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", default="32-true", help="32-true, bf16-mixed or 16-mixed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        store = write_store_and_autoencoder(root, options)
        network, plain = (load_vae(str(root / "vae")).eval().to(options.device) for _ in range(2))
        plain = plain.to(memory_format=torch.contiguous_format)
        pixels = [torch.from_numpy(store.frames(name)).permute(0, 3, 1, 2) for name in store.table["FileName"]]
        frames = torch.cat(pixels).to(options.device)
        encode_frames(network, frames[: options.budget], options.budget)  # warm-up
        times: list[tuple[float, float, float]] = []
        for _ in range(options.repeats):
            stage_run = run_timed(lambda: run_encode_stage(root, options))
            network_run = run_timed(lambda: encode_frames(network, frames, options.budget))
            loop_run = run_timed(lambda: encode_by_recording(plain, store, root, options.device))
            times.append((stage_run.wall, network_run.wall, loop_run.wall))
        latent_store, expected = stage_run.result, loop_run.result
        stored = {name: latent_store.latents(name) for name in expected}
    pairs = [pair for name in expected for pair in zip(stored[name], expected[name], strict=True)]
    largest = max((latent.float() - exact).abs().max().item() for latent, exact in pairs)
    for title, column in (("stage=encode", 0), ("bare network", 1), ("published loop", 2)):
        seconds = statistics.median(row[column] for row in times)
        print(f"{title:<16}{seconds:8.2f} s{len(frames) / seconds:10.0f} frames/s")
    print(f"stage / bare network    {statistics.median(row[0] / row[1] for row in times):.3f}")
    print(f"published loop / stage  {statistics.median(row[2] / row[0] for row in times):.2f}")
    print(f"largest difference of a stored latent (float16) from the published loop's  {largest:.1e}")


if __name__ == "__main__":
    main()
