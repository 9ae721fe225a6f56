"""True positive rate of membership inference at a bounded false positive rate, counted by hand."""

import numpy as np
import pytest

from echodream.privacy.attacks.membership import tpr_at_fpr


@pytest.mark.parametrize(("fpr", "expected"), [(0.0, 0.25), (0.25, 0.5), (0.5, 0.75), (1.0, 1.0)])
def test_no_more_false_positives_than_allowed(fpr: float, expected: float) -> None:
    members, others = np.array([2.5, 3.5, 0.5, 1.5]), np.array([0.0, 1.0, 2.0, 3.0])
    assert tpr_at_fpr(members, others, fpr) == expected
