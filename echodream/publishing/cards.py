"""The page that the hub shows: what it is, how it was made, what was promised, measured and not measured."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from echodream.errors import UserError
from echodream.publishing.checks import DRAWN_BY, GENERATORS, Cleared
from echodream.report.mismatches import find_mismatches
from echodream.report.sections import fidelity, privacy, usefulness
from echodream.report.sections.lineage import lineage, package_versions
from echodream.report.sources import Sources
from echodream.report.tables import Row, Table, Verdict

TEMPLATES = Path(__file__).parent
TAGS = ["medical", "ultrasound", "echocardiography", "synthetic", "echodream"]
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]*")
_UNSEEN = re.compile(r"<!--.*?-->|^[>\s]+", re.DOTALL | re.MULTILINE)
"""What the hub does not show, and the marks of a quotation."""


def valid_license(name: object) -> bool:
    """Whether ``name`` can be one of the hub's identifiers of licences."""
    return isinstance(name, str) and _LICENSE.fullmatch(name) is not None


def data_card(cleared: Cleared, what: str, license: str, facts: Mapping[str, Any]) -> str:
    """README.md of a store; ``facts`` are counts and columns."""
    from huggingface_hub import DatasetCard, DatasetCardData

    count = int(facts["recordings"])
    size = next((f"{low}<n<{high}" for low, high in (("1K", "10K"), ("10K", "100K")) if count >= _number(low)), "n<1K")
    data = DatasetCardData(
        license=license,
        pretty_name=f"Synthetic {what} of {cleared.sources.study}",
        size_categories=size,
        tags=TAGS,
        configs=[{"config_name": "default", "data_files": "store/FileList.csv"}],
    )
    told = {**_common(cleared), **facts, "what": what, "license": license}
    return _tidy(str(DatasetCard.from_template(data, template_path=str(TEMPLATES / "data_card.md"), **told)))


def model_card(cleared: Cleared, what: str, license: str, facts: Mapping[str, Any]) -> str:
    """README.md of a generator; ``facts`` is its artifact.json."""
    from huggingface_hub import ModelCard, ModelCardData

    pipeline = {"lidm": "unconditional-image-generation", "lvdm": "image-to-video"}[what]
    data = ModelCardData(
        license=license, library_name="diffusers", pipeline_tag=pipeline, tags=[*TAGS, "diffusion", what]
    )
    told = {**_common(cleared), **facts, "what": what, "license": license}
    return _tidy(str(ModelCard.from_template(data, template_path=str(TEMPLATES / "model_card.md"), **told)))


def check_card(path: Path, what: str, cleared: Cleared) -> None:
    """Raise ``UserError`` where the card at ``path``, which may be edited, has lost what it must tell."""
    template = (TEMPLATES / f"{'model' if what in GENERATORS else 'data'}_card.md").read_text(encoding="utf-8")
    limits = template[template.index("## Limits") :].split("\n## ")[0]
    text = _words(path.read_text(encoding="utf-8"))
    told = {"the filter's statement": [cleared.decision["statement"]], "a finding of the audit": cleared.findings}
    told["the section Limits as it was written"] = [limits]
    for name, parts in told.items():
        if any(_words(part) not in text for part in parts):
            raise UserError(
                f"{path} has lost {name}: put it back word for word, or remove {path.parent} and run the same command "
                "again"
            )


def _words(text: str) -> str:
    """What is read of Markdown, however its lines are broken."""
    return " ".join(_UNSEEN.sub(" ", text).split())


def _tidy(text: str) -> str:
    """``text`` with one empty line where there are several, and a line's end at its end."""
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _number(short: str) -> int:
    return int(short.removesuffix("K")) * 1000


def _common(cleared: Cleared) -> dict[str, Any]:
    """What both cards say: verdicts, the filter, the audits, how it was made."""
    sources, records = cleared.sources, cleared.sources.records
    audited = [on for on in ("video", "image") if f"audit_{on}" in records and DRAWN_BY[on] in cleared.generators]
    fresh = {name for name in ("utility", "evaluation") if name in records and not _is_stale(name, sources)}
    tables = usefulness.overview_tables(sources) if "utility" in fresh else []
    tables += fidelity.fidelity_tables(sources) if "evaluation" in fresh else []
    verdicts = [privacy.verdict(sources)]
    verdicts += [usefulness.verdict(sources)] if "utility" in fresh else []
    verdicts += [fidelity.verdict(sources)] if "evaluation" in fresh else []
    return {
        "study": sources.study,
        "on": cleared.on,
        "decision": cleared.decision,
        "findings": cleared.findings,
        "generators": cleared.generators,
        "verdicts": [_sentence(verdict) for verdict in verdicts],
        "audits": [(on, _markdown(privacy.audit_tables(sources, f"audit_{on}"))) for on in audited],
        "figures": _markdown(tables),
        "commands": [made.command for made in lineage(sources) if made.command],
        "versions": package_versions(),
    }


def _is_stale(name: str, sources: Sources) -> bool:
    """Whether the record ``name`` is of other stores: then it says nothing of these."""
    return sources.synthetic is None or any(mismatch.record == name for mismatch in find_mismatches(sources))


def _sentence(verdict: Verdict) -> str:
    return f"**{verdict.topic}: {verdict.label}.** {' '.join([verdict.sentence, *verdict.notes])}".strip()


def _markdown(tables: Sequence[Table]) -> list[str]:
    """Each table as Markdown."""
    return [_table(table) for table in tables if table.rows]


def _table(table: Table) -> str:
    heads = [head or " " for head in table.columns]
    lines = [f"| {' | '.join(heads)} |", "| --- | --- | --- |", *(_line(row) for row in table.rows)]
    return "\n".join([f"**{table.title}**", "", *lines, *(["", table.note] if table.note else [])])


def _line(row: Row) -> str:
    mark = " (stands out)" if row.stands_out else ""
    value = row.value_text or _interval(row.raw_value or row.value)
    beside = row.reference_text or _interval(row.raw_reference or row.reference)
    return f"| {_cell(row.name)}{mark} | {_cell(value)} | {_cell(beside)} |"


def _interval(value: Any) -> str:
    if value is None:
        return ""
    ends = "" if value.low == value.high else f" [{value.low:.3g}, {value.high:.3g}]"
    return f"{value.value:.3g}{ends}"


def _cell(text: str) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")
