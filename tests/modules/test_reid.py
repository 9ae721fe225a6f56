"""model=reid: pairs, copies, metrics, and a complete training."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor

from echodream import engine
from echodream.artifact import read_artifact
from echodream.config.paths import CONF_DIR
from echodream.datamodules.augmentation import Augment
from echodream.datamodules.datamodule import StoreData
from echodream.datamodules.normalization import unwhiten
from echodream.datamodules.recordings import Recordings
from echodream.datamodules.views import Frames, Pairs
from echodream.errors import UserError
from echodream.losses.identity import ArcFaceLoss, CopyCodeLoss, IdentityLoss, PublishedPairLoss
from echodream.metrics.verification import all_pairs, auc, rank1_accuracy, similarity_matrix, tar_at_far
from echodream.modules.reid import Reid, load_reid
from echodream.modules.reid_augmentation import CopyAugmentation, FrameBank, ReidAugmentation, sample_frames
from echodream.networks.siamese import Siamese
from echodream.training.settings_hash import settings_hash
from echodream.weights import fingerprint
from tests.support.logged import capture_logs
from tests.support.patients import STATISTICS, C, H, W, latent_store
from tests.support.tiny_vae import moving_disc_store

B, D = 2, 6


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return latent_store(tmp_path_factory.mktemp("study") / "latents").root


def data(src: Path, view: Any = None) -> StoreData:
    return StoreData(str(src), view or Pairs(), B, 0, 0)


def embedder(channels: int, paired: bool, size: Any = None) -> Siamese:
    torch.manual_seed(1)
    settings = {"block": "basic", "layers": [1, 1, 1, 1], "widths": [4, 6, 8, 10], "features": D}
    return Siamese(channels, paired=paired, **settings)  # type: ignore[arg-type]


class Spy(IdentityLoss):
    """Identity loss that records its arguments."""

    def forward(
        self, features: Tensor, identity: Tensor, pairs: Tensor, compare: Any, targets: Tensor | None = None
    ) -> Tensor:
        assert targets is None
        self.features, self.identity, self.pairs = features.detach(), identity, pairs
        return features.sum()


def module(head: IdentityLoss | None = None, **changes: Any) -> Reid:
    return Reid(embedder, head or Spy(), torch.optim.SGD, **changes)


def configured_module(src: Path, **changes: Any) -> Reid:
    made = module(**changes)
    made.configure_from_data(data(src))
    return made.eval()


def batch(seed: int = 0) -> Any:
    """Batch of two pairs: two recordings of p0, and recordings of p1 and p2."""
    x, other = torch.randn(2, B, C, H, W, generator=torch.Generator().manual_seed(seed))
    return {"x": x, "other": other, "name": ["r00", "r02"], "other_name": ["r01", "r05"], "same": torch.tensor([1, 0])}


def test_a_training_step_without_augmentation_embeds_the_batch_unchanged(latents: Path) -> None:
    made, given = configured_module(latents), batch()
    capture_logs(made)
    made.training_step(given, 0)
    spy: Any = made.head
    assert torch.allclose(spy.features, made.encoder.network(torch.cat([given["x"], given["other"]])), atol=1e-5)
    assert spy.pairs.tolist() == [[0, 2], [1, 3]]
    first, second, third, fourth = spy.identity.tolist()
    assert first == third
    assert len({first, second, fourth}) == 3
    assert made.encoder.input_spec.mean == STATISTICS.mean
    assert made.encoder.input_spec.encoder == "ab" * 32
    assert (made.encoder.input_spec.height, made.encoder.input_spec.width, made.encoder.input_spec.on) == (
        H,
        W,
        "latents",
    )


def test_copies_form_pairs_with_patient_labels(latents: Path) -> None:
    """Each copy forms a positive pair with a copy of the same frame, and a pair with a copy of the next frame."""
    made, given = (
        configured_module(latents, augmentation=ReidAugmentation(CopyAugmentation("nowhere", Augment(), 0, 1, 1.5))),
        batch(),
    )
    capture_logs(made)
    bank = torch.arange(4.0).view(4, 1, 1, 1, 1) * 10 + torch.arange(3.0).view(1, 3, 1, 1, 1)
    rows = torch.tensor([4, 0, 1, 5])  # recordings of the patients p2, p0, p0 and p2
    made.augmentation.frame_bank = FrameBank(bank.expand(4, 3, C, H, W), rows)
    torch.manual_seed(0)
    made.training_step(given, 0)
    spy: Any = made.head
    torch.manual_seed(0)
    copies = made.augmentation.frame_bank.sample_pairs(3)  # 1.5 times the two pairs of the batch
    assert torch.allclose(spy.features[4:], made.encoder(copies.frames), atol=1e-4)
    assert spy.pairs.tolist() == [[0, 2], [1, 3], [4, 7], [5, 8], [6, 9], [4, 9], [5, 7], [6, 8]]
    # class numbers: positions of p0 and p2 in p0, p1, p10, p11, p12, p15, p16, p17, p2
    number = {0: 0, 1: 0, 4: 8, 5: 8}
    assert spy.identity[4:].tolist() == [number[row] for row in copies.rows.tolist() * 2]


class CopySpy(Spy):
    needs_copy_pairs = True


def test_a_copy_detection_head_gets_only_pairs_of_copies_of_different_frames(
    latents: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CopyAugmentation, "load_autoencoder", lambda own, expected: None)
    augmentation = ReidAugmentation(CopyAugmentation("nowhere", Augment(), 4, 1, 1.5))
    made = configured_module(latents, head=CopySpy(), augmentation=augmentation)
    capture_logs(made)
    bank = torch.arange(4.0).view(4, 1, 1, 1, 1) * 10 + torch.arange(3.0).view(1, 3, 1, 1, 1)
    made.augmentation.frame_bank = FrameBank(bank.expand(4, 3, C, H, W), torch.tensor([4, 0, 1, 5]))
    spy: Any = made.head
    for seed in range(5):
        torch.manual_seed(seed)
        made.training_step(batch(), 0)
        assert spy.pairs.tolist() == [[4, 7], [5, 8], [6, 9]]
        torch.manual_seed(seed)
        frames = made.augmentation.frame_bank.sample_pairs(3, distinct=True).frames[:, 0, 0, 0] // 10
        assert frames[:3].tolist() == frames[3:].tolist()
        assert len(set(frames.tolist())) == 3


@pytest.mark.parametrize(("frames", "share"), [(0, 1.0), (4, 0.0)])
def test_a_copy_detection_head_needs_copies(latents: Path, frames: int, share: float) -> None:
    without = ReidAugmentation(CopyAugmentation("nowhere", Augment(), frames, 1, share))
    for augmentation in (ReidAugmentation(), without):
        with pytest.raises(UserError, match=r"head=copies is trained with copies: set model\.copies\.frames"):
            configured_module(latents, head=CopySpy(), augmentation=augmentation)


def test_identity_can_be_the_recording(latents: Path) -> None:
    made = module()
    made.configure_from_data(data(latents, Pairs(identity="recording")))
    capture_logs(made)
    made.eval().training_step(batch(), 0)
    assert len(set(made.head.identity.tolist())) == 4  # type: ignore[union-attr,operator]


def test_noise_has_a_random_standard_deviation_in_normalized_units(latents: Path) -> None:
    made = configured_module(latents, augmentation=ReidAugmentation(noise=0.5))
    x = torch.zeros(400, C, H, W)
    torch.manual_seed(0)
    levels = (
        (made.augmentation.augment_inputs(x, made.encoder.std) / torch.tensor(STATISTICS.std).view(1, C, 1, 1))
        .flatten(1)
        .std(dim=1)
    )
    assert float(levels.mean()) == pytest.approx(0.25, abs=0.03)
    assert float(levels.max()) == pytest.approx(0.5, abs=0.1)
    assert float(levels.min()) < 0.03


def test_range_is_mapped_to_minus_one_to_one(latents: Path) -> None:
    made, x = configured_module(latents, range=[-3.0, 5.0]), torch.full((B, C, H, W), 5.0)
    assert torch.allclose(made.encoder(x), made.encoder.network(torch.ones(B, C, H, W)), atol=1e-6)
    assert torch.allclose(made.encoder(-x + 2), made.encoder.network(-torch.ones(B, C, H, W)), atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"on": "videos"}, "on is 'videos': give latents or pixels"),
        ({"range": [2.0, 2.0]}, "model.range is"),
    ],
)
def test_invalid_settings_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        module(**changes)
    with pytest.raises(UserError, match=r"model.noise is -1.0"):
        ReidAugmentation(noise=-1.0)


def test_a_store_or_view_of_the_wrong_kind_is_refused(latents: Path) -> None:
    with pytest.raises(UserError, match="holds latents, but on=pixels needs videos"):
        module(on="pixels").configure_from_data(data(latents))
    with pytest.raises(UserError, match="give view=pairs"):
        module().configure_from_data(data(latents, Frames()))


@torch.no_grad()
def test_metrics_use_all_pairs_of_the_split(latents: Path) -> None:
    made = configured_module(latents, head=PublishedPairLoss())
    logged = capture_logs(made)
    view = Pairs(per_recording=3)
    loaded = StoreData(str(latents), view, B, 0, 0)
    parts = list(loaded.test_dataloader())
    for index, part in enumerate(parts):
        made.test_step(part, index)
    made.on_test_epoch_end()
    x = torch.cat([torch.cat([part["x"], part["other"]]) for part in parts])
    names = [name for part in parts for name in [*part["name"], *part["other_name"]]]
    table = similarity_matrix(made.encoder.network(x).numpy(), "pearson")
    patient = np.array([int(name[1:]) // 2 for name in names])
    pairs = all_pairs(table, patient)
    assert len(np.unique(patient)) == 4
    assert logged["test/auc"] == pytest.approx(auc(pairs), abs=1e-4)
    assert logged["test/auc_other"] == pytest.approx(auc(all_pairs(table, patient, np.array(names))), abs=1e-4)
    assert logged["test/tar_far_1e-2"] == pytest.approx(tar_at_far(pairs, 1e-2), abs=1e-3)
    assert logged["test/rank1"] == pytest.approx(rank1_accuracy(table, patient, np.array(names)), abs=1e-6)
    assert logged["test/auc_low"] < logged["test/auc"] < logged["test/auc_high"]
    assert made.verification_pairs is not None
    assert len(made.verification_pairs.score) == len(names) * (len(names) - 1) // 2
    assert made._embeddings == []


def test_a_loss_that_is_not_finite_names_the_recordings(latents: Path) -> None:
    made, given = configured_module(latents), batch()
    capture_logs(made)
    given["x"][0] = torch.nan
    with pytest.raises(UserError, match="the loss is not finite on a batch of r00, r02, r01, r05"):
        made.training_step(given, 0)


def train_cfg(folder: Path, src: Path, *overrides: str) -> DictConfig:
    fixed = ["model=reid", f"src={src}", f"dst={folder}/reid", f"work={folder}/runs", "preset=tiny"]
    fixed += [f"callbacks.verification.folder={folder}/pictures", f"logger.csv.save_dir={folder}/logs"]
    fixed += ["+data.name=patterns", "embedder.widths=[8,8,12,12]", "embedder.features=8", "datamodule.workers=0"]
    fixed += ["datamodule.batch_size=12", "view.per_recording=2", "trainer.max_epochs=4", "trainer.accelerator=cpu"]
    fixed += ["trainer.log_every_n_steps=1", "callbacks.ema.decay=0.5", "model.lr=0.01", "model.noise=0.1"]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose("train", [*fixed, "model.copies.frames=0", "model.redraw.share=0", *overrides])


class CodeSpy(CopyCodeLoss):
    """Copy code loss that records its arguments."""

    def forward(
        self, features: Tensor, identity: Tensor, pairs: Tensor, compare: Any, targets: Tensor | None = None
    ) -> Tensor:
        assert targets is not None
        self.seen, self.targets = features.detach(), targets
        return super().forward(features, identity, pairs, compare, targets)


def embedder_with_linear_code(channels: int, size: Any, paired: bool, code: list[int]) -> Siamese:
    torch.manual_seed(1)
    return Siamese(channels, "basic", [1, 1, 1, 1], [4, 6, 8, 10], 2, paired=paired, code=code)


def test_the_targets_of_copies_are_the_linear_codes_of_their_originals(latents: Path) -> None:
    """Linear codes computed with numpy; the target of each copy is the code of its original frame."""
    head, sigma = CodeSpy(features=5, sigma=0.7), 0.7
    copies = CopyAugmentation("nowhere", Augment(), 0, 1, 1.5)
    made = Reid(embedder_with_linear_code, head, torch.optim.SGD, augmentation=ReidAugmentation(copies))
    made.configure_from_data(data(latents))
    made.eval()
    capture_logs(made)
    given, generator = batch(), torch.Generator().manual_seed(2)
    stored = torch.randn(4, 3, C, H, W, generator=generator)
    made.augmentation.frame_bank = FrameBank(stored, torch.tensor([4, 0, 1, 5]))
    torch.manual_seed(0)
    made.training_step(given, 0)
    torch.manual_seed(0)
    sampled = made.augmentation.frame_bank.sample_with_originals(3)
    assert sampled.originals is not None
    copy, frame = sampled.frames, sampled.originals
    mean, std = (torch.tensor(part).view(1, C, 1, 1) for part in (STATISTICS.mean, STATISTICS.std))
    x = sample_frames(Recordings(StoreData(str(latents), Pairs(), B, 0, 0).store, "TRAIN")).flatten(1).double().numpy()
    variance, axes = np.linalg.eigh(np.cov(x.T))
    variance, axes = variance[-5:], axes[:, -5:]
    left = 1 / (1 / variance + 1 / sigma**2) * (1 + variance / (variance + sigma**2))
    weight = axes / np.sqrt(left) / np.sqrt((variance / left).sum())

    def code(whitened: Tensor) -> np.ndarray:
        return (whitened.flatten(1).double().numpy() - x.mean(axis=0)) @ weight

    assert np.square(code(torch.from_numpy(x).view(-1, C, H, W))).sum(axis=1).mean() == pytest.approx(1, rel=0.01)
    sources = torch.cat([given["x"], given["other"], (frame - mean) / std])
    found = head.targets.double().numpy()
    # the sign of a principal axis is arbitrary
    assert np.abs(np.abs(found[:, :5]) - np.abs(code(sources))).max() < 1e-4
    assert found[:, 5:].tolist() == [[2.0, 0.0]] * 7
    assert not torch.equal(copy, frame)
    assert torch.allclose(head.seen[4:], made.encoder(copy), atol=1e-4)
    assert head.seen[:, 5:].tolist() == [pytest.approx([2.0, 0.3])] * 7
    with torch.no_grad():
        made.encoder.network.body.fc.weight.zero_()
    assert torch.allclose(made.encoder.embed(copy)[:, :6], made.encoder.embed_linearly(copy)[:, :6], atol=1e-5)


def test_the_linear_code_needs_whitened_latents(latents: Path) -> None:
    made = Reid(embedder_with_linear_code, CopyCodeLoss(5), torch.optim.SGD, range=[-1.0, 1.0])
    with pytest.raises(UserError, match=r"leave on=latents and model\.range=null"):
        made.configure_from_data(data(latents))
    with pytest.raises(
        UserError, match=f"head.features is 9999: give a whole number from 1 to {C * H * W}, the values of a frame"
    ):
        Reid(embedder_with_linear_code, CopyCodeLoss(9999), torch.optim.SGD).configure_from_data(data(latents))


@pytest.mark.parametrize("head", ["published", "arcface", "code"])
def test_losses_are_float32_in_mixed_precision(
    tmp_path: Path, latents: Path, head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    step = Reid.training_step

    def watched(own: Reid, *arguments: Any) -> Tensor:
        loss = step(own, *arguments)
        seen.extend([loss.dtype, *(parameter.dtype for parameter in own.head.parameters())])
        return loss

    monkeypatch.setattr(Reid, "training_step", watched)
    given = ["head.features=8"] if head == "code" else []
    engine.train(
        train_cfg(tmp_path, latents, f"head={head}", "trainer.precision=bf16-mixed", "trainer.max_epochs=1", *given)
    )
    assert set(seen) == {torch.float32}


@pytest.mark.slow
@pytest.mark.parametrize("head", ["published", "cosine", "arcface", "code"])
def test_training_exports_an_artifact_that_separates_new_patients(tmp_path: Path, latents: Path, head: str) -> None:
    given = ["head.features=8"] if head == "code" else []
    metrics = engine.train(train_cfg(tmp_path, latents, f"head={head}", *given))
    folder = tmp_path / "reid"
    expected = {"artifact.json", "config.json", "model.safetensors", "training.yaml"}
    assert {path.name for path in folder.iterdir()} == expected
    encoder = load_reid(folder)
    assert read_artifact(folder, "reid").fingerprint == fingerprint(encoder.network)
    assert encoder.input_spec.similarity == ("pearson" if head == "published" else "cosine")
    known = {"auc", "auc_low", "auc_high", "auc_other", "tar_far_1e-2", "rank1"}
    assert known <= metrics.keys() <= known | {"tar_far_1e-3"}
    assert metrics["auc"] > (0.6 if head == "published" else 0.85)
    # the stored AUC equals the AUC of the loaded network on the test pairs
    parts = list(StoreData(str(latents), Pairs(per_recording=2), 12, 0, 0).test_dataloader())
    x = unwhiten(torch.cat([torch.cat([part["x"], part["other"]]) for part in parts]), STATISTICS, dim=1)
    names = [name for part in parts for name in [*part["name"], *part["other_name"]]]
    table = similarity_matrix(encoder.embed(x).numpy(), encoder.input_spec.similarity)
    assert auc(all_pairs(table, np.array([int(name[1:]) // 2 for name in names]))) == pytest.approx(
        metrics["auc"], abs=1e-4
    )
    logs = pd.read_csv(tmp_path / "logs" / "csv" / "metrics.csv")
    assert logs["val/auc"].notna().sum() == 4
    pictures = sorted((tmp_path / "pictures").iterdir())
    assert len(pictures) == 4
    pixels = np.asarray(Image.open(pictures[-1]))
    assert {(0, 114, 178), (213, 94, 0)} <= {tuple(pixel) for pixel in pixels.reshape(-1, 3).tolist()}


@pytest.mark.slow
def test_published_weights_are_exported_unchanged(tmp_path: Path, latents: Path) -> None:
    torch.manual_seed(4)
    made = embedder(C, paired=True).eval()
    state = {
        name.replace("body.", "model.").replace("pair.", "fc_end."): value for name, value in made.state_dict().items()
    }
    torch.save(state, tmp_path / "siamese.pth")
    given = ["head=published", f"embedder.weights={tmp_path}/siamese.pth", "trainer.max_epochs=0", "model.range=[-4,4]"]
    given += ["embedder.widths=[4,6,8,10]", f"embedder.features={D}", "embedder.stride=1"]
    engine.train(train_cfg(tmp_path, latents, *given))
    x = torch.randn(B, C, H, W, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(load_reid(tmp_path / "reid").embed(4 * x), made(x), atol=1e-6)


@pytest.mark.parametrize("preset", ["published", "grey"])
def test_on_pixels_takes_decoded_frames(tmp_path: Path, preset: str) -> None:
    store = moving_disc_store(tmp_path / "decoded", lengths=(5, 6, 4, 6, 5, 7, 4))
    made = module(on="pixels", head=ArcFaceLoss())
    made.configure_from_data(data(store.root))
    sees = made.encoder.input_spec
    assert (sees.on, sees.mean, sees.std, sees.encoder) == ("pixels", (0.0,), (1.0,), None)
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose("train", ["model=reid", "data=phantom", f"preset={preset}", "on=pixels"])
    assert str(cfg.src).endswith("/phantom/decoded")
    assert cfg.model.module.on == "pixels"


def test_weights_that_changed_since_training_are_refused(tmp_path: Path, latents: Path) -> None:
    made = configured_module(latents)
    facts = SimpleNamespace(**vars(artifact_metadata()))
    made.export(tmp_path / "reid", data(latents), artifact_metadata(), "seed: 0\n")
    assert facts.model == "reid"
    assert torch.equal(load_reid(tmp_path / "reid").mean, made.encoder.mean)
    with torch.no_grad():
        next(made.encoder.network.parameters()).add_(1)
    made.encoder.save(tmp_path / "reid")
    with pytest.raises(UserError, match="the weights have changed since training"):
        load_reid(tmp_path / "reid")


def artifact_metadata() -> Any:
    from echodream.artifact import Artifact

    return Artifact("reid", "patterns", "", "0" * 64)


@pytest.mark.slow
def test_training_hash_depends_on_embedder_and_head(tmp_path: Path, latents: Path) -> None:
    def settings(*overrides: str) -> str:
        cfg = train_cfg(tmp_path, latents, *overrides)
        engine.check_and_resolve(cfg)
        return settings_hash(cfg)

    (tmp_path / "a.pth").write_bytes(b"a")
    plain, weights = settings(), f"embedder.weights={tmp_path}/a.pth"
    assert settings() == plain
    before = settings(weights)
    (tmp_path / "a.pth").write_bytes(b"b")
    different = [
        settings("head.margin=20.0"),
        settings("head=cosine"),
        settings("embedder.stem=5"),
        before,
        settings(weights),
    ]
    assert len({plain, *different}) == 6
