"""``stage=doctor``: check packages, decoders, GPU and disk of this machine, and run a small pipeline."""

import contextlib
import importlib
import itertools
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
from typing import TYPE_CHECKING

from echodream import validation
from echodream.runs.summary import Summary
from echodream.store.lock import lock, unlock
from echodream.store.reader import machine_memory

if TYPE_CHECKING:
    from packaging.requirements import Requirement

EXTRAS = {
    "cluster": "launcher=slurm, launcher=local_jobs",
    "docs": "make docs",
    "features": "extractors=[lite0], loss.lite0, loss.lite0_energy",
    "libjpeg": "DICOM files in JPEG of 12 bits; GPL-3.0",
    "pipeline": "launch/run.py, which runs whole studies",
    "privacy": "trainer.privacy.epsilon=",
    "search": "hparams_search=",
    "text": "conditioning=[text], extractors dinov2 and videomae",
    "text-check": "text= of stage=ingest, and the search for text of stage=publish",
}
"""Optional extras of the package, and the settings that need each extra."""
_MODULES = ("numpy", "torch", "pytorch_lightning", "diffusers", "monai", "av", "pydicom", "nibabel", "PIL", "pandas")
_TRANSFER_SYNTAXES = {
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
"""DICOM transfer syntaxes by group: their names in ``pydicom.uid``."""
_VIDEO_CODECS = (
    "h264", "hevc", "av1", "vp8", "vp9", "mpeg1video", "mpeg2video", "mpeg4", "msmpeg4v3", "wmv2", "vc1", "mjpeg",
    "jpeg2000", "prores", "dvvideo", "msvideo1", "cinepak", "rawvideo", "huffyuv", "ffv1", "png",
)  # fmt: skip
_MIN_FREE_BYTES = 1 << 30  # less free space on a disk is a problem
_TINY_TRAINING = (
    "preset=tiny", "trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer.accelerator=auto",
    "view.per_recording=1", "datamodule.batch_size=4", "datamodule.workers=0", "callbacks.pictures=null",
)  # fmt: skip
_TINY_STUDY = ("data.source.patients=8", "+data.source.per_patient=[1,1]", "+data.source.seconds=[0.5,0.6]")
_PIPELINE = (
    ("sample", "stage=ingest", *_TINY_STUDY, "data.size=32", "data.split.train=0.5", "data.split.val=0.25",
     "data.split.test=0.25", "workers=1"),
    ("train", "model=vae", *_TINY_TRAINING),
    ("sample", "stage=encode", "workers=0"),
    ("train", "model=lidm", *_TINY_TRAINING),
    ("sample", "stage=image", "n=4", "steps=2"),
    ("sample", "stage=decode", "on=image", "src=samples/phantom/images", "workers=0"),
    ("sample", "stage=verify", "src=samples/phantom/image_frames"),
)  # fmt: skip
"""Commands of the small pipeline on simulated patients: program and overrides of each command."""
_PIPELINE_SCRIPT = """
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
_NEW_LINE = "\n    "
_PIPELINE_TIMEOUT = 1800.0
"""Time limit of the small pipeline in seconds."""


def doctor(*, round: bool, folders: Mapping[str, str], command: str, code_version: str) -> Summary:
    """Check this machine; the summary lists the results, and a problem if a necessary part does not work.

    ``folders`` are the folders that stages write to (conf/paths). With ``round``, a small pipeline runs in a temporary
    folder: ingest of simulated patients, two training steps of an autoencoder and a diffusion model, and sampling.
    """
    del command
    validation.true_or_false("round", round)
    problems: list[str] = []
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    facts: dict[str, object] = {"echodream": f"{code_version}, Python {platform.python_version()}, {system}"}
    checks: dict[str, Callable[[], str]] = {
        "processor": _describe_processor,
        "packages": lambda: _check_packages(problems),
        "GPU": _describe_gpus,
        "video": lambda: _check_video_codecs(problems),
        "DICOM": lambda: _check_dicom_decoders(problems),
        "other files": _describe_other_formats,
        "extras": _describe_extras,
        "disk": lambda: _check_disk(folders, problems),
        "round": lambda: _run_small_pipeline(problems) if round else "left out (round=false)",
    }
    for name, check in checks.items():
        try:
            facts[name] = check()
        except Exception as error:  # noqa: BLE001 - any error is reported, and the other checks continue
            facts[name] = f"cannot be checked: {_error_text(error)}"
            problems.append(f"{name} cannot be checked: {_error_text(error)}")
    facts |= {f"problem {number}": problem for number, problem in enumerate(problems, 1)}
    if not problems:
        return Summary("doctor: everything that is needed works", facts)
    more = f" (and {len(problems) - 1} more, above)" if len(problems) > 1 else ""
    return Summary("doctor: something that is needed does not work", facts, problems[0] + more)


def _error_text(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _describe_processor() -> str:
    affinity = getattr(os, "sched_getaffinity", None)
    usable, cores = len(affinity(0)) if affinity else os.cpu_count(), os.cpu_count()
    return f"{usable} of {cores} cores usable, {machine_memory() / 2**30:.0f} GiB of memory"


def _check_packages(problems: list[str]) -> str:
    """Versions of the required packages. Packages that are missing, out of range or not importable are problems."""
    needed = _package_requirements()
    if broken := _unmet_requirements(needed):
        problems.append(f"{'; '.join(broken)}: install echodream again (pip install -e .)")
    for module in _MODULES:
        try:
            importlib.import_module(module)
        except Exception as error:  # noqa: BLE001 - a broken package may raise anything
            problems.append(f"the package {module} cannot be imported ({_error_text(error)}): install it again")
    shown = ("torch", "pytorch-lightning", "diffusers", "monai", "numpy")
    versions = ", ".join(f"{name} {version(name)}" for name in shown)
    return f"{len(needed) - len(broken)} of {len(needed)} within the ranges of pyproject.toml: {versions}"


def _package_requirements(extra: str = "") -> "list[Requirement]":
    """Requirements of the installed package, or of its ``extra``, that apply to this machine."""
    from packaging.requirements import Requirement

    requirements = []
    for requirement in map(Requirement, requires("echodream") or ()):
        belongs_to_extra = requirement.marker is not None and "extra ==" in str(requirement.marker)
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": extra})
        if applies and belongs_to_extra == bool(extra) and requirement.name != "echodream":
            requirements.append(requirement)
    return requirements


def _unmet_requirements(requirements: "Iterable[Requirement]") -> list[str]:
    """A sentence for each requirement that the installed packages do not meet."""
    problems = []
    for requirement in requirements:
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            problems.append(f"{requirement.name} is not installed")
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            problems.append(f"{requirement.name} {installed} is installed, {requirement.specifier} is needed")
    return problems


def _describe_gpus() -> str:
    import torch

    if torch.cuda.is_available():
        properties = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        names = [f"{device.name}, {device.total_memory / 2**30:.0f} GiB" for device in properties]
        return _NEW_LINE.join([*names, f"CUDA {torch.version.cuda}"])
    if torch.backends.mps.is_available():
        return "Apple MPS"
    built = f"is built for CUDA {torch.version.cuda}, but finds no GPU" if torch.version.cuda else "is built for CPUs"
    hint = "; nvidia-smi exists: check the driver" if shutil.which("nvidia-smi") else ""
    return f"none: torch {torch.__version__} {built}{hint}"


def _check_video_codecs(problems: list[str]) -> str:
    """Names of the video codecs that can be read. The check also writes a file in FFV1, the codec of stores."""
    import av
    import numpy as np

    from echodream.store.video import write_video

    readable = [name for name in _VIDEO_CODECS if _has_decoder(name)]
    ffmpeg = ".".join(map(str, av.library_versions["libavcodec"]))
    lines = [f"PyAV {av.__version__} (libavcodec {ffmpeg}): {', '.join(readable)}"]
    if missing := [name for name in _VIDEO_CODECS if name not in readable]:
        lines.append(f"no decoder for {', '.join(missing)}")
    try:
        import decord

        lines.append(f"decord {decord.__version__}")
    except (ImportError, OSError):
        lines.append("decord is not installed: PyAV reads everything, but clips of stores more slowly")
    with tempfile.TemporaryDirectory() as folder:
        try:
            write_video(Path(folder) / "a.mkv", np.arange(2 * 32 * 40, dtype=np.uint8).reshape(2, 32, 40, 1), 25)
        except Exception as error:  # noqa: BLE001 - any error is reported, and the codecs are still listed
            problems.append(f"FFV1, the codec of stores, cannot be written: {_error_text(error)}")
    return _NEW_LINE.join(lines)


def _has_decoder(name: str) -> bool:
    import av

    with contextlib.suppress(av.error.FFmpegError, ValueError):
        return av.codec.Codec(name, "r") is not None
    return False


def _check_dicom_decoders(problems: list[str]) -> str:
    """Groups of DICOM transfer syntaxes that can be read, with their decoders."""
    import pydicom
    from pydicom import uid

    readers, missing = [], []
    for name, keywords in _TRANSFER_SYNTAXES.items():
        plugins = {_dicom_decoder_name(getattr(uid, keyword)) for keyword in keywords}
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
        problems.append("no decoder for JPEG baseline, as in most DICOM files of ultrasound: install echodream again")
    lines = [f"pydicom {pydicom.__version__}: {'; '.join(readers)}"]
    return _NEW_LINE.join([*lines, f"no decoder for {', '.join(missing)}"] if missing else lines)


def _dicom_decoder_name(syntax: str) -> str | None:
    """Decoder of the transfer syntax with the UID ``syntax``; None if no decoder is installed."""
    from pydicom.pixels import get_decoder
    from pydicom.uid import JPEGExtended12Bit

    from echodream.ingest.dicom_pixels import decoder_plugin

    decoder = get_decoder(syntax)
    plugin = decoder_plugin(syntax, bits=12 if syntax == JPEGExtended12Bit else 8)
    if plugin:
        return plugin if plugin in decoder.available_plugins else None
    return ", ".join(decoder.available_plugins) or "pydicom" if decoder.is_available else None


def _describe_other_formats() -> str:
    import nibabel
    import PIL

    return f"NIfTI (nibabel {nibabel.__version__}), png, jpg, tif, bmp, gif (Pillow {PIL.__version__})"


def _describe_extras() -> str:
    lines = []
    for extra, purpose in EXTRAS.items():
        requirements = _package_requirements(extra)
        present = requirements and not _unmet_requirements(requirements)
        state, remedy = ("present", "") if present else ("missing", f": pip install 'echodream[{extra}]'")
        lines.append(f"{extra} {state}, for {purpose}{remedy}")
    return _NEW_LINE.join(lines)


def _check_disk(folders: Mapping[str, str], problems: list[str]) -> str:
    """Free space of the disks that contain ``folders``. A folder that cannot be written or locked is a problem."""
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
        except Exception as error:  # noqa: BLE001 - any error of the file system is reported
            problems.append(f"{parent} cannot be written ({_error_text(error)}): choose another {key}")
        if usage.free < _MIN_FREE_BYTES:
            problems.append(f"{parent} has {usage.free / 2**30:.1f} GiB free: free some space, or choose another {key}")
    return _NEW_LINE.join(f"{size / 2**30:.0f} GiB free for {', '.join(names)}" for size, names in free.values())


def _run_small_pipeline(problems: list[str]) -> str:
    """Run ``_PIPELINE`` in another process and a temporary folder; returns the seconds of each command."""
    package = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    call, env = [sys.executable, "-c", _PIPELINE_SCRIPT, json.dumps(_PIPELINE)], {**os.environ, "PYTHONPATH": paths}
    with tempfile.TemporaryDirectory(prefix="echodream-doctor-") as folder:
        try:
            process = subprocess.run(
                call, cwd=folder, env=env, capture_output=True, text=True, errors="replace", timeout=_PIPELINE_TIMEOUT
            )
        except subprocess.TimeoutExpired:
            problems.append(f"the small pipeline took more than {_PIPELINE_TIMEOUT:.0f} s")
            return "not finished"
    start_lines = [line.split()[1:] for line in process.stdout.splitlines() if line.startswith("begin ")]
    times = [(name, float(seconds)) for name, seconds in start_lines]
    durations = [f"{name} {end - begin:.0f} s" for (name, begin), (_, end) in itertools.pairwise(times)]
    if process.returncode == 0 and times and times[-1][0] == "end":
        return ", ".join(durations)
    failed = times[-1][0] if times else "the start"
    errors = [line.strip() for line in process.stderr.splitlines() if line.strip()]
    reason = errors[-1][:300] if errors else f"exit {process.returncode}"
    problems.append(f"{failed} of the small pipeline fails: {reason}")
    return ", ".join([*durations, f"{failed} failed"])
