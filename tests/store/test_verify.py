import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from echodream.store import Store, StoreError, find_problems, verify
from echodream.store.latents import write_latents
from echodream.store.video import write_video
from tests.support.fakes import flip, latent_store, noise, posterior, reseal, video_store


@pytest.mark.parametrize("channels", [1, 3])
def test_a_store_as_it_was_made_is_accepted(tmp_path: Path, channels: int) -> None:
    video_store(tmp_path / "store", channels=channels)
    assert list(find_problems(tmp_path / "store")) == []
    assert len(verify(tmp_path / "store")) == 3


def test_a_latent_store_is_accepted(tmp_path: Path) -> None:
    latent_store(tmp_path / "store")
    assert len(verify(tmp_path / "store")) == 2


def replaced(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def to_link(path: Path) -> None:
    elsewhere = path.parent.parent / f"{path.parent.name}-{path.name}"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def foreign_video(root: Path) -> None:
    import av

    with av.open(str(root / VIDEO), "w", format="matroska") as container:
        stream = container.add_stream("mpeg4", rate=32)
        stream.width, stream.height, stream.pix_fmt = 23, 19, "yuv420p"
        for frame in noise(2, 19, 23):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame[..., 0], format="gray")))
        container.mux(stream.encode(None))


def outside(root: Path) -> None:
    (root.parent / "x.mkv").write_bytes((root / VIDEO).read_bytes())
    replaced(root / "FileList.csv", "rec-000", "../../x")
    replaced(root / "SHA256SUMS", VIDEO, "Videos/../../x.mkv")


VIDEO, LATENT = "Videos/rec-000.mkv", "Latents/rec-000.safetensors"
Damage = Callable[[Path], object]

# name -> (function that damages a store, expected error). "sealed": the checksums match the damaged files.
VIDEO_DAMAGE: dict[str, tuple[Damage, str]] = {
    "video missing": (lambda r: (r / VIDEO).unlink(), "rec-000.mkv is missing, or not"),
    "video is a folder": (
        lambda r: ((r / VIDEO).unlink(), (r / VIDEO).mkdir()),
        "rec-000.mkv is missing, or not",
    ),
    "video is a pipe": (
        lambda r: ((r / VIDEO).unlink(), os.mkfifo(r / VIDEO)),
        "rec-000.mkv is missing, or not",
    ),
    "video more": (lambda r: (r / "Videos/b.mkv").write_text(""), "b.mkv is not listed in FileList.csv"),
    "file more": (lambda r: (r / "notes.txt").write_text(""), "notes.txt is not part of a store"),
    "hidden file": (lambda r: (r / ".DS_Store").write_text(""), "DS_Store is not part of a store"),
    "other media": (lambda r: (r / "Latents").mkdir(), "Latents is not part of a store"),
    "video link": (lambda r: to_link(r / VIDEO), "rec-000.mkv is a link: a store holds regular files only"),
    "folder link": (lambda r: to_link(r / "Videos"), "Videos is not a folder"),
    "table link": (lambda r: to_link(r / "FileList.csv"), "FileList.csv is a link: a store holds regular files only"),
    "video changed": (lambda r: flip(r / VIDEO), "rec-000.mkv has changed since the store was written"),
    "video cut": (lambda r: (r / VIDEO).write_bytes((r / VIDEO).read_bytes()[:-9]), "rec-000.mkv has changed"),
    "table changed": (lambda r: replaced(r / "FileList.csv", "55.5", "65.5"), "FileList.csv has changed"),
    "json changed": (lambda r: replaced(r / "dataset.json", "lossless", "lossy"), "dataset.json has changed"),
    "reason changed": (lambda r: replaced(r / "rejected.csv", "cut", "out"), "rejected.csv has changed"),
    "rejected missing": (lambda r: (r / "rejected.csv").unlink(), "rejected.csv cannot be read (No such file"),
    "sums missing": (lambda r: (r / "SHA256SUMS").unlink(), "SHA256SUMS cannot be read (No such file"),
    "sums cut": (lambda r: drop_line(r, VIDEO), "rec-000.mkv has no line in SHA256SUMS"),
    "sums without table": (lambda r: drop_line(r, "FileList.csv"), "FileList.csv has no line in SHA256SUMS"),
    "sums more": (lambda r: add_line(r, f"{'0' * 64}  ../x"), "SHA256SUMS lists '../x', which is not in FileList.csv"),
    "sums twice": (
        lambda r: add_line(r, f"{'0' * 64}  {VIDEO}"),
        "is not '<sha256>  <path>', or its path is listed twice",
    ),
    "sums damaged": (lambda r: add_line(r, "hello"), "is not '<sha256>  <path>'"),
    "sums binary": (lambda r: (r / "SHA256SUMS").write_bytes(b"\xff" * 70), "SHA256SUMS is not UTF-8 text"),
}
SEALED_VIDEO_DAMAGE: dict[str, tuple[Damage, str]] = {
    "more frames": (
        lambda r: write_video(r / VIDEO, noise(4), 32),
        "rec-000.mkv has 4 frames of 19x23, FileList.csv states 2 of 19x23",
    ),
    "other size": (
        lambda r: write_video(r / VIDEO, noise(2, 23, 19), 32),
        "rec-000.mkv has 2 frames of 23x19, FileList.csv states 2 of 19x23",
    ),
    "colour": (lambda r: write_video(r / VIDEO, noise(2, channels=3), 32), "ffv1 bgr0, but a store holds ffv1 gray"),
    "lossy": (foreign_video, "mpeg4 yuv420p, but a store holds ffv1 gray"),
    "no video": (lambda r: (r / VIDEO).write_text("x"), "rec-000.mkv is not a readable video"),
    "size of the store": (
        lambda r: replaced(r / "dataset.json", '"height": null', '"height": 64'),
        "FileList.csv: rec-000 is 23x19, dataset.json states anyx64",
    ),
}
LATENT_DAMAGE: dict[str, tuple[Damage, str]] = {
    "float32": (
        lambda r: save_file({key: np.zeros((3, 4, 5, 6), np.float32) for key in ("mean", "std")}, r / LATENT),
        "rec-000.safetensors: mean and std are {'F32'}",
    ),
    "other keys": (
        lambda r: save_file({"latent": posterior(3)[0]}, r / LATENT),
        "contains the tensors ['latent'], not mean",
    ),
    "channels": (lambda r: write_latents(r / LATENT, *posterior(3, 5)), "not float16 (F, 4, H, W)"),
    "frames": (
        lambda r: write_latents(r / LATENT, *posterior(4)),
        "has 4 frames of 5x6, FileList.csv states 3 of 5x6",
    ),
    "size": (lambda r: write_latents(r / LATENT, *posterior(3, 4, 6, 5)), "has 3 frames of 6x5, FileList.csv states"),
    "not finite": (
        lambda r: save_file({"mean": posterior(3)[0] * np.float16(np.nan), "std": posterior(3)[1]}, r / LATENT),
        "a latent is not finite",
    ),
    "pickle": (lambda r: (r / LATENT).write_bytes(b"\x80\x04N."), "is not a readable safetensors file"),
}


