"""The page itself: everything that is known of a study's synthetic set in one file that opens offline."""

import base64
import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup

from echodream.report.charts_svg import axis, curves, ridges, track
from echodream.report.figures import (
    Missing,
    Row,
    Table,
    Verdict,
    between,
    count,
    number,
    percent,
    round_up,
    times,
    within,
)
from echodream.report.sections import anonymized as anonymised
from echodream.report.sections import fidelity, privacy, usefulness
from echodream.report.sections.gallery import Gallery, Look, gallery
from echodream.report.sections.lineage import Made, lineage, versions
from echodream.report.sections.privacy import Scores, Step
from echodream.report.sources import Sources
from echodream.report.stale import stale
from echodream.store import Store

TEMPLATES = Path(__file__).parent / "templates"
GENERATOR = "echodream"
"""What the page says of who made it; a page without it is not written over."""


@dataclass
class Page:
    """All that the template shows."""

    study: str
    share: bool
    verdicts: list[Verdict]
    notices: list[str]
    """What does not belong together."""
    people: list[tuple[str, str, str]]
    """Who is in the study: a name, how many, and of what."""
    gallery: Gallery
    funnel: list[Step]
    copies: list[tuple[str, list[Table]]]
    """By filter, "image" or "video": the last one first."""
    scores: list[Scores]
    audits: list[tuple[str, list[Table], Markup | None, list[str]]]
    """Of images or videos: tables, the curve of identity along a sample, and what could not be measured."""
    overview: list[Table]
    utility: list[Table]
    fidelity: list[Table]
    anonymised: list[Table]
    """Of linkability and anonymity; empty where no images were anonymised."""
    curve: tuple[Markup, str, str] | None
    """Of anonymised images utility over linkability, what was swept, and what stands for utility."""
    change: Markup | None
    """How much changes from frame to frame."""
    made: list[Made]
    versions: list[tuple[str, str]]
    command: str
    code_version: str
    missing: dict[str, Missing] = field(default_factory=dict)
    """By section: what is not there."""


def build(sources: Sources, look: Look, command: str, code_version: str) -> Page:
    """Put together what is there. Raises ``UserError`` for a record or store that is not what it should be."""
    ons = [on for on in ("video", "image") if f"filter_{on}" in sources.records]
    audits = [name for name in ("audit_video", "audit_image") if name in sources.records]
    page = Page(
        study=sources.study,
        share=sources.share,
        verdicts=[privacy.verdict(sources), usefulness.verdict(sources), fidelity.verdict(sources)],
        notices=_notices(sources),
        people=_people(sources),
        gallery=gallery(sources, look),
        funnel=privacy.funnel(sources),
        copies=[(on, tables) for on in ons if (tables := privacy.copies(sources, on))],
        scores=[found for on in ons if (found := privacy.scores(sources, on))],
        audits=[
            (
                name.removeprefix("audit_"),
                privacy.audit(sources, name),
                _drift(sources, name),
                privacy.unmeasured(sources, name),
            )
            for name in audits
        ],
        overview=usefulness.overview(sources) if "utility" in sources.records else [],
        utility=usefulness.tables(sources) if "utility" in sources.records else [],
        fidelity=fidelity.tables(sources) if "evaluation" in sources.records else [],
        anonymised=anonymised.tables(sources),
        curve=anonymised.curve(sources),
        change=_change(sources) if "evaluation" in sources.records else None,
        made=lineage(sources),
        versions=versions(),
        command=command,
        code_version=code_version,
    )
    page.missing = _missing(sources, page)
    return page


def _drift(sources: Sources, name: str) -> Markup | None:
    lines = privacy.drift(sources, name)
    low = min([0.0, *(float(line.low.min()) for line in lines.values())])
    return curves(lines, (low, 1.0), "Likeness to the first frame, frame by frame") if lines else None


def _change(sources: Sources) -> Markup | None:
    lines = fidelity.change(sources)
    high = round_up(max([1e-9, *(float(line.high.max()) for line in lines.values())]))
    return curves(lines, (0.0, high), "Change from each frame to the next") if lines else None


