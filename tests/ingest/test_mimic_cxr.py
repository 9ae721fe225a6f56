"""Ingest of the MIMIC-CXR dataset, tested on a folder with few patients, including errors in the csv tables."""

import csv
import gzip
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from PIL import Image

from echodream.config.paths import CONF_DIR
from echodream.engine import sample
from echodream.errors import UserError
from echodream.ingest.labels import CHEXPERT_LABELS
from echodream.ingest.mimic_cxr import MimicCxr
from echodream.ingest.pseudonym import Pseudonyms
from echodream.ingest.source import Recording
from echodream.stages.verify import verify
from echodream.store import Store
from tests.support.raw_files import cut, write_csv

IMAGES = (  # dicom_id, study, patient, split, view
    ("02aa804e-bde0afdd", "50414267", "10000032", "train", "PA"),
    ("174413ec-4ec4c1f7", "50414267", "10000032", "train", "LATERAL"),
    ("2a2277a9-b0ded155", "53189527", "10000032", "train", "AP"),
    ("68b5c4b1-227d0485", "53911762", "10000764", "validate", "AP"),
    ("fffabebf-74fd3a1f", "54577367", "11000898", "test", "PA"),
)
LABELS = [name.replace("_", " ") for name in CHEXPERT_LABELS]
FINDINGS = {
    "50414267": {"No Finding": "1.0"},
    "53189527": {"Pleural Effusion": "1.0", "Pneumonia": "-1.0", "Edema": "0.0"},
    "54577367": {"Support Devices": "1.0"},
}
"""Labels of each study. Study 53911762 has no row because MIMIC-CXR has no labels for its report."""


