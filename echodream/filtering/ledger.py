"""Ledger of the privacy filter: it counts all decisions on the same patients, in all output folders.

The ledger has one file per decision. The folder of the ledger is next to the study, so that the ledger remains if the
output of the filter is removed. The name of a file has two digests: of the evidence (study and networks) and of the
decision (rule, controls and comparison). Samples are not in the digests, so filtering further samples is not a new
decision.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from echodream.errors import UserError
from echodream.runs.atomic_folder import read_record, write_record

DIGEST_DIGITS = 16
"""Hexadecimal digits of a digest in a file name."""


@dataclass(frozen=True)
class LedgerEntry:
    """A decision of the privacy filter in the ledger.

    ``evidence``: fingerprints of the study ``real`` and of the networks. ``decision``: all settings that determine
    threshold and statement. ``sample_kind``: "image" or "video".
    """

    evidence: Mapping[str, Any]
    decision: Mapping[str, Any]
    sample_kind: str

    @property
    def evidence_digest(self) -> str:
        """Digest of ``evidence``: ``DIGEST_DIGITS`` hexadecimal digits."""
        return _digest(self.evidence)

    @property
    def file_name(self) -> str:
        """Name of the file of this decision."""
        return f"{self.evidence_digest}-{_digest(self.decision)}.json"


@dataclass(frozen=True)
class AttemptCounts:
    """Numbers of decisions on the same patients, with the same networks and with other networks."""

    same_networks: int
    other_networks: int


def find_ledger(folder: str | None, real: Path, outputs: Iterable[Path]) -> Path:
    """The ``folder`` of the ledger, by default next to the store ``real``.

    Raises ``UserError`` if ``folder`` is in ``real`` or in one of the ``outputs`` of the filter, which may be removed.
    """
    if folder is None:
        store = real.resolve()
        return store.with_name(f"{store.name}.decisions")
    ledger = Path(folder)
    for other in (real, *outputs):
        if other.resolve() in (ledger.resolve(), *ledger.resolve().parents):
            raise UserError(f"ledger={ledger} lies in {other}: choose a folder that is kept with the study")
    return ledger


def check_ledger(folder: Path) -> None:
    """Create the ``folder`` of the ledger. Raises ``UserError`` if the folder cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".writable").touch()
        (folder / ".writable").unlink()
    except OSError as error:
        problem = f"ledger={folder} cannot be written ({error.strerror}), and decisions have to be counted"
        raise UserError(f"{problem}: give a folder that is kept with the study") from error


def register_decision(folder: Path, entry: LedgerEntry, passed: bool, code_version: str) -> AttemptCounts:
    """Add a decision to the ledger unless it is already recorded, and count all decisions on the same patients."""
    if not (folder / entry.file_name).is_file():
        facts = {"evidence": entry.evidence, "decision": entry.decision, "on": entry.sample_kind}
        write_record(folder / entry.file_name, {**facts, "passed": passed, "code_version": code_version})
    same, other = 0, 0
    for path in folder.glob("[0-9a-f]*.json"):
        if path.name.startswith(entry.evidence_digest):
            same += 1
        elif (record := read_record(path)) and record.get("on") == entry.sample_kind:
            other += record.get("evidence", {}).get("real") == entry.evidence["real"]
    return AttemptCounts(same, other)


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:DIGEST_DIGITS]
