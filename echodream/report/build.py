"""The report page: all results on a study's synthetic set, in one HTML file that opens offline."""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from echodream.report import number_format, svg_primitives
from echodream.report.clips import ClipSettings, choose_clips
from echodream.report.section import PageContext, Section, SectionContent
from echodream.report.sections import SECTIONS, card, verdict
from echodream.report.seven_cs import card_record
from echodream.report.sources import Sources
from echodream.report.tables import MissingRecord

TEMPLATES = Path(__file__).parent / "templates"
GENERATOR = "echodream"
"""Value of the meta element "generator" of the page; files without this element are not overwritten."""


@dataclass(frozen=True)
class Page:
    """The content of the report page."""

    context: PageContext
    contents: Mapping[Section, SectionContent]

    @property
    def notices(self) -> list[str]:
        """Warnings at the top of the page."""
        return list(self.contents[verdict.SECTION].variables["notices"])

    @property
    def missing_records(self) -> dict[str, MissingRecord]:
        """Missing records of all sections, by name."""
        return {name: record for content in self.contents.values() for name, record in content.missing_records.items()}


def build_page(sources: Sources, settings: ClipSettings, command: str, code_version: str) -> Page:
    """The page with all sections. Raises ``UserError`` for invalid records and stores."""
    verdicts = [section.verdict(sources) for section in SECTIONS if section.verdict is not None]
    context = PageContext(sources, choose_clips(sources, settings), verdicts, command, code_version)
    contents = [(section, section.build(context)) for section in SECTIONS]
    return Page(context, {section: content for section, content in contents if content is not None})


def render_page(page: Page) -> str:
    """The page as one HTML file, whose content security policy forbids all requests."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    charts = ("axis_tick_labels", "histogram_charts", "interval_chart")
    environment.globals.update({name: getattr(svg_primitives, name) for name in charts})
    environment.globals.update(study=page.context.sources.study, share=page.context.sources.share)
    formats = [name for name in vars(number_format) if name.startswith("format_")]
    environment.filters.update({name: getattr(number_format, name) for name in formats})
    sections = []
    for section, content in page.contents.items():
        template = environment.get_template(f"sections/{section.name}.html")
        sections.append((section, Markup(template.render(**content.variables, missing=content.missing_records))))
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    policy = content_security_policy(style, script)
    return environment.get_template("page.html").render(
        sections=sections, style=style, script=script, policy=policy, generator=GENERATOR
    )


def content_security_policy(style: str, script: str) -> str:
    """Content security policy that forbids requests and allows only ``style``, ``script`` and embedded media."""
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script))
    sources = " ".join(
        f"{kind}-src 'sha256-{digest}';" for kind, digest in zip(("style", "script"), digests, strict=True)
    )
    return f"default-src 'none'; {sources} img-src data:; media-src data: blob:; base-uri 'none'; form-action 'none'"


def page_metrics(page: Page) -> dict[str, Any]:
    """The content of metrics.json: the numbers of the page, for other programs."""
    context, contents = page.context, page.contents.values()
    metrics: dict[str, Any] = {"study": context.sources.study, "share": context.sources.share}
    metrics |= {"command": context.command, "code_version": context.code_version}
    for content in contents:
        metrics |= content.metrics
    metrics["tables"] = {
        topic: {table.title: [row.as_json() for row in table.rows] for table in tables}
        for content in contents
        for topic, tables in content.tables.items()
    }
    metrics["missing"] = {
        name: {"what": record.message, "command": record.command} for name, record in page.missing_records.items()
    }
    return dict(json.loads(json.dumps(metrics, allow_nan=False)))


def page_card(page: Page) -> dict[str, Any] | None:
    """The content of card.json; None if the page has no synthetic-data card."""
    context, content = page.context, page.contents.get(card.SECTION)
    if content is None:
        return None
    return card_record(content.variables["criteria"], context.sources, context.command, context.code_version)
