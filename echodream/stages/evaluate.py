"""``stage=evaluate``: how close synthetic images and videos are to real ones, with real against real as the measure."""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from echodream.artifact import read_artifact
from echodream.datamodules.transforms import from_uint8
from echodream.datamodules.views import Clips
from echodream.errors import UserError
from echodream.metrics import beat
from echodream.metrics.classification import class_accuracy
from echodream.metrics.frechet import against_floor
from echodream.networks.classifiers import Classifier, load_classifier
from echodream.stages.folder import write_record
from echodream.stages.summary import Summary
from echodream.store import Store
from echodream.store.schema import CHECKSUMS
from echodream.store.verify import digest

REPORT = "evaluation.json"


@dataclass(frozen=True)
class Part:
    """The recordings of one side: all of a synthetic store, one split of a real one."""

    store: Store
    rows: pd.DataFrame


@dataclass(frozen=True)
class Seen:
    """What the classifier makes of samples in random order."""

    features: np.ndarray
    """(N, D)."""
    predicted: Tensor
    """Place among the classes, (N,)."""
    target: Tensor
    """That of the class_id they have, or were asked to have, (N,)."""


class Looker:
    """A classifier and how it looks at stores: at frames and at clips, at most ``most`` of each, in random order."""

    def __init__(self, artifact: str, most: int, batch: int, seed: int) -> None:
        self.network, self.facts = load_classifier(artifact)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.network.to(self.device)
        self.most, self.batch, self.seed = most, batch, seed
        self.ids: list[int] = self.facts["class_ids"]

    def part(self, path: str, key: str, split: str | None = None) -> Part:
        """The store at ``path``, given as ``key``=. Raises ``UserError`` when this classifier cannot judge it."""
        store = Store(path, kind="video")
        split = split or (None if store.dataset.synthetic else "TEST")
        rows = store.table if split is None else store.table[store.table["Split"] == split]
        if not len(rows):
            raise UserError(f"{key}={path} has no recording{f' in split {split}' if split else ''}: nothing to judge")
        if "class_id" not in rows or rows["class_id"].isna().any():
            raise UserError(
                f"{key}={path} lacks class_id for some recordings: evaluate compares it with the classifier"
            )
        if unknown := sorted(set(rows["class_id"].astype(int)) - set(self.ids)):
            raise UserError(
                f"{key}={path} has class_id {unknown[0]}, and the classifier knows {self.ids}: train another"
            )
        wanted = (self.facts["height"], self.facts["width"], self.facts["architecture"]["channels"])
        for height, width in zip(rows["FrameHeight"], rows["FrameWidth"], strict=True):
            if (found := (int(height), int(width), store.dataset.channels)) != wanted:
                raise UserError(
                    f"{key}={path} has recordings of {_size(found)}, the classifier was trained on {_size(wanted)}: "
                    "bring both to one data.size, data.grey"
                )
        return Part(store, rows.reset_index(drop=True))

    def frames(self, part: Part) -> Seen:
        """Single frames, drawn at random from all of ``part``."""
        ends = np.cumsum(part.rows["NumberOfFrames"].to_numpy(np.int64))
        drawn = np.sort(self._order(int(ends[-1])))
        of = np.searchsorted(ends, drawn, side="right")

        def read() -> Iterator[Tensor]:
            for row in np.unique(of):
                places = drawn[of == row] - (ends[row - 1] if row else 0)
                yield from self._pixels(part, int(row), places.tolist()).transpose(0, 1)[:, :, None]

        return self._seen(read(), part, of)

    def clips(self, part: Part) -> Seen:
        """The clip in the middle of each recording, as long and as wide apart as those of training."""
        drawn, rng = self._order(len(part.rows)), np.random.default_rng(0)
        view = Clips(frames=self.facts["frames"], stride=self.facts["stride"], start="centre")

        def read() -> Iterator[Tensor]:
            for row in drawn.tolist():
                place = view.place(int(part.rows["NumberOfFrames"][row]), rng)
                indices = [*place, *[place[-1]] * (view.frames - len(place))]
                yield self._pixels(part, row, indices)

        return self._seen(read(), part, drawn)

    def _order(self, count: int) -> np.ndarray:
        return np.random.default_rng([self.seed, count]).permutation(count)[: self.most]

    def _pixels(self, part: Part, row: int, indices: list[int]) -> Tensor:
        """(C, F, H, W) in [-1, 1]."""
        unique, back = np.unique(indices, return_inverse=True)
        pixels = part.store.frames(part.rows["FileName"][row], unique.tolist())[back]
        return from_uint8(torch.from_numpy(pixels)).permute(3, 0, 1, 2)

    @torch.inference_mode()
    def _seen(self, samples: Iterator[Tensor], part: Part, rows: np.ndarray) -> Seen:
        network: Classifier = self.network
        found: list[tuple[Tensor, Tensor]] = []
        for _ in range(0, len(rows), self.batch):
            features = network.features(torch.stack([*itertools.islice(samples, self.batch)]).to(self.device))
            found.append((features.double().cpu(), network.head(features).argmax(dim=1).cpu()))
        features, predicted = (torch.cat(tensors) for tensors in zip(*found, strict=True))
        target = torch.tensor([self.ids.index(int(part.rows["class_id"][row])) for row in rows])
        mixed = torch.from_numpy(np.random.default_rng(self.seed).permutation(len(rows)))
        return Seen(features[mixed].numpy(), predicted[mixed], target[mixed])


