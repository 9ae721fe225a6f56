"""Tests of ``stage=publish`` on a tiny study: published files, error messages, and no name of a patient."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import yaml
from hydra import compose, initialize_config_dir
from PIL import Image

from echodream import engine
from echodream.config.paths import CONF_DIR
from echodream.diffusion.model import load_diffusion_model
from echodream.errors import UserError
from echodream.ingest import burned_in_text
from echodream.ingest.burned_in_text import TextBox
from echodream.publishing.cards import is_license
from echodream.publishing.media_folder import write_media_folder
from echodream.runs.redaction import redact_paths_in_command
from echodream.runs.summary import Summary
from echodream.stages.publish import _public_row
from echodream.store import Dataset, Store, StoreWriter
from echodream.store.checksums import file_sha256
from echodream.store.latents import write_latents
from echodream.store.schema import CHECKSUMS
from tests.support.stores import ENCODER, make_video_store, row
from tests.support.tiny_diffusion import artifact, model
from tests.support.tiny_report import STATEMENT, number, real_store, records, synthetic_stores

pytestmark = pytest.mark.slow

GENERATOR = model("lidm")
LIDM, LVDM = GENERATOR.fingerprint(), "b" * 64


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study whose videos and generator may be published."""
    root = tmp_path_factory.mktemp("publish")
    samples, reports = root / "samples/phantom", root / "reports/phantom"
    real = latents_of(real_store(root / "data/phantom/videos"), root / "data/phantom/latents")
    images = private_images(samples / "private")
    synthetic_stores(samples, samples={"model": LVDM, "source": images.checksum, "seed": 0})
    records(reports)
    record = json.loads((reports / "filter_video/filter.json").read_text())
    record["decision"]["training_patients"] = 6
    record["real"] = real.checksum
    write(reports / "filter_video/filter.json", record)
    write(reports / "filter_image/filter.json", {**record, "generator": LIDM})
    for on, name, generator in (("image", "lidm", LIDM), ("video", "lvdm", LVDM)):
        folder = samples / ("private" if on == "image" else "private_videos")
        facts = {
            "source": file_sha256(folder / CHECKSUMS),
            "generator": generator,
            "not measured": {},
            "real": record["real"],
        }
        write(reports / audit(on), {**facts, "measures": [inference(name), share()], "command": "python sample.py"})
    artifact(root / "models/phantom/lidm", GENERATOR, "lidm")
    return root


def latents_of(videos: Store, root: Path, leave_out: int = 0) -> Store:
    """Write a latent store with the recordings of ``videos``, except the first ``leave_out`` recordings."""
    latent = Dataset(kind="latent", channels=4, layout="F,C,H,W", fidelity="float16", encoder=ENCODER)
    rows = videos.table.to_dict("records")[leave_out:]
    with StoreWriter(root, latent) as writer:
        for row in rows:
            mean = np.zeros((row["NumberOfFrames"], 4, 4, 4), np.float16)
            write_latents(writer.scratch_path(row["FileName"]), mean, mean)
            writer.commit({**row, "FrameHeight": 4, "FrameWidth": 4}, writer.scratch_path(row["FileName"]))
        return writer.finish([row["FileName"] for row in rows])


def audit(on: str) -> str:
    return "audit/audit.json" if on == "image" else "audit_video/audit.json"


def inference(name: str, found: float = 0.52, stands_out: bool = False) -> dict[str, Any]:
    told = {"name": f"membership inference ({name}), AUC", "about": "privacy", "harmless": ".5: chance", "details": {}}
    told |= {"value": number(found, found - 0.05, found + 0.05), "expected": number(0.5, 0.5, 0.5), "means": "a share"}
    return {**told, "stands_out": stands_out}


def share() -> dict[str, Any]:
    return {**inference("x"), "name": "authenticity", "value": number(0.1, 0.05, 0.2)}


def private_images(root: Path, settings: dict[str, Any] | None = None) -> Store:
    """Write a store of images that were sampled by the image model (lidm) and passed the filter."""
    settings = settings or {"decision": {"passed": True}, "samples": {"model": LIDM, "seed": 0}}
    latents = {"kind": "latent", "channels": 4, "layout": "F,C,H,W", "fidelity": "float16", "encoder": ENCODER}
    row = {"FileName": "image-000003", "Split": "TRAIN", "PatientID": "S000003", "NumberOfFrames": 3, "FPS": 25.0}
    with StoreWriter(root, Dataset(**latents, synthetic=True, settings=settings)) as writer:  # type: ignore[arg-type]
        mean = np.zeros((3, 4, 4, 4), np.float16)
        write_latents(writer.scratch_path("image-000003"), mean, mean)
        writer.commit({**row, "FrameHeight": 4, "FrameWidth": 4}, writer.scratch_path("image-000003"))
        return writer.finish(["image-000003"])


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def run(root: Path, *overrides: str) -> Summary:
    """Run ``stage=publish`` on the study below ``root``."""
    paths = [f"paths.{name}={root}/{name}" for name in ("data", "models", "samples", "runs", "reports")]
    fixed = ["stage=publish", "data=phantom", "license=cc-by-nc-4.0", *paths]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return engine.sample(compose("sample", [*fixed, *overrides]))


