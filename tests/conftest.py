"""What holds for every test."""

import gc
from collections.abc import Generator

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests that take longest begin first, so that no process waits for another at the end."""
    items.sort(key=lambda item: "chaos" not in item.keywords and "two_processes" not in item.name)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Leave the millions of objects that the imports make out of garbage collection: it takes a tenth of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
