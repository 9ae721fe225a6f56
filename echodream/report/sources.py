"""Inputs of the report: stores and records of a study; any of them may be missing."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from echodream.errors import UserError
from echodream.report.tables import MissingRecord, Verdict
from echodream.runs.atomic_folder import read_record
from echodream.store import Store, open_complete
from echodream.store.checksums import file_sha256
from echodream.store.schema import CHECKSUMS

if TYPE_CHECKING:
    import pandas as pd

RECORD_FILES = {
    "filter_image": "filter.json",
    "filter_video": "filter.json",
    "audit_image": "audit.json",
    "audit_video": "audit.json",
    "canaries_image": "audit.json",
    "canaries_video": "audit.json",
    "evaluation": "",
    "utility": "",
    "anonymity": "anonymity.json",
    "linkability": "linkability.json",
    "curve": "curve.json",
}
"""File name of each record in its folder; "" if the configured path is a file."""
_STAGES = {
    "filter_image": "filter",
    "filter_video": "filter on=video",
    "audit_image": "audit",
    "audit_video": "audit on=video",
    "canaries_image": "audit canaries=true",
    "canaries_video": "audit canaries=true on=video",
    "evaluation": "evaluate",
    "curve": "compare points=...",
    "videos": "decode",
    "real": "ingest raw=...",
}
"""Stage, with further arguments, that makes a record or store; a record that is not listed has its stage's name."""
_NEAREST_COLUMNS = ("NearestPatient", "NearestRecording", "NearestFrame")
"""Columns of scores.csv that name patients."""


@dataclass(frozen=True)
class Sources:
    """Inputs of a report page."""

    study: str
    share: bool
    """Whether the page is for sharing, that is, without frames and names of patients."""
    real: Store | None
    synthetic: Store | None
    passed_stores: Mapping[str, Path]
    """Folders of the samples that passed the filter, by "image" and "video"; a folder may be absent."""
    records: Mapping[str, dict[str, Any]]
    """The existing records, by the names in ``RECORD_FILES``."""
    paths: Mapping[str, Path]
    """Paths of all records, existing or not."""
    folders: Mapping[str, Path] = field(default_factory=dict)
    """Folders of the study with stores and artifacts that record their commands: data, models, samples."""
    runs: Path | None = None
    """Folder of the study's runs, with the pictures of trainings."""
    awaits_videos: bool = False
    """Whether the store of synthetic videos is given and does not exist yet."""

    @property
    def is_unfinished(self) -> bool:
        """Whether the synthetic videos are expected but do not exist, and no evaluation or other result exists."""
        finished = ("evaluation", "utility", "anonymity", "linkability", "curve")
        return self.awaits_videos and not any(name in self.records for name in finished)

    def command(self, name: str) -> str:
        """The command that makes the record or store ``name``."""
        stage, *arguments = _STAGES.get(name, name).split()
        return " ".join(["python sample.py", f"stage={stage}", f"data={self.study}", *arguments])

    def missing_record(self, name: str, message: str) -> MissingRecord:
        """A ``MissingRecord`` with ``message`` and the command that makes the record or store ``name``."""
        return MissingRecord(message, self.command(name))

    def unknown_verdict(self, topic: str, name: str, message: str) -> Verdict:
        """The verdict on ``topic`` if the record ``name`` is missing."""
        return Verdict(topic, "missing", "Not known", missing_records=[self.missing_record(name, message)])

    @contextlib.contextmanager
    def report_parse_errors(self, name: str) -> Iterator[None]:
        """Context manager that turns parsing errors of the record ``name`` into ``UserError``."""
        try:
            yield
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise UserError(
                f"{self.paths[name]} is not a valid record ({error}): run {self.command(name)} again"
            ) from error

    def scores(self, kind: str) -> "pd.DataFrame":
        """The filter's scores of all samples of ``kind`` "image" or "video", without patient names on a shared page."""
        return self._read_table(kind, "scores.csv", omitted_columns=_NEAREST_COLUMNS if self.share else ())

    def evidence(self, kind: str) -> "pd.DataFrame":
        """The filter's scores of new patients and of copies, without patient names on a shared page."""
        return self._read_table(kind, "evidence.csv", omitted_columns=("PatientID",) if self.share else ())

    def _read_table(self, kind: str, name: str, omitted_columns: tuple[str, ...]) -> "pd.DataFrame":
        import pandas as pd

        path = self.paths[f"filter_{kind}"].with_name(name)
        types = {"FileName": str, "NearestPatient": str, "NearestRecording": str, "PatientID": str, "Kind": str}
        try:
            return pd.read_csv(path, dtype=types, usecols=lambda c: c not in omitted_columns, keep_default_na=False)
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read: run {self.command(f'filter_{kind}')} again") from error

    def passed_filter_kind(self) -> str | None:
        """Kind of the filter that the synthetic videos passed, "image" or "video"; None if they passed no filter.

        Videos are decoded from samples that passed, or are samples that passed, if another program generated them.
        """
        if self.synthetic is None:
            return None
        sources = (self.synthetic.dataset.settings.get("source"), self.synthetic.checksum)
        for kind in ("video", "image"):
            checksums = self.passed_stores[kind] / CHECKSUMS
            if checksums.is_file() and file_sha256(checksums) in sources:
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
    runs: str | None = None,
) -> Sources:
    """Open the stores "real" and "videos", and read the existing records. Raises ``UserError`` if one is not valid."""
    paths = {name: Path(records[name]) / file for name, file in RECORD_FILES.items()}
    existing: dict[str, dict[str, Any]] = {}
    for name, path in paths.items():
        if path.is_file():
            if (record := read_record(path)) is None:
                raise UserError(f"{path} is not a JSON object: remove the file and run its stage again")
            existing[name] = record
    real, synthetic = (_open_store(stores[name], name) for name in ("real", "videos"))
    if real is not None and real.dataset.synthetic:
        raise UserError(f"real={real.root} is synthetic: give the recordings of patients")
    if synthetic is not None and not synthetic.dataset.synthetic:
        raise UserError(f"videos={synthetic.root} is not synthetic: give a store that stage=decode wrote from samples")
    passed_paths, folder_paths = ({key: Path(path) for key, path in each.items()} for each in (passed_stores, folders))
    awaits_videos = synthetic is None and stores["videos"] is not None
    run_path = None if runs is None else Path(runs)
    return Sources(study, share, real, synthetic, passed_paths, existing, paths, folder_paths, run_path, awaits_videos)


def is_same_filter_run(settings: Mapping[str, Any], record: Mapping[str, Any] | None) -> bool:
    """Whether entries that the ``settings`` of a filtered store and the filter ``record`` have in common are equal."""
    if record is None:
        return True
    pairs = [(settings, record), (settings["decision"], record.get("decision") or {})]
    common = [(left[name], right[name]) for left, right in pairs for name in left if name in right]
    return all(isinstance(left, Mapping) or left == right for left, right in common)


def _open_store(path: str | None, name: str) -> Store | None:
    return None if path is None or not Path(path).exists() else open_complete(path, name, "video")
