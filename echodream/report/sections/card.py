"""Section "Synthetic-data card": the figures of the study, ordered by the seven Cs (report/seven_cs.py)."""

from echodream.report import seven_cs
from echodream.report.section import PageContext, Section, SectionContent

_CARD_RECORDS = ("filter_image", "filter_video", "audit_image", "audit_video", "evaluation", "utility")


def build(context: PageContext) -> SectionContent | None:
    """The seven criteria; None for a study that is unfinished, or has no record of a synthetic set."""
    sources = context.sources
    if sources.is_unfinished or (sources.synthetic is None and not sources.records.keys() & set(_CARD_RECORDS)):
        return None
    return SectionContent({"criteria": seven_cs.seven_cs(sources)})


SECTION = Section("card", "Synthetic-data card", build)
