"""Private training: steps compared with a loop by hand, Poisson sampling of patients, and refused settings."""

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf
from pytorch_lightning.callbacks import Callback

from echodream import engine
from echodream.artifact import Artifact, read_artifact, write_artifact
from echodream.datamodules.datamodule import StoreData
from echodream.datamodules.patient_batches import PatientBatches
from echodream.diffusion.processes.ddpm import DDPM
from echodream.errors import UserError
from echodream.modules import private_training
from echodream.modules.latent_diffusion import LatentDiffusion
from echodream.modules.private_training import PrivateTraining
from echodream.privacy.private_steps import PrivacyBudget, PrivacySettings, secret_seed
from echodream.store import Statistics, Store
from echodream.training import fit as training
from echodream.training.private import KEY_FILE, _check_initial_models, secret_key
from echodream.training.settings_hash import settings_hash
from tests.support.interruptions import StopTraining
from tests.support.tiny_diffusion import ENCODER, C, latent_store, model, train_cfg

torch.set_num_threads(1)
KEY = bytes(range(32))
CONDITIONS = {"lidm": ("class_id",), "lvdm": ("reference", "class_id")}
PUBLIC = Statistics((0.5, -1.0, 0.0), (3.0, 1.0, 2.0))
"""Statistics of the public latents."""
WEIGHTS = ("diffusion_pytorch_model.safetensors", "conditioner.safetensors", "diffusion.json")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Latents of five TRAIN patients, public models, and the record of a public autoencoder."""
    latent_store(tmp_path / "latents", settings={"source": "3" * 64})
    for kind, conditions in CONDITIONS.items():
        made = model(kind, conditions, DDPM(least_weight=0.1))
        made.metadata = replace(made.metadata, statistics=PUBLIC)
        artifact = Artifact(kind, "public", made.fingerprint(), "0" * 64, source="1" * 64)
        write_artifact(tmp_path / "public" / kind, artifact, "seed: 0\n", made.save)
    write_artifact(
        tmp_path / "vae", Artifact("vae", "public", ENCODER, "0" * 64, source="2" * 64), "", lambda path: None
    )
    return tmp_path


@pytest.fixture
def without_accountant(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fixed noise multiplier, so that tests do not need the package opacus."""

    def plan(settings: PrivacySettings, sampling_rate: float, steps: int) -> PrivacyBudget:
        return PrivacyBudget(settings.epsilon, settings.delta, "none", 0.8, sampling_rate, steps)

    monkeypatch.setattr(private_training, "plan_budget", plan)


def private_cfg(folder: Path, kind: str, *overrides: str) -> Any:
    fixed = [f"model.initial={folder}/public/{kind}", "trainer.privacy.epsilon=8", "trainer.privacy.delta=1e-3"]
    fixed += ["trainer.privacy.patients=2", "trainer.privacy.examples=3", "trainer.privacy.accountant=rdp"]
    fixed += [
        "callbacks.pictures=null",
        "model.schedule=cosine",
        *(["view.per_recording=10"] if kind == "lvdm" else []),
    ]
    return train_cfg(folder, kind, *fixed, *overrides)


def batches(
    folder: Path, sampling_rate: float, examples: int = 3, kind: str = "lidm", key: bytes = KEY
) -> PatientBatches:
    cfg = private_cfg(folder, kind)
    engine.check_and_resolve(cfg)
    data: StoreData = instantiate(cfg.datamodule, columns=["class_id"])
    return PatientBatches(data.samples("TRAIN"), sampling_rate, examples, key)


def recordings(batch: dict[str, Any]) -> list[set[str]]:
    return [set(patient["name"]) for patient in batch["patients"]]


