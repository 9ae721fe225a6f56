"""``stage=doctor``: check the machine: packages, decoders, GPU, disk, and a small round of the pipeline."""

import importlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from echodream import validation
from echodream.runs.summary import Summary
from echodream.store.lock import lock, unlock

EXTRAS = {
    "cluster": "launcher=slurm, launcher=local_jobs",
    "features": "extractors=[lite0], loss.lite0",
    "libjpeg": "DICOM files in JPEG of 12 bits; GPL-3.0",
    "search": "hparams_search=",
    "text": "conditioning=[text], extractors dinov2 and videomae",
    "text-check": "text= of stage=ingest, and the search for text of stage=publish",
}
"""Optional extras of the package, and what each is for."""
_IMPORTS = ("numpy", "torch", "pytorch_lightning", "diffusers", "monai", "av", "pydicom", "nibabel", "PIL", "pandas")
_SYNTAXES = {
    "uncompressed": ("ImplicitVRLittleEndian", "ExplicitVRLittleEndian", "ExplicitVRBigEndian"),
    "deflated": ("DeflatedExplicitVRLittleEndian",),
    "RLE": ("RLELossless",),
    "JPEG": ("JPEGBaseline8Bit",),
    "JPEG of 12 bits": ("JPEGExtended12Bit",),
    "JPEG lossless": ("JPEGLossless", "JPEGLosslessSV1"),
    "JPEG-LS": ("JPEGLSLossless", "JPEGLSNearLossless"),
    "JPEG 2000": ("JPEG2000Lossless", "JPEG2000"),
    "HTJ2K": ("HTJ2KLossless", "HTJ2KLosslessRPCL", "HTJ2K"),
}
"""DICOM transfer syntaxes, by the name in pydicom.uid."""
_CODECS: tuple[str, ...] = (
    "h264",
    "hevc",
    "av1",
    "vp8",
    "vp9",
    "mpeg1video",
    "mpeg2video",
    "mpeg4",
    "msmpeg4v3",
    "wmv2",
    "vc1",
)
_CODECS += ("mjpeg", "jpeg2000", "prores", "dvvideo", "msvideo1", "cinepak", "rawvideo", "huffyuv", "ffv1", "png")
_LEAST_FREE = 1 << 30
"""Free bytes without which no stage can be expected to end."""
_TINY: tuple[str, ...] = (
    "preset=tiny",
    "trainer.max_epochs=1",
    "trainer.limit_train_batches=2",
    "trainer.accelerator=auto",
)
_TINY += ("view.per_recording=1", "datamodule.batch_size=4", "datamodule.workers=0", "callbacks.pictures=null")
_PATIENTS = ("data.source.patients=8", "+data.source.per_patient=[1,1]", "+data.source.seconds=[0.5,0.6]")
_ROUND = (
    ("sample", "stage=ingest", *_PATIENTS, "data.size=32", "data.split.train=0.5", "data.split.val=0.25",
     "data.split.test=0.25", "workers=1"),
    ("train", "model=vae", *_TINY),
    ("sample", "stage=encode", "workers=0"),
    ("train", "model=lidm", *_TINY),
    ("sample", "stage=image", "n=4", "steps=2"),
    ("sample", "stage=decode", "on=image", "src=samples/phantom/images", "workers=0"),
    ("sample", "stage=verify", "src=samples/phantom/image_frames"),
)  # fmt: skip
"""Commands of the round, on a few patients of the phantom: program and overrides."""
_RUNNER = """
import json, sys, time
from hydra.core.global_hydra import GlobalHydra
from echodream import cli
for program, *overrides in json.loads(sys.argv[1]):
    GlobalHydra.instance().clear()
    sys.argv = [f"{program}.py", *overrides, "data=phantom"]
    print("begin", overrides[0], time.monotonic(), flush=True)
    getattr(cli, program)()
print("begin", "end", time.monotonic(), flush=True)
"""
_ROUND_LIMIT = 1800.0
"""Seconds after which the round is ended."""


