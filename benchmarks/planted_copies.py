"""Recall of the privacy filter: both rules filter a set that contains known copies of training patients.

    python benchmarks/planted_copies.py [--root .] [--study phantom] [--novel 200] [--views flip shift] [--share 0.2]
        [--beta 0.05] [--choose 0] [--every 1] [--patients 112] [--out reports/phantom/planted_copies]

``--root`` has a study as `make demo` writes it; a missing phantom, autoencoder, latent store or identity network is
created first. The set has ``--novel`` samples of phantom patients with another seed, who are in no split, and one copy
of each training patient under each transform of conf/controls/declared.yaml. Transforms that need the generator are
left out if models/<study>/lidm does not exist. A sample has as many frames as a sample of the generator, or
``--frames``. "calibrated" compares samples with every ``--every``-th frame by cosine similarity; the highest score over
the frames and their ``--views`` counts. The threshold of "calibrated" is set by the TEST patients and by other copies,
of other frames and with other random numbers, without the controls in report_only of conf/stage/filter.yaml.
"percentile" is the published rule: Pearson correlation with first frames, without views. Recall is the rejected
fraction of the planted copies, false rejection the rejected fraction of the novel samples. Intervals are exact
(Clopper-Pearson), two-sided, 95 %, over patients. The script writes planted_copies.json and roc.png to ``--out``.
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
    """Run the stages and trainings whose output is missing."""
    data, models, raw = root / "data" / study, root / "models" / study, root / "raw" / study
    names = [f"data={study}", "experiment=demo"]
    ingest = ["stage=ingest", "data=cardiacnet", f"data.name={study}", f"raw=raw/{study}", "experiment=demo"]
    wanted = [
        (data / "videos", raw, ["sample.py", "stage=phantom", *names]),
        (data / "videos", data / "videos", ["sample.py", *ingest]),
        (models / "vae", models / "vae", ["train.py", "model=vae", *names]),
        (data / "latents", data / "latents", ["sample.py", "stage=encode", *names]),
        (models / "reid", models / "reid", ["train.py", "model=reid", *names]),
    ]
    for needed, made, (program, *arguments) in wanted:
        if not needed.exists() and not made.exists():
            print(f"{made} is missing: {program} {' '.join(arguments)}", flush=True)
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
    """Scores of the samples by each rule, and, for the published rule, the highest similarity of the first frame of
    each training recording to that of a test recording.
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
    """Score all samples against the training recordings by the comparison of each rule."""

    def compare(references: ReferenceFrames, views: Sequence[View], similarity: Similarity) -> np.ndarray:
        found = embed_queries([embedder], (sample.latents for sample in samples), views)
        queries = [Query(x, one.control, one.selected_frames) for (x,), one in zip(found, samples, strict=True)]
        return references.score(queries, similarity).score

    first = ReferenceFrames(embedder, rows, first_only=True)
    wide = compare(ReferenceFrames(embedder, rows, every), view_functions, embedder.input_spec.similarity)  # type: ignore[arg-type]
    return Scores(wide, compare(first, (), "pearson"), train_to_test_similarity(first, test, "pearson"))


def key_frames_of_first_beat(video: Video) -> np.ndarray:
    """Frame numbers of the first end diastole, the end systole after it, and the next end diastole."""
    marks = {kind: [int(np.abs(video.times - at).argmin()) for at in moments] for kind, moments in video.marks.items()}
    first = marks["ED"][0]
    middle = next((at for at in marks["ES"] if at > first), first)
    return np.array([first, middle, next((at for at in marks["ED"] if at > middle), first)])


def novel_samples(copy_generator: CopyGenerator, study: Store, count: int, frames: int, seed: int) -> Iterable[Tensor]:
    """Latents, (F, C, H, W), of ``count`` phantom patients of another seed; three frames are ED, ES and ED.

    Novel samples are rendered and resized like the study, because another texture would be easy to recognize.
    """
    size = int(study.table["FrameHeight"].iloc[0])
    rendered = OmegaConf.load(CONF_DIR / "data" / "phantom.yaml")
    phantom = Phantom(count, seed=seed, size=rendered.source.size, per_patient=(1, 1))
    for recording in phantom.recordings(None):
        video = phantom.read(recording, Limits())
        places = evenly_spaced_frames(len(video.frames), frames) if frames != 3 else key_frames_of_first_beat(video)
        x = from_uint8(torch.from_numpy(resize(video.frames[places], (size, size)))).permute(0, 3, 1, 2)
        mean, std = copy_generator.encode(x.expand(-1, copy_generator.vae.config.in_channels, -1, -1))
        yield gaussian_sample(mean, std, named_rng(seed, recording.name))


def generate_copy_samples(
    copy_generator: CopyGenerator, selected_frames: dict[str, FrameSelection], kind: str
) -> list[Sample]:
    """Copy the selected frames of each training patient under each transform."""
    rows, found = copy_generator.recordings, []
    several = rows.table.groupby(rows.table["PatientID"].astype(str))["FileName"].count()
    for name, control in TRANSFORMS.items():
        if control.needs_generator and copy_generator.generator is None:
            continue
        chosen = {
            key: one for key, one in selected_frames.items() if several[key] > 1 or control.leave_out != "recording"
        }
        made = generate_copies(copy_generator, name, control, list(chosen.values()))
        for x, (patient, one) in zip(
            tqdm(made, f"{kind} {name}", len(chosen), disable=None), chosen.items(), strict=True
        ):
            found.append(Sample(x, f"{kind} {name}", patient, control, one))
    return found


