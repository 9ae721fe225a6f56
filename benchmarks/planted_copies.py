"""Recall of the privacy filter, with two rules, on a set that contains known copies of training patients.

    python benchmarks/planted_copies.py [--root .] [--study phantom] [--novel 200] [--views flip shift] [--share 0.2]
        [--beta 0.05] [--choose 0] [--every 1] [--patients 112] [--out reports/phantom/planted_copies]

``--root`` has a study as `make demo` writes it; a missing phantom, autoencoder, latent store or identity network is
created first. The set has ``--novel`` samples of phantom patients with another seed, who are in no split, and one copy
of each training patient under each transform of conf/controls/declared.yaml. Transforms that need the generator are
left out if models/<study>/lidm does not exist. A sample has as many frames as a sample of the generator, or
``--frames``. The rule "calibrated" compares samples with every ``--every``-th training frame by cosine similarity; the
score of a sample is the highest similarity over frames and their ``--views``. The threshold of "calibrated" is set by
the TEST patients and by control copies, which have other frames and random numbers than the planted copies. Controls in
report_only of conf/stage/filter.yaml do not affect the threshold. The rule "percentile" is the published rule: Pearson
correlation with first frames, without views. Recall is the rejected fraction of the planted copies, false rejection the
rejected fraction of the novel samples. Intervals are exact (Clopper-Pearson), two-sided, 95 %, over patients. The
script writes planted_copies.json and roc.png to ``--out``.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor
from tqdm import tqdm

from echodream.config.paths import CONF_DIR
from echodream.datamodules.key_frames import evenly_spaced_frames
from echodream.datamodules.normalization import from_uint8
from echodream.datamodules.recordings import Recordings, gaussian_sample, named_rng
from echodream.diffusion.model import load_diffusion_model
from echodream.filtering.copy_generation import CopyGenerator, FrameSelection, select_frames_by_patient
from echodream.filtering.embedding import FrameEmbedder, View
from echodream.filtering.positive_controls import Control, generate_copies
from echodream.filtering.scoring import Query, ReferenceFrames, embed_queries, train_to_test_similarity
from echodream.filtering.views import latent_views
from echodream.ingest.phantom import Phantom
from echodream.ingest.preprocessing import resize
from echodream.ingest.source import Limits, Video
from echodream.metrics.bootstrap import clopper_pearson_interval
from echodream.metrics.verification import Pairs, auc, roc_curve
from echodream.privacy.certification import PatientScores
from echodream.privacy.rules import Calibrated, Evidence, Percentile
from echodream.privacy.similarity import Similarity
from echodream.store import Store

CODE = Path(__file__).resolve().parent.parent
DECLARED = instantiate(OmegaConf.load(CONF_DIR / "controls" / "declared.yaml"), _convert_="all")
REPORT_ONLY = list(OmegaConf.load(CONF_DIR / "stage" / "filter.yaml").report_only)
TRANSFORMS: dict[str, Control] = {str(name): control for name, control in DECLARED.items() if control is not None}
CALIBRATION, NOVEL, CONTROL, COPY = "calibration", "novel", "control", "copy"


def complete_study(root: Path, study: str) -> None:
    """Run the stages and trainings whose output is missing in the study."""
    data, models, raw = root / "data" / study, root / "models" / study, root / "raw" / study
    names = [f"data={study}", "experiment=demo"]
    ingest = ["stage=ingest", "data=cardiacnet", f"data.name={study}", f"raw=raw/{study}", "experiment=demo"]
    commands = [
        (data / "videos", raw, ["sample.py", "stage=phantom", *names]),
        (data / "videos", data / "videos", ["sample.py", *ingest]),
        (models / "vae", models / "vae", ["train.py", "model=vae", *names]),
        (data / "latents", data / "latents", ["sample.py", "stage=encode", *names]),
        (models / "reid", models / "reid", ["train.py", "model=reid", *names]),
    ]
    for result, output, (program, *arguments) in commands:
        if not result.exists() and not output.exists():
            print(f"{output} is missing: {program} {' '.join(arguments)}", flush=True)
            subprocess.run([sys.executable, str(CODE / program), *arguments], cwd=root, check=True)


@dataclass(frozen=True)
class Sample:
    """Latents of a sample, (F, C, H, W); a copy also has its patient, its control and the copied frames."""

    latents: Tensor
    kind: str
    patient: str = ""
    control: Control | None = None
    selected_frames: FrameSelection | None = None


@dataclass(frozen=True)
class Scores:
    """Scores of the samples by each rule.

    ``train_to_test``, for the published rule: highest similarity between the first frame of each training recording and
    the first frames of test recordings.
    """

    calibrated: np.ndarray
    percentile: np.ndarray
    train_to_test: np.ndarray


def score_by_both_rules(
    samples: Sequence[Sample],
    embedder: FrameEmbedder,
    rows: Recordings,
    test: Recordings,
    view_functions: Sequence[View],
    every: int,
) -> Scores:
    """Score all samples against the training recordings, with the comparison of each rule."""

    def compare(references: ReferenceFrames, views: Sequence[View], similarity: Similarity) -> np.ndarray:
        embeddings = embed_queries([embedder], (sample.latents for sample in samples), views)
        queries = [Query(x, s.control, s.selected_frames) for (x,), s in zip(embeddings, samples, strict=True)]
        return references.score(queries, similarity).score

    first_frames = ReferenceFrames(embedder, rows, first_only=True)
    similarity: Any = embedder.input_spec.similarity
    calibrated = compare(ReferenceFrames(embedder, rows, every), view_functions, similarity)
    train_to_test = train_to_test_similarity(first_frames, test, "pearson")
    return Scores(calibrated, compare(first_frames, (), "pearson"), train_to_test)


def key_frames_of_first_beat(video: Video) -> np.ndarray:
    """Frame numbers of the first end diastole, the end systole after it, and the next end diastole."""
    marks = {kind: [int(np.abs(video.times - time).argmin()) for time in times] for kind, times in video.marks.items()}
    first = marks["ED"][0]
    middle = next((frame for frame in marks["ES"] if frame > first), first)
    return np.array([first, middle, next((frame for frame in marks["ED"] if frame > middle), first)])


def novel_samples(copy_generator: CopyGenerator, study: Store, count: int, frames: int, seed: int) -> Iterable[Tensor]:
    """Latents, (F, C, H, W), of ``count`` phantom patients with the random ``seed``; three frames are ED, ES and ED.

    Novel samples are rendered and resized like the study, because samples with another texture are easy to recognize.
    """
    size = int(study.table["FrameHeight"].iloc[0])
    study_config = OmegaConf.load(CONF_DIR / "data" / "phantom.yaml")
    phantom = Phantom(count, seed=seed, size=study_config.source.size, per_patient=(1, 1))
    for recording in phantom.recordings(None):
        video = phantom.read(recording, Limits())
        selected = evenly_spaced_frames(len(video.frames), frames) if frames != 3 else key_frames_of_first_beat(video)
        x = from_uint8(torch.from_numpy(resize(video.frames[selected], (size, size)))).permute(0, 3, 1, 2)
        mean, std = copy_generator.encode(x.expand(-1, copy_generator.vae.config.in_channels, -1, -1))
        yield gaussian_sample(mean, std, named_rng(seed, recording.name))


def generate_copy_samples(
    copy_generator: CopyGenerator, selected_frames: dict[str, FrameSelection], kind: str
) -> list[Sample]:
    """Copies of the selected frames of each training patient under each transform."""
    recordings, samples = copy_generator.recordings, []
    recording_counts = recordings.table.groupby(recordings.table["PatientID"].astype(str))["FileName"].count()
    for name, control in TRANSFORMS.items():
        if control.needs_generator and copy_generator.generator is None:
            continue
        selections = {
            patient: selection
            for patient, selection in selected_frames.items()
            if recording_counts[patient] > 1 or control.leave_out != "recording"
        }
        copies = generate_copies(copy_generator, name, control, list(selections.values()))
        progress = tqdm(copies, f"{kind} {name}", len(selections), disable=None)
        for x, (patient, selection) in zip(progress, selections.items(), strict=True):
            samples.append(Sample(x, f"{kind} {name}", patient, control, selection))
    return samples


def fraction_with_interval(count: int, total: int) -> dict[str, float]:
    """Fraction ``count`` / ``total`` with its 95 % Clopper-Pearson interval."""
    share = clopper_pearson_interval(count, total)
    return {"count": count, "of": total, "share": share.value, "low": share.low, "high": share.high}


def roc_of_copies(copies: np.ndarray, novel: np.ndarray) -> dict[str, Any]:
    """ROC curve of the scores of copies and novel samples: false rejection, recall, and AUC."""
    score = np.concatenate([copies, novel])
    second_patient = np.r_[np.zeros(len(copies), np.int64), np.ones(len(novel), np.int64)]
    order = np.argsort(-score, kind="stable")
    pairs = Pairs(score[order], np.zeros(len(score), np.int64), second_patient[order], 2)
    false, true, _ = roc_curve(pairs)
    return {"auc": float(auc(pairs)), "false_rejection": false.round(6).tolist(), "recall": true.round(6).tolist()}


def recall_and_false_rejection(
    copies: dict[str, np.ndarray], novel: np.ndarray, tau: float, share: float
) -> dict[str, Any]:
    """Recall and false rejection at the threshold ``tau``, from scores of ``copies`` (by transform) and ``novel``."""
    recall = {name: fraction_with_interval(int((score >= tau).sum()), len(score)) for name, score in copies.items()}
    false = fraction_with_interval(int((novel >= tau).sum()), len(novel))
    passing_copies = share * (1 - float(np.mean([row["share"] for row in recall.values()])))
    passing_novel = (1 - share) * (1 - false["share"])
    passing = passing_copies + passing_novel
    return {
        "tau": tau if np.isfinite(tau) else None,
        "recall": recall,
        "false_rejection": false,
        "copies_among_survivors": passing_copies / passing if passing else 0.0,
        "roc": {name: roc_of_copies(scores, novel) for name, scores in copies.items()},
    }


def plot_roc_curves(rules: dict[str, Any], path: Path) -> None:
    """Plot recall against false rejection (logarithmic, from 0.001), a curve per transform and a diagram per rule."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(rules) + 2, 5), layout="constrained")
    for column, (rule, results) in enumerate(rules.items()):
        axes = figure.add_subplot(1, len(rules), column + 1)
        for number, (name, roc) in enumerate(results["roc"].items()):
            style = "-" if number < 10 else "--"
            axes.plot(np.maximum(roc["false_rejection"], 1e-3), roc["recall"], style, label=name)
        axes.set(title=rule, xscale="log", xlabel="novel samples rejected", ylabel="copies rejected (recall)")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right center")
    figure.savefig(path)