def doctor(*, round: bool, folders: Mapping[str, str], command: str, code_version: str) -> Summary:
    """Report what this machine can do; the summary has a problem if something that is needed does not work.

    ``folders`` are the folders that stages write to (conf/paths). With ``round``, a few simulated patients are
    ingested, an autoencoder and a diffusion model are trained for two steps, and samples are decoded, in a temporary
    folder.
    """
    del command
    validation.true_or_false("round", round)
    problems: list[str] = []
    facts: dict[str, object] = {"echodream": f"{code_version}, Python {platform.python_version()}, {_system()}"}
    facts["processor"] = _processor()
    checks: list[tuple[str, Callable[[list[str]], str]]] = [
        ("packages", _packages),
        ("GPU", _gpu),
        ("video", _video),
        ("DICOM", _dicom),
        ("other files", _other_files),
        ("extras", _extras),
        ("disk", lambda problems: _disk(folders, problems)),
    ]
    if round:
        checks.append(("round", _round))
    for name, check in checks:
        try:
            facts[name] = check(problems)
        except Exception as error:  # noqa: BLE001 - whatever is broken is reported, and the other checks are made
            facts[name] = f"cannot be checked: {_one_line(error)}"
            problems.append(f"{name} cannot be checked: {_one_line(error)}")
    if not round:
        facts["round"] = "left out (round=false)"
    for number, problem in enumerate(problems, 1):
        facts[f"problem {number}"] = problem
    if not problems:
        return Summary("doctor: everything that is needed works", facts)
    more = f" (and {len(problems) - 1} more, above)" if len(problems) > 1 else ""
    return Summary("doctor: something that is needed does not work", facts, problems[0] + more)


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _lines(lines: Iterable[str], indent: str = "\n    ") -> str:
    return indent.join(lines)


def _system() -> str:
    return f"{platform.system()} {platform.release()} {platform.machine()}"


def _processor() -> str:
    affinity = getattr(os, "sched_getaffinity", None)
    usable, cores = len(affinity(0)) if affinity else os.cpu_count(), os.cpu_count()
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30 if hasattr(os, "sysconf") else 0.0
    return f"{usable} of {cores} cores usable, {memory:.0f} GiB of memory"


def _packages(problems: list[str]) -> str:
    """Versions of the needed packages. Packages that are missing, out of range or not importable are problems."""
    needed = _requirements()
    if broken := _unmet(needed):
        problems.append(f"{'; '.join(broken)}: install echodream again (pip install -e .)")
    for module in _IMPORTS:
        try:
            importlib.import_module(module)
        except Exception as error:  # noqa: BLE001 - a broken package may raise anything
            problems.append(f"the package {module} cannot be imported ({_one_line(error)}): install it again")
    shown = ("torch", "pytorch-lightning", "diffusers", "monai", "numpy")
    versions = ", ".join(f"{name} {version(name)}" for name in shown)
    return f"{len(needed) - len(broken)} of {len(needed)} within the ranges of pyproject.toml: {versions}"


def _requirements(extra: str = "") -> list[str]:
    """The requirements of the installed package, or of one of its extras, on this machine."""
    from packaging.requirements import Requirement

    found = []
    for line in requires("echodream") or ():
        requirement = Requirement(line)
        of_extra = requirement.marker is not None and "extra ==" in str(requirement.marker)
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": extra})
        if applies and of_extra == bool(extra) and requirement.name != "echodream":
            found.append(line)
    return found


def _unmet(requirements: Iterable[str]) -> list[str]:
    """What is wrong with the installed packages, one text for each requirement that is not met."""
    from packaging.requirements import Requirement

    unmet = []
    for requirement in map(Requirement, requirements):
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            unmet.append(f"{requirement.name} is not installed")
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            unmet.append(f"{requirement.name} {installed} is installed, {requirement.specifier} is needed")
    return unmet


def _gpu(problems: list[str]) -> str:
    import torch

    del problems  # training also works without a GPU
    if torch.cuda.is_available():
        properties = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        names = [f"{device.name}, {device.total_memory / 2**30:.0f} GiB" for device in properties]
        return f"{_lines(names)}\n    CUDA {torch.version.cuda}"
    if torch.backends.mps.is_available():
        return "Apple MPS"
    built = f"is built for CUDA {torch.version.cuda}, and finds no GPU" if torch.version.cuda else "is built for CPUs"
    hint = "; nvidia-smi exists: check the driver" if shutil.which("nvidia-smi") else ""
    return f"none: torch {torch.__version__} {built}{hint}"


def _video(problems: list[str]) -> str:
    """The codecs that can be read; FFV1, the codec of stores, is written and read back."""
    import av
    import numpy as np

    from echodream.store.video import write_video

    readable = [name for name in _CODECS if _has_decoder(name)]
    ffmpeg = ".".join(map(str, av.library_versions["libavcodec"]))
    lines = [f"PyAV {av.__version__} (libavcodec {ffmpeg}): {', '.join(readable)}"]
    if missing := [name for name in _CODECS if name not in readable]:
        lines.append(f"no decoder for {', '.join(missing)}")
    try:
        import decord

        lines.append(f"decord {decord.__version__}")
    except (ImportError, OSError):
        lines.append("decord is not installed: PyAV reads everything, clips of stores more slowly")
    with tempfile.TemporaryDirectory() as folder:
        try:
            write_video(Path(folder) / "a.mkv", np.arange(2 * 32 * 40, dtype=np.uint8).reshape(2, 32, 40, 1), 25)
        except Exception as error:  # noqa: BLE001 - see above
            problems.append(f"FFV1, the codec of stores, cannot be written: {_one_line(error)}")
    return _lines(lines)


