"""The mutants of benchmarks/mutants.py are up to date: each line to replace occurs exactly once in the code."""

import ast
from pathlib import Path

import pytest

from benchmarks.mutants import MUTANTS

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_applies(name: str) -> None:
    mutant = MUTANTS[name]
    text = (ROOT / "echodream" / mutant.file).read_text()
    assert text.count(mutant.code) == 1, f"update benchmarks/mutants.py: {mutant.code}"
    ast.parse(text.replace(mutant.code, mutant.mistake))
    assert all((ROOT / "tests" / test).exists() for test in mutant.tests.split())
