"""Frames per second of stage=ingest for several numbers of workers, on phantom files in the layout of CardiacNet.

python benchmarks/ingest.py [--patients 40] [--workers 0 1 2]
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

from echodream.ingest.cardiacnet import CardiacNet
from echodream.ingest.phantom import Phantom
from echodream.ingest.preprocessing import Preprocessing
from echodream.ingest.source import Limits
from echodream.ingest.split import SplitRatios
from echodream.stages.ingest import ingest
from echodream.stages.phantom import phantom
from echodream.store import Store


def main() -> None:
    """Write the raw files once, ingest them with each number of workers, and print the frames per second."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=40)
    parser.add_argument("--workers", type=int, nargs="+", default=sorted({0, 1, os.cpu_count() or 1}))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder, "raw")
        source = Phantom(patients=arguments.patients)
        phantom(source=source, layout="cardiacnet", dst=str(raw), workers=None, command="", code_version="")
        print(f"{'workers':>8}{'frames':>8}{'seconds':>9}{'frames/s':>10}")
        for workers in arguments.workers:
            dst = Path(folder, f"store_{workers}")
            start = time.perf_counter()
            ingest(
                source=CardiacNet(),
                prepare=Preprocessing(),
                split=SplitRatios(),
                limits=Limits(),
                raw=str(raw),
                dst=str(dst),
                max_rejected=0.05,
                workers=workers,
                timeout=600,
                command="",
                code_version="",
            )
            seconds = time.perf_counter() - start
            frames = int(Store(dst).table["NumberOfFrames"].sum())
            print(f"{workers:>8}{frames:>8}{seconds:>9.2f}{frames / seconds:>10.0f}", flush=True)


if __name__ == "__main__":
    main()
