"""Fuzz tests: a file with random content is either read or rejected with one sentence. Every run has the same cases.

``ECHODREAM_FUZZ=10000`` scales the numbers in ``CASES`` to 10,000 cases in total, see CONTRIBUTING.md.
"""

import contextlib
import gzip
import json
import math
import os
import shutil
import struct
import sys
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import strategies as st
from safetensors.numpy import save

from echodream.errors import UserError
from echodream.ingest.cardiacnet import CardiacNet
from echodream.ingest.dicom import Dicom
from echodream.ingest.echonet import EchoNetDynamic
from echodream.ingest.images import Images, read_image
from echodream.ingest.media_files import read_gif, read_video_file
from echodream.ingest.nifti import read_nifti
from echodream.ingest.preprocessing import Preprocessing
from echodream.ingest.source import Limits, Source
from echodream.ingest.videos import Videos
from echodream.store import Store, StoreWriter, verify
from echodream.store.latents import probe_latents, read_latents
from echodream.store.schema import REQUIRED_COLUMNS, read_dataset
from echodream.store.table import read_file_list
from echodream.store.video import probe_video, read_video, write_video
from tests.support.dicom_files import encapsulated
from tests.support.dicom_files import write as write_dicom
from tests.support.fakes import latent_store, noise, posterior, reseal, video_dataset, video_store
from tests.support.fuzzing import Decoder, answer, check_sentence, damaged, fuzz
from tests.support.ingesting import run_ingest

CASES = {
    "file list": 400,
    "file list bytes": 150,
    "json": 400,
    "json bytes": 150,
    "safetensors header": 250,
    "safetensors bytes": 150,
    "store video": 350,
    "nifti header": 250,
    "nifti bytes": 100,
    "mp4": 150,
    "avi": 150,
    "gif": 80,
    "checksums": 80,
    "links": 60,
    "names": 120,
    "raw csv": 100,
    "raw FileList": 50,
    "raw dicom header": 150,
    "raw dicom bytes": 100,
    "raw nifti": 60,
    "raw mpg": 60,
    "raw mp4": 40,
    "raw avi": 40,
    "raw pictures": 60,
    "yaml": 60,
    "overrides": 60,
}
"""Number of cases of each test. Tests with "raw" in the name run ingest, which ends with a store or an error."""
if asked := int(os.environ.get("ECHODREAM_FUZZ", "0")):
    total = sum(CASES.values())
    CASES = {name: math.ceil(count * asked / total) for name, count in CASES.items()}
LIMITS = Limits(max_frames=200, max_side=2_000, max_bytes=50_000_000)


def test_there_are_enough_cases() -> None:
    assert sum(CASES.values()) >= max(asked, 2_000)


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    decoder = Decoder()
    yield decoder
    decoder.close()


# --- FileList.csv ---

NASTY = [
    "",
    " ",
    "..",
    "../../etc/passwd",
    "/etc/passwd",
    "a/b",
    "C:\\x",
    "a\0b",
    "\x1b[2J",
    "\u2028",
    "\ud7ff",
    "é",
    "٣",
]
NASTY += ["nan", "inf", "-inf", "1e999", "-0", "0", "-1", "1.5", "100000", "1" * 400, "9" * 18, "007", "1_0", "0x1F"]
NASTY += ["TRAIN", "VAL", "train", "True", "x" * 300, "=cmd()", '"', '""', "'", ",", "\n", "\r\n", "a", "A", "\ufeff"]
CELL = st.one_of(st.sampled_from(NASTY), st.text(max_size=12), st.integers().map(str), st.floats().map(repr))
GOOD_ROW = ["a", "TRAIN", "1", "5", "32.0", "19", "23", "55.5"]


@st.composite
def tables(draw: st.DrawFn) -> str:
    """Text of a FileList.csv with some cells, columns or line ends replaced, with or without correct quoting."""
    rows = [
        [*REQUIRED_COLUMNS, "EF"],
        *([f"r{index}", *GOOD_ROW[1:2], str(index), *GOOD_ROW[3:]] for index in range(3)),
    ]
    for _ in range(draw(st.integers(0, 3))):
        row = rows[draw(st.integers(0, len(rows) - 1))]
        if row:
            row[draw(st.integers(0, len(row) - 1))] = draw(CELL)
    if draw(st.integers(0, 5)) == 0:
        row = rows[draw(st.integers(0, 3))]
        row[:] = [*row, draw(CELL)] if draw(st.booleans()) else row[:-1]
    quote = draw(st.booleans())
    cells = [['"' + cell.replace('"', '""') + '"' if quote else cell for cell in row] for row in rows]
    end = draw(st.sampled_from(["\n", "\r\n", "\r", "\n\n"]))
    return draw(st.sampled_from(["", "", "\ufeff", "\n"])) + end.join(",".join(row) for row in cells) + end


