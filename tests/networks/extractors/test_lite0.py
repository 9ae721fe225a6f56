"""EfficientNet-lite0: known images are recognized with the published weights; errors if the package is absent."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from echodream.errors import UserError
from echodream.networks.extractors import lite0
from echodream.networks.extractors.base import FRAMES

pytestmark = pytest.mark.skipif(not lite0.is_installed(), reason="needs the extra features")
PALACE, DAISY = 698, 985
"""ImageNet classes."""


@pytest.mark.parametrize(("name", "label"), [("china.jpg", PALACE), ("flower.jpg", DAISY)])
def test_photographs_are_recognized(name: str, label: int) -> None:
    photo = Image.fromarray(load_sample_image(name))
    side = min(photo.size)
    left, top = (photo.width - side) // 2, (photo.height - side) // 2
    square = photo.crop((left, top, left + side, top + side)).resize((224, 224), Image.Resampling.BICUBIC)
    x = torch.from_numpy(np.array(square)).permute(2, 0, 1)[None] / 127.5 - 1
    network = lite0.load_lite0()
    with torch.inference_mode():
        assert int(network._fc(network(lite0.normalize(x))).argmax()) == label


def test_shapes_of_frames_clips_and_stages() -> None:
    extractor = lite0.Lite0()
    assert FRAMES in extractor.inputs
    with torch.inference_mode():
        assert extractor.features(torch.zeros(2, 1, 1, 24, 30)).shape == (2, 1280)
        assert extractor.features(torch.zeros(1, 3, 5, 24, 30)).shape == (1, 2560)
        stages = [tuple(stage.shape[1:]) for stage in extractor.network.stages(torch.zeros(1, 3, 64, 96))]
    assert stages == [(16, 32, 48), (24, 16, 24), (40, 8, 12), (112, 4, 6), (320, 2, 3)]


def test_merged_batch_norms_change_neither_activations_nor_gradients() -> None:
    torch.manual_seed(0)
    network = lite0.EfficientNetLite0().eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for values, low, high in (
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 2.0),
                (module.weight, 0.5, 1.5),
                (module.bias, -0.5, 0.5),
            ):
                assert values is not None
                values.uniform_(low, high)
    x = torch.randn(2, 3, 37, 50, requires_grad=True)  # odd and even sizes, which need different padding
    found = []
    for merge in (False, True):
        if merge:
            network.merge_batch_norms()
        activations = [*network.stages(x), network(x)]
        (gradient,) = torch.autograd.grad(sum(each.square().mean() for each in activations), x)  # type: ignore[arg-type]
        found.append([*activations, gradient])
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
    for separate, merged in zip(*found, strict=True):
        torch.testing.assert_close(merged, separate, rtol=1e-4, atol=1e-5)


def test_a_clip_that_stands_still_has_features_of_a_gray_difference() -> None:
    extractor = lite0.Lite0()
    still = torch.rand(1, 1, 1, 16, 16).expand(-1, -1, 4, -1, -1) * 2 - 1
    with torch.inference_mode():
        features = extractor.features(still)
        assert torch.allclose(features[:, :1280], extractor.features(still[:, :, :1]), atol=1e-5)
        assert torch.allclose(features[:, 1280:], extractor.features(torch.zeros(1, 1, 1, 16, 16)), atol=1e-5)


def test_without_the_extra_one_sentence_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lite0, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"need EfficientNet-lite0: install the extra: pip install 'echodream\[features\]'"
    ):
        lite0.load_lite0()