def test_each_patient_takes_part_at_random_with_samples_of_their_own(tmp_path: Path) -> None:
    latent_store(tmp_path / "latents")
    found = batches(tmp_path, 0.4)
    names = {"r0", "r1", "r2", "r5", "r6"}
    assert len(found) == 48 // (2 * 3)  # the batches have as many frames as an epoch: 9 + 12 + 5 + 8 + 14
    drawn = [recordings(found[(epoch, number)]) for epoch in range(50) for number in range(8)]
    assert {name for step in drawn for patient in step for name in patient} == names
    assert all(len(patient) == 1 for step in drawn for patient in step)
    took_part = np.array([[{name} in step for name in sorted(names)] for step in drawn])
    assert took_part.mean() == pytest.approx(0.4, abs=3.5 * (0.24 / took_part.size) ** 0.5)
    counts = took_part.sum(axis=1)
    assert counts.var() == pytest.approx(5 * 0.24, abs=0.35)  # variance of the binomial distribution
    assert counts.min() == 0
    assert np.abs(np.corrcoef(took_part.T) - np.eye(5)).max() < 0.2
    # probability of equal choices in consecutive steps: 0.4^2 + 0.6^2
    assert (took_part[1:] == took_part[:-1]).mean() == pytest.approx(0.52, abs=0.05)


@pytest.mark.parametrize("kind", ["lidm", "lvdm"])
def test_a_batch_is_a_function_of_key_and_step(tmp_path: Path, kind: str) -> None:
    latent_store(tmp_path / "latents")
    found, again = batches(tmp_path, 1.0, kind=kind), batches(tmp_path, 1.0, kind=kind)
    other = batches(tmp_path, 1.0, kind=kind, key=KEY[::-1])
    first, same, later, secret = found[(1, 0)], again[(1, 0)], found[(1, 1)], other[(1, 0)]
    assert len(first["patients"]) == 5
    for patient, twin, next_one, stranger in zip(
        *(each["patients"] for each in (first, same, later, secret)), strict=True
    ):
        assert patient["x"].shape[:2] == (3, C)
        assert torch.equal(patient["x"], twin["x"])
        assert not torch.equal(patient["x"], next_one["x"])
        assert not torch.equal(patient["x"], stranger["x"])
        assert len({row.sum().item() for row in patient["x"]}) == 3


@pytest.mark.parametrize("patients", [5, 0])
def test_a_step_equals_a_loop_over_patients_by_hand(
    study: Path, monkeypatch: pytest.MonkeyPatch, patients: int
) -> None:
    cfg = private_cfg(study, "lidm")
    engine.check_and_resolve(cfg)
    module: LatentDiffusion = instantiate(cfg.model.module)
    data: StoreData = instantiate(cfg.datamodule, columns=list(module.columns))
    module.configure_from_data(data)
    batch = PatientBatches(data.samples("TRAIN"), 1.0, 3, KEY)[(0, 0)]
    batch["patients"] = batch["patients"][:patients]
    settings = PrivacySettings(8.0, 1e-3, 0.05, 3, 3, "rdp")
    steps = PrivateTraining(settings, 0.4, KEY)
    steps.budget = PrivacyBudget(8.0, 1e-3, "none", 0.7, 0.4, 10)
    parameters = list(module.parameters())
    optimizer = torch.optim.SGD(parameters, lr=1.0)
    monkeypatch.setattr(module, "optimizers", lambda: optimizer)
    monkeypatch.setattr(module, "lr_schedulers", lambda: None)
    monkeypatch.setattr(module, "log", lambda *given, **more: None)
    monkeypatch.setattr(LatentDiffusion, "trainer", SimpleNamespace(global_step=4, log_every_n_steps=10))
    total = [np.zeros(parameter.shape) for parameter in parameters]
    lengths = []
    for patient in batch["patients"]:
        torch.manual_seed(secret_seed(KEY, "training", 4, patient["name"][0]))
        module.zero_grad()
        module.training_loss(patient).backward()
        found = [np.zeros(p.shape) if p.grad is None else p.grad.double().numpy().copy() for p in parameters]
        lengths.append(sum(float((part**2).sum()) for part in found) ** 0.5)
        total = [a + b * min(1, 0.05 / lengths[-1]) for a, b in zip(total, found, strict=True)]
    assert patients == 0 or max(lengths) > 0.05
    generator = torch.Generator().manual_seed(secret_seed(KEY, "noise", 4))
    noise = [torch.randn(parameter.shape, generator=generator).numpy() for parameter in parameters]
    before = [parameter.detach().double().numpy().copy() for parameter in parameters]
    steps.private_optimizer_step(module, batch)
    for parameter, old, part, random in zip(parameters, before, total, noise, strict=True):
        expected = old - (part + 0.7 * 0.05 * random) / 3
        assert parameter.detach().numpy() == pytest.approx(expected, abs=1e-5)


