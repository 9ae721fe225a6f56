"""Settings of a UNet: values of the wrong type are refused."""

from typing import Any

import pytest

from echodream.errors import UserError
from echodream.networks.denoisers.unet import build_unet

SOUND: dict[str, Any] = {"widths": [32], "layers": 1, "attention": ["cross"], "heads": 2}


@pytest.mark.parametrize("video", [False, True])
@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        *[(key, value, "give a list") for key in ("widths", "attention") for value in (None, 8, "cross", [])],
        *[("widths", [value], "give a whole number from 1") for value in (None, 0, 32.0, "32", True)],
        *[("layers", value, "give a whole number from 1") for value in (None, 0, 1.5, "one", True)],
    ],
)
def test_a_setting_of_another_kind_is_one_sentence(video: bool, key: str, value: Any, words: str) -> None:
    with pytest.raises(UserError, match=rf"^denoiser\.{key} (is|has) .*: {words}"):
        build_unet(4, 0, 8, video, **{**SOUND, key: value})


@pytest.mark.parametrize("groups", [0, None, -4, 2.5])
def test_groups_are_a_number(groups: Any) -> None:
    with pytest.raises(UserError, match=r"^denoiser\.groups is .*: give a whole number from 1"):
        build_unet(4, 0, 8, False, **SOUND, groups=groups)