@pytest.mark.slow
def test_any_file_list(tmp_path: Path) -> None:
    def ask(text: str) -> str | None:
        (tmp_path / "FileList.csv").write_text(text, encoding="utf-8", errors="replace", newline="")
        return answer(lambda: check_table(tmp_path))

    assert fuzz(CASES["file list"], tables(), ask, tmp_path)[True] > 20


def check_table(folder: Path) -> None:
    table = read_file_list(folder)
    assert not table["FileName"].str.contains(r"[^A-Za-z0-9._-]").any()
    assert table["PatientID"].map(type).eq(str).all()
    assert table["NumberOfFrames"].dtype == np.int64
    assert table["FPS"].between(0.001, 1000).all()
    assert table.groupby("PatientID")["Split"].nunique().le(1).all()
    assert not np.isinf(table.select_dtypes("number")).any(axis=None)


def test_any_bytes_as_a_file_list(tmp_path: Path) -> None:
    whole = (",".join(REQUIRED_COLUMNS) + "\na,TRAIN,1,5,32.0,19,23\nb,VAL,2,5,32.0,19,23\n").encode()

    def ask(content: bytes) -> str | None:
        (tmp_path / "FileList.csv").write_bytes(content)
        return answer(lambda: check_table(tmp_path))

    fuzz(CASES["file list bytes"], st.one_of(st.binary(max_size=80), damaged(whole)), ask, tmp_path)


# --- dataset.json ---

NUMBERS = st.one_of(st.integers(), st.floats(), st.sampled_from([10**400, 100_000, 2**63, -1, 0, True, 1.0]))
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=20), st.just("x" * 3000)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=8,
)


@st.composite
def descriptions(draw: st.DrawFn) -> str:
    """Text of a dataset.json with some keys replaced, added, removed or repeated."""
    raw: dict[str, Any] = json.loads(video_dataset(height=5).to_json())
    raw["statistics"] = {"mean": [0.5], "std": [1.0]}
    for _ in range(draw(st.integers(0, 2))):
        key = draw(st.sampled_from([*raw, "statistics", "extra"]))
        if draw(st.integers(0, 4)) == 0:
            raw.pop(key, None)
        elif key == "statistics":
            raw[key] = {"mean": draw(JSON), "std": draw(JSON)}
        else:
            raw[key] = draw(JSON)
    text = json.dumps(raw)
    depth = draw(st.sampled_from([0, 0, 0, 20, 40, 900, 5000, 200_000]))
    if depth:
        text = text[:-1] + ', "settings": ' + '{"a":' * depth + "1" + "}" * depth + "}"
    return draw(st.sampled_from(["", "", "\ufeff", " "])) + text


@pytest.mark.slow
def test_any_description(tmp_path: Path) -> None:
    def ask(text: str) -> str | None:
        (tmp_path / "dataset.json").write_text(text, encoding="utf-8")
        return answer(lambda: read_dataset(tmp_path).to_json())

    assert fuzz(CASES["json"], descriptions(), ask, tmp_path)[True] > 20


def test_any_bytes_as_a_description(tmp_path: Path) -> None:
    def ask(content: bytes) -> str | None:
        (tmp_path / "dataset.json").write_bytes(content)
        return answer(lambda: read_dataset(tmp_path).to_json())

    whole = video_dataset().to_json().encode()
    fuzz(CASES["json bytes"], st.one_of(st.binary(max_size=60), damaged(whole)), ask, tmp_path)


# --- safetensors ---


def read_both(path: Path) -> None:
    """Read a latents file with the function that ``verify`` uses, then with the function that training uses."""
    frames, height, width = probe_latents(path, 4)
    mean, std = read_latents(path, 1, 3)
    assert mean.shape == std.shape == (max(0, min(3, frames) - 1), 4, height, width)


SIDES = st.sampled_from([0, 1, 3, 4, 5, 6, 100_000, 2**31, 2**63, 2**64, -1, 1.5, "4", None])


@st.composite
def tensor_files(draw: st.DrawFn) -> bytes:
    """A safetensors file whose header does not match the tensor data in the file."""
    whole = save(dict(zip(("mean", "std"), posterior(3), strict=True)))
    length = int.from_bytes(whole[:8], "little")
    header, data = json.loads(whole[8 : 8 + length]), whole[8 + length :]
    for _ in range(draw(st.integers(1, 2))):
        name = draw(st.sampled_from(["mean", "std"]))
        entry = header.get(name)
        if not isinstance(entry, dict):
            entry = header[name] = {}
        kind = draw(st.sampled_from(["shape", "side", "dtype", "offsets", "rename", "drop", "extra", "any"]))
        if kind == "shape":
            entry["shape"] = draw(st.lists(SIDES, max_size=6))
        elif kind == "side" and isinstance(entry.get("shape"), list) and entry["shape"]:
            entry["shape"][draw(st.integers(0, len(entry["shape"]) - 1))] = draw(SIDES)
        elif kind == "dtype":
            entry["dtype"] = draw(
                st.sampled_from(["F16", "BF16", "F32", "I16", "U16", "F8_E4M3", "BOOL", "C64", "", "X"])
            )
        elif kind == "offsets":
            entry["data_offsets"] = draw(st.lists(st.sampled_from([0, 720, 1440, 2880, 10**9, 2**64, -1]), max_size=3))
        elif kind == "rename":
            header[draw(st.sampled_from(["Mean", "a\nb", "../x", "x" * 2000, "__metadata__"]))] = header.pop(name)
        elif kind == "drop":
            header.pop(name)
        else:
            header[name if kind == "any" else "extra"] = draw(JSON)
    text = json.dumps(header).encode()
    size = draw(st.sampled_from([len(text), len(text), len(text), 0, len(text) - 1, 10**8, 2**63, 2**64 - 1]))
    return struct.pack("<Q", size) + text + data[: draw(st.sampled_from([len(data), len(data), 0, 7]))]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["safetensors header", "safetensors bytes"])
