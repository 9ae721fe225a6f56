"""Old spellings of the command line, and guidance scales of conditions that conf/guidance does not list."""

import pytest

from echodream.config.aliases import replace_aliases
from echodream.config.help import options_first


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
    assert options_first(["model=lidm", old, "--cfg", "job"]) == ["--cfg", "job", "model=lidm", new]
    assert capsys.readouterr().err == f"{old} is an old spelling; write {new}\n"


@pytest.mark.parametrize("argument", ["guidance.class_id=2", "guidance.interval=[0,1]", "guidance.auto.scale=2", "n=3"])
def test_other_arguments_stay_as_they_are(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert replace_aliases([argument]) == [argument]
    assert not capsys.readouterr().err


@pytest.mark.parametrize("argument", ["guidance.age=2", "guidance.age=1,2"])
def test_the_scale_of_a_new_condition_is_added(argument: str) -> None:
    assert replace_aliases([argument]) == [f"+{argument}"]
