"""Model and dataset cards (README.md) for the Hugging Face hub, filled from the records of a study."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from echodream.errors import UserError
from echodream.privacy.private_steps import describe_budget
from echodream.publishing.checks import GENERATOR_OF_KIND, PUBLISHABLE_MODELS, Approval
from echodream.report.mismatches import find_mismatches
from echodream.report.sections import fidelity, privacy, usefulness
from echodream.report.sections.lineage import lineage, package_versions
from echodream.report.seven_cs import Criterion
from echodream.report.tables import Row, Table

TEMPLATES = Path(__file__).parent
TAGS = ["medical", "ultrasound", "echocardiography", "synthetic", "echodream"]
CANARY_RECORDS = {"canaries_image", "canaries_video"}
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]*")
_HIDDEN_MARKUP = re.compile(r"<!--.*?-->|^[>\s]+", re.DOTALL | re.MULTILINE)
"""Markup that a reader of Markdown does not see: HTML comments, and the > marks of quotations."""


def is_license(name: object) -> bool:
    """Whether ``name`` has the form of a license identifier of the Hugging Face hub."""
    return isinstance(name, str) and _LICENSE.fullmatch(name) is not None


def dataset_card(
    approval: Approval, what: str, license: str, contents: Mapping[str, Any], criteria: Iterable[Criterion]
) -> str:
    """README.md of a store. ``contents``: template values on recordings and media; ``criteria``: the seven Cs."""
    from huggingface_hub import DatasetCard, DatasetCardData

    count = int(contents["recordings"])
    data = DatasetCardData(
        license=license,
        pretty_name=f"Synthetic {what} of {approval.sources.study}",
        size_categories="n<1K" if count < 1000 else "1K<n<10K" if count < 10_000 else "10K<n<100K",
        tags=TAGS,
        configs=[{"config_name": "default", "data_dir": contents["media"]}],
    )
    values = {**_common_values(approval, what), **contents, "what": what, "license": license}
    stated_texts = {approval.decision["statement"], *approval.findings, *approval.unknown_facts}
    values["seven_cs"] = "\n\n".join(_criterion_text(criterion, stated_texts) for criterion in criteria)
    return _tidy_text(str(DatasetCard.from_template(data, template_path=str(TEMPLATES / "data_card.md"), **values)))


def model_card(approval: Approval, what: str, license: str, artifact: Mapping[str, Any]) -> str:
    """README.md of a generator. ``artifact`` is the content of the generator's artifact.json."""
    from huggingface_hub import ModelCard, ModelCardData

    pipeline = {"lidm": "unconditional-image-generation", "lvdm": "image-to-video"}[what]
    tags = [*TAGS, "diffusion", what]
    data = ModelCardData(license=license, library_name="diffusers", pipeline_tag=pipeline, tags=tags)
    guarantee = describe_budget(artifact["privacy"], what) if artifact.get("privacy") else ""
    values = {**_common_values(approval), **artifact, "what": what, "license": license, "guarantee": guarantee}
    return _tidy_text(str(ModelCard.from_template(data, template_path=str(TEMPLATES / "model_card.md"), **values)))


def check_card(path: Path, what: str, approval: Approval) -> None:
    """Raise ``UserError`` if the card at ``path``, which users may edit, lacks a required text."""
    template = (TEMPLATES / f"{'model' if what in PUBLISHABLE_MODELS else 'data'}_card.md").read_text(encoding="utf-8")
    limits = template[template.index("## Limits") :].split("\n## ")[0]
    text = _visible_text(path.read_text(encoding="utf-8"))
    required = {
        "the filter's statement": [approval.decision["statement"]],
        "a finding of the audit": approval.findings,
        "a sentence about what is not known": approval.unknown_facts,
        "the section Limits": [limits],
    }
    for name, texts in required.items():
        if any(_visible_text(each) not in text for each in texts):
            remedy = f"put it back word for word, or remove {path.parent} and run the same command again"
            raise UserError(f"{path} lacks {name}: {remedy}")


def _visible_text(markdown: str) -> str:
    """Visible text of ``markdown``, on one line."""
    return " ".join(_HIDDEN_MARKUP.sub(" ", markdown).split())


