"""Helpers of the fuzz tests: checks of error messages, and a separate process that runs decoders."""

import os
import resource
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from echodream.errors import CONTROL_CHARACTERS, Rejected, UserError

ROOM = 600 << 20
"""Bytes of memory that a decoder may use in addition to its use after the first, valid file."""

Answer = str | None
"""Error message for a case, or None for a valid case."""


def answer(call: Callable[[], object]) -> Answer:
    """None if ``call`` returns, the message if UserError or Rejected is raised; other exceptions are defects."""
    try:
        call()
    except (UserError, Rejected) as error:
        return str(error)
    return None


def check_sentence(said: Answer, folder: Path) -> None:
    """Check that an error message has no line break or other control character, and fewer than 500 characters."""
    if said is not None:
        assert not CONTROL_CHARACTERS.search(said), said
        assert 5 < len(said.replace(str(folder), "")) < 500, said


def fuzz(cases: int, strategy: st.SearchStrategy[Any], ask: Callable[[Any], Answer], folder: Path) -> Counter[bool]:
    """Call ``ask`` with ``cases`` random cases; returns the number of valid (True) and refused (False) cases."""
    tally: Counter[bool] = Counter()

    @settings(
        deadline=None,
        max_examples=cases,
        derandomize=True,
        database=None,
        phases=[Phase.generate] if os.environ.get("ECHODREAM_FUZZ") else [Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def each(case: Any) -> None:
        said = ask(case)
        check_sentence(said, folder)
        tally[said is None] += 1

    each()
    assert tally.total() >= cases
    assert tally[False], "nothing was refused: the cases are too tame"
    return tally


class Decoder:
    """Calls a function in another process: a crash is a test failure, and the memory use is measured."""

    def __init__(self) -> None:
        self.pool = ProcessPoolExecutor(1, get_context("spawn"), _limit)
        self.most = 0

    def ask(self, function: Callable[..., object], *arguments: object) -> Answer:
        said, used = self.pool.submit(_asked, function, arguments).result(timeout=120)
        assert used <= (self.most or used), f"{used >> 20} MiB in use, {self.most >> 20} are allowed"
        self.most = self.most or used + ROOM
        return said

    def close(self) -> None:
        self.pool.shutdown(cancel_futures=True)


def _limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (12 << 30, hard))
    quiet = os.open(os.devnull, os.O_WRONLY)  # decoders complain about each case on stderr, stages print summaries
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)


def _asked(function: Callable[..., object], arguments: tuple[object, ...]) -> tuple[Answer, int]:
    said = answer(lambda: function(*arguments))
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return said, used * (1 if sys.platform == "darwin" else 1024)


@st.composite
def damaged(draw: st.DrawFn, whole: bytes, head: int = 400) -> bytes:
    """``whole`` with random damage: changed, removed or repeated bytes, often among the first ``head`` bytes."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        most = len(content) if draw(st.booleans()) else min(head, len(content))
        at = draw(st.integers(0, max(0, most - 1)))
        kind = draw(st.sampled_from(["flip", "byte", "number", "remove", "double", "cut", "grow"]))
        if kind == "flip" and content:
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "byte" and content:
            content[at] = draw(st.integers(0, 255))
        elif kind == "number":
            value = draw(st.sampled_from([0, 1, 2**15 - 1, 100_000, 2**31 - 1, 2**32 - 1]))
            order = draw(st.sampled_from(["little", "big"]))
            content[at : at + 4] = value.to_bytes(4, order)
        elif kind == "remove":
            del content[at : at + draw(st.integers(1, 64))]
        elif kind == "double":
            content[at:at] = content[at : at + draw(st.integers(1, 64))]
        elif kind == "cut":
            del content[draw(st.integers(0, len(content))) :]
        elif kind == "grow":
            content += draw(st.binary(max_size=64))
    return bytes(content)
