"""The studies of launch/studies: each step runs on raw phantom files in the layout of the study.

All settings are real, except those in ``SMALL``: networks of preset=tiny, two training steps, eight sampling steps,
frames of 32 x 32, few samples, and a filter rule for few patients. ``make demo`` shows the quality of results.
"""

import os
import re
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from diffusers import UNet2DModel
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from echodream.config.checks import refuse_incompatible_choices
from echodream.config.paths import CONF_DIR
from echodream.diffusion.conditioning.conditioner import Conditioner
from echodream.errors import UserError
from echodream.store import Store
from tests.support.launching import LAUNCH, Line, lines

STUDIES = {
    "cardiacnet": "cardiacnet",
    "echonet": "echonet_dynamic",
    "echodream_published": "cardiacnet",
    "echonet_synthetic_published": "echonet_dynamic",
}
"""Study of launch/studies -> value of data= in the tests."""
RECORDED = {
    "chest": {"identity", "anonymise", "linkability", "utility"},
    "lung": {"vae", "lidm", "reid", "filter", "audit", "lvdm", "classifier", "evaluate"},
}
"""Studies whose recordings the phantom cannot simulate -> some models and stages of the study."""
EXPERIMENTS = list(STUDIES)
FAST_EXPERIMENTS = [
    "echodream_published",
    "cardiacnet",
    pytest.param("echonet_synthetic_published", marks=pytest.mark.slow),
    pytest.param("echonet", marks=pytest.mark.slow),
]
"""Of two studies with the same networks, one is marked slow."""

PATIENTS = 20
_HEARTS = [f"data.source.patients={PATIENTS}", "data.source.size=48", "data.source.fps=24"]
_HEARTS += ["+data.source.seconds=[2.0,2.4]", "+data.source.per_patient=[1,1]", "workers=0"]
_CPU = ["trainer.accelerator=cpu"]
_HELD_OUT = ["data.split.val=0.25", "data.split.test=0.25"]
_FEW = ["preset=tiny", "trainer.max_epochs=1", "trainer.limit_train_batches=2", "view.per_recording=1", *_CPU]
_TRAIN = [*_FEW, "datamodule.workers=0", "datamodule.batch_size=4", "callbacks.pictures=null"]
SMALL: dict[str, list[str]] = {
    "ingest": ["data.size=32", "data.fps=24", "workers=0", "data.split.train=0.5", *_HELD_OUT],
    "keyframes": ["workers=0"],
    "vae": _TRAIN,
    "encode": ["workers=0", *_CPU],
    "lidm": _TRAIN,
    "reid": _TRAIN,
    "image": ["n=16", "steps=8", *_CPU],
    "filter": ["patients=5", "device=cpu"],
    "lvdm": [*_TRAIN, "view.frames=8"],
    "video": ["n=null", "frames=12", "overlap=4", "steps=8", *_CPU],
    "decode": ["workers=0", *_CPU],
    "classifier": [*_TRAIN[:-1], "view.frames=4"],
    "utility": ["repeats=100"],
}
"""Model or stage -> overrides that reduce the size; models and stages not listed run at full size."""
_RULE = ["rule.alpha=0.34", "rule.alpha_max=0.99", "rule.beta=0.99", "rule.delta=0.5", "rule.choose=0", "views=[]"]
_RECOGNIZED = ("exact", "other_frame", "other_recording", "round_trip")
_OTHER_CONTROLS = {str(name) for name in OmegaConf.load(CONF_DIR / "controls" / "declared.yaml")} - {*_RECOGNIZED}
"""Controls that an identity network cannot recognize after two training steps, and that the tests leave out."""


def smaller(line: Line) -> list[str]:
    """Overrides of ``line`` that make the step small."""
    own = list(SMALL.get(line.what, []))
    published = "published" in (line.value("experiment") or "")
    if line.what == "vae" and published:
        own.append("vae.channels=3")
    if line.what == "reid" and not published:
        own.append("model.copies.frames=4")
    if line.what == "filter" and line.value("rule") != "percentile":
        own += [*_RULE, *(f"controls.{name}=null" for name in sorted(_OTHER_CONTROLS))]
    return own + (["folds=3"] if line.value("folds") else [])


