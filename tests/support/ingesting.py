"""``stage=ingest`` as a function with defaults."""

from pathlib import Path
from typing import Any

from echodream.ingest.preprocessing import Preprocessing
from echodream.ingest.source import Limits
from echodream.ingest.split import SplitRatios
from echodream.runs.summary import Summary
from echodream.stages.ingest import ingest


def run_ingest(dst: Path, source: Any, raw: Path | str | None, **changes: Any) -> Summary:
    """Ingest ``raw`` into ``dst`` in this process, without resampling, resizing or accepted rejections."""
    arguments = {
        "prepare": Preprocessing(fps=None, size=None),
        "split": SplitRatios(),
        "limits": Limits(),
        "max_rejected": 0.0,
        "workers": 0,
        "timeout": 60.0,
        "command": "",
        "code_version": "1",
    }
    return ingest(source=source, raw=None if raw is None else str(raw), dst=str(dst), **{**arguments, **changes})
