"""The mutants of benchmarks/mutants.py still apply: each line that they replace is in the code once."""

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
