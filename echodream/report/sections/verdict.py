"""Section "Verdict": the results of all sections, warnings, and the numbers of patients and videos."""

from echodream.report.mismatches import find_mismatches
from echodream.report.number_format import format_count
from echodream.report.section import PageContext, Section, SectionContent
from echodream.report.sources import Sources
from echodream.store import Store

_SPLITS = {
    "TRAIN": ("Training patients", "the generator was trained on them"),
    "VAL": ("Validation patients", "used to choose when training stopped"),
    "TEST": ("Test patients", "not used to train or choose a model"),
}


def build(context: PageContext) -> SectionContent:
    """The verdicts of all sections, the warnings, and the sizes of the splits."""
    verdicts, notices = context.verdicts, _page_warnings(context.sources)
    data = {"verdicts": verdicts, "notices": notices, "counts": split_counts(context.sources)}
    metrics = {"verdict": {verdict.topic.lower(): verdict.as_json() for verdict in verdicts}, "notices": notices}
    return SectionContent(data, metrics=metrics)


def _page_warnings(sources: Sources) -> list[str]:
    """Warnings about predicted classes, and about records that were made from other stores than those of the page."""
    warnings, table = [], None if sources.synthetic is None else sources.synthetic.table
    if table is not None and "LabelSource" in table and (table["LabelSource"].astype(str) != "asked").any():
        warnings.append("Classes of the synthetic videos are predictions of a classifier, not conditions.")
    return [*warnings, *(message for _, message in find_mismatches(sources))]


def split_counts(sources: Sources) -> list[tuple[str, str, str]]:
    """Name, size and explanation of each split of real patients, and of the synthetic set."""
    counts = []
    if sources.real is not None:
        for split, (name, explanation) in _SPLITS.items():
            rows = sources.real.table[sources.real.table["Split"] == split]
            patients = format_count(int(rows["PatientID"].nunique()), "patient")
            counts.append((name, f"{patients}, {format_count(len(rows), 'recording')}", explanation))
    if (videos := sources.synthetic) is not None:
        frames = format_count(int(videos.table["NumberOfFrames"].sum()), "frame")
        counts.append(("Synthetic videos", f"{format_count(len(videos), 'video')}, {frames}", _class_counts(videos)))
    return counts


def _class_counts(store: Store) -> str:
    if "class_name" not in store.table or store.table["class_name"].isna().any():
        return "without classes"
    counts = store.table["class_name"].astype(str).value_counts().sort_index()
    return ", ".join(f"{number} {name}" for name, number in counts.items())


SECTION = Section("verdict", "Verdict", build)
