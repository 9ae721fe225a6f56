"""Every error of a full disk becomes the same one-line message, whichever library raised the error."""

from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from echodream.config.error_messages import error_sentence

FULL = Path("/dev/full")
ROOM = "cannot be written: No space left on device; make room or choose another dst=, then run again"


@pytest.mark.skipif(not FULL.exists(), reason="a Linux device")
def test_a_checkpoint_that_finds_no_room() -> None:
    """The type of the error of ``torch.save`` depends on the number of bytes written before the disk was full."""
    with pytest.raises((RuntimeError, OSError)) as caught, FULL.open("wb") as file:
        torch.save({"weights": torch.zeros(1_000_000)}, file)
    assert error_sentence(caught.value, "train", []) == f"the destination {ROOM}"


def test_an_error_that_hides_the_disk() -> None:
    error = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")
    error.__context__ = OSError(28, "No space left on device")
    assert error_sentence(error, "train", []) == f"the destination {ROOM}"


def test_weights_that_find_no_room() -> None:
    error = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert error_sentence(error, "train", []) == f"the destination {ROOM}"


def test_a_file_that_finds_no_room_is_named() -> None:
    assert error_sentence(OSError(28, "No space left on device", "a/b"), "sample", []) == f"a/b {ROOM}"
    assert error_sentence(PermissionError(13, "Permission denied", "a/b"), "sample", []) == (
        "a/b cannot be written: Permission denied; make room or choose another dst=, then run again"
    )


def test_other_errors_are_not_taken_for_it() -> None:
    assert error_sentence(RuntimeError("shapes differ"), "train", []) is None
    assert error_sentence(OSError(5, "Input/output error", "a/b"), "train", []) is None