def print_table(rules: dict[str, Any]) -> None:
    """Print a table with recall, AUC and false rejection of each rule."""
    print(f"{'':18}" + "".join(f"{rule + ': recall (95 %)  AUC':>36}" for rule in rules))
    share_text = "{share:.3f} ({low:.3f} - {high:.3f})".format
    for name in next(iter(rules.values()))["recall"]:
        cells = (
            f"{share_text(**results['recall'][name]):>28} {results['roc'][name]['auc']:7.4f}"
            for results in rules.values()
        )
        print(f"{name:18}" + "".join(cells))
    print(
        f"{'false rejection':18}"
        + "".join(f"{share_text(**results['false_rejection']):>28}{'':8}" for results in rules.values())
    )
    for rule, results in rules.items():
        note = (
            "" if results["passed"] else " (from alpha alone: the decision did not pass, so all samples are rejected)"
        )
        print(f"{rule}: tau {results['tau']}{note}; {results['statement']}")


def parse_arguments() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, text in (("root", "."), ("study", "phantom"), ("reid", None), ("vae", None), ("generator", None)):
        parser.add_argument(f"--{name}", default=text)
    parser.add_argument("--out", type=Path, help="default: <root>/reports/<study>/planted_copies")
    parser.add_argument("--views", nargs="*", default=["flip", "shift"], choices=list(TRANSFORMS))
    for name, number in (("novel", 200), ("frames", 3), ("every", 1), ("seed", 0), ("steps", 20)):
        parser.add_argument(f"--{name}", type=int, default=number)
    for name, value in (("share", 0.2), ("alpha", 0.05), ("beta", 0.05), ("choose", 0.0)):
        parser.add_argument(f"--{name}", type=float, default=value)
    parser.add_argument("--patients", type=int, help="number of training patients that are copied; default: all")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    return parser.parse_args()