def drop_line(root: Path, name: str) -> None:
    lines = (root / "SHA256SUMS").read_text().splitlines(keepends=True)
    (root / "SHA256SUMS").write_text("".join(line for line in lines if not line.endswith(f"  {name}\n")))


def add_line(root: Path, line: str) -> None:
    with (root / "SHA256SUMS").open("a") as file:
        file.write(f"{line}\n")


def said(root: Path) -> str:
    found = list(find_problems(root))
    with pytest.raises(StoreError, match=re.escape(found[0])):
        verify(root)
    assert all("\n" not in problem for problem in found)
    return "; ".join(found)


@pytest.mark.slow
@pytest.mark.parametrize("name", VIDEO_DAMAGE)
def test_damage_is_named(tmp_path: Path, name: str) -> None:
    video_store(tmp_path / "store")
    damage, sentence = VIDEO_DAMAGE[name]
    damage(tmp_path / "store")
    assert sentence in said(tmp_path / "store")


@pytest.mark.parametrize(
    ("make", "damage", "sentence"),
    [
        *(pytest.param(video_store, *case, id=name) for name, case in SEALED_VIDEO_DAMAGE.items()),
        *(pytest.param(latent_store, *case, id=name) for name, case in LATENT_DAMAGE.items()),
    ],
)
def test_files_that_are_not_what_the_tables_say_are_named(
    tmp_path: Path, make: Callable[[Path], object], damage: Callable[[Path], object], sentence: str
) -> None:
    make(tmp_path / "store")
    damage(tmp_path / "store")
    reseal(tmp_path / "store")
    assert sentence in said(tmp_path / "store")


def test_a_name_that_leaves_the_folder_is_refused_though_its_file_is_there(tmp_path: Path) -> None:
    video_store(tmp_path / "store")
    outside(tmp_path / "store")
    assert "FileName '../../x' is not allowed" in said(tmp_path / "store")


def test_a_patient_in_two_splits_is_refused(tmp_path: Path) -> None:
    video_store(tmp_path / "store")
    replaced(tmp_path / "store/FileList.csv", "VAL,001", "VAL,000")
    reseal(tmp_path / "store")
    assert "PatientID '000' is in two splits, TRAIN and VAL" in said(tmp_path / "store")


def test_all_problems_are_found_and_counted(tmp_path: Path) -> None:
    video_store(tmp_path / "store")
    flip(tmp_path / "store" / VIDEO)
    (tmp_path / "store/Videos/rec-001.mkv").unlink()
    (tmp_path / "store/other").write_text("")
    assert len(list(find_problems(tmp_path / "store"))) == 3
    with pytest.raises(StoreError, match=r"other is not part of a store.* \(and 2 more\)$"):
        verify(tmp_path / "store")


def test_every_byte_of_every_file_is_under_a_checksum(tmp_path: Path) -> None:
    root = tmp_path / "store"
    video_store(root)
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        whole = path.read_bytes()
        for at in (0, len(whole) // 2, len(whole) - 1):
            flip(path, at)
            assert list(find_problems(root)), (path, at)
            path.write_bytes(whole)
    assert list(find_problems(root)) == []


def test_sha256sum_agrees(tmp_path: Path) -> None:
    import shutil
    import subprocess

    if shutil.which("sha256sum") is None:
        pytest.skip("there is no sha256sum here")
    video_store(tmp_path / "store")
    command = ["sha256sum", "--check", "--quiet", "--strict", "SHA256SUMS"]
    assert subprocess.run(command, cwd=tmp_path / "store", check=False).returncode == 0
    flip(tmp_path / "store" / VIDEO)
    assert subprocess.run(command, cwd=tmp_path / "store", check=False, capture_output=True).returncode == 1


def test_a_link_to_a_store_is_a_store(tmp_path: Path) -> None:
    video_store(tmp_path / "big" / "store")
    (tmp_path / "store").symlink_to(tmp_path / "big" / "store")
    assert len(verify(tmp_path / "store")) == 3


def test_a_store_can_be_moved(tmp_path: Path) -> None:
    video_store(tmp_path / "store").root.rename(tmp_path / "moved")
    assert isinstance(verify(tmp_path / "moved"), Store)
