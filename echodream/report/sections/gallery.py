"""Section "See for yourself": real and synthetic videos of each class."""

from echodream.report.section import PageContext, Section, SectionContent


def build(context: PageContext) -> SectionContent:
    """The videos that ``clips.choose_clips`` selected."""
    sources, missing = context.sources, {}
    if sources.synthetic is None and sources.is_unfinished:
        missing["gallery"] = sources.missing_record("videos", "The synthetic videos are not yet made.")
    elif sources.synthetic is None:
        missing["gallery"] = sources.missing_record("videos", "There are no synthetic videos yet.")
    elif sources.real is None:
        missing["gallery"] = sources.missing_record("real", "There are no real videos for comparison.")
    return SectionContent({"clips": context.clips}, missing_records=missing)


SECTION = Section("gallery", "See for yourself", build)
