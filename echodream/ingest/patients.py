"""Checks the patient identifiers of a study; patients are the unit of splits and of the privacy guarantee."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from statistics import median

from echodream import validation
from echodream.errors import UserError
from echodream.ingest.source import PatientEvidence, Recording

PATIENT_CHECKS = ("no_id", "placeholder", "one_patient", "similar_ids", "spreadsheet", "people", "names", "folders")
"""Names of the checks; ``data.patients_checked`` can disable each check."""
_PLACEHOLDERS = re.compile(
    r"(anon(ym(ous|ized|ised|e|isiert|us)?)?|de-?identified|removed|redacted|hidden|private|unknown|unbekannt|inconnu"
    r"|none|null|nan|na|n/?a|nil|empty|missing|undefined|no ?id|no ?name|not ?available|test|dummy|default|example"
    r"|patient|patient ?id|subject|name|id|[x*?#._-]+|-1)([ ^_-]*(patient|subject|id|name|case|\^))*",
    re.IGNORECASE,
)
_NUMERIC_PLACEHOLDER = re.compile(r"0+|9{3,}|1234567?8?9?0?")
_MONTH = r"(jan|feb|m[aä]r|mrz|apr|ma[iy]|jun|jul|aug|sep|o[ck]t|nov|de[cz])[a-z]*"
_SPREADSHEET_VALUE = re.compile(
    rf"[0-9][.,][0-9]+E\+?[0-9]+|[0-9]{{1,4}}[-. ]{{1,2}}{_MONTH}|{_MONTH}[-. ]{{1,2}}[0-9]{{1,4}}", re.IGNORECASE
)
"""Numbers and dates that a spreadsheet writes for long numbers (1.23E+11) and for IDs such as 5-5 (05. Mai)."""
_MAX_RECORDINGS_OF_ONLY_PATIENT = 4
"""Largest plausible number of recordings in a study with only one patient."""
_MAX_RECORDINGS_OF_MAIN_PATIENT = 19
"""Largest plausible number of recordings of a patient who has more than half of all recordings."""


def check_patients(recordings: Sequence[Recording], confirmed_checks: object = ()) -> None:
    """Raise ``UserError`` if the patient identifiers of the usable ``recordings`` are implausible.

    ``confirmed_checks`` names the ``PATIENT_CHECKS`` to skip: a list, one name, or True for all checks.
    """
    if isinstance(confirmed_checks, bool):
        confirmed_checks = PATIENT_CHECKS if confirmed_checks else ()
    if isinstance(confirmed_checks, str):
        confirmed_checks = [confirmed_checks]
    names = [*validation.list_of_values("data.patients_checked", confirmed_checks)]
    for name in names:
        validation.one_of("data.patients_checked", name, PATIENT_CHECKS)
    by_id: dict[str, list[Recording]] = defaultdict(list)
    for recording in recordings:
        if recording.problem is None and recording.evidence is not None:
            by_id[recording.evidence.identifier].append(recording)
    for name, problem in _find_implausible_patients(by_id):
        if name not in names:
            override = f"'data.patients_checked=[{','.join([*names, name])}]'"
            raise UserError(f"{problem}; if the patients are correct, set {override}")


def _find_implausible_patients(by_id: Mapping[str, Sequence[Recording]]) -> Iterator[tuple[str, str]]:
    """Yield the name of each failed check and a description; ``by_id`` maps patient identifiers to recordings."""
    evidence = {key: [r.evidence for r in recordings if r.evidence] for key, recordings in by_id.items()}
    kinds = {item.kind for items in evidence.values() for item in items}
    studies = {key: len({r.evidence.study or r.name for r in by_id[key] if r.evidence}) for key in by_id}
    if (count := studies.pop("", 0)) > 1:
        yield "no_id", f"{len(by_id[''])} recordings have no PatientID: {count} studies count as {count} patients"
    placeholders = [identifier for identifier in studies if _is_placeholder(identifier, studies)]
    if repeated := [identifier for identifier in placeholders if studies[identifier] > 1]:
        cause = f"PatientID {repeated[0]!r} looks like a placeholder, and {studies[repeated[0]]} recordings or studies"
        yield "placeholder", f"{cause} have it, which then count as one patient: correct the PatientIDs"
    total, most = sum(studies.values()), max(studies.values(), default=0)
    if most == total > _MAX_RECORDINGS_OF_ONLY_PATIENT or (most > _MAX_RECORDINGS_OF_MAIN_PATIENT and 2 * most > total):
        cause = f"{most} of {total} recordings or studies count as one patient, and are in one split"
        yield "one_patient", f"{cause}: correct the PatientIDs, or see data.source.patient_from"
    similar: dict[str, list[str]] = defaultdict(list)
    for identifier in studies if kinds != {"file"} else ():
        similar[_normalize_identifier(identifier)].append(identifier)
    if pairs := [identifiers for identifiers in similar.values() if len(identifiers) > 1]:
        first = " and ".join(by_id[identifier][0].name for identifier in pairs[0][:2])
        cause = f"{len(pairs)} times PatientIDs differ only in case, blanks or leading zeros, first those of {first}"
        yield "similar_ids", f"{cause}: write the ID of a patient in one way"
    if kinds == {"id"} and (changed := [*filter(_SPREADSHEET_VALUE.fullmatch, studies)]):
        cause = f"{len(changed)} PatientIDs look like numbers or dates that a spreadsheet has changed"
        yield "spreadsheet", f"{cause}, first that of {by_id[changed[0]][0].name}: export the IDs as text"
    for identifier, items in evidence.items():
        if identifier and (key := _conflicting_key(items)):
            cause = f"recordings of one PatientID differ in {key}, first those of {by_id[identifier][0].name}"
            yield "people", f"{cause}: give each patient an ID"
            break
    if kinds == {"folder"} and any("/" in identifier for identifier in by_id):
        paths = [PurePosixPath(identifier).parts for identifier in by_id]
        counts = [len({path[level] for path in paths if len(path) > level}) for level in range(max(map(len, paths)))]
        choices = ", ".join(f"{level} ({count} names)" for level, count in enumerate(counts, start=1))
        found = f"{len(by_id)} folders at up to {len(counts)} levels"
        cause = f"with data.source.patient_from=folder, {found} count as patients"
        yield "folders", f"{cause}: set it to the level of the patients' folders below raw instead, {choices}"
    single = kinds != {"folder"} and all(len(recordings) == 1 for recordings in by_id.values())
    if single and (examples := _find_names_of_one_patient([*studies], "file" in kinds)):
        first = " and ".join(by_id[example][0].name for example in examples)
        cause = f"each of {len(by_id)} recordings counts as one patient, but the names of {first} suggest one patient"
        yield "names", f"{cause}: list the PatientIDs in a csv (data.source.csv)"


def _is_placeholder(identifier: str, studies: Mapping[str, int]) -> bool:
    """Whether an ID is a placeholder. A number such as 999 is a valid ID if 998 exists, and 0 is valid if 1 exists."""
    if _NUMERIC_PLACEHOLDER.fullmatch(identifier):
        neighbor = str(int(identifier) + (1 if int(identifier) == 0 else -1)).zfill(len(identifier))
        return neighbor not in studies
    return _PLACEHOLDERS.fullmatch(identifier) is not None


def _normalize_identifier(identifier: str) -> str:
    """Remove differences in case, blanks, Unicode form and leading zeros; "1 12" and "11 2" remain different."""
    text = " ".join(unicodedata.normalize("NFKC", identifier).casefold().split())
    text = re.sub(r"(?<![0-9]) | (?![0-9])", "", text)
    text = re.sub(r"(?<=[0-9])\.0+$", "", text)  # a table of floats has 12.0 for 12
    return re.sub(r"(?<![0-9.])0+(?=[0-9])", "", text)


def _conflicting_key(evidence: Sequence[PatientEvidence]) -> str | None:
    """Find the first key of ``PatientEvidence.patient_constants`` with two values among the recordings of a patient."""
    constants: dict[str, str] = {}
    for key, value in (pair for item in evidence for pair in item.patient_constants.items()):
        if constants.setdefault(key, value) != value:
            return key
    return None


_NAME_GROUP_KEYS: tuple[Callable[[str], str], ...] = (
    lambda name: "-".join(re.findall(r"[0-9]+|[^\W\d_]+", name)[:-1]),  # p01_v2 -> p-01-v, without the last number
    lambda name: re.split(r"[-_ .]+", name.rpartition("/")[2])[0],  # the first word of the file name
    lambda name: name.rpartition("/")[0],  # the folder
)
"""Functions that return equal texts for names that may belong to one patient."""


def _find_names_of_one_patient(names: Sequence[str], are_files: bool) -> list[str]:
    """Find two names that probably belong to one patient, such as ``p01_a`` and ``p01_b``; [] if there are none.

    One of ``_NAME_GROUP_KEYS`` must assign at least half of the names to groups of two or more names. There must be
    five or more groups with a median size of at most four names, because a larger group may be a hospital. For names
    of files whose group key has a digit, two groups with a median size of at most twelve names are enough.
    """
    stems = {name: re.sub(r"\.[^./]*$", "", name) if are_files else name for name in names}
    for group_key in _NAME_GROUP_KEYS:
        groups: dict[str, list[str]] = defaultdict(list)
        for name, stem in stems.items():
            groups[group_key(stem)].append(name)
        shared = {key: group for key, group in groups.items() if key and len(group) > 1}
        sizes = [len(group) for group in shared.values()]
        if len(shared) < 2 or 2 * sum(sizes) < len(names):
            continue
        numbered = 2 * sum(any(map(str.isdigit, key)) for key in shared) > len(shared)
        many = len(shared) >= 5 and median(sizes) <= 4  # such as mueller_1, mueller_2, schmidt_1, schmidt_2, ...
        if many or (numbered and are_files and median(sizes) <= 12):
            return next(iter(shared.values()))[:2]
    return []
