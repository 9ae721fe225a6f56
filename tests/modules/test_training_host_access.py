"""Training steps of a diffusion model never wait for the device; a loss that is not finite still stops the training."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from pytorch_lightning.callbacks import Callback
from torch.utils.data import default_collate

from echodream import engine
from echodream.errors import UserError
from echodream.modules import trainable
from echodream.modules.latent_diffusion import LatentDiffusion
from echodream.modules.trainable import Trainable
from echodream.training import fit as training
from tests.support.host_access import counted_host_access
from tests.support.tiny_diffusion import latent_store, train_cfg

CASES = {
    "lidm": ("lidm", ["conditioning=[class_id,EF,view]"]),
    "triplet": ("lidm", ["view=triplet"]),
    "flow": ("lidm", ["process=flow"]),
    "lvdm": ("lvdm", []),
    "key frames": ("lvdm", ["view.reference=keyframes", "view.references=3"]),
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    latent_store(folder / "latents")
    return folder


def accesses(module: LatentDiffusion, folder: Path, cfg: Any, patch: pytest.MonkeyPatch) -> list[str]:
    """Operations of the second training step on the meta device that would wait for the device."""
    data = instantiate(cfg.datamodule, columns=list(module.columns))
    module.configure_from_data(data)
    samples = data.samples("TRAIN")
    batch = default_collate([samples[number] for number in range(4)])
    module.to("meta")
    patch.setattr(module, "log", lambda *given, **options: None)
    patch.setattr(Trainable, "logs_this_step", False)
    patch.setattr(trainable._HostFlag, "is_asynchronous", lambda device: True)
    patch.setattr(trainable._HostFlag, "read", lambda flag: True)
    moved = data.transfer_batch_to_device(batch, torch.device("meta"), 0)
    for step in range(2):  # the first step copies tables to the device
        with counted_host_access() as found:
            module.training_step(moved, step)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_no_training_step_waits_for_the_device(study: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    kind, overrides = CASES[case]
    cfg = train_cfg(study, kind, *overrides)
    engine.check_and_resolve(cfg)
    assert accesses(instantiate(cfg.model.module), study, cfg, monkeypatch) == []


@pytest.mark.slow
@pytest.mark.parametrize("method", ["consistency", "distribution_matching"])
def test_no_step_of_distillation_waits_for_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    latent_store(tmp_path / "latents")
    engine.train(train_cfg(tmp_path, "lidm", f"dst={tmp_path}/teacher", "trainer.max_epochs=0"))
    overrides = [f"distill={method}", f"distill.teacher={tmp_path}/teacher", "distill.steps=[1,2,4]"]
    cfg = train_cfg(tmp_path, "lidm", *overrides)
    engine.check_and_resolve(cfg)
    assert accesses(instantiate(cfg.model.module), tmp_path, cfg, monkeypatch) == []


class Poison(Callback):
    """Sets a value of batch number ``step`` to NaN; batches are counted over epochs of three batches."""

    def __init__(self, step: int) -> None:
        self.step, self.names, self.steps = step, list[str](), list[int]()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.steps.append(3 * trainer.current_epoch + batch_idx)
        if self.steps[-1] == self.step:
            batch["x"][0], self.names = torch.nan, list(batch["name"])


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 2, 5])
def test_a_loss_that_is_checked_late_is_in_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """The loss is checked later, as on a GPU; a NaN occurs within an epoch, at its end, or at the end of training."""
    latent_store(tmp_path / "latents")
    make, poison = training.make_trainer, Poison(step)
    with monkeypatch.context() as patch:
        patch.setattr(trainable._HostFlag, "is_asynchronous", lambda device: True)
        patch.setattr(training, "make_trainer", lambda s, found, **more: make(s, [*found, poison], **more))
        with pytest.raises(UserError, match=r"^the loss is not finite on a batch of ") as caught:
            engine.train(train_cfg(tmp_path, "lidm"))
    assert set(str(caught.value).split(" batch of ")[1].split(":")[0].split(", ")) == set(poison.names)
    assert max(poison.steps) == {1: 2, 2: 2, 5: 5}[step]
    checkpoints = [torch.load(path, weights_only=True) for path in (tmp_path / "runs").rglob("*.ckpt")]
    assert [checkpoint["epoch"] for checkpoint in checkpoints] == ([0] if step == 5 else [])
    assert not (tmp_path / "lidm").exists()