def _has_decoder(name: str) -> bool:
    import av

    try:
        av.codec.Codec(name, "r")
    except (av.error.FFmpegError, ValueError):
        return False
    return True


def _dicom(problems: list[str]) -> str:
    """The transfer syntaxes that can be read, with the decoder of each."""
    import pydicom
    from pydicom import uid

    readers, missing = [], []
    for name, keywords in _SYNTAXES.items():
        plugins = {_dicom_plugin(getattr(uid, keyword)) for keyword in keywords}
        if None in plugins:
            missing.append(name)
        else:
            readers.append(f"{name} ({', '.join(sorted(filter(None, plugins)))})")
    for name, codec in {"MPEG-2": "mpeg2video", "H.264": "h264", "HEVC": "hevc"}.items():
        if _has_decoder(codec):
            readers.append(f"{name} (PyAV)")
        else:
            missing.append(name)
    if "JPEG" in missing:
        problems.append("no decoder for DICOM files in JPEG baseline, as most ultrasound is: install echodream again")
    lines = [f"pydicom {pydicom.__version__}: {'; '.join(readers)}"]
    return _lines([*lines, f"no decoder for {', '.join(missing)}"] if missing else lines)


def _dicom_plugin(syntax: str) -> str | None:
    """The decoder of a transfer syntax; None if it is not installed."""
    from pydicom.pixels import get_decoder
    from pydicom.uid import JPEGExtended12Bit

    from echodream.ingest.dicom_pixels import decoder_plugin

    decoder = get_decoder(syntax)
    plugin = decoder_plugin(syntax, bits=12 if syntax == JPEGExtended12Bit else 8)
    if plugin:
        return plugin if plugin in decoder.available_plugins else None
    return ", ".join(decoder.available_plugins) or "pydicom" if decoder.is_available else None


def _other_files(problems: list[str]) -> str:
    del problems
    import nibabel
    import PIL

    return f"NIfTI (nibabel {nibabel.__version__}), png, jpg, tif, bmp, gif (Pillow {PIL.__version__})"


def _extras(problems: list[str]) -> str:
    del problems  # nothing of this is needed
    lines = []
    for extra, purpose in EXTRAS.items():
        listed = _requirements(extra)
        state = "missing" if _unmet(listed) or not listed else "present"
        how = f": pip install 'echodream[{extra}]'" if state == "missing" else ""
        lines.append(f"{extra} {state}, for {purpose}{how}")
    return _lines(lines)


def _disk(folders: Mapping[str, str], problems: list[str]) -> str:
    """Free space of the disks that the ``folders`` are on. A folder that cannot be written or locked is a problem."""
    free: dict[int, tuple[int, list[str]]] = {}
    for name, folder in {**folders, "temporary files": tempfile.gettempdir()}.items():
        parent = Path(folder).absolute()
        while not parent.is_dir():
            parent = parent.parent
        usage = shutil.disk_usage(parent)
        free.setdefault(parent.stat().st_dev, (usage.free, []))[1].append(name)
        key = "TMPDIR" if name not in folders else f"paths.{name}="
        try:
            with tempfile.TemporaryDirectory(prefix=".doctor-", dir=parent) as trial:
                unlock(lock(Path(trial)))
        except Exception as error:  # noqa: BLE001 - whatever the file system says
            problems.append(f"{parent} cannot be written ({_one_line(error)}): choose another {key}")
        if usage.free < _LEAST_FREE:
            problems.append(f"{parent} has {usage.free / 2**30:.1f} GiB free: free some space, or choose another {key}")
    return _lines(f"{size / 2**30:.0f} GiB free for {', '.join(names)}" for size, names in free.values())


def _round(problems: list[str]) -> str:
    """Run ``_ROUND`` in another process and a temporary folder; returns the seconds of each command."""
    package = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    call = [sys.executable, "-c", _RUNNER, json.dumps(_ROUND)]
    with tempfile.TemporaryDirectory(prefix="echodream-doctor-") as folder:
        try:
            done = subprocess.run(
                call,
                cwd=folder,
                env={**os.environ, "PYTHONPATH": paths},
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_ROUND_LIMIT,
            )
        except subprocess.TimeoutExpired:
            problems.append(f"the round took more than {_ROUND_LIMIT:.0f} s")
            return "not finished"
    begun = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("begin ")]
    moments = [float(moment) for _, moment in begun]
    steps = [
        f"{name} {after - before:.0f} s" for (name, _), before, after in zip(begun, moments, moments[1:], strict=False)
    ]
    if done.returncode == 0 and begun and begun[-1][0] == "end":
        return ", ".join(steps)
    failed = begun[-1][0] if begun else "the start"
    said = [line for line in done.stderr.splitlines() if line.strip()]
    problems.append(f"{failed} of the round fails: {said[-1].strip()[:300] if said else f'exit {done.returncode}'}")
    return ", ".join([*steps, f"{failed} failed"])
