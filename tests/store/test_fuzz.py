"""Whatever a file holds, it is sound or refused with one sentence: 2,840 cases, the same in every run."""

import gzip
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from safetensors.numpy import save

from echodream.ingest.media_files import read_gif, read_video_file
from echodream.ingest.nifti import read_nifti
from echodream.ingest.source import Limits
from echodream.store import Store, StoreWriter, verify
from echodream.store.latents import probe_latents, read_latents
from echodream.store.schema import REQUIRED_COLUMNS, read_dataset
from echodream.store.table import read_file_list
from echodream.store.video import probe_video, read_video, write_video
from tests.support.fakes import latent_store, noise, posterior, reseal, video_dataset, video_store
from tests.support.fuzzing import Decoder, answer, check_sentence, damaged, fuzz

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
}
LIMITS = Limits(max_frames=200, max_side=2_000, max_bytes=50_000_000)


def test_there_are_enough_cases() -> None:
    assert sum(CASES.values()) >= 2_000


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
    """A table with a few cells, columns or line ends replaced; quoted properly, or not."""
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
    """The text of a dataset.json with a few keys replaced, added, removed or doubled."""
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
    """Through the door of verify, then through that of training."""
    frames, height, width = probe_latents(path, 4)
    mean, std = read_latents(path, 1, 3)
    assert mean.shape == std.shape == (max(0, min(3, frames) - 1), 4, height, width)


SIDES = st.sampled_from([0, 1, 3, 4, 5, 6, 100_000, 2**31, 2**63, 2**64, -1, 1.5, "4", None])


@st.composite
def tensor_files(draw: st.DrawFn) -> bytes:
    """A safetensors file whose header says something else than its data."""
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
    """The checksums agree with the damage, so that the file itself is parsed."""
    store = video_store(tmp_path / "store", 1)
    path = store.path("rec-000")
    assert decoder.ask(open_and_read, store.root) is None

    def ask(content: bytes) -> str | None:
        path.write_bytes(content)
        reseal(store.root)
        said = decoder.ask(open_and_read, store.root)
        unchecked = decoder.ask(read_unchecked, path)  # by a reader that did not verify
        check_sentence(unchecked, store.root)
        return said

    fuzz(CASES["store video"], damaged(path.read_bytes()), ask, store.root)


def raw_video(path: Path, codec: str, size: int = 32) -> bytes:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = size, size, "yuv420p"
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
    assert content.count(b"\xb0\x82\x01\x2d\xba\x82\x01\x2c") == 1  # PixelWidth and PixelHeight
    path.write_bytes(content.replace(b"\xb0\x82\x01\x2d\xba\x82\x01\x2c", b"\xb0\x82\xff\xff\xba\x82\xff\xff"))
    reseal(store.root)
    assert "rec-000.mkv" in str(decoder.ask(open_and_read, store.root))
    assert "rec-000.mkv" in str(decoder.ask(read_unchecked, path))


# --- NIfTI ---


def nifti(**fields: object) -> bytes:
    """A volume of 20x22x6 voxels with some fields of its header replaced."""
    import nibabel

    image = nibabel.Nifti1Image(np.asarray(noise(20, 22, 6)[..., 0]), np.eye(4))
    content = bytearray(image.to_bytes())
    header = np.frombuffer(content, nibabel.nifti1.header_dtype, 1)
    for name, value in fields.items():
        header[name] = value  # a view: changes the bytes
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


# --- the folder ---


def test_any_checksums(tmp_path: Path) -> None:
    root = video_store(tmp_path / "store", 1).root
    whole = (root / "SHA256SUMS").read_bytes()

    def ask(content: bytes) -> str | None:
        (root / "SHA256SUMS").write_bytes(content)
        return answer(lambda: verify(root))

    fuzz(CASES["checksums"], st.one_of(damaged(whole), st.binary(max_size=200)), ask, root)


def test_any_link(tmp_path: Path) -> None:
    """A file of a store, or its folder, replaced by a link to anywhere: refused, never waited for."""
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


def test_any_name(tmp_path: Path) -> None:
    """Nothing is written or read outside the store, whatever a recording is called."""
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
