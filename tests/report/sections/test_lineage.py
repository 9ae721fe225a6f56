"""Section "How it was made" of the report: every record is listed with its command, unknown records last."""

from echodream.report.sections.lineage import PIPELINE_ORDER, lineage
from echodream.report.sources import RECORD_FILES, Sources


def test_records_outside_the_order_of_the_pipeline_follow_it() -> None:
    names = [*RECORD_FILES, "a_new_record"]
    records = {name: {"command": f"python sample.py stage={name}"} for name in names}
    found = [entry.command.partition("=")[2] for entry in lineage(Sources("s", True, None, None, {}, records, {}))]
    ordered = [name for name in PIPELINE_ORDER if name in records]
    assert found[: len(ordered)] == ordered
    assert found[len(ordered) :] == sorted(set(names) - set(ordered))
    assert "canaries_image" in found
