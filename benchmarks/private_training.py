"""Privacy and quality of image models on the phantom, for several values of epsilon, with canaries.

    python benchmarks/private_training.py [--root private_training] [--epsilon 1 4 8 inf] [--canaries 100]
        [--experiment demo] [--study 172] [--further 200] [--patients 16] [--examples 8] [--n 200]

The script runs train.py and sample.py in the folder ``--root``. The public study and the private study are phantoms of
``--study`` patients with different seeds. The autoencoder and the initial model are trained on the public study. For
each epsilon, a model is trained on the private study from this initial model (docs/private_training.md); for "inf", the
training is not private. Coin flips put each of ``--canaries`` patients into or out of the training. The script prints

- the Frechet distance of ``--n`` decoded samples to frames of ``--further`` new patients in EfficientNet-lite0
  features, and the same distance for training patients in place of samples (floor);
- the class agreement: how often a classifier of real patients predicts the requested class of a sample;
- the lower bound of epsilon by canaries (docs/audit.md).

Samples are not filtered. A rerun continues; finished commands are not repeated.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

CODE = Path(__file__).resolve().parent.parent
PUBLIC, PRIVATE = "public", "private"


def public_commands(experiment: str, patients: int, further: int) -> list[list[str]]:
    """Commands that create the stores, the public models, and the classifier of the class agreement."""
    vae, commands = f"models/{PUBLIC}/vae", []
    sizes = {PUBLIC: (1, patients), PRIVATE: (0, patients), f"{PRIVATE}_further": (0, patients + further)}
    names = {
        name: [f"data.name={name}", f"data.source.seed={seed}", f"data.source.patients={count}"]
        for name, (seed, count) in sizes.items()
    }
    study = ["data=phantom", "data.source.severity=0.5", f"experiment={experiment}"]
    commands += [["sample.py", "stage=ingest", *study, *name] for name in names.values()]
    commands.append(["train.py", "model=vae", *study, *names[PUBLIC]])
    commands += [["sample.py", "stage=encode", *study, *names[name], f"artifact={vae}"] for name in (PUBLIC, PRIVATE)]
    commands.append(["train.py", "model=lidm", "view=triplet", *study, *names[PUBLIC]])
    commands.append(["train.py", "model=classifier", *study, *names[PRIVATE]])
    return commands


def private_commands(epsilon: str, options: argparse.Namespace) -> list[list[str]]:
    """Commands for one epsilon: training, audit, sampling, decoding and evaluation."""
    study, vae = ["data=phantom", f"data.name={PRIVATE}", f"experiment={options.experiment}"], f"models/{PUBLIC}/vae"
    model, samples, frames = (f"{kind}/{PRIVATE}/epsilon_{epsilon}" for kind in ("models", "samples", "samples/frames"))
    privacy = [f"trainer.privacy.patients={options.patients}", f"trainer.privacy.examples={options.examples}"]
    privacy = [] if epsilon == "inf" else [f"trainer.privacy.epsilon={epsilon}", *privacy]
    training = ["train.py", "model=lidm", "view=triplet", *study, f"model.initial=models/{PUBLIC}/lidm"]
    evaluation = [
        "videos=null",
        "then=null",
        f"autoencoder={vae}",
        "audit=null",
        f"dst=reports/{PRIVATE}/epsilon_{epsilon}",
    ]
    return [
        [*training, f"model.vae={vae}", f"canaries={options.canaries}", *privacy, f"dst={model}"],
        ["sample.py", "stage=audit", "canaries=true", *study, f"generator={model}", f"dst={audit_folder(epsilon)}"],
        ["sample.py", "stage=image", *study, f"artifact={model}", f"n={options.n}", f"dst={samples}"],
        ["sample.py", "stage=decode", *study, f"artifact={vae}", f"src={samples}", f"dst={frames}"],
        ["sample.py", "stage=evaluate", *study, f"images={frames}", *evaluation],
    ]


def audit_folder(epsilon: str) -> str:
    """Folder of the audit by canaries for one epsilon."""
    return f"reports/{PRIVATE}/canaries_{epsilon}"


def table_row(root: Path, epsilon: str) -> str:
    """Results of one epsilon, as a row of a table in Markdown."""
    evaluation = json.loads((root / f"reports/{PRIVATE}/epsilon_{epsilon}/evaluation.json").read_text())["images"]
    (measure,) = json.loads((root / audit_folder(epsilon) / "audit.json").read_text())["measures"]
    details, distance, agreement = measure["details"], evaluation["frechet[lite0]"], evaluation["class agreement"]
    largest = max(each["largest"] for each in details["by_guesses"])
    claimed = "not private" if details["claimed"] is None else f"{details['claimed']:.3g}"
    cells = [
        claimed,
        f"{interval_text(distance)}, floor {distance['floor']['value']:.3g}",
        f"{interval_text(agreement)}, real {agreement['floor']['value']:.2f}",
        f"{measure['value']['value']:.2g} of {largest:.2g}",
        "-" if details["auc"] is None else interval_text(details["auc"]),
    ]
    return f"| {' | '.join(cells)} |"


def interval_text(value: dict[str, Any]) -> str:
    """A value with its interval, as text."""
    return f"{value['value']:.3g} [{value['low']:.3g}, {value['high']:.3g}]"


def main() -> None:
    """Run all commands, and print the table of results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--root", type=Path, default=Path("private_training"))
    parser.add_argument("--epsilon", nargs="+", default=["1", "4", "8", "inf"])
    parser.add_argument("--experiment", default="demo")
    parser.add_argument("--study", type=int, default=172)
    parser.add_argument("--further", type=int, default=200)
    parser.add_argument("--canaries", default="100")
    parser.add_argument("--patients", type=int, default=16)
    parser.add_argument("--examples", type=int, default=8)
    parser.add_argument("--n", type=int, default=200)
    options = parser.parse_args()
    options.root.mkdir(parents=True, exist_ok=True)
    commands = public_commands(options.experiment, options.study, options.further)
    commands += [command for epsilon in options.epsilon for command in private_commands(epsilon, options)]
    for program, *arguments in commands:
        print(program, *arguments, flush=True)
        subprocess.run([sys.executable, str(CODE / program), *arguments], cwd=options.root, check=True)
    print("| epsilon | Frechet distance, lite0 | class agreement | lower bound of epsilon | AUC of membership |")
    print("| --- | --- | --- | --- | --- |")
    for epsilon in options.epsilon:
        print(table_row(options.root, epsilon))


if __name__ == "__main__":
    main()
