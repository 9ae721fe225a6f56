"""``labels=<csv>``: strict reading; each column is used, refused or reported as unread; cells stay in their rows."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from echodream.config.paths import CONF_DIR
from echodream.errors import UserError
from echodream.sampling.label_csv import read_labels
from echodream.stages import image as stage_image
from tests.support.sampling_study import CONDITIONS, image, refused, study, video, write_csv
from tests.support.tiny_diffusion import artifact, model


@pytest.mark.slow
def test_labels_of_a_csv_go_row_by_row(tmp_path: Path) -> None:
    folder = study(tmp_path, CONDITIONS)
    labels = write_csv(tmp_path / "asked.csv", "EF,class_id,note", "44.5,3,x", ",1,y", "60,,z", "41,0,")
    store = image(folder, "n=null", f"labels={labels}")
    assert store.table["class_id"].fillna(-1).tolist() == [3, 1, -1, 0]
    assert store.table["EF"].fillna(-1).tolist() == [44.5, -1, 60, 41]
    assert "View" not in store.table
    assert len(image(folder, "n=2", f"labels={labels}", at="two")) == 2
    refused("n=5, but labels=.* has 4 rows", lambda: image(folder, f"labels={labels}", at="five"), folder, "five")
    write_csv(labels, "EF,class_id", "44.5,3", ",1", "60,0", "41,0")
    words = r"images already exists with other settings \(settings.labels was 'csv "
    with pytest.raises(UserError, match=words):
        image(folder, "n=null", f"labels={labels}")


@pytest.mark.slow
def test_labels_of_a_csv_for_videos(tmp_path: Path) -> None:
    folder = study(tmp_path)
    image(folder)
    by_row = write_csv(tmp_path / "rows.csv", "class_id", *"33110")
    assert video(folder, f"labels={by_row}", at="by_row").table["class_id"].tolist() == [3, 3, 1, 1, 0]
    rows = [f"image-{row:06d},{number}" for row, number in ((4, 3), (2, 1), (0, 3), (1, 0), (3, 1), (9, 0))]
    by_name = write_csv(tmp_path / "names.csv", "Source,class_id", *rows)
    found = video(folder, f"labels={by_name}", "repeat=true", "n=7", at="by_name").table
    assert found["class_id"].tolist() == [3, 0, 1, 1, 3, 3, 0]
    assert found["Source"].tolist()[5:] == ["image-000000", "image-000001"]
    short = write_csv(tmp_path / "short.csv", "class_id", "1")
    refused("has 1 rows for 5 videos", lambda: video(folder, f"labels={short}", at="x"), folder, "x")
    lost = write_csv(tmp_path / "lost.csv", *by_name.read_text().splitlines()[:3])
    refused("has no row whose Source is image-000000", lambda: video(folder, f"labels={lost}", at="x"), folder, "x")
    twice = write_csv(tmp_path / "twice.csv", *by_name.read_text().splitlines(), rows[1])
    words = "two rows whose Source is image-000002"
    refused(words, lambda: video(folder, f"labels={twice}", at="x"), folder, "x")


STRICT = [
    ("class_id,note\n1,2,x\n", "asked.csv, line 2: 3 cells for 2 columns"),
    ("class_id\n1,\n3,\n", "asked.csv, line 2: 2 cells for 1 columns"),
    ("class_id,note\n1,x\n3\n", "asked.csv, line 3: 1 cells for 2 columns"),
    ("class_id,note,class_id\n1,x,3\n", "asked.csv, line 1: the column 'class_id' occurs twice; keep one"),
    ("class_id, class_id\n1,3\n", "asked.csv, line 1: the column 'class_id' occurs twice"),
    ("class_id\n1\n\n3\n", 'asked.csv, line 3 is empty: remove the line, or write ""'),
    ("class_id,EF\n1,50\n3,nan\n", "asked.csv, line 3: EF is 'nan'; leave an unknown value empty"),
    ('class_id\n"1\n', "asked.csv, line .* is not csv"),
    ("class_id\n1\n\x07\n", "asked.csv, line 3: a control character in a cell"),
    (
        "class_id,View\n1,A4C\n",
        "asked.csv has a column View, but this model has only the conditions class_id, EF: remove it",
    ),
    ("class_id,text\n1,a heart\n", "asked.csv has a column text, but this model has only the conditions class_id, EF"),
    ("class_id,ef\n1,50\n", "asked.csv has a column 'ef': write EF"),
    ("class_id, EF\n1,50\n", "asked.csv has a column ' EF': write EF"),
    ("class,note\n1,50\n", "asked.csv has no rows with class_id or EF"),
    ("class_id,EF\n", "asked.csv has no rows with class_id or EF"),
    ("", "asked.csv has no rows with class_id or EF"),
]


@pytest.mark.parametrize(("text", "words"), STRICT)
def test_a_csv_that_is_not_what_it_seems_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "asked.csv").write_text(text)
    with pytest.raises(UserError, match=f"^labels={tmp_path}/{words}") as caught:
        read_labels(str(tmp_path / "asked.csv"), ["class_id", "EF"])
    assert "store" not in str(caught.value)


def test_a_csv_that_is_not_there_is_refused_as_a_csv(tmp_path: Path) -> None:
    for name, words in (("none.csv", r"cannot be read \(No such file or directory\)"), (".", "is not a file")):
        with pytest.raises(UserError, match=f"^labels={tmp_path / name} {words}; correct the csv$"):
            read_labels(str(tmp_path / name), ["class_id"])


def test_the_cells_of_a_csv_are_typed_as_those_of_a_store(tmp_path: Path) -> None:
    """Cells have the types of a store: numeric columns are numbers, others are text; empty cells stay empty."""
    file = tmp_path / "asked.csv"
    file.write_bytes(b'\xef\xbb\xbfclass_id,EF,View,Source,note,"a,b"\r\n3, 44.5,007,1,x,\r\n,60,,01,,y\r\n\r\n')
    found = read_labels(str(file), ["View", "EF", "class_id", "text"])
    assert found.values == {"View": ["007", None], "EF": [44.5, 60], "class_id": [3, None]}
    assert [type(cell) for cell in found.values["class_id"]] == [int, type(None)]
    assert found.sources == ["1", "01"]
    assert found.unread_columns == ("note", "a,b")
    write_csv(file, "EF", "50", '""', "55")
    assert read_labels(str(file), ["EF"]).values == {"EF": [50, None, 55]}


@pytest.mark.slow
def test_columns_that_nothing_reads_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = study(tmp_path)
    rows = [f"image-{row:06d},1,x,y" for row in range(5)]
    labels = write_csv(tmp_path / "asked.csv", "Source,class_id,note,device", *rows)
    with caplog.at_level("INFO"):
        image(folder, f"labels={labels}")
    assert "ignored columns  note, device, Source\n" in caplog.text
    caplog.clear()
    with caplog.at_level("INFO"):
        video(folder, f"labels={labels}")
    assert "ignored columns  note, device\n" in caplog.text
    caplog.clear()
    with caplog.at_level("INFO"):
        image(folder, "steps=1", at="uniform")
    assert "ignored columns" not in caplog.text


def test_a_model_that_is_told_nothing_takes_no_csv(tmp_path: Path) -> None:
    artifact(tmp_path / "lidm", model("lidm", ()), "lidm")
    labels = write_csv(tmp_path / "asked.csv", "class_id", "1")
    words = "asked.csv has no rows with any condition of this model"
    refused(words, lambda: image(tmp_path, f"labels={labels}", at="x"), tmp_path, "x")
    refused("labels=even: choose", lambda: image(tmp_path, "labels=even", at="x"), tmp_path, "x")
    assert len(image(tmp_path, "n=3", "steps=1", "labels=training")) == 3


@pytest.mark.slow
def test_without_n_a_csv_gives_all_of_its_rows_and_other_labels_two_thousand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        assert compose("sample", ["stage=image", "data=phantom"]).n is None
    assert stage_image._DEFAULT_COUNT == 2000
    monkeypatch.setattr(stage_image, "_DEFAULT_COUNT", 7)
    folder = study(tmp_path, latents=True)
    labels = write_csv(tmp_path / "four.csv", "class_id", *"3103")
    for at, asked, count in (("four", labels, 4), ("uniform", "uniform", 7), ("training", "training", 7)):
        assert len(image(folder, "n=null", "steps=1", f"labels={asked}", at=at)) == count
    artifact(folder / "free", model("lidm", ()), "lidm")
    assert len(image(folder, "n=null", "steps=1", f"artifact={folder}/free", at="told_nothing")) == 7