def test_any_latents(tmp_path: Path, decoder: Decoder, name: str) -> None:
    path, whole = tmp_path / "a.safetensors", save(dict(zip(("mean", "std"), posterior(3), strict=True)))
    path.write_bytes(whole)
    assert decoder.ask(read_both, path) is None

    def ask(content: bytes) -> str | None:
        path.write_bytes(content)
        return decoder.ask(read_both, path)

    fuzz(CASES[name], tensor_files() if "header" in name else damaged(whole, 200), ask, tmp_path)


# --- videos ---


def open_and_read(root: Path) -> None:
    store = verify(root)
    assert store.frames("rec-000").shape == (2, 19, 23, 1)


def read_unchecked(path: Path) -> None:
    read_video(path, 1, [1], 6)


@pytest.mark.slow
def test_any_video_in_a_store(tmp_path: Path, decoder: Decoder) -> None:
    """The checksums of the store match the damaged video, so that ``verify`` decodes the damaged video."""
    store = video_store(tmp_path / "store", 1)
    path = store.path("rec-000")
    assert decoder.ask(open_and_read, store.root) is None

    def ask(content: bytes) -> str | None:
        path.write_bytes(content)
        reseal(store.root)
        said = decoder.ask(open_and_read, store.root)
        unchecked = decoder.ask(read_unchecked, path)  # read the video without checksums
        check_sentence(unchecked, store.root)
        return said

    fuzz(CASES["store video"], damaged(path.read_bytes()), ask, store.root)


def raw_video(path: Path, codec: str, size: int = 32) -> bytes:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = size, size, "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in noise(6, size, size, 3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mp4", "avi"])
def test_any_raw_video(tmp_path: Path, decoder: Decoder, name: str) -> None:
    path = tmp_path / f"a.{name}"
    whole = raw_video(path, "mpeg4")
    assert decoder.ask(read_video_file, path, LIMITS) is None

    def ask(content: bytes) -> str | None:
        path.write_bytes(content)
        return decoder.ask(read_video_file, path, LIMITS)

    head = st.integers(300, 2000).flatmap(lambda head: damaged(whole, head))
    tail = damaged(whole[-1200:]).map(lambda end: whole[:-1200] + end)
    fuzz(CASES[name], st.one_of(head, tail), ask, tmp_path)


