"""The comments of settings in conf/, which ``--help`` prints, list all allowed values in the order of the registry."""

import re

import pytest

from echodream.config.paths import CONF_DIR
from echodream.diffusion.noise_schedules import NOISE_SCHEDULES
from echodream.diffusion.processes import PROCESSES
from echodream.diffusion.processes.ddpm import PREDICTION_TYPES, SPACINGS
from echodream.diffusion.samplers import SAMPLERS
from echodream.store.export_formats import FORMATS

SAMPLER = [f"process={process}: {' | '.join(samplers)}" for process, samplers in SAMPLERS.items()]
SPACING = [f"process={name}: {' | '.join(process.spacings)}" for name, process in PROCESSES.items()]


@pytest.mark.parametrize(
    ("file", "key", "lists"),
    [
        *((f"stage/{stage}", "sampler", SAMPLER) for stage in ("image", "video")),
        *((f"stage/{stage}", "spacing", SPACING) for stage in ("image", "video")),
        ("stage/export", "format", [f": {' | '.join(FORMATS)}"]),
        ("process/ddpm", "schedule", [f": {' | '.join(NOISE_SCHEDULES)}"]),
        ("process/ddpm", "prediction", [f": {' | '.join(PREDICTION_TYPES)}"]),
        ("process/ddpm", "spacing", [f": {' | '.join(SPACINGS)}"]),
    ],
)
def test_the_comment_of_a_setting_lists_its_choices(file: str, key: str, lists: list[str]) -> None:
    text = (CONF_DIR / f"{file}.yaml").read_text()
    (comment,) = re.findall(rf"^{key}: .*?# (.*)", text, re.MULTILINE)
    parts = [part.strip() for part in re.sub(r" \(.*?\)", "", comment).split(";")]  # removes explanations
    absent = [each for each in lists if not any(part.endswith(each) for part in parts)]
    assert absent == [], f"conf/{file}.yaml: write these choices into the comment of {key}"
