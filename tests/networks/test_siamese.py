"""Re-identification networks: comparison with the published network in plain torch, normalization, saving, loading."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor
from torch.nn import functional

from echodream.config.paths import CONF_DIR
from echodream.errors import UserError
from echodream.networks.siamese import IdentityEncoder, InputSpec, Siamese, load_identity_encoder

B, C, H, W, D = 2, 3, 5, 7, 6
MEAN, STD = (1.0, -2.0, 0.5), (2.0, 0.25, 4.0)


def small(**changes: Any) -> Siamese:
    torch.manual_seed(0)
    settings = {"channels": C, "block": "basic", "layers": [1, 1, 1, 1], "widths": [4, 6, 8, 10], "features": D}
    return Siamese(**{**settings, **changes})


def sees(**changes: Any) -> InputSpec:
    facts = {"on": "latents", "channels": C, "height": H, "width": W, "mean": MEAN, "std": STD}
    return InputSpec(**{**facts, "encoder": "ab" * 32, "similarity": "cosine", **changes})


def encoder(**changes: Any) -> IdentityEncoder:
    return IdentityEncoder(small(**changes), sees()).eval()


def frames(count: int = B, seed: int = 1) -> Tensor:
    return torch.randn(count, C, H, W, generator=torch.Generator().manual_seed(seed))


def conf(embedder: str) -> Any:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose("train", ["model=reid", "data=phantom", f"embedder={embedder}"])
    return instantiate(cfg.embedder)


@pytest.mark.parametrize(
    ("embedder", "parameters"),
    [("published", 25_557_032), ("resnet34", 21_797_672), ("resnet18", 11_689_512)],
)
def test_the_yaml_files_are_the_known_architectures(embedder: str, parameters: int) -> None:
    """Numbers of parameters from torchvision: 1000 classes, three channels, first convolution of 7 x 7."""
    with torch.device("meta"):
        made = conf(embedder)(channels=3, features=1000, stem=7)
    assert sum(parameter.numel() for parameter in made.parameters()) == parameters


@pytest.mark.parametrize("embedder", ["grey", "small", "tiny", pytest.param("resnet50", marks=pytest.mark.slow)])
def test_the_first_level_keeps_the_resolution_of_small_latents(embedder: str) -> None:
    with torch.device("meta"):
        made = conf(embedder)(channels=4)
        body = made.body
        level = body.layer1(body.bn1(body.conv1(torch.zeros(2, 4, 8, 14))))
        assert level.shape[2:] == (8, 14)
        assert body.no_max_pool
        assert made(torch.zeros(2, 4, 8, 14)).shape == (2, made.settings["features"])


def published_names(channels: int, features: int) -> dict[str, tuple[int, ...]]:
    """Parameter names and shapes of the published file, from the layout of torchvision's ResNet-50."""
    shapes: dict[str, tuple[int, ...]] = {"model.conv1.weight": (64, channels, 7, 7)}

    def norm(name: str, width: int) -> None:
        shapes.update({f"{name}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")})
        shapes[f"{name}.num_batches_tracked"] = ()

    norm("model.bn1", 64)
    inner = 64
    for level, (blocks, width) in enumerate([(3, 64), (4, 128), (6, 256), (3, 512)], start=1):
        for block in range(blocks):
            name = f"model.layer{level}.{block}"
            for number, shape in enumerate([(width, inner, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)], 1):
                shapes[f"{name}.conv{number}.weight"] = shape
                norm(f"{name}.bn{number}", shape[0])
            if block == 0:
                shapes[f"{name}.downsample.0.weight"] = (4 * width, inner, 1, 1)
                norm(f"{name}.downsample.1", 4 * width)
            inner = 4 * width
    shapes |= {"model.fc.weight": (features, 2048), "model.fc.bias": (features,)}
    return shapes | {"fc_end.weight": (1, features), "fc_end.bias": (1,)}


