"""Yaml files that users write for their own study: errors are one sentence, and null removes an inherited value."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig

from echodream.config.error_messages import error_sentence
from echodream.config.own_studies import check_own_study
from echodream.config.paths import CONF_DIR
from echodream.errors import UserError
from echodream.ingest.videos import Videos

HEAD = "defaults: [videos]\nname: s\n"


def study(folder: Path, content: str | bytes) -> list[str]:
    """Write mine/data/own.yaml and return the command-line arguments that select this study."""
    path = folder / "mine" / "data" / "own.yaml"
    path.parent.mkdir(parents=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return ["--config-dir", str(folder / "mine"), "stage=ingest", "data=own"]


def composed(folder: Path) -> DictConfig:
    search = f"hydra.searchpath=[file://{folder / 'mine'}]"
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose("sample", ["stage=ingest", "data=own", search])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (f"{HEAD}source:\n\tcsv: t.csv\n", r"own.yaml, line 4: found character .* indent with blanks instead of tabs"),
        (f"{HEAD}name: t\n", r"own.yaml, line 3: found duplicate key name: .*give each key once"),
        (f"{HEAD}source: {{csv: a, csv: b}}\n", r"own.yaml, line 3: found duplicate key csv"),
        (f"{HEAD}source: {{csv: [a\n", r"own.yaml, line 4: expected"),
        ("defaults: [videos]\nname: %x\n", r"own.yaml, line 2: .*quote texts with special characters"),
        ("name: s\n", r"own.yaml has no list of defaults: begin it with defaults: \[videos\]"),
        ("defaults: videos\nname: s\n", r"own.yaml has no list of defaults"),
        ("", r"own.yaml has no list of defaults"),
        ("- a\n", r"own.yaml has no list of defaults"),
        (f"{HEAD}sorce: {{csv: t.csv}}\n", r"own.yaml has the unknown key 'sorce'; .*did you mean 'source'"),
        ("defaults: [videos]\nname: no\n", r"own.yaml: YAML reads the name as False: write it in quotes"),
        ("defaults: [videos]\nname: 2024_01\n", r"own.yaml, line 2: YAML reads 2024_01 as 202401: .*quotes, '2024_01'"),
        (
            f"{HEAD}source: {{classes: [1:10]}}\n",
            r"own.yaml, line 3: YAML reads 1:10 as 70: write it in quotes, '1:10'",
        ),
        (f"{HEAD}source:\n  columns:\n    Site: 010\n", r"own.yaml, line 5: YAML reads 010 as 8: .*'010'"),
        ("defaults: [videos]\nname: M\xfcller\n".encode("latin-1"), r"own.yaml is not UTF-8 text: save it as UTF-8"),
    ],
)
def test_a_file_that_is_no_study(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        check_own_study(study(tmp_path, content))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [HEAD, f"\ufeff{HEAD}", "defaults: [videos]\nname: 2024\n", f"{HEAD}fps: 25\n"])
def test_a_file_that_is_a_study(tmp_path: Path, content: str) -> None:
    arguments = study(tmp_path, content)
    check_own_study(arguments)
    check_own_study([f"--config-dir={arguments[1]}", *arguments[2:]])
    assert composed(tmp_path).data.source._target_.endswith("Videos")


def test_damage_in_a_file_that_the_study_builds_on_is_one_sentence(tmp_path: Path) -> None:
    check_own_study(study(tmp_path, "defaults: [other]\nname: s\n"))
    (tmp_path / "mine" / "data" / "other.yaml").write_text(f"{HEAD}source:\n\tcsv: t\n")
    with pytest.raises(Exception, match=r"tab|token") as error:
        composed(tmp_path)
    assert "other.yaml, line 4: found character" in str(error_sentence(error.value, "sample", []))


def test_null_drops_an_inherited_column_or_label(tmp_path: Path) -> None:
    own = "source: {labels: {PA: null, Male: null}, columns: {class_name: null, Day: null}, classes: null}\n"
    study(tmp_path, f"defaults: [chest_xray]\nname: s\n{own}")
    source = instantiate(composed(tmp_path).data.source, _convert_="all")
    assert source.labels == {"ICU": "icu", "Survived": "survived"}
    assert source.columns == {"FileName": "image_id", "PatientID": "patient_id", "Sex": "sex"}


def test_names_that_yaml_makes_numbers_of_are_texts(tmp_path: Path) -> None:
    own = "source: {csv: t.csv, columns: {FileName: 1, class_name: 2.5}, classes: [0, 1, a]}\n"
    study(tmp_path, HEAD + own)
    source = instantiate(composed(tmp_path).data.source, _convert_="all")
    assert source.columns == {"FileName": "1", "class_name": "2.5"}
    assert source.classes == ("0", "1", "a")


@pytest.mark.parametrize(
    "fields",
    [
        {"csv": "t", "columns": {"FileName": "f", "class_name": "c"}, "classes": [False, True]},
        {"csv": "t", "columns": {"FileName": "f", "class_name": "c"}, "classes": ["a", None]},
        {"columns": {"FileName": "f", "Kind": False}},
        {"columns": {"FileName": "f", True: "kind"}},
    ],
    ids=str,
)
def test_words_that_yaml_makes_something_else_of_are_refused_with_the_quotes_to_write(
    fields: dict[str, object],
) -> None:
    with pytest.raises(
        UserError, match=r"which YAML reads for .*: write names in quotes, such as \['no', 'yes'\] in a"
    ):
        Videos(**fields)  # type: ignore[arg-type]


def test_a_number_where_a_file_is_needed() -> None:
    with pytest.raises(UserError, match=r"^csv is 2024: write it in quotes, '2024'$"):
        Videos(csv=2024)  # type: ignore[arg-type]
