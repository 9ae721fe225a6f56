"""Ingest gives the frames that PyAV decodes, for every container, codec, kind of GOP, orientation, range and sound."""

from pathlib import Path

import numpy as np
import pytest

from echodream.errors import Rejected
from echodream.ingest.media_files import read_video_file
from echodream.ingest.source import Limits
from tests.support.decoding_matrix import (
    CODECS,
    FRAMES,
    VARIANTS,
    Codec,
    decode_with_pyav,
    largest_difference,
    numbers,
    turned,
    write_cell,
)


@pytest.mark.slow
@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: f"{codec.suffix}-{codec.name}-{codec.pix_fmt}")
def test_frames_are_those_that_pyav_decodes(tmp_path: Path, codec: Codec) -> None:
    for variant in codec.variants():
        path = write_cell(tmp_path / f"{variant}.{codec.suffix}", codec, variant)
        if "change" in VARIANTS[variant]:
            with pytest.raises(Rejected, match=r"the frame size changes within the recording, from 96x64 to 80x48"):
                read_video_file(path, Limits())
            continue
        video = read_video_file(path, Limits())
        reference = decode_with_pyav(path)
        assert largest_difference(video.frames, turned(reference, variant)) == 0, variant
        assert numbers(reference) == list(range(FRAMES)), variant
        # MPEG program streams store time stamps of some frames only; FFmpeg estimates the rest to within one frame
        tolerance = 0.041 if codec.suffix in ("mpg", "vob") else 2e-3
        np.testing.assert_allclose(video.times, np.arange(FRAMES) / 25, atol=tolerance, err_msg=variant)
        aspect = float(VARIANTS[variant].get("aspect", 1))
        assert video.pixel_aspect == pytest.approx(aspect, rel=1e-3), variant
