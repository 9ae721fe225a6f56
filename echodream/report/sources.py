"""What there is to report on: stores and records of a study, each of which may be missing."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from echodream.errors import UserError
from echodream.report.figures import Missing
from echodream.store import Store
from echodream.store.checksums import file_sha256
from echodream.store.schema import CHECKSUMS

if TYPE_CHECKING:
    import pandas as pd

FILES = {
    "filter_image": "filter.json",
    "filter_video": "filter.json",
    "audit_image": "audit.json",
    "audit_video": "audit.json",
    "evaluation": "",
    "utility": "",
    "anonymity": "anonymity.json",
    "linkability": "linkability.json",
    "curve": "curve.json",
}
"""The records, and the file of each in its folder; where it is empty the record is the file."""
_MAKES = {
    "filter_image": "python sample.py stage=filter data={}",
    "filter_video": "python sample.py stage=filter data={} on=video",
    "audit_image": "python sample.py stage=audit data={}",
    "audit_video": "python sample.py stage=audit data={} on=video",
    "evaluation": "python sample.py stage=evaluate data={}",
    "utility": "python sample.py stage=utility data={}",
    "anonymity": "python sample.py stage=anonymity data={}",
    "linkability": "python sample.py stage=linkability data={}",
    "curve": "python sample.py stage=compare data={} points=...",
    "videos": "python sample.py stage=decode data={}",
    "real": "python sample.py stage=ingest data={} raw=...",
}
_NEAREST = ("NearestPatient", "NearestRecording", "NearestFrame")


@dataclass(frozen=True)
class Sources:
    """All that a page is made from."""

    study: str
    share: bool
    """Whether nothing of a patient may be read from it: no frame and no name."""
    real: Store | None
    synthetic: Store | None
    passed: Mapping[str, Path]
    """Where the filter left what passed, by "image" and "video"; it need not be there."""
    records: Mapping[str, dict[str, Any]]
    """Those of ``FILES`` that are there."""
    paths: Mapping[str, Path]
    """Of all of ``FILES``, there or not."""
    folders: Mapping[str, Path] = field(default_factory=dict)
    """Of the study, below which commands are recorded: data, models, samples."""

    def missing(self, name: str, what: str) -> Missing:
        """That ``name`` is not there, and the command that makes it."""
        return Missing(what, _MAKES[name].format(self.study))

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[None]:
        """Raises ``UserError`` where the record ``name`` is not of the shape that its stage writes."""
        try:
            yield
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise UserError(
                f"{self.paths[name]} is not what its stage writes ({error}): make it again with {_MAKES[name]}".format(
                    self.study
                )
            ) from error

    def scores(self, on: str) -> "pd.DataFrame":
        """The filter's table of samples; without whom they are nearest to where the page is to be shared."""
        return self._table(on, "scores.csv", without=_NEAREST if self.share else ())

    def evidence(self, on: str) -> "pd.DataFrame":
        """The scores of new patients and of copies; without names where the page is to be shared."""
        return self._table(on, "evidence.csv", without=("PatientID",) if self.share else ())

    def _table(self, on: str, name: str, without: tuple[str, ...]) -> "pd.DataFrame":
        import pandas as pd

        path = self.paths[f"filter_{on}"].with_name(name)
        text = {"FileName": str, "NearestPatient": str, "NearestRecording": str, "PatientID": str, "Kind": str}
        try:
            return pd.read_csv(path, dtype=text, usecols=lambda column: column not in without, keep_default_na=False)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path} cannot be read: make it again with {_MAKES[f'filter_{on}'].format(self.study)}"
            ) from error

    def filtered(self) -> str | None:
        """Which filter the videos of the page passed, "image" or "video"; None where they are of another origin."""
        if self.synthetic is None:
            return None
        made_from = self.synthetic.dataset.settings.get("source")
        for on in ("video", "image"):
            sums = self.passed[on] / CHECKSUMS
            if sums.is_file() and file_sha256(sums) == made_from:
                made = Store(self.passed[on]).dataset.settings
                decision = made.get("decision")
                if not isinstance(decision, Mapping) or decision.get("passed") is not True:
                    return None
                return on if same_run(made, self.records.get(f"filter_{on}")) else None
        return None


def gather(
    study: str,
    share: bool,
    stores: Mapping[str, str | None],
    passed: Mapping[str, str],
    records: Mapping[str, str],
    folders: Mapping[str, str],
) -> Sources:
    """Open what is there. Raises ``UserError`` for what is there and is something else."""
    paths = {name: Path(records[name]) / file if file else Path(records[name]) for name, file in FILES.items()}
    found = {name: _record(path) for name, path in paths.items() if path.is_file()}
    real, synthetic = (_store(stores[name], name) for name in ("real", "videos"))
    if real is not None and real.dataset.synthetic:
        raise UserError(f"real={real.root} is synthetic: give the recordings of patients")
    if synthetic is not None and not synthetic.dataset.synthetic:
        raise UserError(f"videos={synthetic.root} is not synthetic: give what stage=decode made of synthetic latents")
    places = {on: Path(path) for on, path in passed.items()}
    return Sources(
        study, share, real, synthetic, places, found, paths, {key: Path(path) for key, path in folders.items()}
    )


def same_run(made: Mapping[str, Any], record: Mapping[str, Any] | None) -> bool:
    """Whether a filter's store and its record tell of one run: nothing that both say differs."""
    if record is None:
        return True
    pairs = [(made, record), (made["decision"], record.get("decision") or {})]
    both = [(left[name], right[name]) for left, right in pairs for name in left if name in right]
    return all(isinstance(left, Mapping) or left == right for left, right in both)


def _store(path: str | None, name: str) -> Store | None:
    if path is None or not Path(path).exists():
        return None
    store = Store(path, kind="video")
    if not (store.root / CHECKSUMS).is_file():
        raise UserError(f"{store.root / CHECKSUMS} is missing: {name}={store.root} is not a complete store")
    return store


def _record(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: remove it and run its stage again") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} is not a JSON object: remove it and run its stage again")
    return found