def evaluate(
    *,
    real: str,
    images: str | None,
    videos: str | None,
    artifact: str,
    dst: str,
    most: int,
    least: int,
    seed: int,
    batch: int,
    command: str,
    code_version: str,
) -> Summary:
    """Judge the decoded ``images`` and ``videos``, stores, against ``real``, by the classifier ``artifact``.

    Real are the TEST patients; the floor is TRAIN against TEST, with as many samples on each side. A store that is not
    synthetic, as one decoded from real latents, counts by its TEST rows. Writes ``dst``/evaluation.json. Raises
    ``UserError`` for stores that cannot be compared, and for fewer than ``least`` samples.
    """
    if images is None and videos is None:
        raise UserError("nothing to evaluate: give images= or videos=, a store that stage=decode made")
    look = Looker(artifact, most, batch, seed)
    test, train = look.part(real, "real", "TEST"), look.part(real, "real", "TRAIN")
    judged: dict[str, Any] = {}
    for key, path, sight in (("images", images, look.frames), ("videos", videos, look.clips)):
        if path is not None:
            made = look.part(path, key)
            judged[key] = {**_judge(sight, made, test, train, least, f"{key}={path}", look), "store": _source(made)}
            if key == "videos":
                judged["beat"] = {name: {"synthetic": a, "real": b} for name, a, b in _beats(made, test, most)}
    protocol = {"classifier": read_artifact(artifact, "classifier").fingerprint, "seed": seed, "most": most}
    protocol |= {
        "frames": look.facts["frames"],
        "stride": look.facts["stride"],
        "place": "centre",
        "real": _source(test),
    }
    record = {"protocol": protocol, **judged, "command": command, "code_version": code_version}
    Path(dst).mkdir(parents=True, exist_ok=True)
    write_record(Path(dst) / REPORT, _plain(record))
    return Summary(f"evaluate: {dst}/{REPORT} done", dict(_table(judged)))


def _judge(
    sight: Callable[[Part], Seen], made: Part, test: Part, train: Part, least: int, name: str, look: Looker
) -> dict[str, Any]:
    synthetic, held_out, seen = sight(made), sight(test), sight(train)
    count = min(len(side.features) for side in (synthetic, held_out, seen))
    if count < least:
        raise UserError(
            f"{name}: the smallest of synthetic, TEST and TRAIN has {count} samples, and a distance needs {least}: "
            "make more, or lower least="
        )
    distance = against_floor(*(side.features[:count] for side in (synthetic, held_out, seen)))
    return {
        "frechet[classifier]": asdict(distance),
        "class agreement": {
            "synthetic": _agreement(synthetic, look.facts["class_names"]),
            "real": _agreement(held_out, look.facts["class_names"]),
        },
    }


