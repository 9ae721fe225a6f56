"""Command-line arguments are translated for Hydra: old names, paths, and guidance scales of new conditions."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from echodream.config.aliases import replace_aliases
from echodream.config.help import put_options_first


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("image_unet@denoiser=small", "denoiser=image_unet/small"),
        ("video_unet@denoiser=tiny", "denoiser=video_unet/tiny"),
        ("video_unet@denoiser=imported", "denoiser=imported"),
        ("image_unet@denoiser=null", "denoiser=null"),
        ("image_unet@denoiser=tiny,small", "denoiser=image_unet/tiny,image_unet/small"),
        ("image_unet@denoiser=tiny,imported", "denoiser=image_unet/tiny,imported"),
        ("video_unet@denoiser=choice(imported,small)", "denoiser=choice(imported,video_unet/small)"),
    ],
)
def test_old_groups_are_replaced_with_a_notice(old: str, new: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert put_options_first(["model=lidm", old, "--cfg", "job"]) == ["--cfg", "job", "model=lidm", new]
    assert capsys.readouterr().err == f"{old} is an old spelling; write {new}\n"


@pytest.mark.parametrize("argument", ["guidance.class_id=2", "guidance.interval=[0,1]", "guidance.auto.scale=2", "n=3"])
def test_other_arguments_stay_as_they_are(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert replace_aliases([argument]) == [argument]
    assert not capsys.readouterr().err


@pytest.mark.parametrize("argument", ["guidance.age=2", "guidance.age=1,2"])
def test_the_scale_of_a_new_condition_is_added(argument: str) -> None:
    assert replace_aliases([argument]) == [f"+{argument}"]


NAMES = ["2024", "1_000", "1e3", "true", "nan", "+5", "a,b", "x=1", "Echo (1)", "Müller", "100%#x", "site[1]", "it's"]
NAMES += [
    'a"b',
    "a{1}",
    "a&b;c!",
    "range(3)",
    " a",
    "back\\slash (1)",
    "end (1)\\",
    "\\'",
    "007",
    "a b",
    "a@b|c:d",
    "[1]",
]
TAKE_LISTS = ("data.source.csv", "artifacts.real")


@pytest.mark.parametrize(
    "key", ["raw", "src", "+dst", "data", "experiment", "data.name", "data.source.csv", "paths.data", "artifacts.real"]
)
def test_a_path_is_read_as_it_is_typed(key: str) -> None:
    names = ["a[1]" if name == "[1]" else name for name in NAMES] if key in TAKE_LISTS else NAMES
    arguments = [replace_aliases([f"{key}={name}"]) for name in names]
    parser = OverridesParser.create()
    assert [parser.parse_override(argument).value() for (argument,) in arguments] == names


@pytest.mark.parametrize(
    "argument",
    [
        "raw=null",
        "dst=s${data.size}",
        "raw='a b'",
        'raw="a,b"',
        "artifacts.real=[a,b]",
        "data.source.csv=[a,b]",
        "data.size=64",
        "seed=2024",
        "pairs=0",
        "data.source.classes=[0,1]",
        "raw=",
    ],
)
def test_values_that_hydra_reads_rightly_stay_as_they_are(argument: str) -> None:
    assert replace_aliases([argument]) == [argument]


def test_in_a_sweep_a_comma_separates_values() -> None:
    assert replace_aliases(["-m", "src=a,b"]) == ["-m", "src=a,b"]
    assert replace_aliases(["src=a,b"]) == ['src="a,b"']


def test_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/doe")
    assert replace_aliases(["raw=~/x", "raw=a~/x"]) == ["raw=/home/doe/x", 'raw="a~/x"']