def with_callback(patch: pytest.MonkeyPatch, callback: Callback) -> None:
    make = training.make_trainer
    patch.setattr(training, "make_trainer", lambda s, found, **more: make(s, [*found, callback], **more))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lidm", "lvdm"])
@pytest.mark.usefixtures("without_accountant")
def test_an_interrupted_private_training_ends_with_the_same_bytes(
    study: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr("secrets.token_hex", lambda count: KEY[:count].hex())  # the same secret key for each training
    found = {}
    for name, accidents in (("whole", ()), ("interrupted", ((0, 2), (1, 1)))):
        cfg = private_cfg(study, kind, f"dst={study}/{name}", f"work={study}/work_{name}")
        for epoch, batch in accidents:
            with monkeypatch.context() as patch:
                with_callback(patch, StopTraining(epoch, batch))
                with pytest.raises(OSError, match="accident"):
                    engine.train(cfg.copy())
        engine.train(cfg.copy())
        found[name] = [(study / name / file).read_bytes() for file in WEIGHTS]
        (key,) = (study / f"work_{name}").glob(f"*/{KEY_FILE}")
        assert (key.stat().st_mode & 0o777, key.read_text()) == (0o600, KEY.hex())
        assert all(KEY.hex() not in path.read_text(errors="replace") for path in (study / name).iterdir())
    assert found["whole"] == found["interrupted"]
    assert all(
        new != (study / "public" / kind / file).read_bytes()
        for new, file in zip(found["whole"], WEIGHTS[:2], strict=False)
    )
    record = read_artifact(study / "whole", kind).privacy
    initial = read_artifact(study / "public" / kind, kind).fingerprint
    assert record == {
        **{"epsilon": 8, "delta": 1e-3, "accountant": "none", "noise": 0.8, "rate": 0.4, "steps": 6},
        **{"unit": "patient", "clip": 1, "initial": initial},
    }
    metadata = json.loads((study / "whole" / "diffusion.json").read_text())
    assert (
        metadata["conditioning"] == json.loads((study / "public" / kind / "diffusion.json").read_text())["conditioning"]
    )
    assert "3.0" in json.dumps(metadata)  # the statistics of the public latents
    monkeypatch.setattr("secrets.token_hex", lambda count: KEY[:count][::-1].hex())
    engine.train(private_cfg(study, kind, f"dst={study}/other", f"work={study}/work_other"))
    # the weights depend on the secret key, not only on the public seed
    assert (study / "other" / WEIGHTS[0]).read_bytes() != found["whole"][0]


@pytest.mark.slow
def test_the_accountant_states_the_epsilon_of_all_steps(study: Path) -> None:
    pytest.importorskip("opacus")
    from opacus.accountants import RDPAccountant

    engine.train(private_cfg(study, "lidm", "trainer.limit_val_batches=1"))
    record = read_artifact(study / "lidm", "lidm").privacy
    assert record is not None
    accountant = RDPAccountant()
    for _ in range(6):  # 2 epochs of 3 steps
        accountant.step(noise_multiplier=record["noise"], sample_rate=2 / 5)
    assert record["epsilon"] == pytest.approx(accountant.get_epsilon(delta=1e-3), rel=1e-9)
    assert 7.98 <= record["epsilon"] <= 8
    assert record["steps"] == 6


def test_latents_are_normalized_by_the_statistics_of_the_public_model(study: Path) -> None:
    cfg = private_cfg(study, "lidm")
    engine.check_and_resolve(cfg)
    _, data = training.build_module_and_data(cfg)
    assert data.store.dataset.statistics == PUBLIC
    store, rng = Store(study / "latents"), np.random.default_rng(0)
    found = data.recordings("TRAIN").read(0, [2], rng, "mean")[:, 0]
    mean = store.latents("r0", 2, 3)[0][0].float()
    assert torch.allclose(
        found, (mean - torch.tensor(PUBLIC.mean).view(C, 1, 1)) / torch.tensor(PUBLIC.std).view(C, 1, 1)
    )


def rewrite(path: Path, **changed: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.initial=null"], "needs model.initial=, a model that was trained on public recordings"),
        (["trainer.precision=16-mixed"], "use trainer.precision=32-true or bf16-mixed"),
        (["+trainer.accumulate_grad_batches=2"], "cannot be combined with gradient scaling or accumulation"),
        (["trainer.devices=2"], "is for one process"),
        (["datamodule.cache=device"], "cannot be combined with datamodule.cache=device"),
        (["trainer.privacy.delta=0.2"], "a delta of 1 / 5 patients protects nobody"),
        (["trainer.privacy.patients=6"], "give a whole number from 1 to 5, the patients in TRAIN"),
        (["model.vae=elsewhere"], "model.vae=elsewhere is not the autoencoder that encoded"),
    ],
)
def test_what_is_not_private_is_refused(study: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        engine.train(private_cfg(study, "lidm", *overrides))
    assert not (study / "lidm").exists()


def test_models_that_were_trained_on_the_same_patients_are_refused(study: Path) -> None:
    checksum = Store(study / "latents").checksum
    rewrite(study / "public/lidm/artifact.json", source=checksum)
    with pytest.raises(UserError, match=r"was trained on .*latents, the patients to protect"):
        engine.train(private_cfg(study, "lidm"))
    rewrite(study / "public/lidm/artifact.json", source="1" * 64)
    rewrite(study / "vae/artifact.json", fingerprint="ef" * 32)
    with pytest.raises(UserError, match="is not the autoencoder that encoded"):
        engine.train(private_cfg(study, "lidm"))
    rewrite(study / "vae/artifact.json", fingerprint=ENCODER, source="3" * 64)
    with pytest.raises(UserError, match="may have been trained on the same patients: encode with"):
        engine.train(private_cfg(study, "lidm"))
    rewrite(study / "vae/artifact.json", source="2" * 64)
    shutil.rmtree(study / "latents")
    latent_store(study / "latents")  # without the checksum of the source videos
    with pytest.raises(UserError, match="may have been trained on the same patients: encode with"):
        engine.train(private_cfg(study, "lidm"))


def patients_of(study: Path, name: str, **settings: Any) -> tuple[str, dict[str, Any]]:
    """Write another store next to the latents; return its checksum, and the record of a model trained on this store."""
    shutil.rmtree(study / name, ignore_errors=True)
    checksum = latent_store(study / name, settings=settings).checksum
    return checksum, {"fingerprint": "5" * 64, "source": checksum, "origin": "", "initial": None}


@pytest.mark.parametrize("key", ["model.initial", "model.vae"])
def test_no_store_of_the_patients_may_be_in_the_lineage_of_initial_model_and_autoencoder(study: Path, key: str) -> None:
    """Refused: the store itself, the stores in its record, and the stores in their records; also a missing record."""
    path = study / {"model.initial": "public/lidm", "model.vae": "vae"}[key] / "artifact.json"
    given, (raw, _) = path.read_text(), patients_of(study, "raw")
    shared, _ = patients_of(study, "shared", keyframes={"videos": raw, "onto": "6" * 64})
    shutil.rmtree(study / "latents")
    settings = {"keyframes": {"version": 1, "videos": "7" * 64, "onto": "8" * 64}, "labels": {"source": "9" * 64}}
    own = latent_store(study / "latents", settings={"source": shared, **settings}).checksum
    elsewhere = {"fingerprint": "5" * 64, "source": "a" * 64, "origin": "b" * 64, "initial": None}
    cfg = private_cfg(study, "lidm")
    engine.check_and_resolve(cfg)
    _, data = training.build_module_and_data(cfg)
    for checksum in (own, shared, raw, *(digit * 64 for digit in "6789")):
        for name in ("source", "origin"):
            for changed in (
                {name: checksum},
                {"initial": {**elsewhere, name: checksum}},
                {"initial": {**elsewhere, "initial": {**elsewhere, name: checksum}}},
            ):
                path.write_text(given)
                rewrite(path, **changed)
                with pytest.raises(UserError, match=rf"^{key}=.* (was|may have been) trained on "):
                    _check_initial_models(cfg, data)
    for changed in ({"source": ""}, {"initial": {**elsewhere, "source": ""}}):
        path.write_text(given)
        rewrite(path, **changed)
        with pytest.raises(UserError, match=rf"^{key}=.* does not record all its training patients: give a model"):
            _check_initial_models(cfg, data)
    path.write_text(given)
    rewrite(path, initial=elsewhere)
    _check_initial_models(cfg, data)


@pytest.mark.slow
def test_an_artifact_records_its_initial_models_and_nothing_without_one(study: Path) -> None:
    public = study / "public" / "lidm"
    engine.train(train_cfg(study, "lidm", "callbacks.pictures=null", f"dst={study}/plain"))
    assert "initial" not in json.loads((study / "plain" / "artifact.json").read_text())
    source, folders = Store(study / "latents").checksum, [str(public), f"{study}/first", f"{study}/second"]
    for before, after in itertools.pairwise(folders):
        changes = ["callbacks.pictures=null", f"model.initial={before}", f"dst={after}", "seed=3"]
        engine.train(train_cfg(study, "lidm", *changes))
    last = read_artifact(folders[-1], "lidm")
    stored = [read_artifact(folder, "lidm") for folder in folders[::-1]]
    assert [record["fingerprint"] for record in last.lineage()] == [each.fingerprint for each in stored]
    assert [record["source"] for record in last.lineage()] == [source, source, "1" * 64]
    assert [record["origin"] for record in last.lineage()] == ["3" * 64, "3" * 64, ""]


def test_another_model_and_distillation_are_refused(study: Path) -> None:
    cfg = private_cfg(study, "lidm")
    cfg.model.name = "classifier"
    with pytest.raises(UserError, match="goes with model=lidm and model=lvdm, not with model=classifier"):
        training.privacy_settings(cfg)
    cfg = train_cfg(
        study,
        "lidm",
        "distill=consistency",
        f"distill.teacher={study}/public/lidm",
        f"model.initial={study}/public/lidm",
    )
    with pytest.raises(InstantiationException, match="a student begins with its teacher's weights"):
        engine.train(cfg)
    cfg = private_cfg(
        study, "lidm", "distill=consistency", f"distill.teacher={study}/public/lidm", "model.initial=null"
    )
    with pytest.raises(UserError, match=r"and distill= are incompatible: distill the model on public recordings"):
        engine.train(cfg)


def test_a_training_that_is_not_private_keeps_its_hash(study: Path) -> None:
    hashes = []
    for overrides in ([], ["trainer.privacy.clip=2"], [f"model.initial={study}/public/lidm"]):
        cfg = train_cfg(study, "lidm", *overrides)
        engine.check_and_resolve(cfg)
        hashes.append(settings_hash(cfg))
        if not overrides:
            OmegaConf.set_struct(cfg, False)
            del cfg.trainer["privacy"], cfg.model["initial"], cfg.model.module["initial"]
            # equal to the hash of artifacts made before private training existed
            assert settings_hash(cfg) == hashes[0]
    private = private_cfg(study, "lidm")
    engine.check_and_resolve(private)
    assert hashes[0] == hashes[1]
    assert len({*hashes, settings_hash(private)}) == 3


def test_a_damaged_key_is_refused(tmp_path: Path) -> None:
    key = secret_key(tmp_path / "a" / KEY_FILE)
    assert len(key) == 32
    assert secret_key(tmp_path / "a" / KEY_FILE) == key != secret_key(tmp_path / "b" / KEY_FILE)
    for damaged in ("", "00", "not hex"):
        (tmp_path / "a" / KEY_FILE).write_text(damaged)
        with pytest.raises(UserError, match="remove its folder, and train again"):
            secret_key(tmp_path / "a" / KEY_FILE)
