"""Types of the sections of the page; ``sections/__init__.py`` lists the sections."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from echodream.report.clips import PageClips
from echodream.report.sources import Sources
from echodream.report.tables import MissingRecord, Table, Verdict


@dataclass(frozen=True)
class PageContext:
    """Inputs of each section of the report; ``command`` is the command line that builds the page."""

    sources: Sources
    clips: PageClips
    verdicts: Sequence[Verdict]
    command: str
    code_version: str


@dataclass(frozen=True)
class SectionContent:
    """Content of a section on the page and in metrics.json."""

    variables: Mapping[str, Any]
    """Variables of the section's template."""
    tables: Mapping[str, Sequence[Table]] = field(default_factory=dict)
    """The section's tables in metrics.json, by topic."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    """Other entries of the section in metrics.json."""
    missing_records: Mapping[str, MissingRecord] = field(default_factory=dict)
    """Missing records by name, for the template and for metrics.json."""


@dataclass(frozen=True)
class Section:
    """A section of the page: report/sections/<name>.py and report/templates/sections/<name>.html."""

    name: str
    heading: str
    build: Callable[[PageContext], SectionContent | None]
    """Function that builds the content; it returns None to leave the section out."""
    verdict: Callable[[Sources], Verdict] | None = None
