"""The steps of a study, in an order in which they can run. launch/Snakefile makes a rule of each."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

CPUS = {"mem_mb": 32_000, "runtime": 24 * 60}
HOURS = {"gpu": 1, "mem_mb": 64_000, "runtime": 24 * 60}
DAYS = {"gpu": 1, "mem_mb": 64_000, "runtime": 7 * 24 * 60}
RESOURCES = {
    **dict.fromkeys(("vae", "lidm", "lvdm", "reid", "classifier", "identity", "utility_model"), DAYS),
    **dict.fromkeys(("phantom", "ingest", "verify", "keyframes", "pairs"), CPUS),
}
"""GPUs, memory in MB and minutes of a job on a cluster, by model or stage; ``HOURS`` for others."""
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
"""Keys of a study, and what their values are."""


@dataclass(frozen=True)
class Step:
    """One command of the pipeline."""

    name: str
    """Name of the rule."""
    program: str
    """``train`` or ``sample``."""
    overrides: tuple[str, ...]
    makes: str
    """File that exists when the step is complete: the record of a store, an artifact or a report."""
    needs: tuple[str, ...]
    """Names of the steps that have to be complete before."""
    alone: bool
    """Whether the step uses all cores: no other step can run at the same time, or it is in ``alone`` of the study."""
    report: tuple[str, ...] = ()
    """Overrides of the report that is written after the step: what is known so far, and what is not yet made."""

    @property
    def what(self) -> str:
        """The model or stage; ``utility_model`` is model=utility, because there is also stage=utility."""
        name = self.overrides[0].partition("=")[2]
        return "utility_model" if (self.program, name) == ("train", "utility") else name

    @property
    def resources(self) -> dict[str, int]:
        """What a job on a cluster requests."""
        return RESOURCES.get(self.what, HOURS)

    def __str__(self) -> str:
        return " ".join([f"{self.program}.py", *self.overrides])


def steps(config: Mapping[str, Any]) -> list[Step]:
    """The steps of the study ``config``: a file of launch/studies, with the keys of the command line.

    Each step comes after those that it needs. Raises ``ValueError`` if ``config`` has an unknown key, a value of
    another type than KEYS says, or overrides of an unknown step.
    """
    check_keys(config)
    for key, value in config.items():
        if not (_is(KEYS[key], value) or (key == "raw" and value is None)):
            given = "has no value" if value is None else f"cannot be {value!r}"
            raise ValueError(f"{key} {given}: give {KEYS[key]}")
    if "anonymised" in config and "labels" not in config:
        raise ValueError("a study with anonymised needs labels, the classes of model=utility")
    found = list(_Study(config).steps())
    for key in ("overrides", "alone"):
        if unknown := set(config.get(key, [])) - {step.name for step in found}:
            raise ValueError(f"{key} of {', '.join(sorted(unknown))}, which is not a step of this study")
    return found


def check_keys(config: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` if ``config`` has a key that is not in KEYS."""
    if unknown := sorted(map(str, config.keys() - KEYS.keys())):
        raise ValueError(f"unknown key {unknown[0]}: a study has {', '.join(sorted(KEYS))}")


def _is(kind: str, value: object) -> bool:
    """Whether ``value`` is of a ``kind`` of KEYS."""
    if kind in (CLASSES_BY_STEP, OVERRIDES_BY_STEP):
        one = _is_list if kind == OVERRIDES_BY_STEP else partial(_is, CLASSES)
        return isinstance(value, Mapping) and _is_list(list(value)) and all(map(one, value.values()))
    if kind == CLASSES:
        return isinstance(value, str) or _is_list(value)
    if kind == STEPS:
        return _is_list(value)
    if kind == SWITCH:
        return isinstance(value, bool)
    if kind == TEXT:
        return isinstance(value, str) or type(value) is int  # a name in digits
    return type(value) is int and value >= (1 if kind == COUNT else 0)


def _is_list(value: object) -> bool:
    """Whether ``value`` is a list of texts."""
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def log_folder(config: Mapping[str, Any]) -> Path:
    """Folder of the steps' logs, and of the links that show which steps are complete."""
    return Path("runs") / str(config.get("below", "")) / study_name(config) / "launch"


def settings_files(config: Mapping[str, Any], conf: Path, study: list[Path]) -> list[Path]:
    """Yaml files of ``conf``, and in a folder of one's own the files ``study`` and those of the groups of ``conf``.

    Other folders are not searched: a study of one's own can be in a home folder, next to stores and environments.
    """
    files = sorted(conf.rglob("*.yaml"))
    if "config_dir" in config:
        groups = sorted(path.name for path in conf.glob("*") if path.is_dir())
        files += study
        files += [path for group in groups for path in sorted(Path(config["config_dir"], group).rglob("*.yaml"))]
    return [path for path in files if path.is_file()]