def _agreement(seen: Seen, names: list[str]) -> dict[str, Any]:
    """How often the classifier says the class that a sample should be of: overall, and of each class."""
    shares = class_accuracy(seen.predicted, seen.target, len(names)).tolist()
    overall = float((seen.predicted == seen.target).double().mean())
    return {"overall": overall, "count": len(seen.target), **dict(zip(names, shares, strict=True))}


def _beats(made: Part, test: Part, most: int) -> Iterator[tuple[str, dict[str, float], dict[str, float]]]:
    """Each figure of how hearts beat, over the recordings of both sides that have one."""
    sides = [pd.DataFrame([_beat(part, row) for row in range(min(len(part.rows), most))]) for part in (made, test)]
    for name in sides[0]:
        synthetic, real = (
            {"mean": s.mean(), "std": s.std(ddof=0), "count": int(s.count())} for s in (d[name] for d in sides)
        )
        yield str(name), synthetic, real


def _beat(part: Part, row: int) -> dict[str, float]:
    frames = part.store.frames(part.rows["FileName"][row]).mean(axis=-1) / 127.5 - 1
    found = beat.rhythm(frames, float(part.rows["FPS"][row]))
    figures = {"heart rate": found.heart_rate, "periodicity": found.periodicity}
    figures |= {"area swing": beat.swing(beat.area_curve(frames)), "frame difference": beat.change_curve(frames).mean()}
    figures["jump ratio"] = beat.jump_ratio(frames)
    joins = _joins(part, row) if "Joins" in part.rows else []
    return {**figures, "seam ratio": beat.seam_ratio(frames, [join for join in joins if 0 < join < len(frames)])}


def _joins(part: Part, row: int) -> list[int]:
    """Frame numbers separated by spaces; a column of single numbers may have been read as such."""
    cell = str(part.rows["Joins"][row])
    try:
        return [int(float(text)) for text in cell.split() if text not in ("nan", "None")]
    except (ValueError, OverflowError) as error:
        where = f"{part.store.root}: Joins of {part.rows['FileName'][row]}"
        raise UserError(f"{where} is {cell[:40]!r}, not frame numbers separated by spaces") from error


def _source(part: Part) -> dict[str, Any]:
    facts = {"recordings": len(part.rows), "frames": int(part.rows["NumberOfFrames"].sum())}
    classes = {str(key): int(value) for key, value in part.rows["class_id"].value_counts().sort_index().items()}
    fps = sorted(set(map(float, part.rows["FPS"])))[:8]
    return {"sha256": digest(part.store.root / CHECKSUMS), **facts, "class_id": classes, "fps": fps}


def _table(judged: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for key in (key for key in ("images", "videos") if key in judged):
        found, agreement = judged[key]["frechet[classifier]"], judged[key]["class agreement"]
        note = "; N is not above D, so both are too large" if found["count"] <= found["dimensions"] else ""
        text = f"{found['value']:.4g}, real against real {found['floor']:.4g}"
        yield f"{key}: frechet[classifier]", f"{text} (N {found['count']}, D {found['dimensions']}{note})"
        for name, share in agreement["synthetic"].items():
            if name != "count" and not math.isnan(share):
                counts = f" (of {agreement['synthetic']['count']}, {agreement['real']['count']})" * (name == "overall")
                yield f"{key}: class agreement, {name}", f"{share:.3f}, real {agreement['real'][name]:.3f}{counts}"
    for name, sides in judged.get("beat", {}).items():
        if sides["synthetic"]["count"]:
            texts = (f"{side['mean']:.4g} +- {side['std']:.2g} (of {side['count']})" for side in sides.values())
            yield f"videos: {name}", ", real ".join(text for text in texts if "nan" not in text)


def _size(found: tuple[int, int, int]) -> str:
    return f"{found[1]}x{found[0]} with {found[2]} channel{'s' * (found[2] > 1)}"


def _plain(value: Any) -> Any:
    """``value`` for json, which has no NaN."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value