def fraction_with_interval(hits: int, of: int) -> dict[str, float]:
    """Fraction ``hits`` / ``of`` with its 95 % Clopper-Pearson interval."""
    found = clopper_pearson_interval(hits, of)
    return {"count": hits, "of": of, "share": found.value, "low": found.low, "high": found.high}


def roc_of_copies(copied: np.ndarray, novel: np.ndarray) -> dict[str, Any]:
    """ROC curve of the scores of copies and novel samples: false rejection, recall, and AUC."""
    score = np.concatenate([copied, novel])
    other = np.r_[np.zeros(len(copied), np.int64), np.ones(len(novel), np.int64)]
    order = np.argsort(-score, kind="stable")
    pairs = Pairs(score[order], np.zeros(len(score), np.int64), other[order], 2)
    false, true, _ = roc_curve(pairs)
    return {"auc": float(auc(pairs)), "false_rejection": false.round(6).tolist(), "recall": true.round(6).tolist()}


def recall_and_false_rejection(
    copied: dict[str, np.ndarray], novel: np.ndarray, tau: float, share: float
) -> dict[str, Any]:
    """Recall and false rejection at the threshold ``tau``, from the scores of copies and novel samples."""
    recall = {name: fraction_with_interval(int((found >= tau).sum()), len(found)) for name, found in copied.items()}
    false = fraction_with_interval(int((novel >= tau).sum()), len(novel))
    passing = share * (1 - float(np.mean([row["share"] for row in recall.values()])))
    clean = (1 - share) * (1 - false["share"])
    return {
        "tau": tau if np.isfinite(tau) else None,
        "recall": recall,
        "false_rejection": false,
        "copies_among_survivors": passing / (passing + clean) if passing + clean else 0.0,
        "roc": {name: roc_of_copies(found, novel) for name, found in copied.items()},
    }


def plot_roc_curves(rules: dict[str, Any], path: Path) -> None:
    """Plot for each rule the recall of each transform over the false rejection, from 0.001."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(rules) + 2, 5), layout="constrained")
    for place, (rule, facts) in enumerate(rules.items()):
        axes = figure.add_subplot(1, len(rules), place + 1)
        for number, (name, found) in enumerate(facts["roc"].items()):
            style = "-" if number < 10 else "--"
            axes.plot(np.maximum(found["false_rejection"], 1e-3), found["recall"], style, label=name)
        axes.set(title=rule, xscale="log", xlabel="novel samples rejected", ylabel="copies rejected (recall)")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right center")
    figure.savefig(path)


def print_table(rules: dict[str, Any]) -> None:
    """Print recall, AUC and false rejection of each rule."""
    print(f"{'':18}" + "".join(f"{rule + ': recall (95 %)  AUC':>36}" for rule in rules))
    share = "{share:.3f} ({low:.3f} - {high:.3f})".format
    for name in next(iter(rules.values()))["recall"]:
        cells = (f"{share(**facts['recall'][name]):>28} {facts['roc'][name]['auc']:7.4f}" for facts in rules.values())
        print(f"{name:18}" + "".join(cells))
    print(
        f"{'false rejection':18}"
        + "".join(f"{share(**facts['false_rejection']):>28}{'':8}" for facts in rules.values())
    )
    for rule, facts in rules.items():
        at = (
            "" if facts["passed"] else " of alpha alone: the decision did not pass, and the filter lets nothing through"
        )
        print(f"{rule}: tau {facts['tau']}{at}; {facts['statement']}")


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
    parser.add_argument("--patients", type=int, help="training patients that are copied; default: all")
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
    held = select_frames_by_patient(test, frames, options.seed)
    samples = [
        Sample(test.posterior_sample(x.row, x.frames, named_rng(options.seed, key)), CALIBRATION, key)
        for key, x in held.items()
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

    def by_transform(kind: str, values: np.ndarray, what: np.ndarray | None = None) -> dict[str, np.ndarray]:
        known = {name: (kinds == f"{kind} {name}") & ~np.isnan(values) for name in TRANSFORMS}  # NaN: no reference left
        return {name: (values if what is None else what)[rows] for name, rows in known.items() if rows.any()}

    wide, whose = scores.calibrated, by_transform(CONTROL, scores.calibrated, patients)
    declared = {name: found for name, found in by_transform(CONTROL, wide).items() if name not in REPORT_ONLY}
    controls = {name: PatientScores(found, whose[name]) for name, found in declared.items()}
    evidence = Evidence(PatientScores(wide[kinds == CALIBRATION], patients[kinds == CALIBRATION]), controls)
    rule = Calibrated(alpha=options.alpha, beta=options.beta, choose=options.choose, seed=options.seed)
    decisions = (rule.decide(evidence), Percentile().decide(Evidence(train_to_test=scores.train_to_test)))
    found = {}
    for decision, values in zip(decisions, (wide, scores.percentile), strict=True):
        tau = decision.tau if decision.passed else decision.thresholds.get("alpha", decision.tau)
        facts = recall_and_false_rejection(by_transform(COPY, values), values[kinds == NOVEL], tau, options.share)
        found[decision.rule] = {**facts, "passed": decision.passed, "statement": decision.statement}
    return found


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
    facts: dict[str, Any] = {"sizes": {kind: kinds.count(kind) for kind in sorted(set(kinds))}}
    facts |= {"frames": len(samples[0].latents), "share": options.share, "views": options.views, "seed": options.seed}
    (out / "planted_copies.json").write_text(json.dumps({**facts, "rules": rules}, indent=2) + "\n", encoding="utf-8")
    plot_roc_curves(rules, out / "roc.png")
    print(f"{out}: planted_copies.json, roc.png")


if __name__ == "__main__":
    main()