@pytest.mark.slow
def test_any_gif(tmp_path: Path, decoder: Decoder) -> None:
    from PIL import Image

    path = tmp_path / "a.gif"
    pictures = [Image.fromarray(frame[..., 0] // 8) for frame in noise(4, 24, 30)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=40)
    whole = path.read_bytes()
    assert decoder.ask(read_gif, path, LIMITS) is None

    def ask(content: bytes) -> str | None:
        path.write_bytes(content)
        return decoder.ask(read_gif, path, LIMITS)

    fuzz(CASES["gif"], damaged(whole, 60), ask, tmp_path)


@pytest.mark.parametrize("side", [65_535, 100_000])
def test_a_header_of_a_huge_picture_takes_no_memory(tmp_path: Path, decoder: Decoder, side: int) -> None:
    path = tmp_path / "a.avi"
    whole = raw_video(path, "ffv1", 240)
    assert decoder.ask(read_video_file, path, LIMITS) is None
    path.write_bytes(whole.replace(struct.pack("<II", 240, 240), struct.pack("<II", side, side)))
    assert str(decoder.ask(read_video_file, path, LIMITS)).startswith("too ")


def test_a_header_of_a_huge_picture_in_a_store_takes_no_memory(tmp_path: Path, decoder: Decoder) -> None:
    store = video_store(tmp_path / "store", 1)
    path = store.path("rec-000")
    assert decoder.ask(open_and_read, store.root) is None
    write_video(path, noise(2, 300, 301), 32)
    content = path.read_bytes()
    assert content.count(b"\xb0\x82\x01\x2d\xba\x82\x01\x2c") == 1  # Matroska PixelWidth 301, PixelHeight 300
    path.write_bytes(content.replace(b"\xb0\x82\x01\x2d\xba\x82\x01\x2c", b"\xb0\x82\xff\xff\xba\x82\xff\xff"))
    reseal(store.root)
    assert "rec-000.mkv" in str(decoder.ask(open_and_read, store.root))
    assert "rec-000.mkv" in str(decoder.ask(read_unchecked, path))


# --- NIfTI ---


def nifti(**fields: object) -> bytes:
    """Bytes of a NIfTI file of 20x22x6 voxels, with the header fields in ``fields`` replaced."""
    import nibabel

    image = nibabel.Nifti1Image(np.asarray(noise(20, 22, 6)[..., 0]), np.eye(4))
    content = bytearray(image.to_bytes())
    header = np.frombuffer(content, nibabel.nifti1.header_dtype, 1)
    for name, value in fields.items():
        header[name] = value  # header is a view of content
    return bytes(content)


@st.composite
def volumes(draw: st.DrawFn) -> bytes:
    fields: dict[str, object] = {}
    short = st.one_of(st.sampled_from([0, 1, -1, 6, 20, 22, 3, 4, 32_767]), st.integers(-(2**15), 2**15 - 1))
    number = st.sampled_from([0.0, 1.0, -1.0, 352.0, 1e9, 1e30, float("nan"), float("inf"), 0.03])
    for kind in draw(
        st.lists(st.sampled_from(["dim", "datatype", "vox_offset", "scl", "pixdim", "magic"]), min_size=1)
    ):
        if kind == "dim":
            fields["dim"] = [
                draw(st.sampled_from([3, 3, 4, 5, 0, 8, -1])),
                *draw(st.lists(short, min_size=7, max_size=7)),
            ]
        elif kind == "datatype":
            kinds = [0, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1536, 1792, 2048, 2304, 3, -1]
            fields["datatype"], fields["bitpix"] = (
                draw(st.sampled_from(kinds)),
                draw(st.sampled_from([0, 8, 16, 24, 64])),
            )
        elif kind == "scl":
            fields["scl_slope"], fields["scl_inter"] = draw(number), draw(number)
        elif kind == "pixdim":
            fields["pixdim"] = draw(st.lists(number, min_size=8, max_size=8))
        elif kind == "magic":
            fields["magic"] = draw(st.sampled_from([b"n+1", b"ni1", b"n+2", b"", b"abc"]))
        else:
            fields["vox_offset"] = draw(number)
    content = nifti(**fields)
    return gzip.compress(content, 1) if draw(st.booleans()) else content


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nifti header", "nifti bytes"])
def test_any_nifti(tmp_path: Path, decoder: Decoder, name: str) -> None:
    path = tmp_path / "a.nii.gz"
    path.write_bytes(nifti())
    assert decoder.ask(read_nifti, path, LIMITS) is None

    def ask(content: bytes) -> str | None:
        path.write_bytes(content)
        return decoder.ask(read_nifti, path, LIMITS)

    packed = damaged(nifti()).map(gzip.compress)
    broken = damaged(gzip.compress(nifti()))
    fuzz(CASES[name], volumes() if "header" in name else st.one_of(packed, broken), ask, tmp_path)


# --- raw folders: listed, read, preprocessed, written and verified ---


def ingest_or_refuse(source: Source, raw: Path) -> None:
    """Ingest the raw folder and verify the store. Raise UserError if ingest rejects a recording."""
    dst = raw.parent / "store"
    for left in (dst, dst.with_name("store.partial")):
        shutil.rmtree(left, ignore_errors=True)
    prepare = Preprocessing(fps=None, size=(16, 16), max_black=1.0, max_frozen=1.0)
    limits = replace(LIMITS, min_frames=1 if isinstance(source, Images) else 2)
    summary = run_ingest(dst, source, raw, prepare=prepare, limits=limits)
    if summary.problem is not None:
        raise UserError(summary.problem)
    verify(dst)


def fuzz_raw(name: str, source: Source, path: Path, cases: st.SearchStrategy[bytes], decoder: Decoder) -> None:
    """Write each of ``cases`` to the file ``path`` and ingest the folder that contains the file."""
    raw = path.parent
    assert decoder.ask(ingest_or_refuse, source, raw) is None

    def ask(content: bytes) -> str | None:
        path.write_bytes(content)
        return decoder.ask(ingest_or_refuse, source, raw)

    fuzz(CASES[name], cases, ask, raw.parent)


def gif(path: Path, seed: int = 0) -> None:
    from PIL import Image

    pictures = [Image.fromarray(frame[..., 0] // 8) for frame in noise(3, 20, 24, seed=seed)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=40)


RAW_CELLS = [*NASTY, "1,5", "1.000,5", "1e3", "#N/A", "NULL", "44927", "01/02/2024", "a.gif", "A.GIF", "a", "TEST", "-"]


@st.composite
def raw_tables(draw: st.DrawFn, rows: list[list[str]]) -> bytes:
    """A csv table with another separator, encoding or line end, and with some cells replaced or rows repeated."""
    rows = [list(row) for row in rows]
    cell = st.one_of(st.sampled_from(RAW_CELLS), CELL)
    for _ in range(draw(st.integers(0, 3))):
        row = rows[draw(st.integers(0, len(rows) - 1))]
        row[draw(st.integers(0, len(row) - 1))] = draw(cell)
    change = draw(st.sampled_from(["", "", "", "double", "drop", "short", "long", "blank", "header"]))
    at = draw(st.integers(1, len(rows) - 1))
    if change == "double":
        rows.insert(at, rows[at])
    elif change == "drop":
        del rows[at]
    elif change in ("short", "long"):
        rows[at] = rows[at][:-1] if change == "short" else [*rows[at], draw(cell)]
    elif change == "blank":
        rows.insert(at, [""] * draw(st.integers(0, 3)))
    elif change == "header":
        rows[0][draw(st.integers(0, len(rows[0]) - 1))] = draw(st.sampled_from([rows[0][0], "", " file ", "FILE"]))
    separator = draw(st.sampled_from([",", ",", ",", ";", "\t", "|", ", "]))
    quote = draw(st.booleans())
    lines = [separator.join('"' + c.replace('"', '""') + '"' if quote else c for c in row) for row in rows]
    text = draw(st.sampled_from(["\n", "\r\n", "\r"])).join(lines) + "\n"
    encoding = draw(st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "latin-1", "utf-16"]))
    content = text.encode(encoding, "replace")
    return draw(damaged(content)) if draw(st.integers(0, 9)) == 0 else content


@pytest.mark.slow
def test_any_csv_of_a_raw_study(tmp_path: Path, decoder: Decoder) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    rows = [["file", "patient", "diagnosis", "EF"]]
    for index, name in enumerate("abc"):
        gif(raw / f"{name}.gif", index)
        rows.append([f"{name}.gif", f"p{index}", "sick" if index else "healthy", str(50.5 + index)])
    path = raw / "labels.csv"
    path.write_text("\n".join(",".join(row) for row in rows) + "\n")
    columns = {"FileName": "file", "PatientID": "patient", "class_name": "diagnosis", "EF": "EF"}
    source = Videos(csv="labels.csv", columns=columns, classes=("healthy", "sick"))
    fuzz_raw("raw csv", source, path, raw_tables(rows), decoder)


@pytest.mark.slow
def test_any_file_list_of_a_raw_study(tmp_path: Path, decoder: Decoder) -> None:
    raw = tmp_path / "raw"
    (raw / "Videos").mkdir(parents=True)
    rows = [["FileName", "EF", "ESV", "EDV", "FrameHeight", "FrameWidth", "FPS", "NumberOfFrames", "Split"]]
    for index, split in enumerate(("TRAIN", "VAL", "TEST")):
        raw_video(raw / "Videos" / f"0X{index}.avi", "mpeg4")
        rows.append([f"0X{index}", "55.5", "40.1", "90.2", "32", "32", "25", "6", split])
    path = raw / "FileList.csv"
    path.write_text("\n".join(",".join(row) for row in rows) + "\n")
    fuzz_raw("raw FileList", EchoNetDynamic(), path, raw_tables(rows), decoder)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["mp4", "avi", "mpg"])
def test_any_raw_video_is_ingested_or_refused(tmp_path: Path, decoder: Decoder, suffix: str) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    path = raw / f"a.{suffix}"
    whole = raw_video(path, {"mp4": "libx264", "avi": "mjpeg", "mpg": "mpeg2video"}[suffix])
    head = st.integers(300, 2000).flatmap(lambda head: damaged(whole, head))
    tail = damaged(whole[-1200:]).map(lambda end: whole[:-1200] + end)
    fuzz_raw(f"raw {suffix}", Videos(), path, st.one_of(head, tail), decoder)


@pytest.mark.slow
def test_any_raw_nifti_is_ingested_or_refused(tmp_path: Path, decoder: Decoder) -> None:
    path = tmp_path / "raw" / "CardiacNet-ASD" / "ASD" / "001_image.nii.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(nifti(pixdim=[1, 1, 1, 40, 0, 0, 0, 0]))
    raw = tmp_path / "raw"
    source = CardiacNet(fps=25.0)
    assert decoder.ask(ingest_or_refuse, source, raw) is None

    def ask(content: bytes) -> str | None:
        path.write_bytes(content)
        return decoder.ask(ingest_or_refuse, source, raw)

    fuzz(CASES["raw nifti"], st.one_of(volumes(), damaged(nifti()).map(gzip.compress)), ask, tmp_path)


@pytest.mark.slow
def test_any_raw_picture_is_ingested_or_refused(tmp_path: Path, decoder: Decoder) -> None:
    from PIL import Image

    raw = tmp_path / "raw"
    raw.mkdir()
    wholes = []
    for form, mode in (("png", "RGBA"), ("jpeg", "RGB"), ("tiff", "I;16"), ("bmp", "P")):
        picture = Image.fromarray(noise(1, 20, 24)[0, ..., 0])
        if mode == "I;16":
            picture = Image.fromarray(noise(1, 20, 24)[0, ..., 0].astype(np.uint16) * 100)
        buffer = BytesIO()
        (picture if mode == "I;16" else picture.convert(mode)).save(buffer, form)
        wholes.append(buffer.getvalue())
    path = raw / "a.png"
    path.write_bytes(wholes[0])
    limits = replace(LIMITS, min_frames=1)
    assert decoder.ask(read_image, path, limits) is None
    fuzz_raw(
        "raw pictures", Images(), path, st.sampled_from(wholes).flatmap(lambda whole: damaged(whole, 120)), decoder
    )


DICOM_TAGS = ["Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel"]
DICOM_TAGS += ["PlanarConfiguration", "PhotometricInterpretation", "NumberOfFrames", "FrameTime", "FrameTimeVector"]
DICOM_TAGS += ["CineRate", "RecommendedDisplayFrameRate", "WindowCenter", "WindowWidth", "VOILUTFunction"]
DICOM_TAGS += ["RescaleSlope", "RescaleIntercept", "PixelPaddingValue", "PixelPaddingRangeLimit", "Modality"]
DICOM_TAGS += ["SmallestImagePixelValue", "LargestImagePixelValue", "PatientID", "SOPInstanceUID", "SOPClassUID"]
DICOM_TAGS += ["StudyInstanceUID", "BurnedInAnnotation", "PixelAspectRatio", "SpecificCharacterSet"]
DICOM_VALUES = [
    b"",
    b"0 ",
    b"1 ",
    b"-1",
    b"2 ",
    b"8 ",
    b"16",
    b"24",
    b"7 ",
    b"1e9 ",
    b"nan ",
    b"99999999",
    b"MONOCHROME1 ",
]
DICOM_VALUES += [
    b"RGB ",
    b"YBR_FULL",
    b"YBR_FULL_422",
    b"PALETTE COLOR ",
    b"ANONYMOUS ",
    b"1\\2\\3 ",
    b"ISO_IR 192",
    b"\\",
]
DICOM_VALUES += [struct.pack("<H", value) for value in (0, 1, 3, 4, 8, 12, 16, 32, 64, 1000, 65535)]


def dicom(folder: Path, kind: str) -> bytes:
    """A valid DICOM file of four frames of 64x72 pixels. ``kind`` sets the encoding of the pixels."""
    from PIL import Image
    from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, JPEGBaseline8Bit, RLELossless

    frames, tags = noise(4, 64, 72)[..., 0], {"SOPInstanceUID": "1.2.3.4.5"}
    path = folder / "whole.dcm"
    if kind == "16 bit":
        values = {"BitsStored": 12, "HighBit": 11, "WindowCenter": 2000, "WindowWidth": 3000}
        write_dicom(path, frames.astype("<u2") * 16, **tags, **values, RescaleSlope=1, RescaleIntercept=0)
    elif kind == "jpeg":
        buffers = [BytesIO() for _ in frames]
        for frame, buffer in zip(frames, buffers, strict=True):
            Image.fromarray(frame).save(buffer, "jpeg")
        encapsulated(write_dicom(path, frames, **tags), [buffer.getvalue() for buffer in buffers], JPEGBaseline8Bit)
    else:
        syntaxes = {"rle": RLELossless, "deflated": DeflatedExplicitVRLittleEndian, "plain": ExplicitVRLittleEndian}
        write_dicom(path, frames, syntax=syntaxes[kind], **tags)
    return path.read_bytes()


@st.composite
def dicom_headers(draw: st.DrawFn, wholes: list[bytes]) -> bytes:
    """A DICOM file with some header elements replaced, added or removed. Values may have the wrong type."""
    from pydicom import dcmread
    from pydicom.datadict import dictionary_VR, tag_for_keyword
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    data = dcmread(BytesIO(draw(st.sampled_from(wholes))))
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(DICOM_TAGS))
        tag = Tag(tag_for_keyword(name))
        if draw(st.integers(0, 4)) == 0:
            data.pop(tag, None)
            continue
        value = draw(st.one_of(st.sampled_from(DICOM_VALUES), st.binary(max_size=12)))
        kind = dictionary_VR(tag) if draw(st.integers(0, 4)) else draw(st.sampled_from(["LO", "US", "DS", "UN", "SQ"]))
        kind = "US" if " or " in kind else kind
        data[tag] = RawDataElement(tag, kind, len(value), value, 0, False, True)
    if draw(st.integers(0, 5)) == 0:
        syntaxes = ["1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.90"]
        syntaxes += ["1.2.840.10008.1.2.4.102", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.5", "1.2.9", ""]
        data.file_meta.TransferSyntaxUID = draw(st.sampled_from(syntaxes))
    content = BytesIO()
    try:
        data.save_as(content, implicit_vr=False, little_endian=True)
    except Exception:  # noqa: BLE001 - pydicom writes what it can
        return draw(damaged(wholes[0]))
    return content.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["raw dicom header", "raw dicom bytes"])
