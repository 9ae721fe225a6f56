"""Conditions of publication: samples passed the privacy filter, and the audit measured membership inference."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from echodream import validation
from echodream.artifact import read_artifact
from echodream.errors import UserError
from echodream.filtering.embedding import check_initial_model, has_known_generator
from echodream.report.sources import Sources, is_same_filter_run
from echodream.store import Store
from echodream.store.checksums import file_sha256
from echodream.store.schema import CHECKSUMS

PUBLISHABLE_STORES = {"videos": "video", "images": "image"}
"""Stores that may be published, each with the kind of samples that the privacy filter compared."""
PUBLISHABLE_MODELS = {"lidm": "image", "lvdm": "video"}
"""Models that may be published, each with the kind of samples that it generates."""
GENERATOR_OF_KIND = {kind: name for name, kind in PUBLISHABLE_MODELS.items()}
_NO_AUDIT = "contains information about its training patients that no audit measures, so it is not published"
REFUSED_MODELS = {
    "vae": f"an autoencoder {_NO_AUDIT}; publish decoded videos instead",
    **dict.fromkeys(("reid", "identity", "verifier"), f"the identity network {_NO_AUDIT}, and it recognizes patients"),
    **dict.fromkeys(("classifier", "utility"), f"a classifier that was trained or chosen on real patients {_NO_AUDIT}"),
}
"""Models that are never published, each with the reason."""


@dataclass(frozen=True)
class Approval:
    """Result of the checks for a store or generator that may be published.

    ``kind``: kind of samples that the filter compared, "image" or "video". ``generators``: model name ("lidm", "lvdm")
    -> fingerprint of the model that generated the samples; empty for an unknown generator. ``findings``: sentences
    about privacy measures that stand out in the audits.
    """

    sources: Sources
    kind: str
    generators: Mapping[str, str]
    findings: list[str] = field(default_factory=list)

    @property
    def decision(self) -> Mapping[str, Any]:
        decision: Mapping[str, Any] = self.sources.records[f"filter_{self.kind}"]["decision"]
        return decision

    @property
    def unknown_facts(self) -> list[str]:
        """Sentences of filter and audit about what is not known because the generator of the samples is unknown."""
        audit = self.sources.records.get(f"audit_{self.kind}", {}).get("unknown")
        return [*map(str, self.decision.get("unknown", ())), *([str(audit)] if audit else [])]


def check_publishable(what: str) -> None:
    """Raise ``UserError`` unless ``what`` is a store or model that may be published."""
    if what in REFUSED_MODELS:
        raise UserError(f"what={what} is refused: {REFUSED_MODELS[what]}")
    validation.one_of("what", what, (*PUBLISHABLE_STORES, *PUBLISHABLE_MODELS))


def approve_store(what: str, sources: Sources, accept_unknown: bool = False) -> Approval:
    """Check the synthetic store of ``sources``. Raises ``UserError`` if the filter or audit forbids publication.

    ``accept_unknown``: whether samples of an unknown generator, without membership inference, may be published.
    """
    assert sources.synthetic is not None
    store, kind = sources.synthetic, PUBLISHABLE_STORES[what]
    if sources.passed_filter_kind() != kind:
        raise UserError(
            f"src={store.root} is refused: it was not decoded from the {kind}s that passed the filter, "
            f"{sources.passed_stores[kind]}; run {sources.command(f'filter_{kind}')}, then stage=decode"
        )
    _check_decision(sources, kind)
    passed = Store(sources.passed_stores[kind])
    if not_passed := sorted(set(store.table["FileName"]) - set(passed.table["FileName"])):
        raise UserError(f"src={store.root} is refused: {not_passed[0]} is not among the samples that passed the filter")
    if not has_known_generator(passed):
        if not accept_unknown:
            raise UserError(
                f"src={store.root} is refused: the generator of these samples is not known, so what it reveals about "
                "its training patients was not measured; accept_unknown=true publishes them, and the card states this"
            )
        return Approval(sources, kind, {}, _audit_findings(sources, kind, None))
    models = _generator_fingerprints(sources, kind)
    findings = [finding for each, model in models.items() for finding in _audit_findings(sources, each, model)]
    return Approval(sources, kind, {GENERATOR_OF_KIND[each]: model for each, model in models.items()}, findings)


def approve_model(what: str, folder: str, sources: Sources, accept_findings: bool) -> Approval:
    """Check the generator ``what`` in ``folder``. Raises ``UserError`` if the filter or audit forbids publication.

    A generator with a finding of membership inference is refused unless ``accept_findings``.
    """
    from echodream.diffusion.model import load_diffusion_model

    kind, artifact = PUBLISHABLE_MODELS[what], read_artifact(folder, what)
    if artifact.canaries:
        raise UserError(
            f"artifact={folder} is refused: it was trained with canaries=, and its seed reveals which "
            "patients were left out of the training: publish a model that was trained without canaries"
        )
    check_initial_model(folder, what, "artifact")
    load_diffusion_model(folder, what)  # raises ``UserError`` if the weights do not match artifact.json
    _check_decision(sources, kind)
    record, models = sources.records[f"filter_{kind}"], set()
    if (sources.passed_stores[kind] / CHECKSUMS).is_file():
        passed = Store(sources.passed_stores[kind])
        settings = passed.dataset.settings
        if not isinstance(settings.get("decision"), Mapping) or not is_same_filter_run(settings, record):
            raise UserError(
                f"artifact={folder} is refused: {sources.paths[f'filter_{kind}']} and {passed.root} are of different "
                f"runs of the filter: run {sources.command(f'filter_{kind}')}"
            )
        models.add(passed.dataset.sampling_settings.get("model"))
    models = (models | {record.get("generator")}) - {None}
    if models != {artifact.fingerprint}:
        raise UserError(
            f"artifact={folder} is refused: the filter of {kind}s was run on samples of another model; sample with "
            f"this model and run {sources.command(f'filter_{kind}')}"
        )
    findings = _audit_findings(sources, kind, artifact.fingerprint)
    if (membership := [finding for finding in findings if "membership" in finding]) and not accept_findings:
        raise UserError(
            f"artifact={folder} is refused: {membership[0]}, so the model reveals its training patients: train with "
            "more patients or fewer steps, or accept this finding with accept_findings=true; the card states it"
        )
    return Approval(sources, kind, {what: artifact.fingerprint}, findings)


def _check_decision(sources: Sources, kind: str) -> None:
    """Raise ``UserError`` unless samples passed the filter of ``kind`` with the calibrated rule."""
    name = f"filter_{kind}"
    if name not in sources.records:
        raise UserError(f"{sources.paths[name]} is missing: publishing needs the filter, run {sources.command(name)}")
    with sources.report_parse_errors(name):
        decision = sources.records[name]["decision"]
        passed, rule, statement = decision["passed"], decision["rule"], decision["statement"]
    if passed is not True:
        raise UserError(f"no sample passed the filter of {kind}s, so nothing is published: {statement}")
    if rule != "calibrated":
        raise UserError(f"the filter's rule={rule} gives no guarantee: run {sources.command(name)} rule=calibrated")


def _generator_fingerprints(sources: Sources, kind: str) -> dict[str, str]:
    """Sample kind -> fingerprint of the model that generated the passed samples; for videos also of the image model."""
    settings = Store(sources.passed_stores[kind]).dataset.sampling_settings
    model, images = settings.get("model"), sources.passed_stores["image"] / CHECKSUMS
    if not isinstance(model, str):
        raise UserError(f"{sources.passed_stores[kind]} does not record its generator: sample again")
    if kind == "image":
        return {"image": model}
    if not images.is_file() or settings.get("source") != file_sha256(images):
        raise UserError(
            f"{sources.passed_stores[kind]} was not generated from {images.parent}, the images that passed the filter: "
            "sample the videos again"
        )
    return {**_generator_fingerprints(sources, "image"), "video": model}


def _audit_findings(sources: Sources, kind: str, model: str | None) -> list[str]:
    """Findings of the audit of ``kind``. Raises ``UserError`` if the audit has no membership inference on ``model``.

    ``model`` is None for samples of an unknown generator.
    """
    name = f"audit_{kind}"
    path, command = sources.paths[name], sources.command(name)
    if name not in sources.records:
        raise UserError(f"{path} is missing: nothing is published without its audit, run {command}")
    record = sources.records[name]
    with sources.report_parse_errors(name):
        measures = record["measures"]
        attacked = any(measure["name"].startswith("membership inference") for measure in measures)
        findings = [_describe_finding(each) for each in measures if each["about"] == "privacy" and each["stands_out"]]
        reason = record["not measured"].get("membership inference", "it is not in the record")
    if not attacked and model is not None:
        raise UserError(f"{path} has no membership inference ({reason}), but publication needs it: run {command}")
    if record.get("generator") != model:
        raise UserError(f"{path} is not about the {GENERATOR_OF_KIND[kind]} of these samples: run {command} again")
    checksums = sources.passed_stores[kind] / CHECKSUMS
    if not checksums.is_file() or record.get("source") != file_sha256(checksums):
        raise UserError(f"{path} is not about the samples in {sources.passed_stores[kind]}: run {command} again")
    return findings


def _describe_finding(measure: Mapping[str, Any]) -> str:
    value, low, high = (f"{measure['value'][name]:.3g}" for name in ("value", "low", "high"))
    expected = f"{measure['expected']['value']:.3g}" if measure.get("expected") else measure["harmless"]
    return f"{measure['name']} is {value} [{low}, {high}] where a harmless generator gives {expected}"


def check_reference_patients(approval: Approval, latents: str | None) -> None:
    """Raise ``UserError`` unless filter and audits used the store ``latents``, and its names are all in the real store.

    Published texts are searched for FileNames and PatientIDs of the real store, so the real store needs all names.
    """
    sources, root = approval.sources, Path(str(latents))
    assert sources.real is not None
    if not (root / CHECKSUMS).is_file():
        remedy = "give the store that was real= in stage=filter and stage=audit"
        raise UserError(f"latents={latents} is not a store: {remedy}")
    checksum = file_sha256(root / CHECKSUMS)
    audited = [PUBLISHABLE_MODELS[name] for name in approval.generators] or [approval.kind]
    for name in (f"filter_{approval.kind}", *(f"audit_{kind}" for kind in audited)):
        if sources.records[name].get("real") != checksum:
            path = sources.paths[name]
            raise UserError(f"{path} is of another study than latents={latents}: give the store of filter and audit")
    table = Store(root).table
    for column in ("FileName", "PatientID"):
        if missing := set(table[column].astype(str)) - set(sources.real.table[column].astype(str)):
            raise UserError(
                f"real={sources.real.root} is not the study of filter and audit: {len(missing)} of the "
                f"{table[column].nunique()} names in column {column} of latents={latents} are not in real=; give the "
                "recordings that were encoded"
            )