@pytest.fixture
def study(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "study"))


@pytest.fixture(scope="module")
def published(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the published videos, before any upload to the hub."""
    folder = tmp_path_factory.mktemp("hub") / "videos"
    run(whole, f"dst={folder}")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_the_published_videos_are_those_that_passed_under_other_names(published: Path, whole: Path) -> None:
    """Published videos have the same pixels in another order, and no columns about sampling and similarity."""
    made, source = Store(published / "store"), Store(whole / "samples/phantom/videos")
    own = ["FileName", "Split", "PatientID", "NumberOfFrames", "FPS", "FrameHeight", "FrameWidth"]
    assert list(made.table) == [*own, "class_id", "class_name"]
    assert made.table["FileName"].tolist() == [f"phantom-{number:04}" for number in range(1, 7)]
    assert made.table["PatientID"].nunique() == 6
    pixels = {source.frames(name).tobytes(): row for row, name in enumerate(source.table["FileName"])}
    order = [pixels[made.frames(name).tobytes()] for name in made.table["FileName"]]
    assert sorted(order) == list(range(6))
    assert order != sorted(order)
    assert made.table["class_id"].tolist() == [source.table["class_id"][row] for row in order]
    assert "PrivacyScore" in source.table
    assert made.dataset.settings == {"filter": STATEMENT, "generators": {"lidm": LIDM, "lvdm": LVDM}}


def test_video_folder_has_each_recording_as_mp4_with_its_row(published: Path) -> None:
    """The layout is VideoFolder of the datasets library: metadata.csv is next to the files and lists the file names."""
    made, folder = Store(published / "store"), published / "videofolder/train"
    with (folder / "metadata.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [line["file_name"] for line in rows] == [f"phantom-{number:04}.mp4" for number in range(1, 7)]
    assert sorted(path.name for path in folder.iterdir()) == ["metadata.csv", *(line["file_name"] for line in rows)]
    assert [path.name for path in (published / "videofolder").iterdir()] == ["train"]
    assert [int(line["class_id"]) for line in rows] == made.table["class_id"].tolist()
    assert "PatientID" not in rows[0]
    for line in rows:
        expected = made.frames(line["FileName"])
        with av.open(str(folder / line["file_name"])) as container:
            assert container.streams.video[0].codec_context.name == "h264"
            found = np.stack([frame.to_ndarray(format="gray") for frame in container.decode(video=0)])[..., None]
        assert found.shape == expected.shape
        assert np.abs(found.astype(int) - expected).mean() < 8


def test_croissant_describes_the_files_and_columns_that_are_there(published: Path) -> None:
    content = json.loads((published / "croissant.json").read_text())
    assert content["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    assert content["license"] == "cc-by-nc-4.0"
    assert STATEMENT in content["description"]
    files = {node["@id"]: node for node in content["distribution"]}
    objects = {name: node for name, node in files.items() if node["@type"] == "cr:FileObject"}
    assert {node["contentUrl"]: node["sha256"] for node in objects.values()} == {
        name: file_sha256(published / name) for name in ("videofolder/train/metadata.csv", "store/SHA256SUMS")
    }
    sets = [node["includes"] for name, node in files.items() if name not in objects]
    assert [len(list(published.glob(pattern))) for pattern in sets] == [6, 6]
    (records,) = content["recordSet"]
    with (published / "videofolder/train/metadata.csv").open(newline="") as file:
        header = next(csv.reader(file))
    assert [field["source"]["extract"]["column"] for field in records["field"]] == header
    assert {field["source"]["fileObject"]["@id"] for field in records["field"]} <= objects.keys()
    types = {field["name"]: field["dataType"] for field in records["field"]}
    assert (types["class_id"], types["FPS"], types["class_name"]) == ("sc:Integer", "sc:Float", "sc:Text")
    used = {key for key in content if not key.startswith("@")} - {
        "name",
        "description",
        "license",
        "version",
        "distribution",
    }
    assert used <= content["@context"].keys()


@pytest.mark.parametrize(
    "file", ["videofolder/train/phantom-0002.mp4", "videofolder/train/metadata.csv", "croissant.json", "card.json"]
)
def test_changed_playable_file_is_refused(study: Path, tmp_path: Path, file: str) -> None:
    run(study, f"dst={tmp_path}/out")
    path = tmp_path / "out" / file
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(UserError, match="was changed since it was checked: remove it"):
        run(study, f"dst={tmp_path}/out")


def test_interrupted_video_folder_is_continued_with_the_same_bytes(
    published: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, target = Path.rename, tmp_path / "hub"

    def stop(self: Path, new: Path) -> Path:
        if new.name == "phantom-0004.mp4":
            raise KeyboardInterrupt
        return rename(self, new)

    monkeypatch.setattr(Path, "rename", stop)
    with pytest.raises(KeyboardInterrupt):
        run(whole, f"dst={target}")
    monkeypatch.setattr(Path, "rename", rename)
    partial = tmp_path / "hub.partial/videofolder/train"
    kept = (partial / "phantom-0003.mp4").stat().st_mtime_ns
    assert (partial / ".new-phantom-0004.mp4").exists()
    run(whole, f"dst={target}")
    assert (target / "videofolder/train/phantom-0003.mp4").stat().st_mtime_ns == kept
    assert contents(target) == contents(published)


def test_image_folder_has_a_png_for_each_frame(tmp_path: Path) -> None:
    store = make_video_store(tmp_path / "store", [row("a", "1", 3, class_id=1), row("b", "2", 1, class_id=0)], 3)
    write_media_folder(tmp_path / "imagefolder", "images", store)
    with (tmp_path / "imagefolder/train/metadata.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = ["a/frame_0000.png", "a/frame_0001.png", "a/frame_0002.png", "b/frame_0000.png"]
    assert [(one["file_name"], one["class_id"]) for one in rows] == list(zip(names, "1110", strict=True))
    frames = np.concatenate([store.frames("a"), store.frames("b")])
    for name, frame in zip(names, frames, strict=True):
        assert np.array_equal(np.array(Image.open(tmp_path / "imagefolder/train" / name)), frame)


def test_data_card_has_the_statement_and_the_measures(published: Path) -> None:
    text = (published / "README.md").read_text()
    head = yaml.safe_load(text.split("---")[1])
    assert head["license"] == "cc-by-nc-4.0"
    assert head["size_categories"] == "n<1K"
    assert {"synthetic", "echocardiography"} <= set(head["tags"])
    assert head["configs"] == [{"config_name": "default", "data_dir": "videofolder"}]
    assert 'load_dataset("videofolder", data_dir="videofolder")' in text
    assert f"> {STATEMENT}" in text
    assert "Of 8 samples, the filter rejected 2 and kept 6." in text
    assert "| Membership inference (lvdm), AUC | 0.52 [0.47, 0.57] | 0.5 |" in text
    assert "| Membership inference (lidm), AUC | 0.52 [0.47, 0.57] | 0.5 |" in text
    assert "No measure of the audit stands out. This is no proof of privacy." in text
    assert LVDM in text
    assert "\n\n\n" not in text


@pytest.mark.slow
def test_the_card_says_what_was_certified_and_not_that_no_copy_is_there(study: Path, tmp_path: Path) -> None:
    """After two decisions, the card has the lower confidence, and the expected number of copies among the samples."""
    run(study, f"dst={tmp_path}/first")
    text = " ".join((tmp_path / "first/README.md").read_text().split())
    assert "contains no recording of a patient" not in text
    assert "passes the filter with probability at most 5 %, with confidence 95 %. Other kinds" in text

    def change(record: dict[str, Any]) -> None:
        record["decision"]["tries"] = 2
        record["decision"]["copies"] = {"samples": 6, "rejected": 2, "expected": 0.158, "bound": 1}

    changed(study, "filter_video/filter.json", change)
    run(study, f"dst={tmp_path}/second")
    text = " ".join((tmp_path / "second/README.md").read_text().split())
    assert "with confidence 90 %. At most 0.16 of the 6 samples that passed are expected to be such copies" in text
    assert "and at most 1 with the confidence in the statement. Other kinds of copies were not tested." in text


def test_data_card_has_the_seven_cs_and_card_json(published: Path) -> None:
    text = (published / "README.md").read_text()
    record = json.loads((published / "card.json").read_text())
    schema = json.loads((published / record["$schema"]).read_text())
    pytest.importorskip("jsonschema").Draft202012Validator(schema).validate(record)
    for name, criterion in record["criteria"].items():
        assert f"### {name.capitalize()}\n\n{criterion['question']}" in text
        for figure in criterion["figures"]:
            shown = "as stated above" if figure["text"] == STATEMENT else " ".join(figure["text"].split())
            assert f"| {figure['name']} | {shown} |" in text
        for entry in criterion["not measured"]:
            assert f"- {entry['what']}" in text
    facts = {each["name"]: each["text"] for each in record["criteria"]["compliance"]["figures"]}
    assert facts["License"] == "cc-by-nc-4.0"
    assert facts["Statement of the filter"] == STATEMENT
    assert text.count(STATEMENT) == 1  # a second copy would hide the deletion of the first
    assert "Seed" not in {each["name"].split()[0] for each in record["criteria"]["consistency"]["figures"]}


def test_no_patient_and_no_path_is_named(published: Path, whole: Path) -> None:
    for name, content in contents(published).items():
        for secret in ("Doe-", "rec0", "video-0000", "image-0000", str(whole), "PrivacyScore", "Seed"):
            assert secret.encode() not in content, name
    record = json.loads((published / "publish.json").read_text())
    assert file_sha256(whole / "samples/phantom/videos" / CHECKSUMS) not in json.dumps(record)


def test_same_bytes_again_and_nothing_to_do_if_complete(published: Path, whole: Path, tmp_path: Path) -> None:
    run(whole, f"dst={tmp_path}/again")
    assert contents(tmp_path / "again") == contents(published)
    assert "already complete" in run(whole, f"dst={published}").title


def test_interrupted_run_is_continued_with_the_same_bytes(
    published: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, target = StoreWriter.commit, tmp_path / "hub"

    def stop(self: StoreWriter, row: Any, media: Path) -> None:
        if len(self.done) == 3:
            raise KeyboardInterrupt
        commit(self, row, media)

    monkeypatch.setattr(StoreWriter, "commit", stop)
    with pytest.raises(KeyboardInterrupt):
        run(whole, f"dst={target}")
    monkeypatch.setattr(StoreWriter, "commit", commit)
    assert not target.exists()
    assert (tmp_path / "hub.partial").is_dir()
    run(whole, f"dst={target}")
    assert contents(target) == contents(published)
    assert not (tmp_path / "hub.partial").exists()


def changed(study: Path, file: str, change: Callable[[dict[str, Any]], None] | None) -> None:
    """Apply ``change`` to the record ``file``, or remove the file if ``change`` is None."""
    path = study / "reports/phantom" / file
    if change is None:
        return path.unlink()
    record = json.loads(path.read_text())
    change(record)
    write(path, record)


def failed(record: dict[str, Any]) -> None:
    record["decision"] |= {"passed": False, "statement": "Nothing may pass: too few patients."}


def percentile(record: dict[str, Any]) -> None:
    record["decision"]["rule"] = "percentile"


def without_inference(record: dict[str, Any]) -> None:
    record["measures"] = record["measures"][1:]
    record["not measured"] = {"membership inference": "generator=null"}


REFUSALS: list[tuple[str, Callable[[dict[str, Any]], None] | None, str]] = [
    ("filter_video/filter.json", failed, "was not decoded from the videos that passed the filter"),
    ("filter_video/filter.json", percentile, "rule=percentile gives no guarantee"),
    (
        "filter_video/filter.json",
        None,
        "publishing needs the filter, run python sample.py stage=filter data=phantom",
    ),
    ("audit_video/audit.json", None, "nothing is published without its audit, run .*stage=audit data=phantom on=video"),
    ("audit/audit.json", None, "nothing is published without its audit, run .*stage=audit data=phantom$"),
    ("audit_video/audit.json", without_inference, r"has no membership inference \(generator=null\)"),
    (
        "audit_video/audit.json",
        lambda record: record.update(generator="c" * 64),
        "is not about the lvdm of these samples",
    ),
    ("audit/audit.json", lambda record: record.update(generator=LVDM), "is not about the lidm of these samples"),
    ("audit_video/audit.json", lambda record: record.update(source="d" * 64), "is not about the samples in"),
    ("audit_video/audit.json", lambda record: record.pop("measures"), "is not a valid record"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("file", "change", "says"), REFUSALS)
def test_videos_are_refused_without_filter_or_audit(
    study: Path, file: str, change: Callable[[dict[str, Any]], None] | None, says: str
) -> None:
    changed(study, file, change)
    with pytest.raises(UserError, match=says):
        run(study)
    assert not list((study / "reports/phantom/hub").glob("*"))


def test_videos_that_were_not_decoded_from_what_passed_are_refused(study: Path) -> None:
    samples = study / "samples/phantom"
    shutil.rmtree(samples / "private_videos")
    shutil.move(samples / "videos", samples / "others")
    synthetic_stores(samples, 5, samples={"model": LVDM})
    with pytest.raises(UserError, match="was not decoded from the videos that passed the filter"):
        run(study, f"src={samples}/others")
    with pytest.raises(UserError, match="is not synthetic"):
        run(study, f"src={study}/data/phantom/videos")
    with pytest.raises(UserError, match=r"was not generated from .*private, the images that passed the filter"):
        run(study)


def test_a_store_that_changed_since_is_refused(study: Path) -> None:
    video = next((study / "samples/phantom/videos/Videos").iterdir())
    video.write_bytes(video.read_bytes()[:-7])
    with pytest.raises(UserError, match="has changed since the store was written"):
        run(study)
    assert not (study / "reports/phantom/hub/videos").exists()


def test_finding_is_on_the_card_of_the_videos(study: Path) -> None:
    changed(study, audit("image"), lambda record: record.update(measures=[inference("lidm", 0.7, True)]))
    summary = run(study)
    said = "membership inference (lidm), AUC is 0.7 [0.65, 0.75] where a harmless generator gives 0.5"
    assert summary.facts["audit"] == said
    assert f"- {said}" in (study / "reports/phantom/hub/videos/README.md").read_text()


def test_a_generator_is_published_with_the_weights_that_were_audited(study: Path) -> None:
    run(study, "what=lidm")
    folder = study / "reports/phantom/hub/lidm"
    assert load_diffusion_model(str(folder), "lidm").fingerprint() == LIDM
    head = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    assert (head["license"], head["library_name"]) == ("cc-by-nc-4.0", "diffusers")
    text = (folder / "README.md").read_text()
    assert "Of 8 samples, the study's privacy filter rejected\n2 as too close" in text
    assert "6 training patients" in text
    names = {"README.md", "publish.json", "artifact.json", "training.yaml", "config.json", "diffusion.json"}
    assert names <= set(contents(folder)) <= names | {"diffusion_pytorch_model.safetensors", "conditioner.safetensors"}


def other_model(record: dict[str, Any]) -> None:
    record["generator"] = LVDM


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        (
            "filter_image/filter.json",
            failed,
            "no sample passed the filter of images, so .*: Nothing may pass",
        ),
        ("filter_image/filter.json", None, "publishing needs the filter"),
        ("filter_image/filter.json", other_model, "was run on samples of another model"),
        ("audit/audit.json", None, "nothing is published without its audit"),
        ("audit/audit.json", other_model, "is not about the lidm of these samples"),
        ("audit/audit.json", without_inference, "has no membership inference"),
    ],
)
def test_a_generator_is_refused_without_filter_or_audit(
    study: Path, file: str, change: Callable[[dict[str, Any]], None] | None, says: str
) -> None:
    changed(study, file, change)
    with pytest.raises(UserError, match=says):
        run(study, "what=lidm")


def test_generator_with_a_membership_finding_is_refused_unless_accepted(study: Path) -> None:
    changed(study, audit("image"), lambda record: record.update(measures=[inference("lidm", 0.7, True)]))
    with pytest.raises(UserError, match=r"AUC is 0.7 \[0.65, 0.75\].*or accept this finding with accept_findings=true"):
        run(study, "what=lidm")
    run(study, "what=lidm", "accept_findings=true")
    assert "**The audit has findings.**" in (study / "reports/phantom/hub/lidm/README.md").read_text()


def test_a_generator_whose_weights_changed_is_refused(study: Path) -> None:
    shutil.rmtree(study / "models/phantom/lidm")
    artifact(study / "models/phantom/lidm", model("lidm", seed=1), "lidm")
    with pytest.raises(UserError, match="was run on samples of another model"):
        run(study, "what=lidm")


def test_a_generator_with_canaries_is_refused(study: Path) -> None:
    path = study / "models/phantom/lidm/artifact.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "canaries": "ab" * 32}))
    with pytest.raises(UserError, match="its seed reveals which patients were left out"):
        run(study, "what=lidm")


def test_a_generator_that_began_with_a_model_of_other_patients_is_refused(study: Path) -> None:
    path = study / "models/phantom/lidm/artifact.json"
    initial = {"fingerprint": "12" * 32, "source": "34" * 32, "origin": "", "initial": None}
    path.write_text(json.dumps({**json.loads(path.read_text()), "initial": initial}))
    with pytest.raises(UserError, match=r"artifact=.* is refused: .*its initial model's patients are not covered"):
        run(study, "what=lidm")


def test_the_bound_by_canaries_and_the_guarantee_are_on_the_card_of_a_generator(study: Path) -> None:
    budget = {"epsilon": 7.9, "delta": 1e-5, "accountant": "opacus 1.6.0 prv"}
    artifact_file = study / "models/phantom/lidm/artifact.json"
    artifact_file.write_text(
        json.dumps({**json.loads(artifact_file.read_text()), "privacy": budget, "source": "ef" * 32})
    )
    path = study / "reports/phantom/audit_canaries/audit.json"
    others = study / "reports/phantom/audit_video_canaries/audit.json"
    for each, statement in ((path, "epsilon is at least 0.7"), (others, "epsilon of an lvdm")):
        each.parent.mkdir()
        each.write_text(json.dumps({"statement": statement, "command": "c", "code_version": "v"}))
    run(study, "what=lidm")
    text = (study / "reports/phantom/hub/lidm/README.md").read_text()
    assert "- epsilon is at least 0.7" in text
    assert "epsilon of an lvdm" not in text
    assert "**Differential privacy.** The training of this lidm is differentially private for patients" in text
    assert "epsilon 7.9 at delta 1e-05, by the accountant opacus 1.6.0 prv" in text
    published = json.loads((study / "reports/phantom/hub/lidm/artifact.json").read_text())
    assert (published["source"], published["settings"], published["privacy"]) == ("", "", budget)


def test_patient_name_in_the_training_settings_is_refused(study: Path) -> None:
    recipe = study / "models/phantom/lidm/training.yaml"
    recipe.write_text("seed: 0\nnote: not Doe-003q\n")
    with pytest.raises(UserError, match=r"training.yaml would name Doe-003q"):
        run(study, "what=lidm")
    assert not (study / "reports/phantom/hub/lidm").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["what=reid"], "what=reid is refused: the identity network contains information about its training patients"),
        (["what=vae"], "what=vae is refused: an autoencoder contains"),
        (["what=classifier"], "what=classifier is refused"),
        (["what=film"], "what is 'film': choose one of videos, images, lidm, lvdm"),
        (["license=null"], "license= is needed: give a license identifier of the hub"),
        (["license=Free"], "license=Free is not a license identifier of the hub"),
        (["columns=[class_id,Seed]"], r"columns=\[Seed\] is not published"),
        (["columns=[PrivacyScore]"], r"columns=\[PrivacyScore\] is not published"),
        (["public=yes"], "public is 'yes': give true or false"),
        (["push=nobody"], "push=nobody is not possible: give <namespace>/<name>"),
        (["push=lab/hearts"], "push=lab/hearts needs a token: set HF_TOKEN"),
        (["real=/nowhere"], "real=/nowhere does not exist"),
    ],
)
def test_impossible_settings_are_refused(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str], says: str
) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(UserError, match=says):
        run(whole, f"dst={tmp_path}/out", *overrides)
    assert not list(tmp_path.iterdir())


class Hub:
    """A fake hub that records uploads."""

    sent = list[dict[str, Any]]()
    broken = False
    private = True

    def create_repo(self, name: str, **told: Any) -> None:
        if self.broken:
            raise ConnectionError("no route to host")
        self.sent.append({"name": name, **told})

    def repo_info(self, name: str, repo_type: str) -> Any:
        return SimpleNamespace(private=self.private)

    def upload_folder(self, **told: Any) -> Any:
        self.sent.append(told)
        return SimpleNamespace(repo_url="https://hub.example/lab/hearts")


@pytest.mark.slow
def test_push_uploads_the_checked_folder(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_secret")
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    monkeypatch.setattr(Hub, "sent", [])
    summary = run(study, "push=lab/hearts")
    made, sent = Hub.sent
    assert made == {"name": "lab/hearts", "repo_type": "dataset", "private": True, "exist_ok": True}
    assert (sent["repo_id"], sent["repo_type"]) == ("lab/hearts", "dataset")
    assert sent["folder_path"] == study / "reports/phantom/hub/videos"
    assert summary.facts["uploaded"] == "https://hub.example/lab/hearts"
    assert b"hf_secret" not in b"".join(contents(study / "reports").values())
    monkeypatch.setattr(Hub, "private", False)  # an existing public repository is not made private
    with pytest.raises(UserError, match="push=lab/hearts exists and is public: give another name, or public=true"):
        run(study, "push=lab/hearts")
    del Hub.sent[2:]
    run(study, "push=lab/hearts", "public=true")
    assert Hub.sent[2]["private"] is False
    monkeypatch.setattr(Hub, "broken", True)
    with pytest.raises(
        UserError, match=r"was not accepted by the hub \(no route to host\): .* is complete, run the same"
    ):
        run(study, "push=lab/hearts")


@pytest.mark.slow
@pytest.mark.parametrize("what", ["videos", "lidm"])
def test_names_are_those_of_the_study_that_the_filter_compared_with(study: Path, tmp_path: Path, what: str) -> None:
    """Other names of recordings or patients, or a missing recording, are errors; another order or more rows are not."""
    real = Store(study / "data/phantom/videos")
    others = {"names": {"FileName": "other-"}, "patients": {"PatientID": "Roe-"}}
    for name, renamed in others.items():
        renumbered(real, tmp_path / name, renamed)
        with pytest.raises(
            UserError, match=rf"real=.*{name} is not the study .*: 10 of the 10 names in column {next(iter(renamed))}"
        ):
            run(study, f"what={what}", f"real={tmp_path}/{name}")
    latents_of(real, tmp_path / "fewer", 1)
    with pytest.raises(UserError, match=r"filter_\w+/filter.json is of another study than latents=.*fewer"):
        run(study, f"what={what}", f"latents={tmp_path}/fewer")
    with pytest.raises(UserError, match="latents=/nowhere is not a store"):
        run(study, f"what={what}", "latents=/nowhere")
    assert not (study / "reports/phantom/hub").exists()
    renumbered(real, tmp_path / "more", {}, extra=True)
    run(study, f"what={what}", f"real={tmp_path}/more")


def test_an_audit_of_another_study_is_refused(study: Path) -> None:
    changed(study, audit("image"), lambda record: record.update(real="e" * 64))
    with pytest.raises(UserError, match=r"audit/audit.json is of another study than latents="):
        run(study)


def renumbered(videos: Store, root: Path, prefixes: dict[str, str], extra: bool = False) -> None:
    """Write the same recordings in reverse order, with new name prefixes; ``extra`` adds one recording."""
    rows = videos.table.to_dict("records")[::-1]
    rows = [{**row, **{column: f"{prefix}{row[column]}" for column, prefix in prefixes.items()}} for row in rows]
    sources = [*videos.table["FileName"]][::-1]
    if extra:
        rows, sources = [*rows, {**rows[0], "FileName": "one-more", "PatientID": "Poe-1"}], [*sources, sources[0]]
    with StoreWriter(root, videos.dataset) as writer:
        for row, source in zip(rows, sources, strict=True):
            shutil.copyfile(videos.path(source), writer.scratch_path(row["FileName"]))
            writer.commit(row, writer.scratch_path(row["FileName"]))
        writer.finish([row["FileName"] for row in rows])


def sent(study: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> int:
    """Publish with ``push``; return the number of requests to the hub."""
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_secret")
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    monkeypatch.setattr(Hub, "sent", [])
    run(study, "push=lab/hearts", *overrides)
    return len(Hub.sent)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["videos", "lidm"])
@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (STATEMENT, "No copy passes.", "lacks the filter's statement"),
        (STATEMENT, STATEMENT.replace("5 %", "1 %"), "lacks the filter's statement"),
        (f"> {STATEMENT}", f"<!--\n> {STATEMENT}\n-->", "lacks the filter's statement"),
        ("membership inference (lidm), AUC is 0.7", "membership inference (lidm), AUC is 0.5", "lacks a finding"),
        ("differential privacy.\n- ", "differential privacy.\n- But as good.\n- ", "lacks the section Limits"),
        ("\n## Limits", "\n## Notes", "lacks the section Limits"),
        ("# ", "# Our ", None),
        (" It is not", "\n> It is not", None),
    ],
)
def test_edited_card_must_keep_statement_findings_and_limits(
    study: Path, monkeypatch: pytest.MonkeyPatch, what: str, old: str, new: str, says: str | None
) -> None:
    changed(study, audit("image"), lambda record: record.update(measures=[inference("lidm", 0.7, True)]))
    asked = [f"what={what}", "accept_findings=true"]
    run(study, *asked)
    card = study / "reports/phantom/hub" / what / "README.md"
    text = card.read_text()
    edited = text.replace(old, new, 1) if says is None else text.replace(old, new)
    assert edited != text
    card.write_text(edited)
    if says is None:
        assert sent(study, monkeypatch, *asked) == 2
    else:
        with pytest.raises(UserError, match=f"README.md {says}.*: put it back word for word, or remove .*/{what} and"):
            sent(study, monkeypatch, *asked)
        assert not Hub.sent
    assert card.read_text() == edited


def test_unknown_file_in_the_folder_stops_the_upload(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(study)
    (study / "reports/phantom/hub/videos/notes.txt").write_text("Jane")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_secret")
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    monkeypatch.setattr(Hub, "sent", [])
    with pytest.raises(UserError, match="is not a published file"):
        run(study, "push=lab/hearts")
    assert not Hub.sent


@pytest.mark.parametrize("what", ["videos", "lidm"])
def test_replaced_files_stop_the_upload(study: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    run(study, f"what={what}")
    folder = study / "reports/phantom/hub" / what
    if what == "videos":  # a valid store of samples that were not filtered
        synthetic_stores(study / "other")
        shutil.rmtree(folder / "store")
        shutil.copytree(study / "other/videos", folder / "store")
    else:
        other = artifact(study / "other", model("lidm", seed=1), "lidm")
        shutil.copyfile(
            Path(other) / "diffusion_pytorch_model.safetensors", folder / "diffusion_pytorch_model.safetensors"
        )
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_secret")
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    monkeypatch.setattr(Hub, "sent", [])
    with pytest.raises(UserError, match="was changed since it was checked: remove it"):
        run(study, f"what={what}", "push=lab/hearts")
    assert not Hub.sent


def test_filter_record_must_match_the_store_of_passed_samples(study: Path) -> None:
    """A filter.json that was written by another run of the filter than the samples is an error."""
    changed(study, "filter_image/filter.json", lambda record: record.update(source="e" * 64))
    root = study / "samples/phantom/private"
    settings = json.loads((root / "dataset.json").read_text())["settings"]
    shutil.rmtree(root)
    private_images(root, {**settings, "source": "f" * 64})
    changed(study, audit("image"), lambda record: record.update(source=file_sha256(root / CHECKSUMS)))
    with pytest.raises(UserError, match=r"filter.json and .*private are of different runs of the filter"):
        run(study, "what=lidm")
    shutil.rmtree(root)
    private_images(root, {**settings, "source": "e" * 64})
    changed(study, audit("image"), lambda record: record.update(source=file_sha256(root / CHECKSUMS)))
    run(study, "what=lidm")


def test_ejection_fraction_and_heart_rate_are_rounded() -> None:
    row = {"FileName": "image-000003", "EF": 63.48271, "HeartRate": 71.52, "class_id": 2}
    kept = ["FileName", "EF", "HeartRate", "class_id"]
    made = {"FileName": "study-0007", "PatientID": "0007", "EF": 63, "HeartRate": 72, "class_id": 2}
    assert _public_row(row, kept, "study-0007") == made


def test_paths_with_spaces_are_redacted_in_commands() -> None:
    typed = "python sample.py stage=publish dst=/ward/Doe Jane/a=b/out on=video src=samples/Doe Jane/x license=mit"
    assert redact_paths_in_command(typed) == "python sample.py stage=publish dst=... on=video src=... license=mit"


def test_license_identifiers() -> None:
    assert all(map(is_license, ("cc-by-nc-4.0", "mit", "other", "apache-2.0")))
    assert not any(map(is_license, ("", None, "CC BY", "mit\nx: 1", 4)))


@pytest.mark.parametrize("text", ["ANNA WEBER", "12.03.1961"])
@pytest.mark.slow
def test_readable_text_in_a_frame_is_refused_unless_it_is_accepted(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    source = Store(study / "samples/phantom/videos")
    shown = source.frames("video-000002")

    def find_text(frames: np.ndarray, threads: int) -> list[TextBox]:
        return [TextBox((3, 4, 30, 12), text)] if np.array_equal(frames, shown) else [TextBox((0, 0, 9, 9), "5 cm")]

    monkeypatch.setattr(burned_in_text, "is_installed", lambda: True)
    monkeypatch.setattr(burned_in_text, "find_text", find_text)
    with pytest.raises(UserError, match=r"1 of 6 .*\(video-000002 at column 3, row 4\).*accept_text") as told:
        run(study, f"dst={tmp_path}/out")
    assert text not in str(told.value)
    assert not (tmp_path / "out").exists()
    assert run(study, f"dst={tmp_path}/out", "accept_text=true").facts["text"] == "accepted in 1 recordings"
    monkeypatch.setattr(burned_in_text, "find_text", lambda frames, threads: [])
    assert run(study, f"dst={tmp_path}/two").facts["text"] == "none found in the frames"
    monkeypatch.setattr(burned_in_text, "find_text", lambda frames, threads: pytest.fail("searched again"))
    assert run(study, f"dst={tmp_path}/two").facts["text"] == "none found in the frames"


def test_without_the_extra_the_summary_says_that_no_text_was_searched(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(burned_in_text, "is_installed", lambda: False)
    assert "pip install 'echodream[text-check]'" in str(run(study, f"dst={tmp_path}/out").facts["text"])