def pixels(number: int) -> np.ndarray:
    """Pixels (H, W) of image ``number``: different for each image, and smooth, so that JPEG changes them little."""
    rows, columns = np.mgrid[:48, :40]
    return np.asarray(20 + 30 * number + rows + columns // 2, np.uint8)


def place(image: Sequence[str]) -> Path:
    name, study, patient = image[:3]
    return Path("files") / f"p{patient[:2]}" / f"p{patient}" / f"s{study}" / f"{name}.jpg"


def write_gz(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    write_csv(path, rows)
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()


def tables(root: Path, **changed: list[dict[str, str]]) -> None:
    """Write the three MIMIC-CXR tables in their published format. ``changed`` replaces the rows of some tables."""
    rows = {
        "split": [
            {"dicom_id": name, "study_id": study, "subject_id": patient, "split": split}
            for name, study, patient, split, _ in IMAGES
        ],
        "metadata": [
            {"dicom_id": name, "subject_id": patient, "study_id": study, "ViewPosition": view, "StudyDate": "21800506"}
            for name, study, patient, _, view in IMAGES
        ],
        "chexpert": [
            {"subject_id": "0", "study_id": study, **{name: found.get(name, "") for name in LABELS}}
            for study, found in FINDINGS.items()
        ],
    }
    for name, content in {**rows, **changed}.items():
        write_gz(root / f"mimic-cxr-2.0.0-{name}.csv", content)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    root = tmp_path / "mimic"
    for number, image in enumerate(IMAGES):
        (root / place(image)).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(number)).save(root / place(image), quality=95)
    tables(root)
    write_gz(root / "mimic-cxr-2.0.0-negbio.csv", [{"study_id": "1", "Pneumonia": "nonsense"}])
    return root


@pytest.fixture
def source(tmp_path: Path) -> MimicCxr:
    (tmp_path / "key").write_bytes(b"0123456789abcdef")
    return MimicCxr(key_file=str(tmp_path / "key"))


def of(source: MimicCxr) -> dict[str, str]:
    """Map each dicom_id of ``IMAGES`` to the FileName in the store."""
    pseudonyms = Pseudonyms.from_file(Path(source.key_file))
    return {image[0]: pseudonyms.hash_recording(f"image {image[0]}") for image in IMAGES}


def by_image(source: MimicCxr, raw: Path) -> list[Recording]:
    """Recordings that the source lists for ``IMAGES``, in the order of ``IMAGES``."""
    found = {recording.name: recording for recording in source.recordings(raw)}
    return [found[name] for name in of(source).values()]


def problems(source: MimicCxr, raw: Path) -> list[tuple[str, bool]]:
    return sorted((r.problem, r.counted) for r in source.recordings(raw) if r.problem is not None)


def test_every_image_has_its_patient_split_view_and_study(source: MimicCxr, raw: Path) -> None:
    listed = by_image(source, raw)
    assert all(recording.problem is None for recording in listed)
    assert [recording.split for recording in listed] == ["TRAIN", "TRAIN", "TRAIN", "VAL", "TEST"]
    assert [recording.columns["View"] for recording in listed] == [image[4] for image in IMAGES]
    patients, studies = [r.patient for r in listed], [r.columns["Study"] for r in listed]
    assert [patients.index(patient) for patient in patients] == [0, 0, 0, 3, 4]
    assert [studies.index(study) for study in studies] == [0, 0, 2, 3, 4]
    assert patients[0] == Pseudonyms.from_file(Path(source.key_file)).hash_patient("10000032")


@pytest.mark.parametrize(
    ("policy", "pneumonia", "edema", "effusion"),
    [
        ({}, [0, 0, None, None, 0], [0, 0, 0, None, 0], [0, 0, 1, None, 0]),
        ({"uncertain": 1.0}, [0, 0, 1, None, 0], [0, 0, 0, None, 0], [0, 0, 1, None, 0]),
        ({"uncertain": 0.5}, [0, 0, 0.5, None, 0], [0, 0, 0, None, 0], [0, 0, 1, None, 0]),
        ({"missing": None}, [None] * 5, [None, None, 0, None, None], [None, None, 1, None, None]),
        ({"missing": None, "uncertain": 0}, [None, None, 0, None, None], [None, None, 0, None, None], None),
    ],
)
def test_uncertain_and_missing_labels_follow_the_policy(
    source: MimicCxr, raw: Path, policy: dict[str, Any], pneumonia: list[Any], edema: list[Any], effusion: Any
) -> None:
    listed = by_image(replace(source, **policy), raw)
    assert [recording.columns.get("Pneumonia") for recording in listed] == pneumonia
    assert [recording.columns.get("Edema") for recording in listed] == edema
    if effusion is not None:
        assert [recording.columns.get("Pleural_Effusion") for recording in listed] == effusion


def test_the_fourteen_labels_or_those_asked_for(source: MimicCxr, raw: Path) -> None:
    assert len(CHEXPERT_LABELS) == 14
    assert set(CHEXPERT_LABELS) < set(by_image(source, raw)[0].columns)
    few = by_image(replace(source, labels=("Pleural Effusion", "Edema")), raw)[2]
    labels = {name: value for name, value in few.columns.items() if name in CHEXPERT_LABELS}
    assert labels == {"Pleural_Effusion": 1, "Edema": 0}
    assert not set(CHEXPERT_LABELS) & set(by_image(replace(source, labels=()), raw)[0].columns)


def test_one_table_with_everything_will_do(source: MimicCxr, raw: Path) -> None:
    expected = by_image(source, raw)
    for path in raw.glob("*.gz"):
        path.unlink()
    rows = [
        {**dict(zip(("dicom_id", "study_id", "subject_id", "split", "ViewPosition"), image, strict=True)), **found}
        for image in IMAGES
        for found in [{name: FINDINGS.get(image[1], {}).get(name, "") for name in LABELS}]
    ]
    write_csv(raw / "all.csv", rows)
    found = by_image(source, raw)
    assert [(r.name, r.patient, r.split) for r in found] == [(r.name, r.patient, r.split) for r in expected]
    assert found[2].columns == expected[2].columns
    assert by_image(replace(source, csv=("all.csv",)), raw) == found


def test_files_without_a_row_and_rows_without_a_file(source: MimicCxr, raw: Path) -> None:
    (raw / place(IMAGES[1])).unlink()
    Image.fromarray(pixels(1)).save(raw / "files" / "stranger.jpg")
    (raw / "files" / "index.html").write_text("x")
    strays = [("not a recording: .gz", False), ("not a recording: .html", False)]
    lost = ("no row in mimic-cxr-2.0.0-split.csv.gz", True)
    assert problems(source, raw) == sorted([("no such file in the raw folder", True), lost, *strays])
    part = replace(source, subset=True)
    assert problems(part, raw) == sorted([("no such file in the raw folder", False), lost, *strays])


def test_a_file_in_the_folder_of_another_patient_is_refused(source: MimicCxr, raw: Path) -> None:
    there = raw / place((IMAGES[4][0], *IMAGES[3][1:]))
    (raw / place(IMAGES[4])).rename(there)
    assert "another patient or study" in str(by_image(source, raw)[4].problem)
    there.with_suffix(".png").write_bytes(there.read_bytes())
    assert by_image(source, raw)[4].problem == "2 files have this dicom_id"


def test_views_that_were_not_asked_for_are_not_lost(source: MimicCxr, raw: Path) -> None:
    listed = by_image(replace(source, views=("PA", "AP")), raw)
    assert [recording.problem for recording in listed] == [None, "not selected: view LATERAL", None, None, None]
    assert not listed[1].counted
    tables(raw, metadata=[{"dicom_id": "x", "study_id": "y"}])
    with pytest.raises(UserError, match=r"data.source.views needs a table with ViewPosition"):
        by_image(replace(source, views=("PA",)), raw)


def split_rows(**changes: str) -> list[dict[str, str]]:
    """Rows of the split table, with ``changes`` applied to the third row."""
    keys = ("dicom_id", "study_id", "subject_id", "split")
    rows = [dict(zip(keys, image[:4], strict=True)) for image in IMAGES]
    rows[2].update(changes)
    return rows


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "test"}, r"split.csv.gz, lines 2 and 4: one patient is in two splits, TRAIN and TEST"),
        ({"split": "dev"}, r"split.csv.gz, line 4, column split has the split 'dev'"),
        ({"dicom_id": IMAGES[4][0]}, r"split.csv.gz, lines 4 and 6, have the same dicom_id but different"),
    ],
)
def test_a_split_table_that_cannot_be(source: MimicCxr, raw: Path, changes: dict[str, str], message: str) -> None:
    tables(raw, split=split_rows(**changes))
    with pytest.raises(UserError, match=message) as error:
        source.recordings(raw)
    assert "10000032" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"split": ""}, "no split in mimic-cxr-2.0.0-split.csv.gz"),
        ({"dicom_id": "../../out"}, "the row has no usable dicom_id, study_id or subject_id"),
        ({"dicom_id": "/etc/passwd"}, "the row has no usable dicom_id, study_id or subject_id"),
        ({"subject_id": ""}, "the row has no usable dicom_id, study_id or subject_id"),
        ({"dicom_id": "gone"}, "no such file in the raw folder"),
        ({"dicom_id": "gone", "split": "test"}, "no such file in the raw folder"),  # no file, so no split error
    ],
)
def test_a_row_that_cannot_be_used_is_one_rejection(
    source: MimicCxr, raw: Path, changes: dict[str, str], problem: str
) -> None:
    tables(raw, split=split_rows(**changes))
    found = [r.problem for r in source.recordings(raw) if r.counted and r.path is None]
    assert found == [problem]


