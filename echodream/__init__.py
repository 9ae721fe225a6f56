"""echodream: synthetic medical images and videos that can be shared, generated from private studies.

docs/python.md describes the functions of this module, which are imported when they are first used.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from echodream.api import load, open_store, play, run
    from echodream.embedding_arrays import audit, evaluate, filter

__version__ = "0.1.0"
__all__ = ["audit", "evaluate", "filter", "load", "open_store", "play", "run"]

# Idle threads of libgomp spin, which makes a training step ten times slower if other programs use the cores. A small
# GOMP_SPINCOUNT has no measurable cost. libgomp reads GOMP_SPINCOUNT when torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")


_FUNCTION_MODULES = {"audit": "embedding_arrays", "evaluate": "embedding_arrays", "filter": "embedding_arrays"}
"""Module of each function that is not in ``api``."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'echodream' has no attribute {name!r}")
    return getattr(import_module(f"echodream.{_FUNCTION_MODULES.get(name, 'api')}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