def test_any_dicom(tmp_path: Path, decoder: Decoder, name: str) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    path = raw / "a.dcm"
    wholes = [dicom(tmp_path, kind) for kind in ("plain", "deflated", "16 bit", "jpeg", "rle")]
    source = Dicom(key_file=str(tmp_path / "key"), fps=25.0)
    for whole in wholes:
        path.write_bytes(whole)
        assert decoder.ask(ingest_or_refuse, source, raw) is None
    bytes_cases = st.sampled_from(wholes).flatmap(lambda whole: damaged(whole, 700))
    fuzz_raw(name, source, path, dicom_headers(wholes) if "header" in name else bytes_cases, decoder)


# --- yaml files and command-line overrides of users ---

STUDY = """defaults: [videos]
name: clinic
size: 16
fps: null
max_frozen: 1
source:
  csv: labels.csv
  columns: {FileName: file, PatientID: patient, class_name: diagnosis}
  classes: [healthy, sick]
"""
YAML_VALUES = ["", "no", "yes", "null", "~", "007", "1e3", "0x1F", "1_000", ".nan", "-1", "0", "[]", "{}", "[a, [b]]"]
YAML_VALUES += ["{a: {b: c}}", "!!python/object/apply:os.getcwd []", "&a [*a]", "*a", "${name}", "${nothing}", "???"]
YAML_VALUES += [
    "${oc.env:HOME}",
    "${oc.env:NOTHING}",
    "'a b'",
    '"\\u2028"',
    "\tx",
    "a: b",
    "- x",
    "# x",
    "| ",
    "%",
    "@x",
]
YAML_VALUES += ["2024-01-01", "labels.csv", "../labels.csv", "a=b", "ü", "(x)", "1,5", "9" * 30, "[[[[[[", "true"]


