"""Inputs of the report: stores and records of a study; any of them may be missing."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from echodream.errors import UserError
from echodream.report.tables import MissingRecord, Verdict
from echodream.runs.atomic_folder import read_record
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
"""The records, and the file of each in its folder; "": the record's path is the file itself."""
_STAGES = {
    "filter_image": "stage=filter data={}",
    "filter_video": "stage=filter data={} on=video",
    "audit_image": "stage=audit data={}",
    "audit_video": "stage=audit data={} on=video",
    "evaluation": "stage=evaluate data={}",
    "utility": "stage=utility data={}",
    "anonymity": "stage=anonymity data={}",
    "linkability": "stage=linkability data={}",
    "curve": "stage=compare data={} points=...",
    "videos": "stage=decode data={}",
    "real": "stage=ingest data={} raw=...",
}
"""The stage that makes each record or store."""
_NEAREST = ("NearestPatient", "NearestRecording", "NearestFrame")


@dataclass(frozen=True)
class Sources:
    """Inputs of a page."""

    study: str
    share: bool
    """Whether the page is for sharing: without frames and names of patients."""
    real: Store | None
    synthetic: Store | None
    passed_stores: Mapping[str, Path]
    """Folders of the samples that passed the filter, by "image" and "video"; a folder may not exist."""
    records: Mapping[str, dict[str, Any]]
    """The records that exist, by the names in ``FILES``."""
    paths: Mapping[str, Path]
    """Paths of all records, also of those that do not exist."""
    folders: Mapping[str, Path] = field(default_factory=dict)
    """Folders of the study with stores and artifacts that record their commands: data, models, samples."""

    def command(self, name: str) -> str:
        """The command that makes the record or store ``name``."""
        return f"python sample.py {_STAGES[name].format(self.study)}"

    def missing(self, name: str, message: str) -> MissingRecord:
        """``message`` with the command that makes the record or store ``name``."""
        return MissingRecord(message, self.command(name))

    def unknown_verdict(self, topic: str, name: str, message: str) -> Verdict:
        """The verdict on ``topic`` without the record ``name``."""
        return Verdict(topic, "missing", "Not known", missing=[self.missing(name, message)])

    @contextlib.contextmanager
    def parsing(self, name: str) -> Iterator[None]:
        """Context that turns parsing errors of the record ``name`` into ``UserError``."""
        try:
            yield
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise UserError(
                f"{self.paths[name]} is not what its stage writes ({error}): run {self.command(name)} again"
            ) from error

    def scores(self, kind: str) -> "pd.DataFrame":
        """The filter's scores of all samples, of ``kind`` "image" or "video"; without nearest patients if shared."""
        return self._read_table(kind, "scores.csv", omitted=_NEAREST if self.share else ())

    def evidence(self, kind: str) -> "pd.DataFrame":
        """The filter's scores of new patients and of copies; without names if shared."""
        return self._read_table(kind, "evidence.csv", omitted=("PatientID",) if self.share else ())

    def _read_table(self, kind: str, name: str, omitted: tuple[str, ...]) -> "pd.DataFrame":
        import pandas as pd

        path = self.paths[f"filter_{kind}"].with_name(name)
        types = {"FileName": str, "NearestPatient": str, "NearestRecording": str, "PatientID": str, "Kind": str}
        try:
            return pd.read_csv(path, dtype=types, usecols=lambda column: column not in omitted, keep_default_na=False)
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read: run {self.command(f'filter_{kind}')} again") from error

    def video_filter(self) -> str | None:
        """The filter that the page's synthetic videos passed, "image" or "video"; None if they passed none."""
        if self.synthetic is None:
            return None
        source = self.synthetic.dataset.settings.get("source")
        for kind in ("video", "image"):
            checksums = self.passed_stores[kind] / CHECKSUMS
            if checksums.is_file() and file_sha256(checksums) == source:
                settings = Store(self.passed_stores[kind]).dataset.settings
                decision = settings.get("decision")
                if not isinstance(decision, Mapping) or decision.get("passed") is not True:
                    return None
                return kind if is_same_filter_run(settings, self.records.get(f"filter_{kind}")) else None
        return None


def load_sources(
    study: str,
    share: bool,
    stores: Mapping[str, str | None],
    passed_stores: Mapping[str, str],
    records: Mapping[str, str],
    folders: Mapping[str, str],
) -> Sources:
    """Open the stores "real" and "videos" of ``stores`` and the records that exist. Raises ``UserError``."""
    paths = {name: Path(records[name]) / file if file else Path(records[name]) for name, file in FILES.items()}
    existing = {name: read_record(path) for name, path in paths.items() if path.is_file()}
    if damaged := [paths[name] for name, record in existing.items() if record is None]:
        raise UserError(f"{damaged[0]} is not a JSON object: remove the file and run its stage again")
    real, synthetic = (_open_store(stores[name], name) for name in ("real", "videos"))
    if real is not None and real.dataset.synthetic:
        raise UserError(f"real={real.root} is synthetic: give the recordings of patients")
    if synthetic is not None and not synthetic.dataset.synthetic:
        raise UserError(f"videos={synthetic.root} is not synthetic: give a store that stage=decode wrote from samples")
    passed, places = ({key: Path(path) for key, path in each.items()} for each in (passed_stores, folders))
    complete = {name: record for name, record in existing.items() if record is not None}
    return Sources(study, share, real, synthetic, passed, complete, paths, places)


def is_same_filter_run(settings: Mapping[str, Any], record: Mapping[str, Any] | None) -> bool:
    """Whether the ``settings`` of a filter's store and a filter ``record`` are of one run: common entries are equal."""
    if record is None:
        return True
    pairs = [(settings, record), (settings["decision"], record.get("decision") or {})]
    common = [(left[name], right[name]) for left, right in pairs for name in left if name in right]
    return all(isinstance(left, Mapping) or left == right for left, right in common)


def _open_store(path: str | None, name: str) -> Store | None:
    if path is None or not Path(path).exists():
        return None
    store = Store(path, kind="video")
    if not (store.root / CHECKSUMS).is_file():
        raise UserError(f"{store.root / CHECKSUMS} is missing: {name}={store.root} is not a complete store")
    return store
