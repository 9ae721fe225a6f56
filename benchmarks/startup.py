"""Startup time of the command line, and import time of each stage and model.

python benchmarks/startup.py [--repeats 3] [--launch]

The printed wall time and CPU time, in seconds, are minima over repeats, each in a new process. The import time of a
stage covers the modules that its configuration names, without imports inside functions. With --launch, the smoke
pipeline runs twice in a temporary folder, which takes minutes: first from the beginning, then with all results
complete.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from echodream.config.paths import CONF_DIR

ROOT = Path(__file__).resolve().parent.parent
IMPORT_TARGETS = """
import importlib
import echodream.config
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

def targets(node):
    if isinstance(node, dict):
        target = [node["_target_"]] if "_target_" in node else []
        return target + [name for value in node.values() for name in targets(value)]
    return [name for value in node for name in targets(value)] if isinstance(node, list) else []

with initialize_config_dir({conf!r}, version_base="1.3"):
    names = targets(OmegaConf.to_container(compose({config!r}, {overrides!r})))
for name in names:
    importlib.import_module(name.rpartition(".")[0])
"""
"""Python code that imports all modules of the ``_target_`` entries of a configuration."""


def main() -> None:
    """Print the time of commands and of imports and, with --launch, of the smoke pipeline."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--launch", action="store_true", help="also run the smoke pipeline")
    arguments = parser.parse_args()
    print(f"{'command':<58}{'wall s':>8}{'CPU s':>8}")
    for words in (
        ["train.py", "--help"],
        ["sample.py", "--help"],
        ["train.py", "model=vea", "data=phantom"],
        ["train.py", "model=vae", "data=phantom", "trainer.epochs=3"],
        ["sample.py", "stage=ingest", "data=cardiacnet", "raw=/nowhere"],
    ):
        print_row("python " + " ".join(words), [str(ROOT / words[0]), *words[1:]], arguments.repeats)
    print(f"\n{'imports':<58}{'wall s':>8}{'CPU s':>8}")
    print_row("python without imports", ["-c", ""], arguments.repeats)
    for group, config in (("stage", "sample"), ("model", "train")):
        for name in sorted(path.stem for path in (CONF_DIR / group).glob("*.yaml") if path.stem != "base"):
            code = IMPORT_TARGETS.format(
                conf=str(CONF_DIR), config=config, overrides=[f"{group}={name}", "data=phantom"]
            )
            print_row(f"{group}={name}", ["-c", code], arguments.repeats)
    if arguments.launch:
        time_pipeline()


def print_row(name: str, arguments: list[str], repeats: int) -> None:
    """Print the minimum time of ``repeats`` runs of python with ``arguments``."""
    with tempfile.TemporaryDirectory() as folder:
        times = [measure_command([sys.executable, *arguments], Path(folder)) for _ in range(repeats)]
    wall, cpu = (min(values) for values in zip(*times, strict=True))
    print(f"{name:<58}{wall:>8.2f}{cpu:>8.2f}", flush=True)


def measure_command(command: list[str], folder: Path) -> tuple[float, float]:
    """Wall time and CPU time of ``command`` and its child processes, in seconds."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if "Traceback" in process.stderr:
        raise RuntimeError(process.stderr)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def time_pipeline() -> None:
    """Time the smoke pipeline, and a second run when all results are complete."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("train.py", "sample.py", "launch"):
            (folder / part).symlink_to(ROOT / part)
        print(f"\n{'python launch/run.py smoke':<58}{'wall s':>8}{'CPU s':>8}")
        for run in ("first run", "second run"):
            wall, cpu = measure_command([sys.executable, f"{folder}/launch/run.py", "smoke"], folder)
            print(f"{run:<58}{wall:>8.1f}{cpu:>8.1f}", flush=True)


if __name__ == "__main__":
    main()
