"""The steps of a study, in an order in which they can run. launch/Snakefile turns each step into a rule."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

CPU_DAY = {"mem_mb": 32_000, "runtime": 24 * 60}
GPU_DAY = {"gpu": 1, "mem_mb": 64_000, "runtime": 24 * 60}
GPU_WEEK = {"gpu": 1, "mem_mb": 64_000, "runtime": 7 * 24 * 60}
RESOURCES = {
    **dict.fromkeys(("vae", "lidm", "lvdm", "reid", "classifier", "identity", "utility_model"), GPU_WEEK),
    **dict.fromkeys(("phantom", "ingest", "verify", "keyframes", "pairs"), CPU_DAY),
}
"""Number of GPUs, memory in MB and time in minutes of a cluster job, by model or stage; default: ``GPU_DAY``."""
TEXT, SWITCH, COUNT = "text", "true or false", "a whole number above zero"
STEPS = "a list of steps"
CLASSES, CLASSES_BY_STEP = "a list of classes", "names of steps, each with a list of classes"
OVERRIDES_BY_STEP = "names of steps, each with a list of overrides, as {lidm: [view=triplet]}"
KEYS = {
    **dict.fromkeys(("data", "experiment", "name", "below", "raw", "phantom", "config_dir", "python"), TEXT),
    **dict.fromkeys(("verify", "keyframes", "audit_video"), SWITCH),
    **dict.fromkeys(("further", "jobs", "cores"), COUNT),
    "gpu": "a whole number",
    "labels": CLASSES,
    "alone": STEPS,
    **dict.fromkeys(("cross_validation", "relabelling"), CLASSES_BY_STEP),
    **dict.fromkeys(("overrides", "anonymised"), OVERRIDES_BY_STEP),
}
"""Allowed type of the value of each key of a study."""


@dataclass(frozen=True)
class Step:
    """One command of the pipeline."""

    name: str
    """Name of the Snakemake rule."""
    program: str
    """Program of the command, without .py: ``train`` or ``sample``."""
    overrides: tuple[str, ...]
    record: str
    """File that exists when the step is complete: the record of a store, an artifact or a report."""
    required_steps: tuple[str, ...]
    """Names of the steps that have to be complete before this step starts."""
    uses_all_cores: bool
    """Whether the step uses all cores, so that no other step runs at the same time."""
    report: tuple[str, ...] = ()
    """Command line of ``sample.py`` that writes the report of the results so far after the step; empty: no report."""

    @property
    def model_or_stage(self) -> str:
        """The model or stage of the command; model=utility is ``utility_model``, because stage=utility exists, too."""
        name = self.overrides[0].partition("=")[2]
        return "utility_model" if (self.program, name) == ("train", "utility") else name

    @property
    def resources(self) -> dict[str, int]:
        """Resources that the step requests as a job on a cluster."""
        return RESOURCES.get(self.model_or_stage, GPU_DAY)

    def __str__(self) -> str:
        return " ".join([f"{self.program}.py", *self.overrides])


def steps(config: Mapping[str, Any]) -> list[Step]:
    """The steps of the study ``config``: keys of a file of launch/studies and of the command line.

    Each step comes after the steps that it requires. Raises ``ValueError`` if ``config`` has an unknown key, a value of
    another type than that in KEYS, or overrides of an unknown step.
    """
    check_keys(config)
    for key, value in config.items():
        if not (_has_type(KEYS[key], value) or (key == "raw" and value is None)):
            problem = "has no value" if value is None else f"cannot be {value!r}"
            raise ValueError(f"{key} {problem}: give {KEYS[key]}")
    if "anonymised" in config and "labels" not in config:
        raise ValueError("a study with anonymised needs labels, the classes of model=utility")
    all_steps = list(_StepBuilder(config).steps())
    for key in ("overrides", "alone"):
        if unknown := set(config.get(key, [])) - {step.name for step in all_steps}:
            raise ValueError(f"{key} of {', '.join(sorted(unknown))}, which is not a step of this study")
    return all_steps


def check_keys(config: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` if ``config`` has a key that is not in KEYS."""
    if unknown := sorted(map(str, config.keys() - KEYS.keys())):
        raise ValueError(f"unknown key {unknown[0]}: a study has {', '.join(sorted(KEYS))}")


