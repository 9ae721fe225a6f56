"""What holds for every test."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests that take longest begin first, so that no process waits for another at the end."""
    items.sort(key=lambda item: "chaos" not in item.keywords and "two_processes" not in item.name)
