"""Registry of feature extractors by kind, for ``extractors=``."""

from collections.abc import Callable, Sequence

from echodream.errors import UserError
from echodream.networks.extractors.base import Extractor
from echodream.networks.extractors.encoder import ClassifierExtractor
from echodream.networks.extractors.hub import DinoV2, VideoMae
from echodream.networks.extractors.i3d import I3d
from echodream.networks.extractors.inception import Inception

EXTRACTORS: dict[str, Callable[[str, Sequence[int]], Extractor]] = {
    "encoder": lambda path, lengths: ClassifierExtractor(path),
    "inception": lambda path, lengths: Inception(path),
    "i3d": I3d,
    "dinov2": lambda path, lengths: DinoV2(path),
    "videomae": lambda path, lengths: VideoMae(path),
}
"""By kind: constructor from a path and the lengths of I3D clips in frames."""


def load_extractors(specifications: Sequence[str], lengths: Sequence[int]) -> list[Extractor]:
    """Extractors from ``specifications``, "kind:path". Raises ``UserError`` for an unknown kind and a repeated name."""
    if isinstance(lengths, str | int | float):
        raise UserError(f"lengths is {lengths!r}: give a list of numbers of frames, as [16,128]")
    extractors: dict[str, Extractor] = {}
    for text in [specifications] if isinstance(specifications, str) else specifications:
        kind, _, path = str(text).partition(":")
        if kind not in EXTRACTORS or not path:
            kinds = ", ".join(EXTRACTORS)
            raise UserError(f"extractors has {text!r}: give kind:path, with one of {kinds} before the colon")
        if path == "None":  # from encoder:${artifact} with artifact=null
            raise UserError("artifact=null leaves no network: give extractors=, as [inception:/path/to/the/file]")
        extractor = EXTRACTORS[kind](path, lengths)
        if extractor.name in extractors:
            raise UserError(f"extractors names {extractor.name} twice: their metrics would have the same names")
        extractors[extractor.name] = extractor
    if not extractors:
        raise UserError("extractors is empty: give at least one, as encoder:models/<study>/classifier")
    return list(extractors.values())