def test_a_second_row_that_says_the_same_is_not_a_loss(source: MimicCxr, raw: Path) -> None:
    tables(raw, split=[*split_rows(), split_rows()[0]])
    assert ("a second row for the same image", False) in problems(source, raw)
    assert sum(recording.problem is None for recording in source.recordings(raw)) == len(IMAGES)


def test_links_that_leave_are_not_opened(source: MimicCxr, raw: Path, tmp_path: Path) -> None:
    outside = tmp_path / "out.jpg"
    (raw / place(IMAGES[0])).rename(outside)
    (raw / place(IMAGES[0])).symlink_to(outside)
    assert by_image(source, raw)[0].problem == "is outside the raw folder"
    with pytest.raises(UserError, match=r"out.csv is outside the raw folder"):
        replace(source, csv=("../out.csv",)).recordings(raw)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ("Oedema",)}, "data.source.labels has Oedema, but no table has this column: .*chexpert.csv.gz has"),
        ({"csv": ("mimic-cxr-2.0.0-metadata.csv.gz",)}, "no table has dicom_id, subject_id, study_id and split"),
        ({"csv": ("gone.csv",)}, "gone.csv cannot be read"),
    ],
)
def test_tables_that_do_not_have_what_is_asked(
    source: MimicCxr, raw: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        replace(source, **changes).recordings(raw)


def test_a_label_that_is_none_and_a_damaged_table(source: MimicCxr, raw: Path) -> None:
    tables(raw, chexpert=[{"study_id": "50414267", **dict.fromkeys(LABELS, ""), "Edema": "maybe"}])
    with pytest.raises(UserError, match=r"chexpert.csv.gz, line 2, column Edema has the label 'maybe': use 0 to 1"):
        source.recordings(raw)
    cut(raw / "mimic-cxr-2.0.0-chexpert.csv.gz", 0.6)
    with pytest.raises(UserError, match=r"chexpert.csv.gz cannot be read: the gzip file is incomplete"):
        source.recordings(raw)
    for path in raw.glob("*.gz"):
        path.unlink()
    with pytest.raises(UserError, match=r"holds no mimic-cxr-\*-split.csv"):
        source.recordings(raw)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"labels": "Edema"}, "list"),
        ({"labels": ("Edema", "Edema")}, "twice"),
        ({"labels": ("Ed-ema",)}, "'Ed-ema'"),
        ({"uncertain": -1}, "uncertain is -1"),
        ({"subset": "yes"}, "subset is 'yes'"),
        ({"key_file": ""}, "key_file"),
    ],
)
def test_bad_fields_are_refused_at_birth(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        MimicCxr(**{"key_file": "key", **fields})


def test_the_command_makes_a_store_that_names_nobody(raw: Path, tmp_path: Path) -> None:
    broken = raw / place(("00000000-broken", *IMAGES[2][1:]))
    broken.write_bytes((raw / place(IMAGES[2])).read_bytes()[:300])
    tables(raw, split=[*split_rows(), {**split_rows()[2], "dicom_id": broken.stem}])
    root = tmp_path / "store"
    arguments = [
        *("stage=ingest", "data=mimic_cxr", f"raw={raw}", "data.size=[32,40]", "workers=0", "max_rejected=0.2"),
        *(f"data.source.key_file={tmp_path / 'key'}", f"dst={root}"),
    ]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        done = sample(compose("sample", arguments))
    assert "1 x unreadable: OSError in image 1 of 1" in str(done)
    assert verify(src=str(root), command="", code_version="").problem is None
    table = Store(root, kind="video").table
    assert sorted(table["Split"]) == ["TEST", "TRAIN", "TRAIN", "TRAIN", "VAL"]
    assert table["NumberOfFrames"].tolist() == [1] * 5
    assert table["Pneumonia"].isna().sum() == 2
    names = of(MimicCxr(key_file=str(tmp_path / "key")))
    frame = Store(root).frames(names[IMAGES[3][0]])[0, ..., 0]
    assert abs(float(frame[:, 8:32].mean()) - float(pixels(3).mean())) < 3  # no padding in columns 8:32
    said = "".join(path.read_text() for path in sorted(root.glob("*")) if path.is_file())
    for _, study, patient, _, _ in IMAGES:
        assert patient not in said
        assert study not in said
    with (root / "rejected.csv").open(newline="") as file:
        assert not any("broken" in cell or "p1" in cell for row in csv.reader(file) for cell in row[1:])
    assert not any(image[0] in said for image in IMAGES)
