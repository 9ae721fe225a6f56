"""Time and memory of commands and of the filter's search on stores of 1,000 to 100,000 recordings.

    python benchmarks/scale.py [--recordings 1000 10000 100000] [--only open decode ...] [--folder FOLDER]

A recording has 13 frames of latents with the shape (4, 8, 8). The media files are hard links to 16 files, so that a
store of 100,000 recordings needs little disk space, and all reads come from the page cache. One patient in three has
two recordings, and 80 % of the recordings are TRAIN. Each measurement runs in a separate process with one thread, which
is forked after all imports. Wall time and processor time, in seconds, count from the fork. Memory is the peak resident
memory in GB, including imports, without worker processes. On a busy machine, only the processor time is comparable.

imports   imports of this script, which are not included in any other measurement
write     StoreWriter: all recordings are committed, verified and flushed to the disk
open      Store(folder)
verify    stage=verify
decode    stage=decode until the first recording is written; "decode again": with the recorded checksums of the store
training  model=lidm preset=tiny until the first optimizer step; "training again": also the share of the time of the
          next 20 steps in which the training loop waits for batches
filter    search of the nearest TRAIN patient of 200 samples among all frames of all TRAIN recordings, which are read
          from the store; embeddings have 128 features. Memory is the increase during the search
select    selection of the frames that are copied, and of another patient for each copy
"""

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from measuring import run_with_peak_memory
from torch import Tensor

from echodream.artifact import Artifact, read_artifact, write_artifact
from echodream.datamodules.dataset import ResumableLoader
from echodream.datamodules.recordings import Recordings, named_rng
from echodream.filtering.copy_generation import CopyGenerator, select_frames_by_patient
from echodream.filtering.embedding import FrameEmbedder
from echodream.filtering.scoring import Query, ReferenceFrames
from echodream.modules.latent_diffusion import LatentDiffusion
from echodream.networks.autoencoder import build_autoencoder
from echodream.store import Dataset, Statistics, Store, StoreWriter
from echodream.store.checksums import file_sha256
from echodream.store.latents import write_latents
from echodream.store.schema import CHECKSUMS, DATASET, FILE_LIST, REJECTED, REJECTED_COLUMNS, REQUIRED_COLUMNS
from echodream.store.table import write_table
from echodream.weights import fingerprint

FORK_TIME = {"wall": 0.0}
"""Time of the fork of this process, by time.perf_counter."""
FRAMES, SIDE, SOURCES, FEATURES, SAMPLES, STEPS = 13, 8, 16, 128, 200, 20


def write_sources(folder: Path) -> None:
    """Write the autoencoder and the media files to which the recordings are linked."""
    torch.manual_seed(0)
    network = build_autoencoder(1, [8, 16], layers=1, latent=4, groups=4).eval()
    artifact = Artifact("vae", "scale", fingerprint(network), "0" * 64)
    write_artifact(folder / "vae", artifact, "seed: 0\n", network.save_pretrained)
    (folder / "media").mkdir()
    rng = np.random.default_rng(0)
    for number in range(SOURCES):
        mean = rng.standard_normal((FRAMES, 4, SIDE, SIDE)).astype(np.float32)
        write_latents(folder / f"media/{number}.safetensors", mean, np.full_like(mean, 0.1))