def _missing(sources: Sources, page: Page) -> dict[str, Missing]:
    found = {}
    if sources.synthetic is None:
        found["gallery"] = sources.missing("videos", "There are no synthetic videos yet.")
    elif sources.real is None:
        found["gallery"] = sources.missing("real", "There are no real videos to show beside them.")
    if not page.copies:
        found["filter"] = sources.missing("filter_image", "The privacy filter has not been run.")
    if not page.audits:
        found["audit"] = sources.missing("audit_image", "The audit has not been run.")
    if not page.utility:
        found["utility"] = sources.missing(
            "utility", "Models trained on real and on synthetic videos have not been compared."
        )
    if not page.fidelity:
        found["fidelity"] = sources.missing("evaluation", "The synthetic set has not been compared with real patients.")
    return found


def _notices(sources: Sources) -> list[str]:
    """What a reader must know before all else; records that are about other stores than those on the page."""
    found = []
    made = sources.synthetic
    if made is not None and "LabelSource" in made.table and (made.table["LabelSource"].astype(str) != "asked").any():
        found.append("The classes of these synthetic videos were given by a classifier, not asked of the generator.")
    return [*found, *stale(sources)]


def _people(sources: Sources) -> list[tuple[str, str, str]]:
    """Counts alone."""
    found = []
    said = {
        "TRAIN": ("Training patients", "the generator learnt from them"),
        "VAL": ("Validation patients", "chose when training stopped"),
        "TEST": ("Test patients", "seen by no model before it was tested"),
    }
    if sources.real is not None:
        for split, (name, what) in said.items():
            rows = sources.real.table[sources.real.table["Split"] == split]
            patients = count(int(rows["PatientID"].nunique()), "patient")
            found.append((name, f"{patients}, {count(len(rows), 'recording')}", what))
    if sources.synthetic is not None:
        videos = sources.synthetic
        frames = int(videos.table["NumberOfFrames"].sum())
        found.append(("Synthetic videos", f"{count(len(videos), 'video')}, {count(frames, 'frame')}", _classes(videos)))
    return found


def _classes(store: Store) -> str:
    if "class_name" not in store.table or store.table["class_name"].isna().any():
        return "without classes"
    counts = store.table["class_name"].astype(str).value_counts().sort_index()
    return ", ".join(f"{number} {name}" for name, number in counts.items())


def render(page: Page) -> str:
    """The page as HTML: one file, with a policy that forbids every request."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(track=track, axis=axis, ridges=ridges)
    environment.filters.update(number=number, between=between, percent=percent, count=count, times=times, within=within)
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; img-src data:; "
        "media-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    return environment.get_template("page.html").render(
        page=page, style=style, script=script, policy=policy, generator=GENERATOR
    )


def _hash(text: str) -> str:
    """As a content security policy names what it lets run."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def metrics(page: Page) -> dict[str, Any]:
    """The numbers of the page, for other programs."""
    tables: dict[str, list[Table]] = {"usefulness": page.utility, "fidelity": page.fidelity}
    tables |= {"anonymised images": page.anonymised} if page.anonymised else {}
    tables |= {f"audit of {on}s": rows for on, rows, _, _ in page.audits}
    tables |= {f"filter of {on}s": rows for on, rows in page.copies}
    verdicts = {
        each.topic.lower(): {"state": each.state, "word": each.word, "sentence": each.sentence, **each.numbers}
        for each in page.verdicts
    }
    steps = {step.name: {"drawn": step.drawn, "rejected": step.rejected, "kept": step.kept} for step in page.funnel}
    rows = {
        topic: {table.title: [_plain(row) for row in table.rows] for table in found} for topic, found in tables.items()
    }
    found = {"study": page.study, "share": page.share, "verdict": verdicts, "funnel": steps, "tables": rows}
    found |= {"missing": {name: asdict(each) for name, each in page.missing.items()}, "notices": page.notices}
    found |= {"command": page.command, "code_version": page.code_version}
    return dict(json.loads(json.dumps(found, allow_nan=False)))


def _plain(row: Row) -> dict[str, Any]:
    value, beside = row.measured or row.value, row.measured_beside or row.beside
    found = {"name": row.name, "value": asdict(value), "beside": asdict(beside) if beside else None}
    return {**found, "means": row.means, "warning": row.warning, "stands_out": row.stands_out, "said": row.text}
