"""Types of a section of the page; build.py lists the sections."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from echodream.report.clips import PageClips
from echodream.report.sources import Sources
from echodream.report.tables import MissingRecord, Table, Verdict


@dataclass(frozen=True)
class PageContext:
    """Input of all sections."""

    sources: Sources
    clips: PageClips
    """All videos of the page."""
    verdicts: Sequence[Verdict]
    command: str
    """The command that makes this page."""
    code_version: str


@dataclass(frozen=True)
class SectionContent:
    """Content of a section on the page and in metrics.json."""

    data: Mapping[str, Any]
    """Variables of its template."""
    tables: Mapping[str, Sequence[Table]] = field(default_factory=dict)
    """The tables in metrics.json, by topic."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    """Other entries of metrics.json."""
    missing: Mapping[str, MissingRecord] = field(default_factory=dict)
    """Missing records, by name: a variable of the template, and an entry of metrics.json."""


@dataclass(frozen=True)
class Section:
    """A section of the page: report/sections/<name>.py and report/templates/sections/<name>.html."""

    name: str
    heading: str
    build: Callable[[PageContext], SectionContent | None]
    """None leaves the section out."""
    verdict: Callable[[Sources], Verdict] | None = None