@st.composite
def studies(draw: st.DrawFn) -> bytes:
    """A yaml file of a study: values or keys are replaced, and lines are repeated, removed or indented by tabs."""
    lines = STUDY.splitlines()
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, len(lines) - 1))
        key, _, _ = lines[at].partition(":")
        kind = draw(st.sampled_from(["value", "value", "value", "key", "double", "remove", "tab", "indent"]))
        if kind == "value":
            lines[at] = f"{key}: {draw(st.one_of(st.sampled_from(YAML_VALUES), st.text(max_size=8)))}"
        elif kind == "key":
            lines[at] = lines[at].replace(
                key.strip(), draw(st.sampled_from(["nmae", "limits", "split", "1", "", "no"])), 1
            )
        elif kind == "double":
            lines.insert(at, lines[at])
        elif kind == "remove" and len(lines) > 1:
            del lines[at]
        else:
            lines[at] = ("\t" if kind == "tab" else "   ") + lines[at]
    content = "\n".join(lines).encode("utf-8", "replace")
    return draw(damaged(content)) if draw(st.integers(0, 5)) == 0 else content


def run_study(root: Path, overrides: list[str]) -> None:
    """Run ``sample.py --config-dir mine stage=ingest data=clinic``. If it fails, raise UserError with its output."""
    from hydra.core.global_hydra import GlobalHydra

    from echodream import cli

    for left in ("store", "store.partial"):
        shutil.rmtree(root / left, ignore_errors=True)
    fixed = [f"raw='{root}/raw'", f"dst='{root}/store'", "workers=0", "max_rejected=0", f"paths.runs='{root}/runs'"]
    arguments = ["sample.py", "--config-dir", f"{root}/mine", "stage=ingest", "data=clinic", *fixed, *overrides]
    GlobalHydra.instance().clear()
    printed = StringIO()
    stopped = None
    with mock.patch.object(sys, "argv", arguments), contextlib.redirect_stderr(printed):
        try:
            cli.sample()
        except SystemExit as error:
            stopped = error.code
    if stopped is not None:
        lines = [line for line in printed.getvalue().splitlines() if line.startswith("error: ")]
        assert (stopped, len(lines)) == (1, 1), printed.getvalue()
        raise UserError(lines[0])
    verify(root / "store")