def generate_and_score(options: argparse.Namespace, root: Path) -> tuple[list[Sample], Scores]:
    """Generate novel samples and copies, and score all samples by both rules."""
    models, data = root / "models" / options.study, root / "data" / options.study
    vae, lidm = options.vae or str(models / "vae"), Path(options.generator or models / "lidm")
    generator = load_diffusion_model(str(lidm), "lidm") if lidm.is_dir() else None
    frames = generator.metadata.frames if generator is not None else options.frames
    store = Store(data / "latents")
    train, test = Recordings(store, "TRAIN"), Recordings(store, "TEST")
    copy_generators = [
        CopyGenerator(train, vae, generator, None, options.steps, options.seed + turn, options.device)
        for turn in (0, 1)
    ]
    embedder = FrameEmbedder(options.reid or str(models / "reid"), vae, options.device)
    embedder.check_encoder(store)
    test_frames = select_frames_by_patient(test, frames, options.seed)
    samples = [
        Sample(
            test.posterior_sample(selection.row, selection.frames, named_rng(options.seed, patient)),
            CALIBRATION,
            patient,
        )
        for patient, selection in test_frames.items()
    ]
    seed = int(named_rng(options.seed, NOVEL).integers(2**31))
    samples += [
        Sample(x, NOVEL) for x in novel_samples(copy_generators[0], Store(data / "videos"), options.novel, frames, seed)
    ]
    for turn, kind in enumerate((CONTROL, COPY)):
        selected_frames = dict(
            list(select_frames_by_patient(train, frames, options.seed + turn).items())[: options.patients]
        )
        samples += generate_copy_samples(copy_generators[turn], selected_frames, kind)
    view_functions = [partial(latent_views, copy_generators[0], [TRANSFORMS[name] for name in options.views])]
    return samples, score_by_both_rules(samples, embedder, train, test, view_functions, options.every)


