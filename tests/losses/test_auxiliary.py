"""Auxiliary classifier loss of clips: compared with a calculation by hand, and its gradients."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from echodream.errors import UserError
from echodream.losses.auxiliary import AuxiliaryClassifier, build_auxiliary_loss
from echodream.networks.autoencoder import load_autoencoder
from echodream.networks.classifiers import load_classifier
from tests.support.evaluate_study import classifier
from tests.support.tiny_vae import tiny_autoencoder, write_vae_artifact

B, C, F, H, W = 3, 3, 14, 8, 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("auxiliary")
    classifier(root / "classifier", height=2 * H, width=2 * W)
    write_vae_artifact(root / "vae", tiny_autoencoder())
    return root


@pytest.fixture(scope="module")
def loss(folder: Path) -> AuxiliaryClassifier:
    made = build_auxiliary_loss(0.1, str(folder / "classifier"), str(folder / "vae"))
    assert made is not None
    return made


def latents(seed: int = 0) -> Tensor:
    return torch.randn(B, C, F, H, W, generator=torch.Generator().manual_seed(seed))


def test_it_is_the_weighted_cross_entropy_of_the_decoded_frames(folder: Path, loss: AuxiliaryClassifier) -> None:
    """The classifier gets 4 frames at stride 3 from the middle of 14 frames: 2, 5, 8 and 11."""
    network, metadata = load_classifier(folder / "classifier")
    assert (metadata["frames"], metadata["stride"]) == (4, 3)
    assert loss.frame_indices(F) == [2, 5, 8, 11]
    classes = torch.tensor([metadata["class_ids"][1], 99, metadata["class_ids"][0]])
    signal, x, vae = torch.tensor([0.9, 0.5, 0.2]), latents(), load_autoencoder(folder / "vae")
    with torch.no_grad():
        pixels = torch.stack([vae.decode(x[:, :, frame]).sample for frame in (2, 5, 8, 11)], dim=2)
        errors = cross_entropy(network(pixels), torch.tensor([1, 0, 0]), reduction="none")
        # class 99 is not a class of the classifier, so it has no loss
        expected = (0.9 * errors[0] + 0.2 * errors[2]) / B
        assert loss(x, classes, signal).item() == pytest.approx(expected.item(), rel=1e-4)


def test_its_gradient_moves_the_estimate_toward_its_class_and_nothing_else(loss: AuxiliaryClassifier) -> None:
    x, classes = latents().requires_grad_(), torch.tensor([loss.class_ids[0]] * B)
    signal = torch.tensor([1.0, 1.0, 0.0])
    before = loss(x, classes, signal)
    before.backward()
    assert x.grad is not None
    unused = [frame for frame in range(F) if frame not in loss.frame_indices(F)]
    assert x.grad[:, :, unused].abs().max() == 0
    assert x.grad[2].abs().max() == 0  # pure noise: signal rate 0
    assert x.grad[0].abs().max() > 0
    with torch.no_grad():
        assert loss(x - 20 * x.grad, classes, signal) < before
    assert not list(loss.parameters())
    assert not loss.state_dict()


def test_weight_zero_loads_nothing_and_a_regression_is_refused(folder: Path, tmp_path: Path) -> None:
    assert build_auxiliary_loss(0.0, "/nowhere", "/nowhere") is None
    number = {"task": "regression", "column": "EF", "class_ids": [], "class_names": []}
    classifier(tmp_path / "regression", **number)
    with pytest.raises(UserError, match=r"predicts no classes: use task=classification"):
        build_auxiliary_loss(0.1, str(tmp_path / "regression"), str(folder / "vae"))
    with pytest.raises(UserError, match=r"^loss.auxiliary.weight is -1"):
        build_auxiliary_loss(-1, "/nowhere", "/nowhere")
