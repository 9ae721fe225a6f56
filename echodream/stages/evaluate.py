"""``stage=evaluate``: fidelity metrics of synthetic images and videos, and floors: the metrics of real recordings."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from echodream import validation
from echodream.config.stage_signature import ExtractorPath, InputPath, OutputPath
from echodream.errors import UserError
from echodream.evaluation.adherence import adherence, identity_drift, load_regressor, predict
from echodream.evaluation.cardiac_cycle import CardiacCycleMetrics, frame_difference_curves
from echodream.evaluation.comparison import Comparison
from echodream.evaluation.feature_extraction import FeatureExtraction, RecordingSet, load_recordings, select_recordings
from echodream.evaluation.further_patients import open_test_store
from echodream.evaluation.plausibility import plausibility as plausibility_metrics
from echodream.evaluation.protocol import FILE, Protocol, recorded_counts
from echodream.evaluation.recording_metrics import compare_means, speckle_metrics
from echodream.evaluation.table import summary_lines
from echodream.modules.vae import load_vae
from echodream.networks.extractors.encoder import ClassifierExtractor
from echodream.networks.extractors.registry import load_extractors
from echodream.runs.atomic_folder import write_record
from echodream.runs.summary import Summary
from echodream.store import Store

RECORD = "evaluation.json"


def evaluate(
    *,
    real: InputPath,
    further: InputPath | None,
    images: InputPath | None,
    videos: InputPath | None,
    artifact: InputPath | None,
    extractors: Sequence[ExtractorPath],
    lengths: Sequence[int],
    regressor: InputPath | None,
    autoencoder: InputPath | None,
    audit: InputPath | None,
    protocol: InputPath | None,
    plausibility: float | None,
    dst: OutputPath,
    most: int,
    least: int,
    neighbours: int,
    seed: int,
    batch: int,
    command: str,
    code_version: str,
) -> Summary:
    """Compare the video stores ``images`` and ``videos`` with the store ``real``, in the features of ``extractors``.

    The reference is the TEST split of ``real``, or the patients of the store ``further`` who are not in ``real``. The
    floor of a metric is its value for equally many TRAIN samples. If ``images`` or ``videos`` are not synthetic (for
    example decoded real latents), only their TEST rows are compared. ``artifact`` is the classifier for class
    agreement. The contribution of ``autoencoder`` to the distances is measured. Writes evaluation.json and
    protocol.json to ``dst``.
    """
    for name, value, minimum in (("most", most, 2), ("least", least, 2), ("neighbours", neighbours, 1)):
        validation.whole_number(name, value, minimum)
    validation.whole_number("batch", batch)
    if plausibility is not None:
        validation.number("plausibility", plausibility, above=0, below=1)
    validation.whole_number("seed", seed, 0)
    if images is None and videos is None:
        raise UserError("nothing to evaluate: give images= or videos=, a store that stage=decode wrote")
    networks = load_extractors(extractors, lengths)
    classifier = None if artifact is None else ClassifierExtractor(artifact)
    if classifier is not None:  # an extractor with the same weights replaces the classifier
        candidates = [each for each in networks if isinstance(each, ClassifierExtractor)]
        classifier = next((each for each in candidates if each.weights_hash == classifier.weights_hash), classifier)
    regression = None if regressor is None else load_regressor(regressor)
    real_store = Store(real, kind="video")
    train = select_recordings(real_store, f"real={real}", "TRAIN")
    test_store = open_test_store(real_store, further)
    test = select_recordings(test_store, f"real={real}" if test_store is real_store else f"further={further}", "TEST")
    test = test if test_store is real_store else replace(test, study_store=real_store)
    real_record = {**test.as_json(), "sha256": real_store.checksum}
    if test_store is not real_store:
        real_record["further"] = test_store.checksum
    paths = {"images": images, "videos": videos}
    stores = {key: load_recordings(path, key) for key, path in paths.items() if path is not None}
    settings = Protocol(seed, most, neighbours, {each.name: each.as_json() for each in networks}, real_record, {})
    comparison = Comparison(
        extraction=FeatureExtraction(most, batch, seed),
        extractors=networks,
        classifier=classifier,
        test=test,
        train=train,
        autoencoder=load_vae(autoencoder) if autoencoder is not None and Path(autoencoder).is_dir() else None,
        protocol=settings,
        protocol_path=protocol,
        protocol_counts=None if protocol is None else recorded_counts(protocol, settings),
        min_samples=least,
    )
    comparison.check_recordings([*stores.values()], regression)
    metrics: dict[str, Any] = {key: comparison.metrics(key, store) for key, store in stores.items()}
    if "videos" in stores:
        metrics |= _video_metrics(stores["videos"], comparison, regression, audit, plausibility)
    for key, store in stores.items():
        metrics[key]["store"] = store.as_json()
    settings = replace(settings, count=comparison.used_counts)
    write_record(Path(dst) / FILE, settings.as_json())
    record = {"protocol": settings.as_json(), **metrics, "command": command, "code_version": code_version}
    write_record(Path(dst) / RECORD, record)
    lines = {"reference": f"{test.rows['PatientID'].nunique()} patients of {test.cli_arg}"}
    optional = {"further": further, "autoencoder": autoencoder}
    if absent := [f"{key}={path}" for key, path in optional.items() if path is not None and not Path(path).is_dir()]:
        lines["missing"] = ", ".join(absent)
    return Summary(f"evaluate: {dst}/{RECORD} done", {**lines, **dict(summary_lines(metrics))}, files=(RECORD, FILE))


def _video_metrics(
    videos: RecordingSet,
    comparison: Comparison,
    regressor: ClassifierExtractor | None,
    audit: str | None,
    coverage: float | None,
) -> dict[str, Any]:
    """Metrics of videos: cardiac cycle, adherence to a numeric condition, identity, speckle, and plausibility."""
    test, extraction = comparison.test, comparison.extraction
    cycle_metrics = CardiacCycleMetrics(videos, extraction), CardiacCycleMetrics(test, extraction)
    identity_metrics, identity_curves = identity_drift(audit, videos)
    metrics = dict(compare_means(*cycle_metrics))
    predictions = None
    if regressor is not None:
        predictions = predict(regressor, extraction, videos), predict(regressor, extraction, test)
        metrics |= dict(adherence(regressor, extraction.seed, *predictions))
    curves = {"frame difference": frame_difference_curves(*cycle_metrics)}
    curves |= {"identity": identity_curves} if identity_curves else {}
    texture = dict(compare_means(speckle_metrics(videos, extraction), speckle_metrics(test, extraction)))
    record = {"beat": {**metrics, **identity_metrics}, "texture": texture, "curves": curves}
    if coverage is not None:
        train = comparison.train
        record["plausibility"] = plausibility_metrics(videos, test, train, extraction, coverage, predictions)
    return record
