"""One smoke study for all tests of this folder; the first process that needs the study creates it."""

import os
from pathlib import Path

import pytest

from tests.support.smoke_study import Smoke, smoke_study


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Smoke:
    """The finished smoke study, which tests must not change."""
    base = tmp_path_factory.getbasetemp()
    folder: Path = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "smoke"
    folder.mkdir(exist_ok=True)
    return smoke_study(folder)
