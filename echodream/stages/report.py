"""``stage=report``: all that is known of a study's synthetic set as one page that opens offline, verdict first."""

import re
from collections.abc import Mapping
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from echodream import validation
from echodream.errors import UserError
from echodream.runs.atomic_folder import FRESH, lock, unlock, write_record
from echodream.runs.summary import Summary
from echodream.store.schema import DATASET

if TYPE_CHECKING:
    from echodream.report.build import Page
    from echodream.report.sources import Sources
    from echodream.store import Store

PAGE = "index.html"
SHARED = '<p class="status">For sharing.'
"""By this a page that may be passed on is known."""
METRICS = "metrics.json"
MOST_BYTES = 15_000_000
_MEDIA = re.compile(r"data:video/mp4;base64,[A-Za-z0-9+/=]*")


def report(
    *,
    share: bool,
    study: str,
    stores: Mapping[str, str | None],
    passed: Mapping[str, str],
    records: Mapping[str, str],
    folders: Mapping[str, str],
    look: Mapping[str, int],
    dst: str,
    command: str,
    code_version: str,
) -> Summary:
    """Write ``dst``/index.html and ``dst``/metrics.json of what is there of ``study``.

    ``stores`` are "real" and "videos" (synthetic, decoded), ``passed`` the stores that the filter made, ``records``
    the folders and files of filter, audit, evaluation and utility, ``folders`` where commands are recorded. With
    ``share`` the page holds no frame and no name of a patient. Raises ``UserError`` where there is nothing to report
    on, where a record is not what its stage writes, and where a shared page would hold what it must not.
    """
    validation.true_or_false("share", share)
    from echodream.report.build import GENERATOR, build, metrics, render
    from echodream.report.sections.gallery import Look
    from echodream.report.sources import gather

    seen = Look(**look)
    sources = gather(study, share, stores, passed, records, folders)
    _check(sources, stores)
    target = Path(dst) / PAGE
    _check_place(target, share, f'name="generator" content="{GENERATOR}"')
    page = build(sources, seen, command, code_version)
    text, numbers = render(page), metrics(page)
    if share:
        _refuse_names(sources, text + str(numbers))
    if len(text.encode()) > MOST_BYTES:
        size = len(text) // 1_000_000
        raise UserError(f"{target} would take {size} MB: lower look.per_class, look.pairs or look.seconds")
    _write(target, text, numbers)
    return _summary(target, page, len(text))


def _write(target: Path, text: str, numbers: Mapping[str, Any]) -> None:
    """The page and its numbers, each whole or not at all."""
    held = lock(target.parent)
    try:
        fresh = target.with_name(f"{FRESH}{PAGE}")
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(target)
        write_record(target.with_name(METRICS), numbers)
    finally:
        unlock(held)


def _check_place(target: Path, share: bool, mark: str) -> None:
    """Raise ``UserError`` where a page would get into a store, or over what is no report or is a shared one."""
    for folder in (target.parent.resolve(), *target.parent.resolve().parents):
        if (folder / DATASET).is_file():
            raise UserError(
                f"dst={target.parent} lies in the store {folder}, which others may be given: choose another"
            )
    there = target.read_text("utf-8", "replace") if target.is_file() else ""
    if there and mark not in there[:4000]:
        raise UserError(f"{target} is there and is not a report: remove it, or choose another dst=")
    if not share and SHARED in there:
        raise UserError(f"{target} is a page for sharing, and a private one would take its place: choose another dst=")


def _check(sources: "Sources", stores: Mapping[str, str | None]) -> None:
    if sources.synthetic is None and not sources.records:
        raise UserError(
            f"there is nothing to report on: neither videos={stores['videos']} nor any record of filter, audit, "
            "evaluate or utility is there; run the stages before"
        )
    if not sources.share:
        return
    if sources.real is None:
        raise UserError(f"share=true needs real={stores['real']}, to make sure that nobody in it is named on the page")
    if sources.synthetic is not None and sources.filtered() is None:
        raise UserError(
            f"videos={stores['videos']} was not made from what passed the filter, and share=true shows nothing else: "
            "run stage=filter on=video and stage=decode, or give videos=null"
        )


def _refuse_names(sources: "Sources", text: str) -> None:
    """Pseudonyms and recordings of patients have no way into a shared page but through a command or a class; look."""
    from echodream.report.build import TEMPLATES

    assert sources.real is not None
    plain = (TEMPLATES / "page.html").read_text(encoding="utf-8")
    if name := named(sources.real, unescape(_MEDIA.sub("", text)), plain):
        raise UserError(
            f"the shared page would name {name} of {sources.real.root}, which stands in a command, a class or a "
            "record: make that without it; nothing was written"
        )


def named(real: "Store", text: str, plain: str = "") -> str | None:
    """The first patient or recording of ``real`` that ``text`` names, if one is.

    Names that are short numbers, shorter than four letters, or words of ``plain``, a text for everybody, are not looked
    for: they say nobody.
    """
    table = real.table
    for name in sorted({str(name) for column in ("PatientID", "FileName") for name in table[column]}):
        digits = name.replace(".", "").isdigit()
        if len(name) < (6 if digits else 4) or name in plain or name not in text:
            continue
        decimals = r"(?<!\d\.)" if digits else ""
        if re.search(rf"{decimals}(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])", text):
            return name
    return None


def _summary(target: Path, page: "Page", size: int) -> Summary:
    facts: dict[str, object] = {
        each.topic.lower(): f"{each.word}{f': {each.figure} {each.unit}' if each.figure else ''}"
        for each in page.verdicts
    }
    clips = sum(1 for _ in page.gallery.clips())
    facts["videos"] = f"{clips}, {size / 1e6:.1f} MB with the page"
    for name, one in page.missing.items():
        facts[f"without {name}"] = one.command
    for number, notice in enumerate(page.notices, 1):
        facts[f"note {number}"] = notice
    facts["for"] = "sharing: no frame and no name of a patient" if page.share else "you alone: it shows real patients"
    return Summary(f"report: {target} done", facts, files=(PAGE, METRICS))