@pytest.fixture(scope="session")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Function that returns the folder of a study's raw files; the files are written once."""
    root = tmp_path_factory.mktemp("raw")

    def folder(layout: str) -> Path:
        with pytest.MonkeyPatch.context() as at:
            at.chdir(root)
            Line("sample", ("stage=phantom", "data=phantom", f"layout={layout}", f"dst={layout}")).run(*_HEARTS)
        return root / layout

    return folder


def lines_of(study: str, data: str, raw: Path = Path("/raw")) -> list[Line]:
    """The steps of ``study`` for ``data``, with raw files in ``raw``."""
    return lines(study, data=data, raw=str(raw))


@pytest.mark.slow
@pytest.mark.parametrize(("study", "data"), STUDIES.items())
def test_the_whole_list_runs_on_a_raw_tree_of_the_study(
    study: str, data: str, raw: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = raw(data)
    monkeypatch.chdir(tmp_path)
    for line in lines_of(study, data, tree):
        line.run(*smaller(line))
    below = Path("published") if "published" in study else Path()
    real, drawn = (Store(Path(part) / below / data / "videos") for part in ("data", "samples"))
    assert len(real) == PATIENTS
    assert len(drawn) >= 1
    assert drawn.dataset.channels == real.dataset.channels == (3 if "published" in study else 1)
    assert (Path("reports") / below / data / "index.html").is_file()
    utility = (Path("reports") / below / data / "utility.json").read_text()
    assert ('"PAH"' if data == "cardiacnet" else '"EF"') in utility


@pytest.mark.slow
@pytest.mark.parametrize("study", ["echonet_pediatric_a4c", "echonet_pediatric_psax"])
def test_the_pediatric_studies_enter_by_the_same_list(
    study: str, raw: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store has the same columns as EchoNet-Dynamic, which all later steps need."""
    tree = raw(study)
    monkeypatch.chdir(tmp_path)
    listed = lines_of("echonet", study, tree)
    for line in listed[:3]:
        line.run(*smaller(line))
    assert [line.what for line in listed[:3]] == ["ingest", "verify", "keyframes"]
    found = Store(Path(f"data/{study}/videos_keyframes")).table
    assert set(found["Split"]) == {"TRAIN", "VAL", "TEST"}
    assert set(found["View"]) == {study[-4:].upper().strip("_")}
    assert found["EF"].notna().all()
    assert found["ED"].ne("").all()


def test_every_study_is_run_by_a_test() -> None:
    known = {*STUDIES, *RECORDED, "demo", "smoke"}
    assert {path.stem for path in (LAUNCH / "studies").glob("*.yaml")} == known
    assert {path.stem for path in LAUNCH.glob("*.sh")} == known - {"smoke"}


@pytest.mark.slow
@pytest.mark.parametrize(("study", "stages"), RECORDED.items())
def test_the_lines_for_recordings_that_no_phantom_writes_compose(study: str, stages: set[str]) -> None:
    """The stages have their own tests; docs/chest.md and docs/results/lung.md show complete runs of these studies."""
    listed = lines(study, raw="/raw")
    for line in listed:
        with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
            cfg = compose(line.program, list(line.overrides), return_hydra_config=True)
        refuse_incompatible_choices(cfg, OmegaConf.to_container(cfg.hydra.runtime.choices))  # type: ignore[arg-type]
    assert stages <= {line.what for line in listed}


@pytest.mark.parametrize("study", [*STUDIES, *RECORDED])
def test_the_scripts_say_what_they_need(study: str) -> None:
    done = subprocess.run(["bash", LAUNCH / f"{study}.sh"], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert re.search(f"give .* launch/{study}.sh", done.stderr)


@pytest.mark.parametrize("study", [*STUDIES, *RECORDED])
def test_a_script_names_the_study_and_its_files(study: str, tmp_path: Path) -> None:
    """A replacement for ``python`` prints its arguments, which the test compares."""
    (tmp_path / "python").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "python").chmod(0o755)
    data = [STUDIES[study]] if "echonet" in study else []
    command = ["bash", str(LAUNCH / f"{study}.sh"), *data, "/raw files", "--dry-run"]
    around = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    said = subprocess.run(command, env=around, capture_output=True, text=True, check=True).stdout.splitlines()
    given = [f"data={data[0]}"] if data else []
    assert said == [str(LAUNCH / "run.py"), study, *given, "raw=/raw files", "--dry-run"]


# -------------------------------------------------------------------------------------------- studies at full size


@cache
def of_experiment(experiment: str) -> dict[str, Line]:
    """The first step of each model and stage in the study named ``experiment``."""
    return {line.what: line for line in reversed(lines_of(experiment, STUDIES[experiment]))}


@cache
def composed(kind: str, experiment: str, other: str = "") -> DictConfig:
    """Configuration of a step of the study; ``other`` is an override that replaces the override of the same key."""
    line = of_experiment(experiment)[kind]
    kept = [override for override in line.overrides if override.split("=")[0] not in ("raw", other.split("=")[0])]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose(line.program, [*kept, *filter(None, [other])], return_hydra_config=True)


def told(cfg: DictConfig) -> Conditioner:
    """Conditions of a model, fitted to four classes and to a range of EF."""
    made = Conditioner(instantiate(cfg.conditioning), cfg.model.width)
    names = ["ASD", "Non-ASD", "Non-PAH", "PAH"]
    made.fit(pd.DataFrame({"class_id": range(4), "class_name": names, "EF": [30.0, 50, 60, 70]}), 4)
    return made


def count(network: Any) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def unconditional_size() -> int:
    """Number of parameters of the image model that EchoNet-Synthetic published."""
    with torch.device("meta"):
        network = UNet2DModel(
            in_channels=4,
            out_channels=4,
            down_block_types=("AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D"),
            block_out_channels=(128, 256, 256, 512),
            layers_per_block=2,
            attention_head_dim=8,
            norm_num_groups=32,
        )
    return count(network)


@pytest.mark.parametrize("experiment", FAST_EXPERIMENTS)
@pytest.mark.slow
def test_the_diffusion_networks_have_the_published_size(experiment: str) -> None:
    """At most 7 % more parameters than the published networks, because of wider tokens and three key frames.

    The published image model of Echodream has 74.6 million parameters, the video models have 143.8 million. The image
    model of EchoNet-Synthetic is the UNet2DModel of its published configuration.
    """
    unconditional = experiment == "echonet_synthetic_published"
    for kind, published in (("lidm", unconditional_size() if unconditional else 74_648_324), ("lvdm", 143_830_186)):
        cfg = composed(kind, experiment)
        conditions = told(cfg)
        frames = 3 if cfg.view._target_.endswith("Triplet") else 1
        with torch.device("meta"):
            made = instantiate(cfg.denoiser)(
                4 * frames, extra_channels=conditions.extra_channels, token_width=conditions.width
            ).to("meta")
        found = count(made)
        assert found == published if "published" in experiment else published < found < 1.07 * published


@pytest.mark.parametrize("experiment", FAST_EXPERIMENTS)
@pytest.mark.slow
def test_the_other_networks_are_the_published_ones(experiment: str) -> None:
    channels = 3 if "published" in experiment else 1
    with torch.device("meta"):
        vae = instantiate(composed("vae", experiment).vae)
        reid = instantiate(composed("reid", experiment).embedder)(channels=4)
        classifier = instantiate(composed("classifier", experiment).backbone)(classes=4, channels=channels)
    assert list(vae.config.block_out_channels) == [128, 256, 256, 512]
    assert (vae.config.in_channels, vae.config.latent_channels, vae.config.layers_per_block) == (channels, 4, 2)
    # the resnet50 of torchvision, with 128 features instead of 1,000 classes
    resnet50 = 25_557_032 - 2049 * 1000 + 2049 * 128
    # size of the first convolution, 7 x 7 or 3 x 3, for four latent channels
    stem = 49 if "published" in experiment else 9
    assert count(reid) == resnet50 - 64 * 3 * 49 + 64 * 4 * stem
    r3d_18 = 33_371_472 - 513 * 400 + 513 * 4
    assert count(classifier) == r3d_18 - 64 * (3 - channels) * 3 * 49


@pytest.mark.slow
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_the_settings_are_those_of_the_publication(experiment: str) -> None:
    published, ef = "published" in experiment, experiment.startswith("echonet")
    lidm, lvdm, classifier = (composed(kind, experiment) for kind in ("lidm", "lvdm", "classifier"))
    assert (lidm.datamodule.batch_size, lidm.model.lr, lidm.model.weight_decay) == (256, 3e-4, 1e-2)
    assert (lidm.trainer.gradient_clip_val, lidm.model.warmup, lidm.process.steps) == (1.0, 500, 1000)
    assert (lvdm.view.frames, lvdm.model.lr, list(lvdm.denoiser.heads)) == (64, 1e-4, [8, 16, 16, 32])
    assert 4 <= lvdm.datamodule.batch_size <= 16
    assert (classifier.view.frames, classifier.view.stride, classifier.datamodule.batch_size) == (32, 2, 8)
    assert (classifier.trainer.max_epochs, classifier.model.lr) == (45, 5e-4)
    assert classifier.task.name == ("regression" if ef else "classification")
    for cfg in (lidm, lvdm):
        kept = (cfg.process.prediction, cfg.process.schedule, cfg.process.beta_start, cfg.process.beta_end)
        assert kept == ("v", "linear", 1e-4, 2e-2)
        mended = (cfg.process.zero_snr, cfg.process.spacing, cfg.process.min_snr)
        assert mended == ((False, "leading", None) if published else (True, "trailing", 5.0))
        conditions = set() if cfg is lidm and published and ef else {"EF" if ef else "class_id"}
        assert set(cfg.conditioning) - {"reference"} == conditions
        steps = 500 if published and (ef or cfg is lidm) else 100
        assert (cfg.trainer.max_epochs, cfg.trainer.limit_train_batches) == (steps, 1000)
    if published:
        assert lvdm.datamodule.batch_size == (16 if ef else 4)
        assert lvdm.conditioning["EF" if ef else "class_id"].dropout == (0.0 if ef else 0.3)
    assert lvdm.model.noise_offset == (0.1 if published else 0.0)
    reid = composed("reid", experiment)
    assert (reid.datamodule.batch_size, reid.model.lr) == (128, 1e-4)
    assert reid.head._target_.endswith("PublishedPairLoss" if published else "ArcFaceLoss")
    image, video, rule = (composed(kind, experiment) for kind in ("image", "video", "filter"))
    steps = (None, None) if not published else (64, 64) if ef else (256, 256)
    assert (image.steps, video.steps) == steps
    assert image.sampler == video.sampler == ("ddpm" if published else None)
    assert image.guidance.class_id == (1.0 if ef else 5.0 if published else 1.5)
    assert video.guidance.class_id == (5.0 if published and not ef else 1.0)
    assert (video.guidance.reference, video.frames) == (1.0, 192)
    assert video.overlap == (32 if published else None)
    told = ("leading", 4.0) if published else (None, None)
    assert (image.spacing, image.clip) == (video.spacing, video.clip) == told
    assert image.n == (2000 if not ef else 20000 if published else 12000)
    if not ef:
        assert video.n == 655
    assert rule.rule._target_.endswith("Percentile" if published else "Calibrated")
    assert rule.reference == ("first" if published else "all")


@pytest.mark.parametrize(
    ("kind", "experiment", "other", "says"),
    [
        ("lidm", "echodream_published", "process=ddpm", "model=lidm of experiment=echodream_published .* process=ddpm"),
        ("lvdm", "echonet_synthetic_published", "process=ddpm", "choose one of published"),
        (
            "reid",
            "echodream_published",
            "head=arcface",
            "cannot be combined with head=arcface: choose one of published",
        ),
        (
            "filter",
            "echodream_published",
            "rule=calibrated",
            "stage=filter .*: choose one of percentile",
        ),
        ("classifier", "echonet", "task=classification", "task=classification: choose one of regression"),
    ],
)
def test_half_a_published_model_is_refused(kind: str, experiment: str, other: str, says: str) -> None:
    cfg = composed(kind, experiment, other)
    chosen = OmegaConf.to_container(cfg.hydra.runtime.choices)
    with pytest.raises(UserError, match=says):
        refuse_incompatible_choices(cfg, chosen)  # type: ignore[arg-type]


def test_a_search_path_of_ones_own_keeps_the_settings_of_an_experiment(tmp_path: Path) -> None:
    """``hydra.searchpath=`` replaces the search path, but experiments must still be found."""
    given = ["model=vae", "data=phantom", "experiment=smoke", f"hydra.searchpath=[file://{tmp_path}]"]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        assert compose("train", given).trainer.max_epochs == 2