def study_name(config: Mapping[str, Any]) -> str:
    """Folder name of the study below data/, models/, ...: ``name`` of ``config``, else ``name`` in the user's data
    yaml, else ``data``. Raises ``ValueError`` if that yaml cannot be read.
    """
    own = Path(config.get("config_dir", ""), "data", f"{config['data']}.yaml")
    if "name" not in config and "config_dir" in config and own.is_file():
        try:
            return str(dict(yaml.safe_load(own.read_text(encoding="utf-8"))).get("name", config["data"]))
        except (yaml.YAMLError, ValueError, TypeError) as error:
            raise ValueError(f"{own} has no keys and values of yaml ({' '.join(str(error).split())})") from None
    return str(config.get("name", config["data"]))


class _Study:
    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config
        self.data: str = config["data"]
        self.name = study_name(config)
        self.settings = (f"data={self.data}", *(f"{key}={config[key]}" for key in ["experiment"] if key in config))
        if "config_dir" in config:
            self.settings += (f"--config-dir={config['config_dir']}",)

    def steps(self) -> Iterator[Step]:
        config = self.config
        yield from self.recordings()
        yield self.train("vae", needs=["videos"], reports="anonymised" not in config)
        yield self.stage("encode", needs=["vae"], makes=self.store("data", "latents"), alone=True)
        if "anonymised" in config:
            yield from self.anonymised()
            return
        yield self.train("lidm", needs=["encode"])
        yield self.train("reid", needs=["encode"])
        yield self.stage("image", needs=["lidm"], makes=self.store("samples", "images"), reports=True)
        yield self.train("lvdm", needs=["encode"])
        yield self.train("classifier", needs=["videos"], makes=self.classifier())
        if "further" in config:
            yield self.further()
        yield self.stage("filter", needs=["image", "reid"], makes=self.store("samples", "private"), alone=True)
        yield self.stage("audit", needs=["filter"], makes=self.report("audit/audit.json"))
        yield self.stage("video", needs=["filter", "lvdm"], makes=self.store("samples", "video_latents"), alone=True)
        filtered = {"needs": ["video", "reid"], "makes": self.store("samples", "private_videos"), "alone": True}
        yield self.stage("filter", "on=video", name="filter_video", **filtered)
        if config.get("audit_video", True):
            makes = self.report("audit_video/audit.json")
            yield self.stage("audit", "on=video", name="audit_video", needs=["filter_video"], makes=makes)
        yield self.stage("decode", needs=["filter_video"], makes=self.store("samples", "videos"))
        makes = self.store("samples", "image_frames")
        yield self.stage("decode", "on=image", name="decode_image", needs=["filter"], makes=makes)
        for kind in ("synthetic", "both"):
            makes = self.classifier(f"_{kind}")
            name = f"classifier_{kind}"
            yield self.train("classifier", f"train_on={kind}", name=name, needs=["videos", "decode"], makes=makes)
        yield from self.tasks()
        real = ["classifier", "classifier_synthetic", "classifier_both", *(["further"] if "further" in config else [])]
        yield self.stage("utility", needs=real, makes=self.report("utility.json"), alone=True)
        audits = ["audit", *(["audit_video"] if config.get("audit_video", True) else [])]
        needs = ["utility", "decode", "decode_image", *audits]
        yield self.stage("evaluate", needs=needs, makes=self.report("index.html"), alone=True)

    def recordings(self) -> Iterator[Step]:
        """From raw files to a checked store; the last of these steps is what ``videos`` stands for."""
        config, made, raw = self.config, self.store("data", "videos"), str(self.config.get("raw", ""))
        if "phantom" in config:
            raw = config["phantom"]
            makes = f"{raw}/recordings.csv"
            yield self.stage("phantom", f"dst={raw}", needs=[], makes=makes, alone=True)
            settings = ("data=cardiacnet", f"data.name={self.name}", *self.settings[1:])  # its files have that layout
            overrides = ("stage=ingest", *settings, f"raw={raw}", *self.own("ingest"))
            yield Step("ingest", "sample", overrides, made, ("phantom",), alone=True, report=self.early_report())
        else:
            reports = "anonymised" not in config
            yield self.stage("ingest", f"raw={raw}", needs=[], makes=made, alone=True, reports=reports)
        self.last = "ingest"
        if config.get("verify", True):
            yield self.stage("verify", needs=["ingest"], makes=made, alone=True)
            self.last = "verify"
        if config.get("keyframes", False):
            makes = self.store("data", "videos_keyframes")
            yield self.stage("keyframes", needs=[self.last], makes=makes, alone=True)
            self.last = "keyframes"

    def further(self) -> Step:
        """Further test patients of the phantom."""
        patients, name = self.config["further"], f"{self.name}_further"
        overrides = (f"data.name={name}", f"data.source.patients={patients}")
        makes = self.store("data", "videos", name)
        return self.stage("ingest", *overrides, name="further", needs=[], makes=makes)

    def tasks(self) -> Iterator[Step]:
        """Classifiers by cross-validation, and a classifier of relabeled synthetic videos."""
        models, samples = "${paths.models}/" + self.name, "${paths.samples}/" + self.name
        for name, classes in self.config.get("cross_validation", {}).items():
            overrides = (f"task.classes={classes}", "folds=5", f"dst={models}/{name}")
            yield self.train("classifier", *overrides, name=name, needs=["videos"])
        relabelling = self.config.get("relabelling", {})
        for name, classes in relabelling.items():
            overrides = (f"task.classes={classes}", f"dst={models}/{name}")
            yield self.train("classifier", *overrides, name=name, needs=["videos"])
        if relabelling:
            artifacts = ",".join(f"{models}/{name}" for name in relabelling)
            makes = self.store("samples", "videos_relabelled")
            yield self.stage("label", f"artifacts=[{artifacts}]", needs=["decode", *relabelling], makes=makes)
            overrides = ("train_on=both", f"synthetic={samples}/videos_relabelled", f"dst={models}/relabelled")
            yield self.train("classifier", *overrides, name="relabelled", needs=["videos", "label"])

    def anonymised(self) -> Iterator[Step]:
        """Anonymized sets of images, with measures of their anonymity and utility."""
        sets: Mapping[str, list[str]] = self.config["anonymised"]
        models, samples, reports = (f"{kind}/{self.name}" for kind in ("models", "samples", "reports"))
        yield self.train("identity", needs=["videos"])
        yield self.train("lidm", needs=["encode"])
        for name, overrides in sets.items():
            made = {"needs": ["lidm"], "makes": self.store("samples", name)}
            yield self.stage("anonymise", *overrides, f"dst={samples}/{name}", name=name, **made)
        yield self.stage("pairs", needs=["encode"], makes=f"data/{self.name}/pairs/pairs.json")
        for stage, needs, more in (("linkability", ["pairs"], ["far=0.05"]), ("anonymity", [], [])):
            for name in sets:
                overrides = [f"src={samples}/{name}", f"artifact={models}/identity", *more, f"dst={reports}/{name}"]
                made = {"needs": ["identity", name, *needs], "makes": self.report(f"{name}/{stage}.json")}
                yield self.stage(stage, *overrides, name=f"{stage}_{name}", **made)
        for name in sets:
            overrides = [f"src={samples}/{name}", f"dst={samples}/{name}_pixels"]
            made = {"needs": [name], "makes": self.store("samples", f"{name}_pixels")}
            yield self.stage("decode", *overrides, name=f"decode_{name}", **made)
        labels, decoded = f"task.labels={self.config['labels']}", [f"decode_{name}" for name in sets]
        pixels = ",".join(f"{samples}/{name}_pixels" for name in sets)
        yield self.train("utility", labels, f"anonymised=[{pixels}]", needs=["videos", *decoded])
        for name in sets:
            overrides = [labels, "train_on=anonymised", f"anonymised={samples}/{name}_pixels"]
            dst = f"dst={models}/utility_{name}"
            yield self.train("utility", *overrides, dst, name=f"utility_{name}", needs=["videos", f"decode_{name}"])

    def train(self, model: str, *overrides: str, name: str = "", makes: str = "", **given: Any) -> Step:
        name = name or model
        makes = makes or f"{self.folder('models')}/{name}/artifact.json"
        return self._step("train", f"model={model}", *overrides, name=name, makes=makes, **given)

    def stage(self, stage: str, *overrides: str, name: str = "", **given: Any) -> Step:
        return self._step("sample", f"stage={stage}", *overrides, name=name or stage, **given)

    def _step(
        self,
        program: str,
        what: str,
        *overrides: str,
        name: str,
        makes: str,
        needs: list[str],
        alone: bool = False,
        reports: bool = False,
    ) -> Step:
        needed = tuple(self.last if need == "videos" else need for need in needs)
        report = self.early_report() if reports else ()
        alone = alone or name in self.config.get("alone", [])
        return Step(name, program, (what, *self.settings, *overrides, *self.own(name)), makes, needed, alone, report)

    def early_report(self) -> tuple[str, ...]:
        return ("stage=report", *self.settings, "early=true", "notes=null")

    def own(self, name: str) -> list[str]:
        """The study's own overrides of a step."""
        return list(self.config.get("overrides", {}).get(name, []))

    def folder(self, kind: str, name: str = "") -> str:
        return str(Path(kind) / str(self.config.get("below", "")) / (name or self.name))

    def store(self, kind: str, store: str, name: str = "") -> str:
        return f"{self.folder(kind, name)}/{store}/dataset.json"

    def report(self, file: str) -> str:
        return f"{self.folder('reports')}/{file}"

    def classifier(self, suffix: str = "") -> str:
        """A classifier, or with task=regression a network that predicts the ejection fraction."""
        kind = "regression" if "task=regression" in self.own("classifier") else "classifier"
        return f"{self.folder('models')}/{kind}{suffix}/artifact.json"
