"""What may be published: what a filter let through, of generators that were asked whom they remember."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from echodream import validation
from echodream.artifact import FACTS, read_artifact
from echodream.errors import UserError
from echodream.filtering.embedding import drawn_with
from echodream.report.sources import Sources, is_same_filter_run
from echodream.runs.atomic_folder import read_record
from echodream.store import Store
from echodream.store.checksums import file_sha256
from echodream.store.schema import CHECKSUMS

STORES = {"videos": "video", "images": "image"}
"""What may be published of a study's samples, and which filter must have let it through."""
GENERATORS = {"lidm": "image", "lvdm": "video"}
"""The models that may be published, and what they draw."""
DRAWN_BY = {on: name for name, on in GENERATORS.items()}
_NO_AUDIT = "holds what it learnt of its patients, and no audit measures how much: it is not published"
REFUSED = {
    "vae": f"an autoencoder {_NO_AUDIT}; publish videos, which are decoded",
    "reid": f"the identity network {_NO_AUDIT}, and it is what recognises them",
    "identity": f"the identity network {_NO_AUDIT}, and it is what recognises them",
    "verifier": f"the identity network {_NO_AUDIT}, and it is what recognises them",
    "classifier": f"a classifier that was trained or chosen on real patients {_NO_AUDIT}",
    "utility": f"a classifier that was trained or chosen on real patients {_NO_AUDIT}",
}
"""Why others are not published."""


@dataclass(frozen=True)
class Cleared:
    """What may be published, and what is to be said of it."""

    sources: Sources
    on: str
    """"image" or "video": the filter that decided."""
    generators: Mapping[str, str]
    """The fingerprints of the models that drew it, by "lidm" and "lvdm"."""
    findings: list[str] = field(default_factory=list)
    """Privacy measures of the audits that stand out."""

    @property
    def decision(self) -> Mapping[str, Any]:
        """Of the filter."""
        found: Mapping[str, Any] = self.sources.records[f"filter_{self.on}"]["decision"]
        return found


def check_known(what: str) -> None:
    """Raise ``UserError`` for a ``what`` that is none, or that is never published."""
    if what in REFUSED:
        raise UserError(f"what={what} is refused: {REFUSED[what]}")
    validation.one_of("what", what, (*STORES, *GENERATORS))


def clear_store(what: str, sources: Sources) -> Cleared:
    """The synthetic store of ``sources`` as ``what``. Raises ``UserError`` where filter or audit do not allow it."""
    assert sources.synthetic is not None
    store, on = sources.synthetic, STORES[what]
    if sources.video_filter() != on:
        raise UserError(
            f"src={store.root} is refused: it was not decoded from what the filter of {on}s let through, "
            f"{sources.passed_stores[on]}; run {_filter(sources, on)}, then stage=decode"
        )
    _check_decision(sources, on)
    passed = Store(sources.passed_stores[on])
    if strangers := sorted(set(store.table["FileName"]) - set(passed.table["FileName"])):
        raise UserError(f"src={store.root} is refused: {strangers[0]} is not among what the filter let through")
    drawn = _drawn(sources, on)
    findings = [line for kind, model in drawn.items() for line in _audited(sources, kind, model)]
    return Cleared(sources, on, {DRAWN_BY[kind]: model for kind, model in drawn.items()}, findings)


def clear_model(what: str, folder: str, sources: Sources, accept_findings: bool) -> Cleared:
    """The generator ``what`` at ``folder``. Raises ``UserError`` where filter or audit do not allow it.

    The audit's finding that training patients can be told from others by this very model is a reason to refuse.
    """
    from echodream.diffusion.model import load_diffusion_model

    on, artifact = GENERATORS[what], read_artifact(folder, what)
    load_diffusion_model(folder, what)  # that its weights are those that were trained and audited
    _check_decision(sources, on)
    record, used = sources.records[f"filter_{on}"], set()
    if (sources.passed_stores[on] / CHECKSUMS).is_file():
        passed = Store(sources.passed_stores[on])
        if not isinstance(passed.dataset.settings.get("decision"), Mapping) or not is_same_filter_run(
            passed.dataset.settings, record
        ):
            raise UserError(
                f"artifact={folder} is refused: {sources.paths[f'filter_{on}']} and {passed.root} are not of one run "
                f"of the filter: run {_filter(sources, on)}"
            )
        used.add(drawn_with(passed).get("model"))
    used = (used | {record.get("generator")}) - {None}
    if used != {artifact.fingerprint}:
        raise UserError(
            f"artifact={folder} is refused: the filter of {on}s was run on samples of another model; draw samples "
            f"with this one and run {_filter(sources, on)}"
        )
    findings = _audited(sources, on, artifact.fingerprint)
    told = [line for line in findings if "membership" in line]
    if told and not accept_findings:
        raise UserError(
            f"artifact={folder} is refused: {told[0]}, so its training patients can be told from others by whoever "
            "has it; train with more patients or less long, or say accept_findings=true and the card tells it"
        )
    return Cleared(sources, on, {what: artifact.fingerprint}, findings)


