"""The outlier test of the filter: residuals compared with the PCA of scikit-learn, and planted outlier frames."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from echodream.datamodules.recordings import Recordings
from echodream.errors import UserError
from echodream.filtering.copy_generation import CopyGenerator
from echodream.filtering.outliers import OutlierTest
from echodream.filtering.scoring import Query, QueryScores, ScoringConfig, highest_outlier_scores
from tests.support.tiny_filter import plant, study


@pytest.fixture
def copier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CopyGenerator:
    plant(monkeypatch, tmp_path)
    return CopyGenerator(Recordings(study(tmp_path / "latents", std=0.25), "TRAIN"), "vae")


@pytest.mark.parametrize("explained", [0.5, 0.9])
def test_the_score_is_the_residual_of_principal_components(copier: CopyGenerator, explained: float) -> None:
    frames = copier.training_frames(2048)
    frames = copier.encode(copier.decode(frames))[0].double()
    centered = frames - frames.mean(dim=0)
    x = (centered / centered.square().mean(dim=(0, 2, 3), keepdim=True).sqrt()).flatten(1).numpy()
    pca = PCA(n_components=explained, svd_solver="full").fit(x)
    residual = np.square(x - pca.inverse_transform(pca.transform(x))).sum(axis=1)
    (scores,) = OutlierTest(copier, explained).embed_versions(copier.training_frames(2048), [frames])
    np.testing.assert_allclose(scores[:, 0].numpy(), residual / (1 + residual), atol=1e-5)
    assert scores.shape == (len(frames), 1)


def test_frames_outside_the_span_of_training_are_outliers(copier: CopyGenerator) -> None:
    """Flipped and shifted frames have higher scores than training frames; clipping by the decoder changes no score."""
    test, frames = OutlierTest(copier, 0.999), copier.training_frames(8).clamp(-9, 9)
    other = frames.flip(0).roll(1, dims=-1).flip(-2)
    (own,), (different,) = test.embed_versions(frames, []), test.embed_versions(other, [])
    assert own.max() < different.min()
    beyond = 5 * frames  # latents beyond the range of the pixels, which the decoder clips
    assert (beyond > 10).any()
    assert torch.equal(test.embed_versions(beyond, [])[0], test.embed_versions(beyond.clamp(-10, 10), [])[0])


def test_a_sample_has_the_score_of_its_worst_frame() -> None:
    nearest = QueryScores(np.zeros(2), *(np.array(["a", "b"], dtype=object),) * 2, np.array([4, 5]), 9, 3)
    queries = [Query(torch.tensor([[0.1], [0.7]])), Query(torch.tensor([[0.2], [0.3]]))]
    found = highest_outlier_scores(queries, nearest)
    np.testing.assert_allclose(found.score, [0.7, 0.3], rtol=1e-6)
    assert (found.patient.tolist(), found.frame.tolist()) == (["a", "b"], [4, 5])


@pytest.mark.parametrize("explained", [0, 1, True, "much"])
def test_the_fraction_of_variance_lies_between_0_and_1(explained: float) -> None:
    with pytest.raises(UserError, match=r"^outliers is "):
        ScoringConfig("image", 1, "all", 1, ["TEST"], [], None, 20, 0, outliers=explained)


def test_latents_that_are_not_finite_are_refused(copier: CopyGenerator) -> None:
    """A NaN score would never count as an outlier, so non-finite latents are an error."""
    with pytest.raises(UserError, match="outliers: the autoencoder gives latents that are NaN or infinite"):
        OutlierTest(copier, 0.9).embed_versions(torch.full_like(copier.training_frames(2), torch.nan), [])


def test_a_constant_channel_is_not_compared(copier: CopyGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = copier.training_frames(2048)
    constant = torch.cat([frames[:, :1], torch.ones_like(frames[:, 1:])], dim=1)
    monkeypatch.setattr(copier, "training_frames", lambda count: constant)
    test = OutlierTest(copier, 0.9)
    changed = constant + torch.cat([torch.zeros_like(frames[:, :1]), torch.full_like(frames[:, 1:], 0.1)], dim=1)
    torch.testing.assert_close(test.embed_versions(changed, []), test.embed_versions(constant, []))
