"""Seconds until the command line answers, and what the imports of each stage and model cost.

python benchmarks/startup.py [--repeats 3] [--launch]

Each figure is the least of the repeats, each in a process of its own: on the clock, and of the processor. What a stage
imports is all that its configuration names, so without what it imports where it needs it. With --launch the smoke list
is run twice in a folder that is thrown away, which takes minutes: with work to do, and without.
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
NAMED = """
import importlib
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

def named(node):
    if isinstance(node, dict):
        own = [node["_target_"]] if "_target_" in node else []
        return own + [name for value in node.values() for name in named(value)]
    return [name for value in node for name in named(value)] if isinstance(node, list) else []

with initialize_config_dir({conf!r}, version_base="1.3"):
    found = named(OmegaConf.to_container(compose({config!r}, {overrides!r})))
for name in found:
    importlib.import_module(name.rpartition(".")[0])
"""


def main() -> None:
    """Two tables, and with --launch a third."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--launch", action="store_true", help="the smoke list, too")
    arguments = parser.parse_args()
    print(f"{'answer':<58}{'seconds':>8}{'of CPU':>8}")
    for words in (
        ["train.py", "--help"],
        ["sample.py", "--help"],
        ["train.py", "model=vea", "data=phantom"],
        ["train.py", "model=vae", "data=phantom", "trainer.epochs=3"],
        ["sample.py", "stage=ingest", "data=cardiacnet", "raw=/nowhere"],
    ):
        row("python " + " ".join(words), [str(ROOT / words[0]), *words[1:]], arguments.repeats)
    print(f"\n{'imports of':<58}{'seconds':>8}{'of CPU':>8}")
    row("python alone", ["-c", ""], arguments.repeats)
    for group, config in (("stage", "sample"), ("model", "train")):
        for name in sorted(path.stem for path in (CONF_DIR / group).glob("*.yaml") if path.stem != "base"):
            code = NAMED.format(conf=str(CONF_DIR), config=config, overrides=[f"{group}={name}", "data=phantom"])
            row(f"{group}={name}", ["-c", code], arguments.repeats)
    if arguments.launch:
        launch()


def row(name: str, words: list[str], repeats: int) -> None:
    """Print the least of ``repeats`` runs of python with ``words``."""
    with tempfile.TemporaryDirectory() as folder:
        spent = [seconds([sys.executable, *words], Path(folder)) for _ in range(repeats)]
    clock, processor = (min(values) for values in zip(*spent, strict=True))
    print(f"{name:<58}{clock:>8.2f}{processor:>8.2f}", flush=True)


def seconds(command: list[str], folder: Path) -> tuple[float, float]:
    """On the clock, and of the processor, with all processes that it starts."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    around = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=around, capture_output=True, text=True, check=False)
    if "Traceback" in done.stderr:
        raise RuntimeError(done.stderr)
    clock, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return clock, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def launch() -> None:
    """The smoke list as its script runs it, and again."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("train.py", "sample.py", "launch"):
            (folder / part).symlink_to(ROOT / part)
        print(f"\n{'bash launch/demo.sh smoke':<58}{'seconds':>8}{'of CPU':>8}")
        for what in ("from nothing", "again"):
            clock, processor = seconds(["bash", f"{folder}/launch/demo.sh", "smoke"], folder)
            print(f"{what:<58}{clock:>8.1f}{processor:>8.1f}", flush=True)


if __name__ == "__main__":
    main()
