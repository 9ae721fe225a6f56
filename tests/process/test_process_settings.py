"""Settings of a process that are not what they seem."""

from typing import Any

import pytest

from echodream.errors import UserError
from echodream.process.discrete import Discrete


@pytest.mark.parametrize("value", ["maybe", "false", 0.5, 1, 0, None])
def test_zero_snr_is_true_or_false(value: Any) -> None:
    with pytest.raises(UserError, match=f"^process.zero_snr={value} is not possible; give true or false$"):
        Discrete(zero_snr=value)
    for sound in (True, False):
        assert Discrete(zero_snr=sound).settings()["zero_snr"] is sound
