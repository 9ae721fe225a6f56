"""Suspicious patient IDs stop ingest. The error names the value of ``data.patients_checked`` that accepts the IDs."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from echodream.errors import UserError
from echodream.ingest.patients import PATIENT_CHECKS, check_patients
from echodream.ingest.source import PatientEvidence, Recording
from echodream.ingest.videos import Videos
from tests.support.raw_files import write_csv


def listed(ids: Iterable[str], kind: str = "id", **fields: Any) -> list[Recording]:
    """One recording for each patient ID in ``ids``."""
    return [Recording(f"r{n}", "p", evidence=PatientEvidence(i, kind, **fields)) for n, i in enumerate(ids)]


def problem(recordings: list[Recording]) -> str | None:
    """Name of the patient check that fails, or None. All checks pass if the user confirms the patients with True."""
    try:
        check_patients(recordings)
    except UserError as error:
        name = str(error).rpartition("'data.patients_checked=[")[2].removesuffix("]'")
        assert name in PATIENT_CHECKS
        check_patients(recordings, True)
        return name
    return None


@pytest.mark.parametrize(
    "placeholder",
    ["ANONYMOUS", "anonymous^patient", "Anon", "0", "000000", "UNKNOWN", "none", "N/A", "xxxx", "-", "Patient", "9999"],
)
def test_one_placeholder_for_two_recordings(placeholder: str) -> None:
    assert problem(listed([placeholder, placeholder, "17"])) == "placeholder"
    assert problem(listed([placeholder, "17", "18"])) is None


@pytest.mark.parametrize(
    "patients", [["0", "0", "1", "2"], ["000", "000", "001"], ["anon7", "anon7", "anon8"], ["A", "A", "B"]]
)
def test_ids_that_are_no_placeholders(patients: list[str]) -> None:
    assert problem(listed(patients)) is None


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("P01", "p01"),
        ("P 01", "P01"),
        ("007", "7"),
        ("P-007", "P-7"),
        ("12", "12.0"),
        ("M\u00fcller", "Mu\u0308ller"),
        ("a\u00a0b", "a b"),
    ],
)
def test_ids_that_differ_in_their_spelling_only(first: str, second: str) -> None:
    assert problem(listed([first, second, second, "other"])) == "similar_ids"


@pytest.mark.parametrize(
    ("first", "second"), [("1 12", "11 2"), ("1-12", "11-2"), ("10", "1"), ("1.05", "1.5"), ("A1", "B1")]
)
def test_ids_that_differ(first: str, second: str) -> None:
    assert problem(listed([first, second, second])) is None


def test_one_patient_for_a_whole_study() -> None:
    assert problem(listed(["SITE"] * 5)) == "one_patient"
    assert problem(listed(["SITE"] * 25 + [f"{n}x" for n in range(20)])) == "one_patient"
    assert problem(listed(["SITE"] * 4)) is None
    assert problem(listed(["SITE"] * 15 + [f"{n}x" for n in range(20)])) is None
    assert problem(listed(["SITE"] * 30, study="1.2.3")) is None  # 30 recordings of one examination


def test_ids_that_a_spreadsheet_changed() -> None:
    for text in ("1.23457E+11", "1,5E+12", "05. Mai", "5-Mar", "Mar-05"):
        assert problem(listed([text, "17", "17"])) == "spreadsheet"
    for text in ("1E5", "MAR-C", "2024-05-05"):
        assert problem(listed([text, "17", "17"])) is None


def test_one_id_with_two_dates_of_birth() -> None:
    one, other = ({"PatientBirthDate": date} for date in ("19500101", "19600101"))
    assert problem([*listed(["7"], patient_constants=one), *listed(["7"], patient_constants=other)]) == "people"
    assert (
        problem([*listed(["7"], patient_constants=one), *listed(["7"]), *listed(["8"], patient_constants=other)])
        is None
    )


def test_studies_without_an_id() -> None:
    assert problem([*listed([""], study="1.2"), *listed([""], study="1.3")]) == "no_id"
    assert problem([*listed(["", ""], study="1.2"), *listed(["7"])]) is None


@pytest.mark.parametrize(
    "names",
    [
        [f"p{patient:02}_{part}.avi" for patient in range(6) for part in (1, 2)],
        [f"{patient:04}{part}.mp4" for patient in range(6) for part in "ab"],
        [f"p{patient}_{view}_{patient * 7}.avi" for patient in range(6) for view in ("A4C", "PSAX")],
        [f"p{patient}/{view}{patient * 7}.avi" for patient in range(6) for view in ("A4C", "PSAX")],
        [f"{patient}_{part}.avi" for patient in ("mueller", "schmidt", "weber", "wolf", "kurz") for part in (1, 2)],
    ],
)
def test_files_whose_names_show_patients(names: list[str]) -> None:
    assert problem(listed(names, "file")) == "names"


@pytest.mark.parametrize(
    "names",
    [
        [f"video_{n}.avi" for n in range(40)],
        [f"{kind}_{n:03}.avi" for kind in ("ASD", "PAH", "Non-ASD") for n in range(20)],
        [f"0X{n * 2654435761 % 2**32:08X}.avi" for n in range(40)],
        [f"site{site}_{n:03}.avi" for site in (1, 2) for n in range(40)],
        ["a.avi", "b.avi", "c.avi"],
        [f"x{n}.png" for n in range(9)],
    ],
)
def test_files_whose_names_show_no_patients(names: list[str]) -> None:
    assert problem(listed(names, "file")) is None


def test_ids_of_one_recording_each() -> None:
    assert problem(listed([f"p{patient}_{visit}" for patient in range(9) for visit in (1, 2)])) == "names"
    assert problem(listed([f"S{site}-{patient:03}" for site in (1, 2, 3) for patient in range(12)])) is None


def folders(root: Path) -> Path:
    for patient in range(4):
        for visit in (1, 2):
            path = root / f"p{patient:02}" / f"visit{visit}" / "x.avi"
            path.parent.mkdir(parents=True)
            path.write_bytes(b"x")
    return root


def test_a_visit_is_not_a_patient(tmp_path: Path) -> None:
    source = Videos(patient_from="folder")
    with pytest.raises(
        UserError, match=r"8 folders at up to 2 levels .* below raw instead, 1 \(4 names\), 2 \(2 names\)"
    ):
        check_patients(source.recordings(folders(tmp_path)))
    check_patients(source.recordings(tmp_path), "folders")
    found = Videos(patient_from=1).recordings(tmp_path)
    assert [recording.patient for recording in found] == [f"p{number // 2:02}" for number in range(8)]
    check_patients(found)


def test_a_file_above_the_level_of_patients_is_rejected(tmp_path: Path) -> None:
    (folders(tmp_path) / "y.avi").write_bytes(b"x")
    found = {recording.name: recording for recording in Videos(patient_from=2).recordings(tmp_path)}
    assert (found["y"].problem, found["y"].counted) == ("no folder of a patient at level 2 below raw", True)
    assert found["p00-visit1-x.avi"].patient == "visit1"


def test_ids_of_a_csv_are_checked_before_they_become_pseudonyms(tmp_path: Path) -> None:
    from PIL import Image

    from echodream.ingest.images import Images

    for name in "abc":
        Image.new("L", (20, 20)).save(tmp_path / f"{name}.png")
    write_csv(
        tmp_path / "l.csv", [{"f": name, "p": patient} for name, patient in (("a", "P1"), ("b", "p1"), ("c", "2"))]
    )
    source = Images(csv="l.csv", columns={"FileName": "f", "PatientID": "p"}, key_file=str(tmp_path / "k" / "key"))
    found = source.recordings(tmp_path)
    with pytest.raises(UserError, match="differ only in case") as error:
        check_patients(found)
    assert "P1" not in str(error.value)


@pytest.mark.parametrize("wrong", [["ids"], "all", [True], 3, {"names": True}])
def test_what_was_checked_is_checked(wrong: object) -> None:
    with pytest.raises(UserError, match=r"^data\.patients_checked is "):
        check_patients([], wrong)


def test_several_results_are_confirmed_one_by_one() -> None:
    recordings = listed(["ANON", "ANON", "P1", "p1"])
    with pytest.raises(UserError, match=r"'data.patients_checked=\[placeholder,similar_ids\]'"):
        check_patients(recordings, ["placeholder"])
    check_patients(recordings, ["placeholder", "similar_ids"])