def published_weights(channels: int, features: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    state = {}
    for name, shape in published_names(channels, features).items():
        if not shape:
            state[name] = torch.tensor(7)
        elif len(shape) > 1:
            fan = shape[1] * (shape[2] * shape[3] if len(shape) == 4 else 1)
            state[name] = torch.randn(shape, generator=generator) * ((0.01 if ".fc." in name else 2) / fan) ** 0.5
        elif name.endswith("running_var") or (name.endswith("weight") and "conv" not in name):
            state[name] = torch.rand(shape, generator=generator) * (0.4 if ".bn3." in name else 1.0) + 0.3
        else:
            state[name] = torch.randn(shape, generator=generator) * 0.1
    return state


def restated(state: dict[str, Tensor], a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The published network in plain functions: features of ``a``, and the logit of the pair ``a``, ``b``."""

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (
            state[f"{name}.{part}"].view(1, -1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    def bottleneck(x: Tensor, name: str, stride: int) -> Tensor:
        y = norm(functional.conv2d(x, state[f"{name}.conv1.weight"]), f"{name}.bn1").relu()
        y = norm(functional.conv2d(y, state[f"{name}.conv2.weight"], stride=stride, padding=1), f"{name}.bn2").relu()
        y = norm(functional.conv2d(y, state[f"{name}.conv3.weight"]), f"{name}.bn3")
        if f"{name}.downsample.0.weight" in state:
            x = norm(functional.conv2d(x, state[f"{name}.downsample.0.weight"], stride=stride), f"{name}.downsample.1")
        return (x + y).relu()

    def once(x: Tensor) -> Tensor:
        x = norm(functional.conv2d(x, state["model.conv1.weight"], stride=2, padding=3), "model.bn1").relu()
        x = functional.max_pool2d(x, 3, 2, 1)
        for level, blocks in enumerate((3, 4, 6, 3), start=1):
            for block in range(blocks):
                x = bottleneck(x, f"model.layer{level}.{block}", 2 if level > 1 and block == 0 else 1)
        return (x.mean(dim=(2, 3)) @ state["model.fc.weight"].T + state["model.fc.bias"]).sigmoid()

    features = once(a)
    difference = (features - once(b)).abs()
    return features, (difference * state["fc_end.weight"][0]).sum(dim=1) + state["fc_end.bias"][0]


@pytest.mark.slow
@torch.no_grad()
def test_published_weights_give_the_pair_logits_of_the_published_network(tmp_path: Path) -> None:
    channels, features, side = 4, 128, 14
    state = published_weights(channels, features)
    torch.save(state, tmp_path / "siamese.pth")
    network = conf("published")(channels=channels, paired=True, weights=str(tmp_path / "siamese.pth")).eval()
    assert network.settings["features"] == features
    generator = torch.Generator().manual_seed(3)
    a, b = (torch.randn(3, channels, side, side, generator=generator) for _ in range(2))
    truth, logits = restated(state, a, b)
    assert truth.std(dim=0).min() > 1e-4  # features differ between images
    assert (network(a) - truth).abs().max() < 1e-5
    assert (network.pair_logits(network(a), network(b)) - logits).abs().max() < 1e-5
    facts = sees(channels=channels, height=side, width=side, mean=(0.5,) * 4, std=(2.0,) * 4, similarity="pearson")
    IdentityEncoder(network, facts).save(tmp_path)
    loaded = load_identity_encoder(tmp_path)
    assert (loaded.embed(a * 2 + 0.5) - truth).abs().max() < 1e-5
    again = loaded.network.pair_logits(loaded.embed(a * 2 + 0.5), loaded.embed(b * 2 + 0.5))
    assert (again - logits).abs().max() < 1e-5


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    state = {"model." + name: value for name, value in small().body.state_dict().items()}
    state |= {"fc_end.weight": torch.zeros(1, D), "fc_end.bias": torch.zeros(1)}
    torch.save(state, tmp_path / "small.pth")
    made = small(paired=True, weights=str(tmp_path / "small.pth"))
    assert torch.equal(made.body.fc.weight, small().body.fc.weight)
    with pytest.raises(UserError, match=r"unknown .pair.bias.*head=published"):
        small(weights=str(tmp_path / "small.pth"))
    with pytest.raises(UserError, match=r"conv1.weight is \(4, 3, 3, 3\).*\(4, 4, 3, 3\)"):
        small(channels=4, paired=True, weights=str(tmp_path / "small.pth"))


@torch.no_grad()
def test_embeddings_are_computed_from_normalized_frames_independently() -> None:
    made, x = encoder(), frames(4)
    mean, std = (torch.tensor(values).view(1, C, 1, 1) for values in (MEAN, STD))
    truth = made.network((x - mean) / std)
    assert torch.allclose(made.embed(x), truth, atol=1e-6)
    assert made.embed(x.double()).dtype == torch.float32
    assert torch.allclose(made.embed(x[1:2]), truth[1:2], atol=1e-6)
    assert (truth - made.network(x)).abs().max() > 1e-3  # the normalization has an effect


def test_frames_of_another_size_are_refused() -> None:
    with pytest.raises(UserError, match=r"takes latents of 3 x 5 x 7, and the input has 3 x 7 x 5"):
        encoder().embed(frames().transpose(2, 3))


@torch.no_grad()
def test_pair_logits_need_a_paired_network() -> None:
    made = small(paired=True).eval()
    assert made.pair is not None
    a, b = made(frames()), made(frames(seed=2))
    assert float(a.min()) > 0  # outputs of a sigmoid
    assert float(a.max()) < 1
    by_hand = [
        sum(abs(a[r, k] - b[r, k]) * made.pair.weight[0, k] for k in range(D)) + made.pair.bias for r in range(B)
    ]
    assert made.pair_logits(a, b).tolist() == pytest.approx([float(value) for value in by_hand], abs=1e-6)
    with pytest.raises(UserError, match="head=published"):
        small().pair_logits(a, b)


@torch.no_grad()
def test_a_saved_encoder_loads_with_the_same_embeddings(tmp_path: Path) -> None:
    made = encoder()
    made.train()(frames(5, seed=4))  # running means differ from their initial values
    made.eval().save(tmp_path)
    loaded = load_identity_encoder(tmp_path)
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert torch.equal(loaded.embed(frames()), made.embed(frames()))
    assert loaded.input_spec == made.input_spec
    config = json.loads((tmp_path / "config.json").read_text())
    for broken in ("{", "[]", json.dumps({**config, "sees": {}}), json.dumps({**config, "architecture": {}})):
        (tmp_path / "config.json").write_text(broken)
        with pytest.raises(UserError, match=r"not a readable identity network: train one with train.py model=reid"):
            load_identity_encoder(tmp_path)
    with pytest.raises(UserError, match="not a readable identity network"):
        load_identity_encoder(tmp_path / "nothing")


@pytest.mark.parametrize(
    "wrong",
    [
        {"block": "dense"},
        {"layers": [1, 1, 1]},
        {"widths": [4, 6, 8, 0]},
        {"features": 0},
        {"stem": 2.5},
        {"stride": 0},
    ],
)
def test_invalid_architectures_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"embedder.{next(iter(wrong))} is "):
        small(**wrong)


@pytest.mark.parametrize(
    "wrong", [{"on": "videos"}, {"similarity": "euclid"}, {"std": (1.0, 0.0, 1.0)}, {"mean": (0.0,)}, {"height": 0}]
)
def test_invalid_input_specifications_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        sees(**wrong)