def clinic(root: Path) -> Path:
    """Write a raw study of three clips and its yaml file. Return the path of the yaml file."""
    (root / "raw").mkdir()
    (root / "mine" / "data").mkdir(parents=True)
    rows = ["file,patient,diagnosis"]
    for index, name in enumerate("abc"):
        gif(root / "raw" / f"{name}.gif", index)
        rows.append(f"{name}.gif,p{index},{'sick' if index else 'healthy'}")
    (root / "raw" / "labels.csv").write_text("\n".join(rows) + "\n")
    path = root / "mine" / "data" / "clinic.yaml"
    path.write_text(STUDY)
    return path


@pytest.mark.slow
def test_any_yaml_of_a_study(tmp_path: Path, decoder: Decoder) -> None:
    path = clinic(tmp_path)
    assert decoder.ask(run_study, tmp_path, []) is None

    def ask(content: bytes) -> str | None:
        path.write_bytes(content)
        return decoder.ask(run_study, tmp_path, [])

    fuzz(CASES["yaml"], studies(), ask, tmp_path)


OVERRIDES = [
    "data.size",
    "data.fps",
    "data.crop",
    "data.grey",
    "data.split.seed",
    "data.limits.max_frames",
    "data.name",
]
OVERRIDES += ["data.source.csv", "data.source.classes", "+data.source.columns.EF", "data.source.patient_from", "seed"]
OVERRIDES += ["max_rejected", "workers", "timeout", "text", "data.max_black", "data.rotate", "data.source.image_fps"]


