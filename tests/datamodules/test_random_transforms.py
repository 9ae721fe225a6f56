"""Random transforms: distributions of sampled values, closed forms, descriptions, and refused settings."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from echodream.datamodules import augmentation
from echodream.datamodules.augmentation import Transform
from echodream.datamodules.random_transforms import PARAMETERS, RandomTransform
from echodream.errors import UserError

C, F, H, W = 2, 3, 10, 14
RANGES: dict[str, Any] = {
    "gain": (-1.0, 1.0),
    "contrast": (-1.0, 0.5),
    "speckle": (0.1, 0.2),
    "shift": (0.02, 0.1),
    "rotate": (-15.0, 15.0),
    "zoom": (0.8, 1.25),
    "blur": (0.0, 2.0),
    "elastic": (0.5, 2.0),
    "jpeg": (10, 95),
    "blend": (0.0, 0.3),
    "interpolate": (0.1, 0.3),
}


def pixels(seed: int = 0) -> torch.Tensor:
    return torch.rand((C, F, H, W), generator=torch.Generator().manual_seed(seed)) * 2 - 1


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def signed(factor: float) -> float:
    """The signed value of a gain or contrast whose factor is 1 + value (value >= 0) or 1 / (1 - value) (value < 0)."""
    return factor - 1 if factor >= 1 else 1 - 1 / factor


def test_every_parameter_has_a_range_here() -> None:
    assert RANGES.keys() == PARAMETERS.keys()


@pytest.mark.parametrize("name", RANGES)
def test_samples_of_a_range_are_uniform_between_its_ends(name: str) -> None:
    """1,500 samples pass a test of uniformity on the range; a test on 90 % of the range rejects the same samples."""
    generator, low, high = rng(3), *RANGES[name]
    sampled = [RandomTransform(**{name: (low, high)}).sample(generator) for _ in range(1500)]
    values = np.array([getattr(one, name) for one in sampled])
    if name in ("gain", "contrast"):
        values = np.array([signed(factor) for factor in values])
    if name == "shift":
        assert {(down > 0, right > 0) for down, right in values} == {
            (a, b) for a in (True, False) for b in (True, False)
        }
        assert abs(np.corrcoef(np.abs(values).T)[0, 1]) < 0.1
        values = np.abs(values).ravel()
    assert low - 1e-9 <= values.min()
    assert values.max() <= high + 1e-9
    span = (low - 0.5, high - low + 1) if name == "jpeg" else (low, high - low)
    values = values + rng(1).uniform(-0.5, 0.5, len(values)) if name == "jpeg" else values
    assert stats.kstest(values, "uniform", args=span).pvalue > 0.01
    assert stats.kstest(values, "uniform", args=(low, (high - low) * 0.9)).pvalue < 1e-6
    assert len({getattr(one, name) for one in sampled}) > 80


@pytest.mark.parametrize(
    ("name", "amount", "value"),
    [("shift", 0.06, 0.06), ("zoom", 0.25, 1.25), ("blur", 1.5, 1.5), ("elastic", 0.8, 0.8), ("jpeg", 40, 40)],
)
def test_a_range_of_one_value_is_the_amount(name: str, amount: float, value: float) -> None:
    for seed in range(8):
        range_, fixed = RandomTransform(**{name: (value, value)}), RandomTransform(**{name: amount})
        assert range_.sample(rng(seed)) == fixed.sample(rng(seed))
    assert RandomTransform(rotate=(7, 7)).sample(rng()).rotate == 7
    assert {RandomTransform(rotate=7).sample(rng(seed)).rotate for seed in range(9)} == {7, -7}
    assert {RandomTransform(gain=0.5).sample(rng(seed)).gain for seed in range(9)} == {1.5, 1 / 1.5}
    assert RandomTransform(gain=(-0.5, -0.5)).sample(rng()).gain == 1 / 1.5


def test_any_flip_is_each_of_three_with_the_same_probability() -> None:
    generator = rng()
    flips = [RandomTransform(flip="any").sample(generator).flip for _ in range(900)]
    counts = [flips.count(axes) for axes in ((-1,), (-2,), (-1, -2))]
    assert sum(counts) == 900
    assert stats.chisquare(counts).pvalue > 0.01
    assert RandomTransform(flip=True).sample(generator).flip == (-1,)
    assert RandomTransform(flip="vertical").sample(generator).flip == (-2,)


def test_a_composition_has_two_to_four_of_the_parameters() -> None:
    composed, generator = RandomTransform(**RANGES, flip="any", invert=True, count=[2, 4]), rng()
    unchanged = Transform()
    sampled = [composed.sample(generator) for _ in range(1300)]
    set_ = [[name for name in composed.parameters if getattr(one, name) != getattr(unchanged, name)] for one in sampled]
    numbers = [[len(names) for names in set_].count(number) for number in (2, 3, 4)]
    assert sum(numbers) == 1300
    assert stats.chisquare(numbers).pvalue > 0.01
    by_name = [sum(name in names for names in set_) for name in composed.parameters]
    assert len(by_name) == 13
    assert stats.chisquare(by_name).pvalue > 0.01


def test_each_parameter_is_its_function_of_pixels() -> None:
    x, other = pixels(), pixels(1)
    for changed, truth in (
        (Transform(gain=1.5), augmentation.gain(x, 1.5)),
        (Transform(contrast=0.5), augmentation.contrast(x, 0.5)),
        (Transform(speckle=0.2), augmentation.speckle(x, 0.2, rng(5))),
        (Transform(shift=(0.1, -0.2), rotate=4.0, zoom=1.2), augmentation.affine(x, (0.1, -0.2), 4.0, 1.2)),
        (Transform(flip=(-1, -2)), x.flip(-1, -2)),
        (Transform(blur=1.0), augmentation.blur(x, 1.0)),
        (Transform(elastic=1.0), augmentation.deform(x, 1.0, rng(5))),
        (Transform(jpeg=30), augmentation.jpeg(x, 30)),
        (Transform(blend=0.3), 0.7 * x + 0.3 * other),
        (Transform(invert=True), -x),
        (Transform(interpolate=0.3), x),
    ):
        assert torch.allclose(changed.change_pixels(x, rng(5), other), truth, atol=1e-6), changed
        assert changed.interpolate or not torch.allclose(truth, x, atol=0.01)
    assert torch.allclose(Transform(interpolate=0.3).mix_latents(x, other), 0.7 * x + 0.3 * other)
    assert torch.equal(Transform(blend=0.3).mix_latents(x, other), x)


@pytest.mark.parametrize(
    ("settings", "amount", "description"),
    [
        ({"shift": (0, 0.1)}, "uniform from 0 to 10 % of the side", "moved by 0 to 10 % of the side"),
        ({"rotate": (-15, 15)}, "uniform from -15 to 15 degrees", "turned by -15 to 15°"),
        ({"zoom": (0.8, 1.25)}, "uniform from 0.8 to 1.25 times", "magnified 0.8 to 1.25 times"),
        ({"gain": (-1, 1)}, "uniform from -100 to 100 %", "brighter or darker by -100 to 100 %"),
        ({"blur": (0, 2)}, "uniform from 0 to 2 px", "blurred by 0 to 2 px"),
        ({"jpeg": (10, 95)}, "uniform from 10 to 95 of quality", "compressed as JPEG of quality 10 to 95"),
        (
            {"blend": (0, 0.3)},
            "uniform from 0 to 30 % of another patient",
            "blended with 0 to 30 % of another patient",
        ),
        ({"flip": "any"}, "horizontal, vertical or both, at random", "mirrored, upside down or both"),
        ({"flip": "vertical"}, "vertical", "upside down"),
        ({"invert": True}, "", "inverted"),
        ({"blur": 1.5}, "by 1.5 px", "blurred by 1.5 px"),
        (
            {"shift": (0, 0.1), "rotate": 5.0},
            "with shift uniform from 0 to 10 % of the side and rotate 5 degrees",
            "moved by 0 to 10 % of the side, turned by 5°",
        ),
        (
            {"shift": (0, 0.1), "flip": "any", "invert": True, "count": [2, 3]},
            "2 to 3 at random of: shift uniform from 0 to 10 % of the side; "
            "flip horizontal, vertical or both, at random; invert",
            "2 to 3 of these at random: moved by 0 to 10 % of the side; mirrored, upside down or both; inverted",
        ),
    ],
)
def test_distributions_in_words(settings: dict[str, Any], amount: str, description: str) -> None:
    assert RandomTransform(**settings).amount == amount
    assert RandomTransform(**settings).description == description


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"shift": [0.2, 0.1]}, r"shift is \[0.2, 0.1\]: give one number, or a range \[lowest, highest\] of numbers"),
        ({"shift": [-0.1, 0.1]}, "of numbers from 0 to 1"),
        ({"shift": [0.1]}, "shift is"),
        ({"rotate": [0, 200]}, "from -180 to 180"),
        ({"rotate": [0, float("nan")]}, "rotate is"),
        ({"zoom": [0, 0.1]}, "from 0.1 to 10, the factor"),
        ({"jpeg": [10.5, 95]}, "jpeg is .* of whole numbers from 1 to 95"),
        ({"jpeg": 96}, "jpeg is 96: give a whole number from 1 to 95, or 0"),
        ({"blend": 1.5}, "blend is 1.5"),
        ({"blur": -1}, "blur is -1"),
        ({"gain": [-1, "1"]}, "gain is"),
        ({"flip": "diagonal"}, "flip is 'diagonal': choose one of vertical, any"),
        ({"invert": 1}, "invert is 1: give true or false"),
        ({"shift": [0, 0.1], "count": [2, 4]}, "count is .* at most the 1 parameters that are set"),
        ({"shift": [0, 0.1], "blur": 1, "count": [2, 1]}, "count is"),
        ({"shift": [0, 0.1], "blur": 1, "count": [0, 1]}, "count is"),
    ],
)
def test_impossible_ranges_are_refused_with_one_sentence(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as told:
        RandomTransform(**settings)
    assert "\n" not in str(told.value)
