"""IResNet: published numbers of parameters, comparison with the operations by hand, saving and loading."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor, nn
from torch.nn import functional

from echodream.config.paths import CONF_DIR
from echodream.errors import UserError
from echodream.networks.batch_norm import SynchronizedBatchNorm, convert_to_synchronized_batch_norm
from echodream.networks.iresnet import IResNet
from echodream.networks.siamese import IdentityEncoder, InputSpec, load_identity_encoder
from echodream.weights import fingerprint

B, C, H, W, D = 3, 2, 13, 22, 7
TINY: dict[str, Any] = {"layers": [1, 2, 1, 1], "widths": [4, 5, 6, 8], "features": D}


def tiny(**changes: Any) -> IResNet:
    """Small network whose batch normalization has running statistics of random inputs."""
    torch.manual_seed(0)
    made = IResNet(C, (H, W), **TINY | changes)
    made.train()
    for _ in range(3):
        made(torch.randn(B, C, H, W))
    return made.eval()


@pytest.mark.parametrize(
    ("name", "millions", "features"),
    [("iresnet50", 43.59, 512), pytest.param("iresnet100", 65.16, 512, marks=pytest.mark.slow)],
)
def test_the_number_of_parameters_is_the_published_one(name: str, millions: float, features: int) -> None:
    """Numbers of parameters from the model table of insightface, for three channels of 112 x 112."""
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose("train", ["model=identity", "data=phantom", f"embedder={name}"])
    with torch.device("meta"):
        network = instantiate(cfg.embedder)(channels=3, size=(112, 112))
        assert round(sum(part.numel() for part in network.parameters()) / 1e6, 2) == millions
        assert network(torch.zeros(2, 3, 112, 112)).shape == (2, features)
        last = network.layer4[-1](network.layer4[0](torch.zeros(2, 256, 14, 14)))
    assert last.shape == (2, 512, 7, 7)
    assert network.fc.in_features == 512 * 7 * 7


def test_the_network_equals_its_operations_written_out() -> None:
    network, x = tiny(), torch.randn(B, C, H, W, generator=torch.Generator().manual_seed(1))
    state = network.state_dict()

    def norm(y: Tensor, name: str) -> Tensor:
        names = [f"{name}.{part}" for part in ("running_mean", "running_var", "weight", "bias")]
        mean, var, weight, bias = (state[each].view(1, -1, *[1] * (y.ndim - 2)) for each in names)
        return (y - mean) / (var + 1e-5).sqrt() * weight + bias

    def prelu(y: Tensor, name: str) -> Tensor:
        return torch.where(y > 0, y, state[f"{name}.weight"].view(1, -1, 1, 1) * y)

    def conv(y: Tensor, name: str, **more: int) -> Tensor:
        return functional.conv2d(y, state[f"{name}.weight"], **more)

    y = prelu(norm(conv(x, "conv1", padding=1), "bn1"), "prelu")
    for number, count in enumerate(TINY["layers"], 1):
        for block in range(count):
            at, stride = f"layer{number}.{block}", 2 if block == 0 else 1
            z = conv(norm(y, f"{at}.bn1"), f"{at}.conv1", padding=1)
            z = conv(prelu(norm(z, f"{at}.bn2"), f"{at}.prelu"), f"{at}.conv2", padding=1, stride=stride)
            own = y if block else norm(conv(y, f"{at}.downsample.0", stride=2), f"{at}.downsample.1")
            y = own + norm(z, f"{at}.bn3")
    y = functional.linear(norm(y, "bn2").flatten(1), state["fc.weight"], state["fc.bias"])
    with torch.no_grad():
        assert torch.allclose(network(x), norm(y, "features"), atol=1e-4)
    assert y.shape == (B, D)
    assert not network.features.weight.requires_grad
    assert (network.features.weight == 1).all()


def test_dropout_is_before_the_linear_layer_and_only_in_training() -> None:
    network, x = tiny(dropout=0.9), torch.randn(B, C, H, W)
    with torch.no_grad():
        assert torch.equal(network(x), network(x))
        network.train()
        assert not torch.equal(network(x), network(x))


def test_an_identity_encoder_is_saved_and_loaded(tmp_path: Path) -> None:
    sees = InputSpec("pixels", C, H, W, (0.5,) * C, (2.0,) * C, None, "cosine")
    network = convert_to_synchronized_batch_norm(tiny())
    made = IdentityEncoder(network, sees)  # type: ignore[arg-type]
    made.save(tmp_path)
    found, x = load_identity_encoder(tmp_path), torch.randn(B, C, H, W)
    assert isinstance(found.network, IResNet)
    assert torch.equal(found.embed(x), made.embed(x))
    assert fingerprint(found.network) == fingerprint(made.network)
    with pytest.raises(UserError, match="takes pixels of 2 x 13 x 22"):
        found.embed(x[..., 1:])
    with pytest.raises(UserError, match="no layer for pairs of embeddings"):
        network.pair_logits(x, x)


def test_published_weights_have_the_same_names(tmp_path: Path) -> None:
    network = tiny()
    torch.save(network.state_dict(), tmp_path / "backbone.pth")
    again = IResNet(C, (H, W), **TINY, weights=str(tmp_path / "backbone.pth"))
    assert fingerprint(again) == fingerprint(network)
    assert {"conv1.weight", "layer1.0.downsample.0.weight", "layer2.1.prelu.weight", "features.bias"} <= {
        *network.state_dict()
    }
    with pytest.raises(UserError, match="choose the embedder= and src= that the weights were trained with"):
        IResNet(C, (H + 16, W), **TINY, weights=str(tmp_path / "backbone.pth"))


def test_synchronized_batch_norm_with_one_process_is_ordinary_batch_norm() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(
        nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3, eps=0.01, momentum=0.3), nn.Flatten(), nn.BatchNorm1d(30)
    )
    for part in (plain[1], plain[3]):
        nn.init.normal_(part.weight)  # type: ignore[arg-type]
    shared = convert_to_synchronized_batch_norm(nn.Sequential(*(type(part)(*_arguments(part)) for part in plain)))
    shared.load_state_dict(plain.state_dict())
    assert sum(isinstance(part, SynchronizedBatchNorm) for part in shared) == 2  # type: ignore[attr-defined]
    for _ in range(2):
        x = torch.randn(4, 2, 2, 5)
        assert torch.equal(shared(x), plain(x))
    assert fingerprint(shared) == fingerprint(plain)
    assert torch.equal(shared.eval()(x), plain.eval()(x))


def _arguments(part: Any) -> list[Any]:
    if isinstance(part, nn.Conv2d):
        return [2, 3, 1]
    return [part.num_features, part.eps, part.momentum] if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d) else []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"layers": [1, 1, 1]}, "embedder.layers is"),
        ({"widths": [4, 0, 4, 4]}, "embedder.widths is"),
        ({"features": 0}, "embedder.features is 0"),
        ({"dropout": 1.0}, "embedder.dropout is 1.0"),
        ({"paired": True}, "supports only head=margin, head=arcface and head=cosine"),
        ({"code": [5, H, W]}, "supports only head=margin, head=arcface and head=cosine"),
    ],
)
def test_invalid_settings_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        IResNet(C, (H, W), **TINY | changes)
