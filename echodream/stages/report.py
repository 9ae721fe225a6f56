"""``stage=report``: all results of the synthetic set of a study, as one HTML page that opens offline."""

import re
from collections.abc import Mapping, Sequence
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING

from echodream import validation
from echodream.config.stage_signature import InputPath, OutputPath
from echodream.errors import UserError
from echodream.runs.atomic_folder import write_record, write_text
from echodream.runs.redaction import find_patient_name
from echodream.runs.summary import Summary
from echodream.store.lock import lock_for_writing, unlock
from echodream.store.schema import DATASET

if TYPE_CHECKING:
    from echodream.report.build import Page
    from echodream.report.sources import Sources

PAGE_FILE = "index.html"
METRICS_FILE = "metrics.json"
SHARED_PAGE_TEXT = '<p class="status">For sharing.'
"""Text that only pages with ``share`` contain."""
MAX_PAGE_BYTES = 15_000_000
_VIDEO_DATA = re.compile(r"data:video/mp4;base64,[A-Za-z0-9+/=]*")


def report(
    *,
    share: bool,
    study: str,
    real: InputPath | None,
    videos: InputPath | None,
    passed_stores: Mapping[str, InputPath],
    records: Mapping[str, InputPath],
    folders: Mapping[str, InputPath],
    runs: str,
    look: Mapping[str, int],
    dst: OutputPath,
    command: str,
    code_version: str,
    early: bool = False,
) -> Summary:
    """Write ``dst``/index.html, metrics.json and card.json from the existing stores and records of ``study``.

    Stores: ``real``, ``videos`` (synthetic, decoded) and ``passed_stores`` (samples that passed the filter).
    ``records``: folders and files of filter, audit, evaluation and utility. ``folders`` contain stores and artifacts
    with recorded commands. ``runs``: folder of the study's runs, whose newest pictures are shown while the study is
    unfinished. ``look``: fields of ``ClipSettings``. With ``early``, nothing is written if results exist. With
    ``share``, the page has no frame of a patient, and a name of a patient raises ``UserError``. Raises ``UserError``
    for invalid records, and if there is no store and no record.
    """
    validation.true_or_false("share", share)
    validation.true_or_false("early", early)
    from echodream.report.build import GENERATOR, build_page, page_card, page_metrics, render_page
    from echodream.report.clips import ClipSettings
    from echodream.report.seven_cs import CARD, SCHEMA, write_card
    from echodream.report.sources import load_sources

    settings, stores = ClipSettings(**look), {"real": real, "videos": videos}
    sources = load_sources(study, share, stores, passed_stores, records, folders, runs)
    if early and not sources.is_unfinished:
        return Summary(f"report: {dst} has results already, nothing to do with early=true", {})
    _check_sources(sources, stores)
    target = Path(dst) / PAGE_FILE
    check_target(target, share, GENERATOR)
    page = build_page(sources, settings, command, code_version)
    text, metrics, card = render_page(page), page_metrics(page), page_card(page)
    if share:
        _refuse_patient_names(sources, text + str(metrics) + str(card))
    if len(text.encode()) > MAX_PAGE_BYTES:
        size = len(text) // 1_000_000
        raise UserError(f"{target} would have {size} MB: lower look.per_class, look.pairs or look.seconds")
    handle = lock_for_writing(target.parent)
    try:
        write_text(target, text)
        write_record(target.with_name(METRICS_FILE), metrics)
        if card is not None:
            write_card(target.parent, card)
    finally:
        unlock(handle)
    return _summary(target, page, len(text), (PAGE_FILE, METRICS_FILE, *((CARD, SCHEMA) if card is not None else ())))


def check_target(target: Path, share: bool, generator: str, kind: str = "report") -> None:
    """Raise ``UserError`` if ``target`` is in a store, or would replace a shared page or a file of another ``kind``."""
    for folder in (target.parent.resolve(), *target.parent.resolve().parents):
        if (folder / DATASET).is_file():
            raise UserError(f"dst={target.parent} lies in the store {folder}, which may be shared: choose another dst=")
    generator = f'name="generator" content="{generator}"'
    existing = target.read_text("utf-8", "replace") if target.is_file() else ""
    if existing and generator not in existing[:4000]:
        raise UserError(f"{target} exists and is not a {kind}: remove it, or choose another dst=")
    if not share and SHARED_PAGE_TEXT in existing:
        raise UserError(f"{target} is a shared page, and a private page would replace it: choose another dst=")


def _check_sources(sources: "Sources", stores: Mapping[str, str | None]) -> None:
    if sources.synthetic is None and not sources.records and (sources.real is None or not sources.awaits_videos):
        raise UserError(
            f"there is nothing to report: real={stores['real']}, videos={stores['videos']} and the records of filter, "
            "audit, evaluate and utility do not exist; run one of these stages"
        )
    if not sources.share:
        return
    if sources.real is None:
        raise UserError(f"share=true needs real={stores['real']}, whose patients must not be named in the page")
    if sources.synthetic is not None and sources.passed_filter_kind() is None:
        raise UserError(
            f"videos={stores['videos']} was not made from samples that passed the filter, as share=true "
            "requires: run stage=filter on=video and stage=decode, or give videos=null"
        )


def _refuse_patient_names(sources: "Sources", text: str) -> None:
    """Raise ``UserError`` if ``text``, the HTML of a page, contains the name of a patient or recording."""
    from echodream.report.build import TEMPLATES

    assert sources.real is not None
    public_text = "\n".join(path.read_text(encoding="utf-8") for path in sorted(TEMPLATES.rglob("*.html")))
    if name := find_patient_name(sources.real, unescape(_VIDEO_DATA.sub("", text)), public_text):
        raise UserError(
            f"the shared page would contain '{name}', a patient or recording of {sources.real.root}, from a command, a "
            "class name or a record: run the stage that wrote it again without this name; no page was written"
        )


def _summary(target: Path, page: "Page", size: int, files: Sequence[str]) -> Summary:
    context = page.context
    figures = [f": {verdict.main_number} {verdict.unit}" if verdict.main_number else "" for verdict in context.verdicts]
    verdicts = zip(context.verdicts, figures, strict=True)
    facts: dict[str, object] = {verdict.topic.lower(): f"{verdict.label}{figure}" for verdict, figure in verdicts}
    facts["videos"] = f"{sum(1 for _ in context.clips.all_clips())}, the page has {size / 1e6:.1f} MB"
    facts |= {f"without {name}": record.command for name, record in page.missing_records.items()}
    facts |= {f"note {number}": notice for number, notice in enumerate(page.notices, 1)}
    facts["for"] = "sharing: no frame and no name of a patient" if context.sources.share else "private use"
    return Summary(f"report: {target} done", facts, files=tuple(files))