def table_rows(recordings: int) -> list[dict[str, Any]]:
    """Rows of FileList.csv for a store of ``recordings`` recordings."""
    rows = []
    for number in range(recordings):
        patient = number - (number % 4 == 1)
        split = ("VAL", "TEST", *["TRAIN"] * 8)[patient // 4 % 10]
        row = {"FileName": f"recording-{number:06d}", "Split": split, "PatientID": f"patient-{patient}"}
        row |= {"NumberOfFrames": FRAMES, "FPS": 30.0, "FrameHeight": SIDE, "FrameWidth": SIDE}
        row |= {"class_id": number % 3, "class_name": f"class {number % 3}", "EF": 50 + number % 20}
        rows.append({**row, "ED": "0 8", "ES": "4"})
    return rows


def latent_dataset(folder: Path) -> Dataset:
    """Content of dataset.json of the latent store."""
    encoder = read_artifact(folder / "vae", "vae").fingerprint
    return Dataset("latent", 4, SIDE, SIDE, "float16", encoder=encoder, layout="F,C,H,W")


def link_store(folder: Path, recordings: int) -> None:
    """Make the store ``folder``/latents without StoreWriter, because the checksums of the 16 files are known."""
    root, sources = folder / "latents", [folder / f"media/{number}.safetensors" for number in range(SOURCES)]
    (root / "Latents").mkdir(parents=True)
    rows, checksums = table_rows(recordings), [file_sha256(source) for source in sources]
    lines = []
    for number, row in enumerate(rows):
        path = f"Latents/{row['FileName']}.safetensors"
        os.link(sources[number % SOURCES], root / path)
        lines.append(f"{checksums[number % SOURCES]}  {path}\n")
    write_table(root / FILE_LIST, rows, REQUIRED_COLUMNS)
    write_table(root / REJECTED, [], REJECTED_COLUMNS)
    dataset = replace(latent_dataset(folder), statistics=Statistics((0.0,) * 4, (1.0,) * 4))
    (root / DATASET).write_text(dataset.to_json())
    lines += [f"{file_sha256(root / name)}  {name}\n" for name in (FILE_LIST, REJECTED, DATASET)]
    (root / CHECKSUMS).write_text("".join(lines))


def time_and_memory() -> dict[str, float]:
    """Wall and processor time in seconds since the fork, and peak memory in GB, of this process."""
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {"wall": time.perf_counter() - FORK_TIME["wall"], "processor": time.process_time(), "memory": memory}


def write_figures_and_exit(**figures: float) -> None:
    """Write the figures of this process to figures.json, and end the process."""
    Path("figures.json").write_text(json.dumps({**time_and_memory(), **figures}))
    for child in psutil.Process().children(recursive=True):
        child.kill()
    os._exit(0)


def run_command(program: str, overrides: list[str]) -> None:
    """Run train.py or sample.py in this process."""
    from echodream import cli

    sys.argv = [program, *overrides]
    getattr(cli, program.removesuffix(".py"))()


def measure_write(folder: Path, *arguments: str) -> None:
    """Measure the time of writing a store."""
    rows = table_rows(int(arguments[0]))
    with StoreWriter(folder / "written", latent_dataset(folder)) as writer:
        for number, row in enumerate(rows):
            writer.copy(folder / f"media/{number % SOURCES}.safetensors", row, link=True)
        writer.finish([row["FileName"] for row in rows])
    write_figures_and_exit()


def measure_open(folder: Path, *arguments: str) -> None:
    """Measure the time of opening a store, after imports."""
    start = time.process_time()
    Store(folder / "latents")
    write_figures_and_exit(opening=time.process_time() - start)


def measure_command(folder: Path, *arguments: str) -> None:
    """Measure the time of the whole command sample.py."""
    run_command("sample.py", [*arguments])
    write_figures_and_exit()


def measure_first_recording(folder: Path, *arguments: str) -> None:
    """Measure the time until a stage has written its first recording."""
    commit = StoreWriter.commit

    def commit_and_exit(writer: StoreWriter, row: Any, media: Path) -> None:
        commit(writer, row, media)
        write_figures_and_exit()

    StoreWriter.commit = commit_and_exit  # type: ignore[method-assign]
    run_command("sample.py", [*arguments])


def measure_training(folder: Path, *arguments: str) -> None:
    """Measure the time until the first optimizer step, and the share of later steps that is spent waiting for data."""
    steps = int(arguments[0])
    waits: list[float] = []
    step_ends: list[float] = []
    batches = ResumableLoader.__iter__

    def timed_batches(loader: ResumableLoader) -> Any:
        iterator = batches(loader)
        while True:
            start = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            waits.append(time.perf_counter() - start)
            yield batch

    def after_step(module: Any, *_: Any) -> None:
        step_ends.append(time.perf_counter())
        if len(step_ends) == 1:
            figures.update(time_and_memory())
        if len(step_ends) > steps > 0:
            figures["waiting"] = sum(waits[1 : steps + 1]) / (step_ends[-1] - step_ends[0])
            figures["step"] = (step_ends[-1] - step_ends[0]) / steps
        if len(step_ends) > steps:
            write_figures_and_exit(**figures)

    figures = dict[str, float]()
    ResumableLoader.__iter__ = timed_batches  # type: ignore[method-assign]
    LatentDiffusion.on_train_batch_end = after_step  # type: ignore[method-assign, assignment]
    run_command("train.py", [*arguments[1:]])


class RandomProjection(FrameEmbedder):
    """Embeddings by a random matrix, with noise, because the recordings of the stores repeat."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)
        self.matrix = torch.randn(4 * SIDE**2, FEATURES, generator=self.generator)

    def embed_references(self, latents: Tensor) -> Tensor:
        embeddings = latents.flatten(1) @ self.matrix
        return embeddings + torch.randn(embeddings.shape, generator=self.generator)


def measure_filter(folder: Path, *arguments: str) -> None:
    """Measure time and memory of the search for the nearest patient of each sample."""
    recordings, embedder = Recordings(Store(folder / "latents"), "TRAIN"), RandomProjection()
    samples = torch.randn(SAMPLES, FEATURES, generator=embedder.generator)
    references, queries = ReferenceFrames(embedder, recordings), [Query(part) for part in samples.split(1)]
    start = time.process_time()
    scores, memory = run_with_peak_memory(lambda: references.score(queries, "cosine"))
    write_figures_and_exit(search=time.process_time() - start, increase=memory, references=scores.references)


def measure_select(folder: Path, *arguments: str) -> None:
    """Measure the time of the selection of frames of each patient, and of another patient for each copy."""
    recordings = Recordings(Store(folder / "latents"), "TRAIN")
    start = time.process_time()
    selections = select_frames_by_patient(recordings, 1, seed=0)
    copy_generator = object.__new__(CopyGenerator)
    copy_generator.recordings = recordings
    for patient, selection in selections.items():
        copy_generator.select_other_patient(selection, named_rng(0, patient))
    write_figures_and_exit(selection=time.process_time() - start, patients=len(selections))


MEASUREMENTS: dict[str, Callable[..., None]] = {
    "write": measure_write,
    "open": measure_open,
    "command": measure_command,
    "first_recording": measure_first_recording,
    "training": measure_training,
    "filter": measure_filter,
    "select": measure_select,
}


def run_measurement(name: str, folder: Path, arguments: list[str]) -> dict[str, float]:
    """Figures of the measurement ``name`` in a forked process, whose working directory is ``folder``."""

    def run() -> None:
        FORK_TIME["wall"] = time.perf_counter()
        os.chdir(folder)
        with Path("log").open("a") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        MEASUREMENTS[name](folder, *arguments)

    (folder / "figures.json").unlink(missing_ok=True)
    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join()
    try:
        figures: dict[str, float] = json.loads((folder / "figures.json").read_text())
    except FileNotFoundError as error:
        raise RuntimeError((folder / "log").read_text()) from error
    return figures


def measure_size(folder: Path, recordings: int, only_titles: Iterable[str]) -> None:
    """Print the figures of stores with ``recordings`` recordings; ``only_titles``: selects measurements."""
    write_sources(folder)
    link_store(folder, recordings)
    paths = [f"paths.{name}={folder}/{name}" for name in ("data", "models", "samples", "runs", "reports")]
    common = [*paths, "data=phantom"]
    decode = ["stage=decode", f"src={folder}/latents", f"dst={folder}/out", "reference=null", *common]
    decode += [f"artifact={folder}/vae", "workers=0", "trainer.accelerator=cpu"]
    training = ["model=lidm", "preset=tiny", f"src={folder}/latents", *common, "callbacks.pictures=null"]
    training += ["trainer.accelerator=cpu"]
    rows: list[tuple[str, str, list[str]]] = [
        ("write", "write", [str(recordings)]),
        ("open", "open", []),
        ("verify", "command", ["stage=verify", f"src={folder}/latents", *common]),
        ("decode", "first_recording", decode),
        ("decode again", "first_recording", decode),
        ("training", "training", ["0", *training]),
        ("training again", "training", [str(STEPS), *training]),
        ("filter", "filter", []),
        ("select", "select", []),
    ]
    for title, name, arguments in rows:
        if only_titles and title not in only_titles:
            continue
        figures = run_measurement(name, folder, arguments)
        shutil.rmtree(folder / "out.partial", ignore_errors=True)
        text = "  ".join(f"{key} {value:.3g}" for key, value in figures.items())
        print(f"{recordings:>8} {title:<16} {text}", flush=True)


def main() -> None:
    """Measure stores of each size in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--folder", type=Path, help="folder in which stores are created; default: a temporary folder")
    parser.add_argument("--only", nargs="+", default=[], help="titles of measurements, such as open; default: all")
    options = parser.parse_args()
    torch.set_num_threads(1)
    start_time = psutil.Process().create_time()
    print(f"imports: wall {time.time() - start_time:.3g}  processor {time.process_time():.3g}", flush=True)
    for recordings in options.recordings:
        folder = Path(tempfile.mkdtemp(prefix="scale-", dir=options.folder))
        try:
            measure_size(folder, recordings, options.only)
        finally:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
