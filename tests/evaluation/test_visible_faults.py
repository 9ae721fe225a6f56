"""Recordings with an added visible fault must not score as close to real: on the phantom, and on real clips."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from scipy.ndimage import gaussian_filter, uniform_filter

from echodream import engine
from echodream.config.paths import CONF_DIR
from echodream.ingest.phantom import Phantom
from echodream.metrics.texture import log_spectral_estimate
from echodream.networks.extractors.spectra import CLIP_FRAMES, spatial_spectrum, temporal_spectrum
from echodream.phantom.render import render
from echodream.report.sections.fidelity import GRADES, grade
from echodream.store import Store

Clips = list[np.ndarray]
"""Gray levels, (F, H, W) each."""


def speckle(clip: np.ndarray) -> np.ndarray:
    return clip - uniform_filter(clip, (0, 5, 5))


def blurred(clip: np.ndarray) -> np.ndarray:
    return gaussian_filter(clip, (0, 1, 1))


def white_noise_for_speckle(clip: np.ndarray) -> np.ndarray:
    """Replace speckle by white noise of equal local strength, independent in each frame."""
    strength = np.sqrt(np.maximum(uniform_filter(speckle(clip) ** 2, (0, 9, 9)), 0))
    return clip - speckle(clip) + strength * np.random.default_rng(0).normal(size=clip.shape)


def frozen_speckle(clip: np.ndarray) -> np.ndarray:
    return clip - speckle(clip) + speckle(clip)[:1]


def shuffled(clip: np.ndarray) -> np.ndarray:
    return clip[np.random.default_rng(0).permutation(len(clip))]


def halved_contrast(clip: np.ndarray) -> np.ndarray:
    mean = clip.mean(axis=(1, 2), keepdims=True)
    return mean + (clip - mean) / 2


FAULTS = (blurred, white_noise_for_speckle, frozen_speckle, shuffled, halved_contrast)


def spectra(clips: Clips, fault: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Spatial spectra of four frames per clip, and the temporal spectrum of each clip, after adding ``fault``."""
    spatial, temporal = [], []
    for clip in clips:
        x = torch.from_numpy(np.clip(np.rint(fault(clip)), 0, 255) / 127.5 - 1)[None, None]
        frames = np.linspace(0, len(clip) - 1, 4).round().astype(int)
        spatial += [spatial_spectrum().features(x[:, :, frame : frame + 1]).numpy() for frame in frames]
        start = max(len(clip) - CLIP_FRAMES, 0) // 2  # the central part of the clip, as in stage=evaluate
        temporal.append(temporal_spectrum().features(x[:, :, start : start + CLIP_FRAMES]).numpy())
    return np.concatenate(spatial), np.concatenate(temporal)


def distances(train: Clips, test: Clips, fault: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Spatial and temporal log-spectral distance between train with ``fault`` and test, in dB."""
    pairs = zip(spectra(train, fault), spectra(test, lambda clip: clip), strict=True)
    return np.array([log_spectral_estimate(x, y).value for x, y in pairs])


def check_every_fault_is_visible(train: Clips, test: Clips) -> None:
    floor = distances(train, test, lambda clip: clip)
    for fault in FAULTS:
        ratios = distances(train, test, fault) / floor
        assert grade(max(ratios)) > 0, (fault.__name__, ratios, GRADES)


@pytest.mark.slow
def test_faults_of_phantom_recordings() -> None:
    source = Phantom(patients=24, size=64, seconds=(1.0, 1.0), per_patient=(1, 1))
    clips = [render(source.scene(recording.name)).astype(float) for recording in source.recordings(None)]
    check_every_fault_is_visible(clips[::2], clips[1::2])


@pytest.mark.data
@pytest.mark.slow
def test_faults_of_real_clips(tmp_path: Path) -> None:
    folder = os.environ.get("ECHODREAM_TEST_DATA")
    if not folder:
        pytest.skip("ECHODREAM_TEST_DATA names no folder")
    given = ["stage=ingest", "data=lung", "experiment=lung_demo", f"raw={folder}/lung_ultrasound_ccby"]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        engine.sample(compose("sample", [*given, f"dst={tmp_path}/videos"]))
    store = Store(tmp_path / "videos")
    train, test = (
        [store.frames(name)[..., 0].astype(float) for name in store.table["FileName"][store.table["Split"] == split]]
        for split in ("TRAIN", "TEST")
    )
    check_every_fault_is_visible(train, test)
