"""Training with canaries: patients who are left out have no influence; the artifact has the digest of the canaries."""

import json
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from echodream import engine
from echodream.artifact import read_artifact
from echodream.errors import UserError
from echodream.privacy.canaries import assign_canaries
from echodream.store import Store
from echodream.training.settings_hash import settings_hash
from tests.support.tiny_diffusion import latent_store, train_cfg

torch.set_num_threads(1)
CANARIES = ["canaries=4", "seed=1"]


def patients(store: Store) -> dict[str, str]:
    """Patient of each TRAIN recording."""
    rows = store.table[store.table["Split"] == "TRAIN"]
    return dict(zip(rows["FileName"], rows["PatientID"], strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lidm", "lvdm"])
def test_who_is_left_out_is_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    latent_store(tmp_path / "latents")
    store = Store(tmp_path / "latents")
    training = patients(store)
    canaries = assign_canaries(set(training.values()), 4, 1)
    assert 0 < len(canaries.left_out) < 4
    read: set[str] = set()
    latents = Store.latents
    monkeypatch.setattr(Store, "latents", lambda own, name, *more: (read.add(name), latents(own, name, *more))[1])
    cfg = train_cfg(tmp_path, kind, *CANARIES, "trainer.max_epochs=3", "callbacks.pictures=null")
    engine.train(cfg)
    kept = {name for name, patient in training.items() if patient not in canaries.left_out}
    assert read & training.keys() == kept
    assert read - training.keys()  # recordings of VAL and TEST are read
    artifact = read_artifact(tmp_path / kind, kind)
    assert artifact.canaries == canaries.digest
    assert not any(name in (tmp_path / kind / "artifact.json").read_text() for name in training.values())
    conditions = json.loads((tmp_path / kind / "diffusion.json").read_text())["conditioning"]["conditions"]
    (classes,) = [condition["facts"]["classes"] for condition in conditions if condition["name"] == "class_id"]
    of_kept = store.table["class_id"][store.table["FileName"].isin(kept)]
    assert {each["id"]: each["count"] for each in classes} == of_kept.value_counts().to_dict()
    recorded = OmegaConf.load(tmp_path / kind / "training.yaml")
    assert (recorded.canaries, recorded.seed) == (4, 1)


def test_canaries_are_part_of_the_settings_and_their_absence_is_not(tmp_path: Path) -> None:
    latent_store(tmp_path / "latents")
    hashes = []
    for canaries in (None, 4, 3):
        cfg = train_cfg(tmp_path, "lidm", f"canaries={canaries or 'null'}")
        engine.check_and_resolve(cfg)
        hashes.append(settings_hash(cfg))
    OmegaConf.set_struct(cfg, False)
    del cfg["canaries"]
    assert hashes[0] == settings_hash(cfg)  # equal to the hash of artifacts made before canaries existed
    assert len(set(hashes)) == 3


@pytest.mark.parametrize(("given", "message"), [("1", "canaries is 1"), ("99", "from 2 to 5"), ("most", "or all")])
def test_impossible_numbers_are_refused(tmp_path: Path, given: str, message: str) -> None:
    latent_store(tmp_path / "latents")
    with pytest.raises(UserError, match=message):
        engine.train(train_cfg(tmp_path, "lidm", f"canaries={given}"))
    assert not (tmp_path / "lidm").exists()
