"""Settings of a diffusion process: ``zero_snr`` must be true or false."""

from typing import Any

import pytest

from echodream.diffusion.processes.ddpm import DDPM
from echodream.errors import UserError


@pytest.mark.parametrize("value", ["maybe", "false", 0.5, 1, 0, None])
def test_zero_snr_is_true_or_false(value: Any) -> None:
    with pytest.raises(UserError, match=r"^process.zero_snr is .*: give true or false$"):
        DDPM(zero_snr=value)
    for sound in (True, False):
        assert DDPM(zero_snr=sound).settings()["zero_snr"] is sound
