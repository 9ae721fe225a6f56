"""Checks of who is a patient: patients are the unit of splits and of the privacy guarantee."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from statistics import median

from echodream import validation
from echodream.errors import UserError
from echodream.ingest.source import Recording

CHECKS = ("no_id", "placeholder", "one_patient", "similar_ids", "spreadsheet", "people", "names", "folders")
"""What can be confirmed by ``data.patients_checked``, in the order of the checks."""
_PLACEHOLDERS = re.compile(
    r"(anon(ym(ous|ized|ised|e|isiert|us)?)?|de-?identified|removed|redacted|hidden|private|unknown|unbekannt|inconnu"
    r"|none|null|nan|na|n/?a|nil|empty|missing|undefined|no ?id|no ?name|not ?available|test|dummy|default|example"
    r"|patient|patient ?id|subject|name|id|[x*?#._-]+|-1)([ ^_-]*(patient|subject|id|name|case|\^))*",
    re.IGNORECASE,
)
_NUMERIC_PLACEHOLDER = re.compile(r"0+|9{3,}|1234567?8?9?0?")
_MONTH = r"(jan|feb|m[aä]r|mrz|apr|ma[iy]|jun|jul|aug|sep|o[ck]t|nov|de[cz])[a-z]*"
_SPREADSHEET = re.compile(
    rf"[0-9][.,][0-9]+E\+?[0-9]+|[0-9]{{1,4}}[-. ]{{1,2}}{_MONTH}|{_MONTH}[-. ]{{1,2}}[0-9]{{1,4}}", re.IGNORECASE
)
"""1.23E+11 and 05. Mai: what a spreadsheet makes of long numbers, and of IDs such as 5-5."""
_MANY = 5
"""From this number of recordings on, a study of one patient is refused."""
_DOMINANT = 20
"""From this number of recordings on, a patient with more than half of all recordings is refused."""


def check_patients(recordings: Sequence[Recording], checked: object = ()) -> None:
    """Raise ``UserError`` if the patients of the usable ``recordings`` look wrong.

    ``checked``: the ``CHECKS`` whose result was found to be right: a list, one name, or True for all.
    """
    if isinstance(checked, bool):
        checked = CHECKS if checked else ()
    names = [checked] if isinstance(checked, str) else [*validation.list_of_values("data.patients_checked", checked)]
    for name in names:
        validation.one_of("data.patients_checked", name, CHECKS)
    by_id: dict[str, list[Recording]] = defaultdict(list)
    for recording in recordings:
        if recording.problem is None and recording.evidence is not None:
            by_id[recording.evidence.identifier].append(recording)
    for name, problem in _find_problems(by_id):
        if name not in names:
            override = f"'data.patients_checked=[{','.join([*names, name])}]'"
            raise UserError(f"{problem}; if it is right as it is, set {override}")


def _find_problems(by_id: Mapping[str, Sequence[Recording]]) -> Iterator[tuple[str, str]]:
    """The name of a check and a sentence about what looks wrong; ``by_id``: patient -> recordings."""
    studies = {identifier: _count_studies(of_patient) for identifier, of_patient in by_id.items()}
    kinds = {recording.evidence.kind for of_patient in by_id.values() for recording in of_patient if recording.evidence}
    if (count := studies.pop("", 0)) > 1:
        yield "no_id", f"{len(by_id[''])} recordings have no PatientID: {count} studies count as {count} patients"
    placeholders = [identifier for identifier in studies if _is_placeholder(identifier, studies)]
    if repeated := [identifier for identifier in placeholders if studies[identifier] > 1]:
        found = f"PatientID {repeated[0]!r} looks like a placeholder, and {studies[repeated[0]]} recordings or studies"
        yield "placeholder", f"{found} have it, which then count as one patient: correct the PatientIDs"
    total, most = sum(studies.values()), max(studies.values(), default=0)
    if most == total >= _MANY or (most >= _DOMINANT and 2 * most > total):
        found = f"{most} of {total} recordings or studies count as one patient, and are in one split"
        yield "one_patient", f"{found}: correct the PatientIDs, or see data.source.patient_from"
    alike: dict[str, list[str]] = defaultdict(list)
    for identifier in studies if kinds != {"file"} else ():
        alike[_normalized(identifier)].append(identifier)
    if pairs := [identifiers for identifiers in alike.values() if len(identifiers) > 1]:
        first = " and ".join(by_id[identifier][0].name for identifier in pairs[0][:2])
        found = f"{len(pairs)} times PatientIDs differ only in case, blanks or leading zeros, first those of {first}"
        yield "similar_ids", f"{found}: write the ID of a patient in one way"
    if spoiled := [identifier for identifier in studies if kinds == {"id"} and _SPREADSHEET.fullmatch(identifier)]:
        found = f"{len(spoiled)} PatientIDs look like numbers or dates that a spreadsheet has changed"
        yield "spreadsheet", f"{found}, first that of {by_id[spoiled[0]][0].name}: export the IDs as text"
    for identifier, of_patient in by_id.items():
        if identifier and (key := _differing_key(of_patient)):
            found = f"recordings of one PatientID differ in {key}, first those of {of_patient[0].name}"
            yield "people", f"{found}: give each patient an ID"
            break
    if kinds == {"folder"} and any("/" in identifier for identifier in by_id):
        paths = [PurePosixPath(identifier).parts for identifier in by_id]
        counts = [len({path[level] for path in paths if len(path) > level}) for level in range(max(map(len, paths)))]
        choices = ", ".join(f"{level} ({count} names)" for level, count in enumerate(counts, start=1))
        found = f"data.source.patient_from=folder counts {len(by_id)} folders at up to {len(counts)} levels as patients"
        yield "folders", f"{found}: set it to the level of the patients' folders below raw instead, {choices}"
    single = kinds != {"folder"} and all(len(of_patient) == 1 for of_patient in by_id.values())
    if single and (examples := _grouped_names([*studies], "file" in kinds)):
        first = " and ".join(by_id[example][0].name for example in examples)
        found = f"each of {len(by_id)} recordings counts as one patient, but names as those of {first} look like one"
        yield "names", f"{found}: list the PatientIDs in a csv (data.source.csv)"


def _count_studies(recordings: Sequence[Recording]) -> int:
    """The number of examinations, or of recordings if the examinations are not known."""
    studies = {recording.evidence.study or recording.name for recording in recordings if recording.evidence}
    return len(studies)


def _is_placeholder(identifier: str, studies: Mapping[str, int]) -> bool:
    """Whether an ID names nobody. 0 is the first of patients who are counted from 0, if there is a 1."""
    if _NUMERIC_PLACEHOLDER.fullmatch(identifier):
        neighbor = str(int(identifier) + (1 if int(identifier) == 0 else -1)).zfill(len(identifier))
        return neighbor not in studies
    return _PLACEHOLDERS.fullmatch(identifier) is not None


def _normalized(identifier: str) -> str:
    """An ID without differences in case, blanks, Unicode form and leading zeros; "1 12" and "11 2" stay different."""
    text = " ".join(unicodedata.normalize("NFKC", identifier).casefold().split())
    text = re.sub(r"(?<![0-9]) | (?![0-9])", "", text)
    text = re.sub(r"(?<=[0-9])\.0+$", "", text)  # 12.0, as a table of floats has it
    return re.sub(r"(?<![0-9.])0+(?=[0-9])", "", text)


def _differing_key(recordings: Sequence[Recording]) -> str | None:
    """The first key of ``PatientEvidence.person`` with two values among the recordings of a patient."""
    seen: dict[str, str] = {}
    for recording in recordings:
        for key, value in recording.evidence.person.items() if recording.evidence else ():
            if seen.setdefault(key, value) != value:
                return key
    return None


def _grouped_names(names: Sequence[str], are_files: bool) -> list[str]:
    """Two names of one group, if most names are in small groups with a number (``p01_a``, ``p01_b``) or in many.

    The names of files show groups of up to twelve; IDs, which may begin with a site, only of up to four.
    """
    stems = {name: re.sub(r"\.[^./]*$", "", name) if are_files else name for name in names}
    for key in (_all_but_last_part, _first_word, _folder):
        groups: dict[str, list[str]] = defaultdict(list)
        for name, stem in stems.items():
            groups[key(stem)].append(name)
        shared = [group for start, group in groups.items() if start and len(group) > 1]
        sizes = [len(group) for group in shared]
        if len(shared) < 2 or 2 * sum(sizes) < len(names):
            continue
        numbered = 2 * sum(any(map(str.isdigit, key(stems[group[0]]))) for group in shared) > len(shared)
        many = len(shared) >= 5 and median(sizes) <= 4  # as mueller_1, mueller_2, schmidt_1, schmidt_2, ...
        if many or (numbered and are_files and median(sizes) <= 12):
            return shared[0][:2]
    return []


def _all_but_last_part(name: str) -> str:
    """``p01_v2`` -> ``p-01-v``: the letters and numbers of a name without the last ones."""
    return "-".join(re.findall(r"[0-9]+|[^\W\d_]+", name)[:-1])


def _first_word(name: str) -> str:
    return re.split(r"[-_ .]+", name.rpartition("/")[2])[0]


def _folder(name: str) -> str:
    return name.rpartition("/")[0]