def _tidy_text(text: str) -> str:
    """``text`` without repeated empty lines, ending in a newline."""
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _common_values(approval: Approval, part: str = "videos") -> dict[str, Any]:
    """Variables of both card templates. ``part``: content of the published store, "videos" or "images"."""
    sources, generators = approval.sources, approval.generators
    other_stores = {name for name, _ in find_mismatches(sources, part)}
    records = {name: each for name, each in sources.records.items() if name not in other_stores & CANARY_RECORDS}
    if part == "images" and "evaluation" in records:  # metrics of the videos are about another store
        keys = ("protocol", "images", "command", "code_version")
        records["evaluation"] = {name: each for name, each in records["evaluation"].items() if name in keys}
    sources = replace(sources, records=records)
    usable = {"utility", "evaluation"} & (records.keys() - other_stores if sources.synthetic is not None else set())
    tables, verdicts = [], [privacy.verdict(sources)]
    if "utility" in usable:
        tables += usefulness.overview_tables(sources)
        verdicts.append(usefulness.verdict(sources))
    if "evaluation" in usable:
        tables += fidelity.fidelity_tables(sources)
        verdicts.append(fidelity.verdict(sources))
    audits = []
    for kind in ("video", "image"):
        if f"audit_{kind}" in records and (
            GENERATOR_OF_KIND[kind] in generators or (not generators and kind == approval.kind)
        ):
            audits += [f"### Audit of {kind}s", _markdown_tables(privacy.audit_tables(sources, f"audit_{kind}"))]
    return {
        "study": sources.study,
        "kind": approval.kind,
        "decision": approval.decision,
        "certified": privacy.certified_probability(approval.decision),
        "findings": _markdown_list(approval.findings),
        "generators": _markdown_list(f"{name}: weights {weights}" for name, weights in generators.items()),
        "unknown": _markdown_list(approval.unknown_facts),
        "verdicts": _markdown_list(f"**{v.topic}: {v.label}.** {' '.join([v.sentence, *v.notes])}" for v in verdicts),
        "audits": "\n\n".join(audits),
        "canary_bounds": _markdown_list(privacy.canary_statements(sources, [approval.kind])),
        "metric_tables": _markdown_tables(tables),
        "commands": "\n".join(entry.command for entry in lineage(sources) if entry.command),
        "packages": _markdown_list(f"{name} {number}" for name, number in package_versions()),
    }


def _criterion_text(criterion: Criterion, stated_texts: Collection[str]) -> str:
    """Markdown of one of the seven Cs: its question, a table of its figures, and a list of what is not measured.

    A text in ``stated_texts`` is not repeated: ``check_card`` would accept the copy if the text itself were removed.
    """
    texts = ["as stated above" if figure.text in stated_texts else figure.text for figure in criterion.figures]
    rows = [(each.name, text, each.reference_text) for each, text in zip(criterion.figures, texts, strict=True)]
    cells = [f"| {' | '.join(map(_table_cell, row))} |" for row in rows]
    table = ["| Figure | Synthetic | Real or expected |", "| --- | --- | --- |", *cells] if cells else []
    missing = [f"- {record.message}" for record in criterion.missing_records]
    head = f"### {criterion.name.capitalize()}"
    return "\n\n".join(filter(None, [head, criterion.question, "\n".join(table), "\n".join(missing)]))


def _markdown_list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line.strip()}" for line in lines)


def _markdown_tables(tables: Sequence[Table]) -> str:
    return "\n\n".join(_markdown_table(table) for table in tables if table.rows)


def _markdown_table(table: Table) -> str:
    heads = [head or " " for head in table.columns]
    lines = [f"| {' | '.join(heads)} |", "| --- | --- | --- |", *(_markdown_row(row) for row in table.rows)]
    return "\n".join([f"**{table.title}**", "", *lines, *(["", table.note] if table.note else [])])


def _markdown_row(row: Row) -> str:
    mark = " (stands out)" if row.stands_out else ""
    value = row.value_text or _format_interval(row.raw_value or row.value)
    reference = row.reference_text or _format_interval(row.raw_reference or row.reference)
    return f"| {_table_cell(row.name)}{mark} | {_table_cell(value)} | {_table_cell(reference)} |"


def _format_interval(value: Any) -> str:
    if value is None:
        return ""
    ends = "" if value.low == value.high else f" [{value.low:.3g}, {value.high:.3g}]"
    return f"{value.value:.3g}{ends}"


def _table_cell(text: str) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")