def _has_type(kind: str, value: object) -> bool:
    """Whether ``value`` has the type ``kind``, a value of KEYS."""
    if kind in (CLASSES_BY_STEP, OVERRIDES_BY_STEP):
        is_entry = _is_list if kind == OVERRIDES_BY_STEP else partial(_has_type, CLASSES)
        return isinstance(value, Mapping) and _is_list(list(value)) and all(map(is_entry, value.values()))
    if kind == CLASSES:
        return isinstance(value, str) or _is_list(value)
    if kind == STEPS:
        return _is_list(value)
    if kind == SWITCH:
        return isinstance(value, bool)
    if kind == TEXT:
        return isinstance(value, str) or type(value) is int  # a name that consists of digits
    return type(value) is int and value >= (1 if kind == COUNT else 0)


def _is_list(value: object) -> bool:
    """Whether ``value`` is a list of strings."""
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def log_folder(config: Mapping[str, Any]) -> Path:
    """Folder of the steps' logs, and of the links that show which steps are complete."""
    return Path("runs") / str(config.get("below", "")) / study_name(config) / "launch"


def settings_files(config: Mapping[str, Any], conf: Path, study: list[Path]) -> list[Path]:
    """Yaml files with settings of a study: all of ``conf`` and, with ``config_dir``, also ``study`` and its groups.

    Only folders with the name of a group of ``conf`` are searched, because ``config_dir`` can be a home folder.
    """
    files = sorted(conf.rglob("*.yaml"))
    if "config_dir" in config:
        groups = sorted(path.name for path in conf.glob("*") if path.is_dir())
        files += study
        files += [path for group in groups for path in sorted(Path(config["config_dir"], group).rglob("*.yaml"))]
    return [path for path in files if path.is_file()]


def study_name(config: Mapping[str, Any]) -> str:
    """Name of the folder of the study in data/, models/, and so on: ``name`` of ``config``; without it, ``name`` of the
    data yaml in ``config_dir``; without both, ``data``. Raises ``ValueError`` if the data yaml cannot be read.
    """
    data_yaml = Path(config.get("config_dir", ""), "data", f"{config['data']}.yaml")
    if "name" not in config and "config_dir" in config and data_yaml.is_file():
        try:
            return str(dict(yaml.safe_load(data_yaml.read_text(encoding="utf-8"))).get("name", config["data"]))
        except (yaml.YAMLError, ValueError, TypeError) as error:
            raise ValueError(f"{data_yaml} has no keys and values of yaml ({' '.join(str(error).split())})") from None
    return str(config.get("name", config["data"]))


