"""Settings and fixtures for all tests."""

import copy
import gc
import os
from collections.abc import Generator, Iterator
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

# One thread per process, also in processes that tests start: such small networks are slower on several threads, and the
# number of threads changes the last bits of results. The libraries read these variables when they are imported.
os.environ |= {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS")}

import hydra
import pytest
from hydra._internal import defaults_list
from omegaconf import OmegaConf

from echodream.config.paths import CONF_DIR


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest tests first, so that no test process waits for another process at the end."""
    items.sort(key=lambda item: "chaos" not in item.keywords and "two_processes" not in item.name)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Exclude the millions of objects that imports create from garbage collection, which takes a tenth of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session", autouse=True)
def no_store_is_recorded_as_verified() -> Iterator[None]:
    """Do not record verified stores: the records would go to the folder runs/ of the working directory."""
    with mock.patch("echodream.runs.verified_stores.TIMESTAMP_RESOLUTION_NS", 10**18):
        yield


@pytest.fixture(scope="session", autouse=True)
def trainings_have_equal_precision_on_every_cpu() -> Iterator[None]:
    """``trainer.precision=auto`` is float32 in this process; commands in other processes choose it by the CPU."""
    with mock.patch("echodream.runs.trainer._uses_bf16_cpu", return_value=False):
        yield


@pytest.fixture(scope="session", autouse=True)
def configuration_files_are_parsed_once() -> Iterator[None]:
    """Cache parsed configuration files: every second test composes a configuration; half of that time is parsing."""
    load, folders = OmegaConf.load, (f"{CONF_DIR}{os.sep}", f"{Path(hydra.__file__).parent}{os.sep}")

    @cache
    def parse(path: str, changed: int, size: int) -> Any:
        return load(path)

    def load_copy(file: Any) -> Any:
        path = str(getattr(file, "name", file))
        if not path.startswith(folders):
            return load(file)
        status = Path(path).stat()
        return copy.deepcopy(parse(path, status.st_mtime_ns, status.st_size))

    with mock.patch.object(OmegaConf, "load", load_copy):
        yield


@pytest.fixture(scope="session", autouse=True)
def defaults_without_interpolation_compose_faster() -> Iterator[None]:
    """Skip a slow merge of Hydra, a fifth of the time to compose, if no interpolation reads the merged choices."""
    merge = defaults_list._create_interpolation_map

    def merge_if_read(overrides: Any, defaults: list[Any], self_added: bool) -> Any:
        is_read = any(default.is_interpolation() for default in defaults if not default.is_self())
        return merge(overrides, defaults, self_added) if is_read else OmegaConf.create()

    with mock.patch.object(defaults_list, "_create_interpolation_map", merge_if_read):
        yield
