"""Audit of a generator with canaries: memorization is found, and inconsistent inputs are refused."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor

from echodream import engine
from echodream.artifact import Artifact, read_artifact, write_artifact
from echodream.auditing.canaries import CanaryConfig, bound_statement, canary_measure, summarize_canaries
from echodream.auditing.measure import Measure, exact_interval
from echodream.config.paths import CONF_DIR
from echodream.diffusion.model import DiffusionModel
from echodream.errors import UserError
from echodream.privacy.canaries import Canaries, assign_canaries, epsilon_lower_bound
from echodream.store import Store
from tests.support.audit_study import ENCODER, MEAN, STD, TRAIN, Restorer, audit, networks, samples, strangers, study
from tests.support.tiny_diffusion import model

torch.set_num_threads(1)
SEED = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("canaries")
    real = study(root / "real")
    write_generator(root / "lidm", assigned(real), real)
    return root


def assigned(real: Store) -> Canaries:
    return assign_canaries(set(real.table["PatientID"][real.table["Split"] == "TRAIN"]), "all", SEED)


def write_generator(
    root: Path, canaries: Canaries | None, real: Store, config: str = "canaries: all\nseed: 5\n"
) -> None:
    made = model("lidm", ("class_id",), encoder=ENCODER)
    view = "view: {_target_: echodream.datamodules.views.Frames, per_recording: 1}\n"
    digest = "" if canaries is None else canaries.digest
    artifact = Artifact("lidm", "people", made.fingerprint(), "0" * 64, source=real.checksum, canaries=digest)
    write_artifact(root, artifact, config + view, made.save)


def frames_of(real: Store, patients: set[str]) -> Tensor:
    """All frames of ``patients``, normalized by MEAN and STD: (rows, C, H, W)."""
    names = real.table["FileName"][real.table["PatientID"].isin(patients)]
    return torch.cat([(real.latents(name)[0].double() - torch.tensor(MEAN)) / torch.tensor(STD) for name in names])


def audited(folder: Path, *overrides: str) -> dict[str, Any]:
    """Run ``stage=audit canaries=true`` and return the record audit.json."""
    fixed = ["stage=audit", "canaries=true", f"real={folder}/real", f"generator={folder}/lidm", "+data.name=x"]
    fixed += [f"dst={folder}/audit", "notes=null", "membership.noises=2"]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose("sample", [*fixed, *overrides])
    engine.sample(cfg)
    record: dict[str, Any] = json.loads((Path(cfg.dst) / "audit.json").read_text())
    return record


@pytest.mark.slow
@pytest.mark.parametrize("remembers", [True, False])
def test_a_generator_that_remembers_has_a_bound_and_another_has_none(
    folder: Path, monkeypatch: pytest.MonkeyPatch, remembers: bool
) -> None:
    real = Store(folder / "real")
    canaries = assigned(real)
    known = set(canaries.patients) - canaries.left_out
    restorer = Restorer(frames_of(real, known) if remembers else None)
    monkeypatch.setattr(DiffusionModel, "forward", lambda own, *given: restorer(own, *given))
    record = audited(folder, f"dst={folder}/audit_{remembers}")
    (measure,) = record["measures"]
    details = measure["details"]
    assert (details["canaries"], details["included"]) == (TRAIN, len(known))
    assert [each["guesses"] for each in details["by_guesses"]] == [3, 8, 15, 30]
    assert max(each["largest"] for each in details["by_guesses"]) == epsilon_lower_bound(30, 30, 30, 1e-5, 0.05 / 4)
    assert measure["stands_out"] == remembers
    assert (measure["value"]["value"] > 1) == remembers
    if remembers:
        assert details["by_guesses"][-1]["correct"] >= 28
        assert details["auc"]["value"] > 0.95
    else:
        assert measure["value"]["value"] == 0
    stated = re.search(r"epsilon of the training is at least (\S+) at delta", record["statement"])
    assert stated is not None
    assert measure["value"]["value"] - 0.1 < float(stated[1]) <= measure["value"]["value"]
    text = (folder / f"audit_{remembers}" / "audit.json").read_text()
    assert "secret" not in text  # "secret" begins the names of patients
    before = text
    audited(folder, f"dst={folder}/audit_{remembers}")
    assert (folder / f"audit_{remembers}" / "audit.json").read_text() == before
    with pytest.raises(UserError, match=r"already exists, made with canary=.*choose another dst="):
        audited(folder, f"dst={folder}/audit_{remembers}", "canary.delta=0.01")


def test_a_canary_without_a_score_is_not_guessed_and_counts_as_a_coin_flip() -> None:
    canaries = Canaries(("a", "b", "c", "d", "e"), np.array([True, False, True, False, True]))
    found = canary_measure(
        np.array([4.0, 1.0, 3.0, 2.0]), ["a", "b", "c", "d"], canaries, CanaryConfig(0.0, [1]), "lidm"
    )
    assert found.details["canaries"] == 5
    assert (found.details["by_guesses"][0]["guesses"], found.details["by_guesses"][0]["correct"]) == (4, 4)
    assert found.value.value == pytest.approx(epsilon_lower_bound(5, 4, 4, 0.0, 0.05))
    assert found.details["auc"]["value"] == 1
    one = replace(canaries, included=np.array([True, False, False, False, False]))
    assert canary_measure(np.arange(5.0), list("abcde"), one, CanaryConfig(0.0, [1]), "lidm").details["auc"] is None


def test_the_stated_bound_is_rounded_down_and_the_claim_up() -> None:
    guesses = {"guesses": 60, "correct": 50, "epsilon": 0.678, "largest": 2.598}
    details = {"canaries": 60, "epsilon": 0.678, "claimed": 7.991, "delta": 1e-5, "confidence": 0.95}
    details |= {"generator": "lidm", "by_guesses": [guesses]}
    exact = exact_interval(0.678)
    found = Measure("x", "privacy", "x", "x", exact, exact, False, details)
    words = bound_statement(found, "ab" * 32)
    assert "is at least 0.67 at delta 1e-05, with 95 % confidence" in words
    assert "can show is 2.5." in words
    assert "The training claims epsilon 8." in words
    record = {"statement": words, "measures": [{"details": details}]}
    assert "epsilon at least 0.678 (of 2.59 if all were correct)" in str(summarize_canaries(Path("x"), "done", record))


@pytest.mark.parametrize(("claimed", "refuted"), [(0.5, True), (4.0, False)])
def test_a_bound_above_the_stated_epsilon_refutes_it(claimed: float, refuted: bool) -> None:
    names = [f"{number:02}" for number in range(60)]
    canaries = Canaries(tuple(names), np.arange(60) % 2 == 0)
    scores = canaries.included + 0.1 * np.random.default_rng(0).random(60)
    found = canary_measure(scores, names, canaries, CanaryConfig(1e-5, [1.0]), "lidm", {"epsilon": claimed})
    assert found.expected.value == claimed
    assert 0.5 < found.value.value < 4
    assert found.stands_out == refuted
    assert "lower bound, with 95 % confidence, of the epsilon for which the training" in found.means
    assert ("The bound refutes this claim." in bound_statement(found, "ab" * 32)) == refuted
    assert f"The training claims epsilon {claimed:.3g}." in bound_statement(found, "ab" * 32)


@pytest.mark.parametrize(
    ("digest", "config", "overrides", "message"),
    [
        ("none", "canaries: all\nseed: 5\n", [], "was trained without canaries"),
        ("right", "canaries: all\nseed: 6\n", [], "has other patients than the canaries"),
        ("right", "seed: 5\n", [], "does not record the canaries: train the generator again"),
        ("right", "canaries: all\nseed: 5\n", ["generator=null"], "needs generator="),
        ("right", "canaries: all\nseed: 5\n", ["canary.guesses=[0]"], "canary.guesses is 0"),
        ("right", "canaries: all\nseed: 5\n", ["canary.guesses=[]"], "give fractions above 0"),
        ("right", "canaries: all\nseed: 5\n", ["canary.delta=1"], "canary.delta is 1"),
        ("right", "canaries: all\nseed: 5\n", ["canaries=perhaps"], "give true or false"),
        ("other store", "canaries: all\nseed: 5\n", [], "was trained on another store"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    folder: Path, tmp_path: Path, digest: str, config: str, overrides: list[str], message: str
) -> None:
    real = Store(folder / "real")
    write_generator(tmp_path / "lidm", None if digest == "none" else assigned(real), real, config)
    if digest == "other store":
        path = tmp_path / "lidm" / "artifact.json"
        path.write_text(path.read_text().replace(real.checksum, "0" * 64))
    with pytest.raises(UserError, match=message):
        audited(tmp_path, f"real={folder}/real", f"generator={tmp_path}/lidm", *overrides)
    assert not (tmp_path / "audit").exists()


@pytest.mark.slow
def test_the_audit_of_a_set_refuses_a_generator_that_began_with_a_model_of_other_patients(
    folder: Path, tmp_path: Path
) -> None:
    networks(tmp_path)
    write_generator(tmp_path / "lidm", None, Store(folder / "real"))
    path = tmp_path / "lidm" / "artifact.json"
    initial = {"fingerprint": "12" * 32, "source": "34" * 32, "origin": "", "initial": None}
    path.write_text(json.dumps({**json.loads(path.read_text()), "initial": initial}))
    samples(tmp_path / "samples", strangers, settings={"model": read_artifact(tmp_path / "lidm", "lidm").fingerprint})
    with pytest.raises(UserError, match="its initial model's patients are not covered by filter and audit"):
        audit(tmp_path, f"real={folder}/real", f"generator={tmp_path}/lidm")


@pytest.mark.slow
def test_the_audit_of_a_set_refuses_a_generator_with_canaries(folder: Path, tmp_path: Path) -> None:
    networks(folder)
    made = read_artifact(folder / "lidm", "lidm").fingerprint
    samples(folder / "samples", strangers, settings={"model": made})
    with pytest.raises(UserError, match="was not trained on all training patients, because it has canaries"):
        audit(folder, f"generator={folder}/lidm", f"dst={tmp_path}/audit")
    with pytest.raises(UserError, match="src=null is possible with canaries=true only"):
        audit(folder, "src=null", f"dst={tmp_path}/audit")
