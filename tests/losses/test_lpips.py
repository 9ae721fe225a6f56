"""LPIPS from local files: small random weights with the parameter names of torchvision and of LPIPS."""

import hashlib
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from echodream.errors import UserError
from echodream.losses import lpips
from echodream.losses.lpips import LPIPS, build_lpips
from tests.test_structure import composed

# Layers of VGG-16 with the numbering of torchvision ("M": max pooling), but with small widths.
LAYERS: list[Any] = [4, 4, "M", 5, 5, "M", 6, 6, 6, "M", 7, 7, 7, "M", 8, 8, 8, "M"]
STAGES = ((4, 4), (5, 5), (6, 6, 6), (7, 7, 7), (8, 8, 8))
NAMES_OF_CONVOLUTIONS = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]


def vgg() -> nn.Sequential:
    """Equivalent of ``vgg16().features`` of torchvision, with small widths."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    channels = 3
    for width in LAYERS:
        if width == "M":
            layers.append(nn.MaxPool2d(2, 2))
        else:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
    return nn.Sequential(*layers)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    monkeypatch.setattr(lpips, "_STAGE_WIDTHS", STAGES)
    state = {f"features.{name}": value for name, value in vgg().state_dict().items()}
    save_file({**state, "classifier.0.weight": torch.ones(2)}, tmp_path / "vgg16.safetensors")
    heads = {f"lin{index}.model.1.weight": torch.rand(1, widths[-1], 1, 1) for index, widths in enumerate(STAGES)}
    torch.save(heads, tmp_path / "lpips.pth")
    return tmp_path / "vgg16.safetensors", tmp_path / "lpips.pth"


def made(files: tuple[Path, Path], weight: float = 1.0) -> LPIPS:
    backbone, linear = files
    found = build_lpips(weight, str(backbone), str(linear), {"backbone": sha256(backbone), "linear": sha256(linear)})
    assert found is not None
    return found


def images(seed: int, channels: int = 3) -> Tensor:
    return torch.rand(2, channels, 34, 38, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def by_hand(x: Tensor, y: Tensor, heads: dict[str, Tensor]) -> Tensor:
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    features = []
    for image in (x, y):
        image = (image - shift[:, None, None]) / scale[:, None, None]
        found = []
        for number, layer in enumerate(vgg()):
            image = layer(image)
            if number in (3, 8, 15, 22, 29):  # layers relu1_2, relu2_2, relu3_3, relu4_3, relu5_3
                found.append(image / (image.pow(2).sum(1, keepdim=True).sqrt() + 1e-10))
        features.append(found)
    total = torch.zeros(2)
    for index, (left, right) in enumerate(zip(*features, strict=True)):
        total += functional.conv2d((left - right) ** 2, heads[f"lin{index}.model.1.weight"]).mean(dim=(1, 2, 3))
    return total.mean()


def test_lpips_equals_a_computation_by_hand(files: tuple[Path, Path]) -> None:
    heads = torch.load(files[1], weights_only=True)
    x, y = images(0), images(1)
    assert made(files)(x, y, None).item() == pytest.approx(by_hand(x, y, heads).item(), rel=1e-5)


def test_a_gray_image_is_repeated_to_three_channels(files: tuple[Path, Path]) -> None:
    x, y, term = images(0, 1), images(1, 1), made(files)
    assert term(x, y, None).item() == term(x.repeat(1, 3, 1, 1), y.repeat(1, 3, 1, 1), None).item()


def test_the_loss_is_zero_for_equal_images_only(files: tuple[Path, Path]) -> None:
    term, x = made(files), images(0)
    assert term(x, x, None).item() == 0
    y = images(1).requires_grad_()
    term(x, y, None).backward()
    assert y.grad is not None
    assert y.grad.norm() > 0


def test_the_gradient_is_finite_where_all_features_are_zero(files: tuple[Path, Path]) -> None:
    term = made(files)
    for number in NAMES_OF_CONVOLUTIONS:
        term._frozen[0]["features"][number].bias.fill_(-1e3)
    y = images(1).requires_grad_()
    term(images(0), y, None).backward()
    assert y.grad is not None
    assert torch.isfinite(y.grad).all()


def test_lpips_weights_are_frozen_and_not_in_checkpoints(files: tuple[Path, Path]) -> None:
    term = made(files)
    assert not list(term.parameters())
    assert not term.state_dict()


def test_the_layer_sizes_are_those_of_vgg16() -> None:
    widths = [width for stage in lpips._STAGE_WIDTHS for width in stage]
    pairs = zip([3, *widths], widths, strict=False)
    assert sum(9 * before * after + after for before, after in pairs) == 14_714_688


def test_lpips_is_off_without_files_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert build_lpips(1.0, None, None, {}) is None
    assert "LPIPS is off, because loss.perceptual has no weight files" in caplog.text


def test_nothing_is_logged_if_the_weight_is_zero(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert build_lpips(0.0, None, None, {}) is None
    assert not caplog.text


def test_both_files_and_hashes_are_required(files: tuple[Path, Path]) -> None:
    backbone, linear = map(str, files)
    with pytest.raises(UserError, match=r"loss.perceptual.linear is needed"):
        build_lpips(1.0, backbone, None, {"backbone": "0" * 64, "linear": None})
    with pytest.raises(UserError, match=r"loss.perceptual.sha256.linear is needed"):
        build_lpips(1.0, backbone, linear, {"backbone": "0" * 64, "linear": None})


def test_a_file_with_another_hash_is_refused(files: tuple[Path, Path]) -> None:
    with pytest.raises(UserError, match=r"vgg16.safetensors has SHA-256 [0-9a-f]{64}, expected 0{64}"):
        LPIPS(1.0, str(files[0]), str(files[1]), {"backbone": "0" * 64, "linear": sha256(files[1])})


def test_a_missing_file_is_refused(files: tuple[Path, Path]) -> None:
    files[1].unlink()
    with pytest.raises(UserError, match=r"lpips.pth does not exist"):
        LPIPS(1.0, str(files[0]), str(files[1]), {"backbone": sha256(files[0]), "linear": "0" * 64})


@pytest.mark.parametrize(("name", "value"), [("features.28.bias", None), ("features.5.weight", torch.ones(5, 4, 1, 1))])
def test_weights_of_another_network_are_refused(files: tuple[Path, Path], name: str, value: Tensor | None) -> None:
    state = {f"features.{key}": tensor for key, tensor in vgg().state_dict().items()}
    del state[name]
    save_file({**state, **({} if value is None else {name: value})}, files[0])
    with pytest.raises(UserError, match=rf"vgg16.safetensors with .*lpips.pth.*{name}.*give VGG-16 of torchvision"):
        made(files)


class Payload:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch " + os.environ["ECHODREAM_TEST_PAYLOAD"],)


def test_a_pickle_that_runs_code_is_refused(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECHODREAM_TEST_PAYLOAD", str(tmp_path / "ran"))
    torch.save({"lin0.model.1.weight": Payload()}, files[1])
    with pytest.raises(UserError, match=r"lpips.pth contains more than weights"):
        made(files)
    assert not (tmp_path / "ran").exists()


def test_lpips_is_enabled_on_the_command_line(files: tuple[Path, Path]) -> None:
    given = [f"loss.perceptual.{name}={file}" for name, file in zip(("backbone", "linear"), files, strict=True)]
    given += [
        f"loss.perceptual.sha256.{name}={sha256(file)}"
        for name, file in zip(("backbone", "linear"), files, strict=True)
    ]
    cfg = composed("train", "model=vae", "data=phantom", "loss.perceptual.weight=0.3", *given)
    term = instantiate(cfg.model.module.losses.perceptual)
    assert isinstance(term, LPIPS)
    assert term.weight == 0.3
    assert term(images(0, 1), images(1, 1), None).item() > 0
