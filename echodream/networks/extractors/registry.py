"""Registry of feature extractors (``extractors=``): built-in extractors, and extractors that load a file or folder."""

from collections.abc import Callable, Sequence

from echodream.errors import UserError
from echodream.networks.extractors.base import Extractor
from echodream.networks.extractors.encoder import ClassifierExtractor
from echodream.networks.extractors.hub import DinoV2, VideoMae
from echodream.networks.extractors.i3d import I3d
from echodream.networks.extractors.inception import Inception
from echodream.networks.extractors.lite0 import Lite0
from echodream.networks.extractors.spectra import spatial_spectrum, temporal_spectrum

PATH_EXTRACTORS: dict[str, Callable[[str, Sequence[int]], Extractor]] = {
    "encoder": lambda path, lengths: ClassifierExtractor(path),
    "inception": lambda path, lengths: Inception(path),
    "i3d": I3d,
    "dinov2": lambda path, lengths: DinoV2(path),
    "videomae": lambda path, lengths: VideoMae(path),
}
"""Constructor of each kind of extractor, called with a path and the clip lengths of I3D in frames."""
BUILT_IN_EXTRACTORS: dict[str, Callable[[], Extractor]] = {
    "lite0": Lite0,
    "spectrum": spatial_spectrum,
    "temporal_spectrum": temporal_spectrum,
}
"""Constructors of the extractors that need no path of a weight file, by name."""


def load_extractors(specifications: Sequence[str], lengths: Sequence[int]) -> list[Extractor]:
    """Load extractors. Each of ``specifications`` is the name of a built-in extractor, or "kind:path"."""
    if isinstance(lengths, str | int | float):
        raise UserError(f"lengths is {lengths!r}: give a list of numbers of frames, such as [16,128]")
    extractors: dict[str, Extractor] = {}
    for text in [specifications] if isinstance(specifications, str) else specifications:
        kind, _, path = str(text).partition(":")
        if text not in BUILT_IN_EXTRACTORS and (kind not in PATH_EXTRACTORS or not path):
            names, kinds = ", ".join(BUILT_IN_EXTRACTORS), ", ".join(PATH_EXTRACTORS)
            raise UserError(f"extractors has {text!r}: give {names}, or kind:path with one of {kinds} before the colon")
        if path == "None":  # encoder:${artifact} becomes encoder:None with artifact=null
            raise UserError("artifact=null leaves no network: give extractors=, such as [inception:/path/to/the/file]")
        extractor = BUILT_IN_EXTRACTORS[kind]() if text in BUILT_IN_EXTRACTORS else PATH_EXTRACTORS[kind](path, lengths)
        if extractor.name in extractors:
            raise UserError(f"extractors names {extractor.name} twice: their metrics would have the same names")
        extractors[extractor.name] = extractor
    if not extractors:
        raise UserError("extractors is empty: give at least one, such as encoder:models/<study>/classifier")
    return list(extractors.values())
