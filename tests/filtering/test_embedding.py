"""Embeddings of frames: independent of the batch, in the order of the recordings, and of the right patients."""

from pathlib import Path

import numpy as np
import pytest
import torch

from echodream.artifact import Artifact, write_artifact
from echodream.datamodules.key_frames import evenly_spaced_frames as evenly
from echodream.datamodules.recordings import Recordings
from echodream.errors import UserError
from echodream.filtering import embedding
from echodream.filtering.embedding import FrameEmbedder, reference_frames
from echodream.modules.reid import load_reid
from echodream.networks.siamese import IdentityEncoder, InputSpec, Siamese
from echodream.store import Store
from echodream.weights import fingerprint
from tests.support.tiny_filter import ENCODER, STATISTICS, C, H, W, plant, recordings, study, unit
from tests.support.tiny_vae import moving_disc_store, tiny_autoencoder, write_vae_artifact


def reid(root: Path, **changes: object) -> Path:
    """A re-identification network with random weights, saved as after training."""
    torch.manual_seed(3)
    sees = {"on": "latents", "channels": C, "height": H, "width": W, "encoder": ENCODER, "similarity": "cosine"}
    facts = InputSpec(**{"mean": STATISTICS.mean, "std": STATISTICS.std, **sees, **changes})  # type: ignore[arg-type]
    network = Siamese(facts.channels, "basic", [1, 1, 1, 1], [4, 6, 8, 10], 5).eval()
    made = Artifact("reid", "x", fingerprint(network), "0" * 64)
    write_artifact(root, made, "seed: 0\n", IdentityEncoder(network, facts).save)
    return root


def test_a_frame_s_embedding_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedder, alone = FrameEmbedder(str(reid(tmp_path / "reid")), "vae"), load_reid(tmp_path / "reid")
    frames = torch.from_numpy(np.concatenate([part for _, _, part in recordings().values()])).float()
    whole = embedder.embed(frames)
    assert whole.shape == (len(frames), 5)
    assert torch.allclose(embedder.embed(frames[11:14]), whole[11:14], atol=1e-6)
    assert torch.allclose(alone.embed(frames[17:18]), whole[17:18], atol=1e-5)
    monkeypatch.setattr(embedding, "BATCH_FRAMES", 16)
    assert torch.allclose(embedder.embed(frames), whole, atol=1e-5)


def test_a_coded_network_compares_what_it_corrects_and_the_codes_with_codes(tmp_path: Path) -> None:
    torch.manual_seed(3)
    facts = InputSpec("latents", C, H, W, STATISTICS.mean, STATISTICS.std, ENCODER, "cosine")
    network = Siamese(C, "basic", [1, 1, 1, 1], [4, 6, 8, 10], 5, code=[5, H, W]).eval()
    made = Artifact("reid", "x", fingerprint(network), "0" * 64)
    write_artifact(tmp_path / "reid", made, "seed: 0\n", IdentityEncoder(network, facts).save)
    embedder = FrameEmbedder(str(tmp_path / "reid"), "vae")
    x = torch.randn(7, C, H, W)
    mean, std = (torch.tensor(part).view(1, C, 1, 1) for part in (STATISTICS.mean, STATISTICS.std))
    with torch.no_grad():
        assert network.code is not None
        codes = [network.code(((part - mean) / std).flatten(1)) for part in (x, 1 - x, 2 * x)]
        corrected = codes[0] + network.body((x - mean) / std)
    seen, *plain = embedder.embed_versions(x, [1 - x, 2 * x])
    assert torch.allclose(seen[:, :5], corrected, atol=1e-5)
    assert not torch.allclose(corrected, codes[0], atol=1e-5)
    assert seen[0, 5:].tolist() == pytest.approx([2.0, 0.3])
    assert len(plain) == 3
    for found, code in zip(plain, codes, strict=True):
        assert torch.allclose(found[:, :5], code, atol=1e-5)
        assert found[0, 5:].tolist() == [2.0, 0.0]
    assert torch.equal(embedder.embed_references(x), plain[0])


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [1, 4, 256])
@pytest.mark.parametrize(("every", "first"), [(1, False), (3, False), (1, True)])
def test_recordings_come_in_order_with_their_patients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int, first: bool, chunk: int
) -> None:
    plant(monkeypatch, tmp_path)
    monkeypatch.setattr(embedding, "BATCH_FRAMES", chunk)
    rows = Recordings(study(tmp_path / "latents"), "TRAIN")
    found = list(FrameEmbedder("reid", "vae").embed_recordings(rows, every, first))
    assert len(found) == len(rows) == 16
    for row, (embeddings, patients) in enumerate(found):
        patient, _, frames = recordings()[rows.names[row]]
        kept = frames[:1] if first else frames[::every]
        assert patients == [f"secret{patient:02}"] * len(kept)
        assert (
            reference_frames(rows, row, every, first).tolist() == [*range(len(frames))][: 1 if first else None][::every]
        )
        scaled = embeddings.double().numpy()
        scaled /= np.linalg.norm(scaled, axis=1, keepdims=True)
        assert scaled == pytest.approx(unit(kept), abs=1e-6)


def test_frames_are_read_as_they_are_stored(tmp_path: Path) -> None:
    rows = Recordings(study(tmp_path / "latents", std=0.5), "TEST")
    frames = recordings()[rows.names[2]][2]
    assert np.array_equal(rows.posterior(2, np.array([5, 1, 1]))[0].numpy(), frames[[5, 1, 1]].astype(np.float32))
    assert [
        evenly(9, 1).tolist(),
        evenly(9, 3).tolist(),
        evenly(2, 3).tolist(),
    ] == [[4], [0, 4, 8], [0, 0, 1]]


def test_a_network_of_pixels_sees_decoded_frames(tmp_path: Path) -> None:
    network = tiny_autoencoder()
    vae = write_vae_artifact(tmp_path / "vae", network)
    seen = {"on": "pixels", "channels": 1, "height": 8, "width": 12, "mean": (0.25,), "std": (0.5,)}
    folder = str(reid(tmp_path / "reid", **seen, encoder=fingerprint(network)))
    embedder, alone = FrameEmbedder(folder, str(vae)), load_reid(folder)
    x = torch.randn(3, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        pixels = network.decode(x).sample.clamp(-1, 1)
    assert torch.allclose(embedder.embed(x), alone.embed(pixels), atol=1e-5)
    other = write_vae_artifact(tmp_path / "other", tiny_autoencoder(seed=1))
    with pytest.raises(UserError, match=r"pixels that autoencoder=.* did not decode"):
        FrameEmbedder(folder, str(other))


def test_what_cannot_be_compared_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = FrameEmbedder(str(reid(tmp_path / "reid")), "vae")
    embedder.check_encoder(study(tmp_path / "latents"))
    with pytest.raises(UserError, match="made by another encoder"):
        embedder.check_encoder(study(tmp_path / "others", encoder="12" * 32))
    moving_disc_store(tmp_path / "videos")
    with pytest.raises(UserError, match="the filter compares latents"):
        embedder.check_encoder(Store(tmp_path / "videos"))
    with pytest.raises(UserError, match="gives embeddings that are NaN or infinite"):
        embedder.embed(torch.full((2, C, H, W), torch.nan))
    with pytest.raises(UserError, match="choose the network that was trained on this study"):
        embedder.embed(torch.zeros(2, C, H + 1, W))