def _check_decision(sources: Sources, on: str) -> None:
    """Raise ``UserError`` unless the filter's record is there, and it promised something and kept it."""
    name = f"filter_{on}"
    if name not in sources.records:
        raise UserError(f"{sources.paths[name]} is missing: the filter's verdict is needed, run {_filter(sources, on)}")
    with sources.parsing(name):
        decision = sources.records[name]["decision"]
        passed, rule, statement = decision["passed"], decision["rule"], decision["statement"]
    if passed is not True:
        raise UserError(f"the filter of {on}s did not pass, so nothing is published: {statement}")
    if rule != "calibrated":
        raise UserError(f"the filter's rule={rule} promises nothing: run {_filter(sources, on)} rule=calibrated")


def _drawn(sources: Sources, on: str) -> dict[str, str]:
    """The model that drew what passed the filter ``on``; of videos also that of the images which they begin with."""
    made = drawn_with(Store(sources.passed_stores[on]))
    model, images = made.get("model"), sources.passed_stores["image"] / CHECKSUMS
    if not isinstance(model, str):
        raise UserError(f"{sources.passed_stores[on]} does not say which model drew it: draw its samples again")
    if on == "image":
        return {"image": model}
    if not images.is_file() or made.get("source") != file_sha256(images):
        raise UserError(
            f"{sources.passed_stores[on]} began with other images than {images.parent}, those that the filter let "
            "through: sample the videos again"
        )
    return {**_drawn(sources, "image"), "video": model}


def _audited(sources: Sources, on: str, model: str) -> list[str]:
    """The findings of the audit of ``on``. Raises ``UserError`` without membership inference on that very ``model``."""
    name = f"audit_{on}"
    command = f"python sample.py stage=audit data={sources.study}{' on=video' if on == 'video' else ''}"
    if name not in sources.records:
        raise UserError(f"{sources.paths[name]} is missing: nothing is published without its audit, run {command}")
    record, path = sources.records[name], sources.paths[name]
    with sources.parsing(name):
        inferred = [each for each in record["measures"] if each["name"].startswith("membership inference")]
        findings = [_said(each) for each in record["measures"] if each["about"] == "privacy" and each["stands_out"]]
        reason = record["not measured"].get("membership inference", "it is not in the record")
    if not inferred:
        raise UserError(
            f"{path} has no membership inference ({reason}): nothing is published without it, run {command}"
        )
    if record.get("generator") != model:
        raise UserError(
            f"{path} attacked another {DRAWN_BY[on]} than the one that drew these samples: run {command} again"
        )
    sums = sources.passed_stores[on] / CHECKSUMS
    if not sums.is_file() or record.get("source") != file_sha256(sums):
        raise UserError(f"{path} is of other samples than {sources.passed_stores[on]}: run {command} again")
    return findings


def check_study(cleared: Cleared, latents: str | None) -> None:
    """Raise ``UserError`` unless all whom filter and audits compared with, those of ``latents``, are in "real"."""
    sources, root = cleared.sources, Path(str(latents))
    assert sources.real is not None
    if not (root / CHECKSUMS).is_file():
        raise UserError(f"latents={latents} is no store: give the latents that filter and audit were given as real=")
    used = file_sha256(root / CHECKSUMS)
    for name in (f"filter_{cleared.on}", *(f"audit_{GENERATORS[name]}" for name in cleared.generators)):
        if sources.records[name].get("real") != used:
            raise UserError(
                f"{sources.paths[name]} is of another study than latents={latents}: give those that were its real="
            )
    table = Store(root).table
    for column in ("FileName", "PatientID"):
        if missing := set(table[column].astype(str)) - set(sources.real.table[column].astype(str)):
            raise UserError(
                f"real={sources.real.root} is not the study that filter and audit looked at: {len(missing)} of the "
                f"{table[column].nunique()} names in column {column} of latents={latents} are not in it, so they could "
                "not be searched for; give the recordings that were encoded"
            )


def _said(measure: Mapping[str, Any]) -> str:
    value, low, high = (f"{measure['value'][end]:.3g}" for end in ("value", "low", "high"))
    return f"{measure['name']} is {value} [{low}, {high}] where {_expected(measure)}"


def _expected(measure: Mapping[str, Any]) -> str:
    expected = measure.get("expected")
    return f"a harmless generator gives {expected['value']:.3g}" if expected else f"harmless is {measure['harmless']}"


def _filter(sources: Sources, on: str) -> str:
    return f"python sample.py stage=filter data={sources.study}{' on=video' if on == 'video' else ''}"


def metrics_of(folder: str) -> dict[str, Any]:
    """What the artifact at ``folder`` says of itself."""
    return read_record(Path(folder) / FACTS) or {}