class _StepBuilder:
    """Builds the steps of the study ``config``."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config
        self.data: str = config["data"]
        self.name = study_name(config)
        self.settings = (f"data={self.data}", *(f"{key}={config[key]}" for key in ["experiment"] if key in config))
        if "config_dir" in config:
            self.settings += (f"--config-dir={config['config_dir']}",)

    def steps(self) -> Iterator[Step]:
        config = self.config
        yield from self.recording_steps()
        yield self.train("vae", requires=["videos"], reports="anonymised" not in config)
        yield self.stage("encode", requires=["vae"], record=self.store_record("data", "latents"), uses_all_cores=True)
        if "anonymised" in config:
            yield from self.anonymization_steps()
            return
        yield self.train("lidm", requires=["encode"])
        yield self.train("reid", requires=["encode"])
        yield self.stage("image", requires=["lidm"], record=self.store_record("samples", "images"), reports=True)
        yield self.train("lvdm", requires=["encode"])
        yield self.stage("filter", requires=["image", "reid"], record=self.store_record("samples", "private"))
        record = self.store_record("samples", "video_latents")
        yield self.stage("video", requires=["filter", "lvdm"], record=record)
        yield self.stage("audit", requires=["filter"], record=self.report_path("audit/audit.json"))
        yield self.train("classifier", requires=["videos"], record=self.classifier_record())
        if "further" in config:
            yield self.further_test_step()
        options = {"requires": ["video", "reid"], "record": self.store_record("samples", "private_videos")}
        yield self.stage("filter", "on=video", name="filter_video", uses_all_cores=True, **options)
        if config.get("audit_video", True):
            record = self.report_path("audit_video/audit.json")
            yield self.stage("audit", "on=video", name="audit_video", requires=["filter_video"], record=record)
        yield self.stage("decode", requires=["filter_video"], record=self.store_record("samples", "videos"))
        record = self.store_record("samples", "image_frames")
        yield self.stage("decode", "on=image", name="decode_image", requires=["filter"], record=record)
        for kind in ("synthetic", "both"):
            record = self.classifier_record(f"_{kind}")
            name = f"classifier_{kind}"
            yield self.train("classifier", f"train_on={kind}", name=name, requires=["videos", "decode"], record=record)
        yield from self.task_steps()
        requires = ["classifier", "classifier_synthetic", "classifier_both"]
        requires += ["further"] if "further" in config else []
        yield self.stage("utility", requires=requires, record=self.report_path("utility.json"), uses_all_cores=True)
        audits = ["audit", *(["audit_video"] if config.get("audit_video", True) else [])]
        requires = ["utility", "decode", "decode_image", *audits]
        yield self.stage("evaluate", requires=requires, record=self.report_path("index.html"), uses_all_cores=True)

    def recording_steps(self) -> Iterator[Step]:
        """Steps from raw files to a checked store of videos; other steps refer to the last of them as ``videos``."""
        config, record, raw = self.config, self.store_record("data", "videos"), str(self.config.get("raw", ""))
        if "phantom" in config:
            raw = config["phantom"]
            phantom_record = f"{raw}/recordings.csv"
            yield self.stage("phantom", f"dst={raw}", requires=[], record=phantom_record, uses_all_cores=True)
            # the phantom writes raw files in the layout of CardiacNet
            settings = ("data=cardiacnet", f"data.name={self.name}", *self.settings[1:])
            overrides = ("stage=ingest", *settings, f"raw={raw}", *self.study_overrides("ingest"))
            yield Step(
                "ingest",
                "sample",
                overrides,
                record,
                ("phantom",),
                uses_all_cores=True,
                report=self.early_report_overrides(),
            )
        else:
            reports = "anonymised" not in config
            yield self.stage("ingest", f"raw={raw}", requires=[], record=record, uses_all_cores=True, reports=reports)
        self.videos_step = "ingest"
        if config.get("verify", True):
            yield self.stage("verify", requires=["ingest"], record=record, uses_all_cores=True)
            self.videos_step = "verify"
        if config.get("keyframes", False):
            record = self.store_record("data", "videos_keyframes")
            yield self.stage("keyframes", requires=[self.videos_step], record=record, uses_all_cores=True)
            self.videos_step = "keyframes"

    def further_test_step(self) -> Step:
        """Step that ingests further test patients of the phantom."""
        patients, name = self.config["further"], f"{self.name}_further"
        overrides = (f"data.name={name}", f"data.source.patients={patients}")
        record = self.store_record("data", "videos", name)
        return self.stage("ingest", *overrides, name="further", requires=[], record=record)

    def task_steps(self) -> Iterator[Step]:
        """Steps that train cross-validated classifiers, and a classifier of relabeled synthetic videos."""
        models, samples = "${paths.models}/" + self.name, "${paths.samples}/" + self.name
        for name, classes in self.config.get("cross_validation", {}).items():
            overrides = (f"task.classes={classes}", "folds=5", f"dst={models}/{name}")
            yield self.train("classifier", *overrides, name=name, requires=["videos"])
        relabelling = self.config.get("relabelling", {})
        for name, classes in relabelling.items():
            overrides = (f"task.classes={classes}", f"dst={models}/{name}")
            yield self.train("classifier", *overrides, name=name, requires=["videos"])
        if relabelling:
            artifacts = ",".join(f"{models}/{name}" for name in relabelling)
            record = self.store_record("samples", "videos_relabelled")
            yield self.stage("label", f"artifacts=[{artifacts}]", requires=["decode", *relabelling], record=record)
            overrides = ("train_on=both", f"synthetic={samples}/videos_relabelled", f"dst={models}/relabelled")
            yield self.train("classifier", *overrides, name="relabelled", requires=["videos", "label"])

    def anonymization_steps(self) -> Iterator[Step]:
        """Steps that anonymize sets of images, and measure the anonymity and utility of these sets."""
        sets: Mapping[str, list[str]] = self.config["anonymised"]
        models, samples, reports = (f"{kind}/{self.name}" for kind in ("models", "samples", "reports"))
        yield self.train("identity", requires=["videos"])
        yield self.train("lidm", requires=["encode"])
        for name, overrides in sets.items():
            options = {"requires": ["lidm"], "record": self.store_record("samples", name)}
            yield self.stage("anonymise", *overrides, f"dst={samples}/{name}", name=name, **options)
        yield self.stage("pairs", requires=["encode"], record=f"data/{self.name}/pairs/pairs.json")
        for stage, requires, settings in (("linkability", ["pairs"], ["far=0.05"]), ("anonymity", [], [])):
            for name in sets:
                overrides = [f"src={samples}/{name}", f"artifact={models}/identity", *settings, f"dst={reports}/{name}"]
                options = {
                    "requires": ["identity", name, *requires],
                    "record": self.report_path(f"{name}/{stage}.json"),
                }
                yield self.stage(stage, *overrides, name=f"{stage}_{name}", **options)
        for name in sets:
            overrides = [f"src={samples}/{name}", f"dst={samples}/{name}_pixels"]
            options = {"requires": [name], "record": self.store_record("samples", f"{name}_pixels")}
            yield self.stage("decode", *overrides, name=f"decode_{name}", **options)
        labels, decoded = f"task.labels={self.config['labels']}", [f"decode_{name}" for name in sets]
        pixels = ",".join(f"{samples}/{name}_pixels" for name in sets)
        yield self.train("utility", labels, f"anonymised=[{pixels}]", requires=["videos", *decoded])
        for name in sets:
            overrides = [labels, "train_on=anonymised", f"anonymised={samples}/{name}_pixels"]
            dst = f"dst={models}/utility_{name}"
            yield self.train("utility", *overrides, dst, name=f"utility_{name}", requires=["videos", f"decode_{name}"])

    def train(self, model: str, *overrides: str, name: str = "", record: str = "", **options: Any) -> Step:
        """Step that trains ``model``; default of ``record``: artifact.json in the folder with the name of the step."""
        name = name or model
        record = record or f"{self.folder('models')}/{name}/artifact.json"
        return self._step("train", f"model={model}", *overrides, name=name, record=record, **options)

    def stage(self, stage: str, *overrides: str, name: str = "", **options: Any) -> Step:
        """Step that runs ``stage``."""
        return self._step("sample", f"stage={stage}", *overrides, name=name or stage, **options)

    def _step(
        self,
        program: str,
        first_override: str,
        *overrides: str,
        name: str,
        record: str,
        requires: list[str],
        uses_all_cores: bool = False,
        reports: bool = False,
    ) -> Step:
        required_steps = tuple(self.videos_step if name == "videos" else name for name in requires)
        report = self.early_report_overrides() if reports else ()
        uses_all_cores = uses_all_cores or name in self.config.get("alone", [])
        overrides = (first_override, *self.settings, *overrides, *self.study_overrides(name))
        return Step(name, program, overrides, record, required_steps, uses_all_cores, report)

    def early_report_overrides(self) -> tuple[str, ...]:
        """Command line of ``sample.py`` that writes a report of the results so far."""
        return ("stage=report", *self.settings, "early=true", "notes=null")

    def study_overrides(self, name: str) -> list[str]:
        """Overrides of the step ``name`` in the file of the study."""
        return list(self.config.get("overrides", {}).get(name, []))

    def folder(self, kind: str, name: str = "") -> str:
        """Folder of the study ``name``, by default of this study, in ``kind``: data, models, samples or reports."""
        return str(Path(kind) / str(self.config.get("below", "")) / (name or self.name))

    def store_record(self, kind: str, store: str, name: str = "") -> str:
        """Record of the store ``store`` of a study in the folder ``kind``."""
        return f"{self.folder(kind, name)}/{store}/dataset.json"

    def report_path(self, file: str) -> str:
        """Path of ``file`` in the folder of the study's reports."""
        return f"{self.folder('reports')}/{file}"

    def classifier_record(self, suffix: str = "") -> str:
        """Record of a classifier or, with task=regression, of a network that predicts the ejection fraction."""
        kind = "regression" if "task=regression" in self.study_overrides("classifier") else "classifier"
        return f"{self.folder('models')}/{kind}{suffix}/artifact.json"