def decide_by_both_rules(options: argparse.Namespace, samples: Sequence[Sample], scores: Scores) -> dict[str, Any]:
    """Decide by both rules; return threshold, recall, false rejection and ROC curves by the name of the rule."""
    kinds, patients = (np.array([getattr(sample, key) for sample in samples]) for key in ("kind", "patient"))

    def values_by_transform(kind: str, values: np.ndarray, column: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Entries of ``column``, by default ``values``, of samples of ``kind``, by transform; without NaN."""
        known = {name: (kinds == f"{kind} {name}") & ~np.isnan(values) for name in TRANSFORMS}
        return {name: (values if column is None else column)[rows] for name, rows in known.items() if rows.any()}

    calibrated = scores.calibrated
    control_patients = values_by_transform(CONTROL, calibrated, patients)
    declared = {
        name: part for name, part in values_by_transform(CONTROL, calibrated).items() if name not in REPORT_ONLY
    }
    controls = {name: PatientScores(part, control_patients[name]) for name, part in declared.items()}
    evidence = Evidence(PatientScores(calibrated[kinds == CALIBRATION], patients[kinds == CALIBRATION]), controls)
    rule = Calibrated(alpha=options.alpha, beta=options.beta, choose=options.choose, seed=options.seed)
    decisions = (rule.decide(evidence), Percentile().decide(Evidence(train_to_test=scores.train_to_test)))
    results = {}
    for decision, values in zip(decisions, (calibrated, scores.percentile), strict=True):
        tau = decision.tau if decision.passed else decision.thresholds.get("alpha", decision.tau)
        measured = recall_and_false_rejection(
            values_by_transform(COPY, values), values[kinds == NOVEL], tau, options.share
        )
        results[decision.rule] = {**measured, "passed": decision.passed, "statement": decision.statement}
    return results


@torch.inference_mode()
def main() -> None:
    """Generate the set, filter it by both rules, print and write the results."""
    options = parse_arguments()
    root = Path(options.root).resolve()
    root.mkdir(parents=True, exist_ok=True)
    complete_study(root, options.study)
    samples, scores = generate_and_score(options, root)
    rules = decide_by_both_rules(options, samples, scores)
    print_table(rules)
    out = options.out or root / "reports" / options.study / "planted_copies"
    out.mkdir(parents=True, exist_ok=True)
    kinds = [sample.kind.split()[0] for sample in samples]
    record: dict[str, Any] = {"sizes": {kind: kinds.count(kind) for kind in sorted(set(kinds))}}
    record |= {"frames": len(samples[0].latents), "share": options.share, "views": options.views, "seed": options.seed}
    (out / "planted_copies.json").write_text(json.dumps({**record, "rules": rules}, indent=2) + "\n", encoding="utf-8")
    plot_roc_curves(rules, out / "roc.png")
    print(f"{out}: planted_copies.json, roc.png")


if __name__ == "__main__":
    main()
