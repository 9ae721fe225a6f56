"""The networks that ``extractors=`` names."""

from collections.abc import Callable, Sequence

from echodream.errors import UserError
from echodream.networks.extractors.base import Extractor
from echodream.networks.extractors.encoder import ClassifierExtractor
from echodream.networks.extractors.hub import DinoV2, VideoMae
from echodream.networks.extractors.i3d import I3d
from echodream.networks.extractors.inception import Inception

KINDS: dict[str, Callable[[str, Sequence[int]], Extractor]] = {
    "encoder": lambda path, lengths: ClassifierExtractor(path),
    "inception": lambda path, lengths: Inception(path),
    "i3d": I3d,
    "dinov2": lambda path, lengths: DinoV2(path),
    "videomae": lambda path, lengths: VideoMae(path),
}
"""From a path, and the lengths of i3d's clips in frames."""


def load_extractors(given: Sequence[str], lengths: Sequence[int]) -> list[Extractor]:
    """Of ``kind:path`` each. Raises ``UserError`` for a kind that is not known, and for one name given twice."""
    found: dict[str, Extractor] = {}
    if isinstance(lengths, str | int | float):
        raise UserError(f"lengths is {lengths!r}: give a list of numbers of frames, as [16,128]")
    for text in [given] if isinstance(given, str) else given:
        kind, _, path = str(text).partition(":")
        if kind not in KINDS or not path:
            raise UserError(f"extractors has {text!r}: give kind:path, with one of {', '.join(KINDS)} before the colon")
        if path == "None":  # what ${artifact} is where it is null
            raise UserError("artifact=null leaves no network: give extractors=, as [inception:/path/to/the/file]")
        made = KINDS[kind](path, lengths)
        if made.name in found:
            raise UserError(f"extractors names {made.name} twice: their figures would have one name")
        found[made.name] = made
    if not found:
        raise UserError("extractors is empty: give one at least, as encoder:models/<study>/classifier")
    return list(found.values())