@pytest.mark.slow
def test_any_overrides(tmp_path: Path, decoder: Decoder) -> None:
    clinic(tmp_path)
    assert decoder.ask(run_study, tmp_path, []) is None
    text = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=8)
    value = st.one_of(st.sampled_from(YAML_VALUES), text, st.integers().map(str), st.floats().map(repr))
    override = st.tuples(st.sampled_from(OVERRIDES), value).map("=".join)

    def ask(overrides: list[str]) -> str | None:
        # overrides of workers are removed because run_study sets workers=0
        return decoder.ask(run_study, tmp_path, [one for one in overrides if not one.startswith("workers")])

    fuzz(CASES["overrides"], st.lists(override, min_size=1, max_size=2), ask, tmp_path)


# --- files and links in a store ---


def test_any_checksums(tmp_path: Path) -> None:
    root = video_store(tmp_path / "store", 1).root
    whole = (root / "SHA256SUMS").read_bytes()

    def ask(content: bytes) -> str | None:
        (root / "SHA256SUMS").write_bytes(content)
        return answer(lambda: verify(root))

    fuzz(CASES["checksums"], st.one_of(damaged(whole), st.binary(max_size=200)), ask, root)


def test_any_link(tmp_path: Path) -> None:
    """``verify`` refuses a store in which a link replaces a file or folder, and does not wait for the link's target."""
    root = latent_store(tmp_path / "store").root
    (tmp_path / "copy").mkdir()
    entries = sorted(path for path in root.rglob("*"))
    copies = {path: path.read_bytes() for path in entries if path.is_file()}
    targets = [
        "/dev/zero",
        "/dev/stdin",
        "/etc/passwd",
        "..",
        ".",
        "absent",
        "dataset.json",
        "FileList.csv",
        "/proc/self/mem",
    ]

    def ask(case: tuple[Path, str, bool]) -> str | None:
        path, target, loop = case
        kept = tmp_path / "copy" / path.name
        path.rename(kept)
        path.symlink_to(path.name if loop else target)
        try:
            return answer(lambda: verify(root))
        finally:
            path.unlink()
            kept.rename(path)

    cases = st.tuples(st.sampled_from(entries), st.sampled_from([*targets, *map(str, copies)]), st.booleans())
    assert fuzz(CASES["links"], cases, ask, root)[True] == 0
    assert {path: path.read_bytes() for path in copies} == copies


@pytest.mark.slow
def test_any_name(tmp_path: Path) -> None:
    """No name of a recording makes the store write or read files outside its folder."""
    media = tmp_path / "media.mkv"
    write_video(media, noise(2), 32)
    content = media.read_bytes()
    parts = st.lists(
        st.sampled_from(["..", "/", "a", ".", "\\", "\0", "\n", "~", "store", " ", "é", "x" * 90]), max_size=5
    )
    names = st.one_of(parts.map("".join), st.text(max_size=20), st.just("/tmp/x"))

    def ask(name: str) -> str | None:
        with StoreWriter(tmp_path / "in" / "store", video_dataset()) as writer:
            said = answer(lambda: writer.scratch_path(name).write_bytes(content))
            media.write_bytes(content)
            row = {**dict(zip(REQUIRED_COLUMNS, ("", "TRAIN", "1", 2, 32.0, 19, 23), strict=True)), "FileName": name}
            if name not in writer.done:
                assert (answer(lambda: writer.commit(row, media)) is None) == (said is None)
        store = Store(finished.root)
        assert answer(lambda: store.path(name)) is not None or name == "rec-000"
        return said

    finished = video_store(tmp_path / "finished", 1)
    fuzz(CASES["names"], names, ask, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} <= {"in", "media.mkv", "finished"}
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["store.partial"]


def test_probing_is_part_of_verifying(tmp_path: Path) -> None:
    store = video_store(tmp_path / "store", 1)
    assert probe_video(store.path("rec-000"), 1) == (2, 19, 23)
