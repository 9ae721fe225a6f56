"""Sections of the report, one file each, with a template of the same name in ``templates/sections/``."""

from . import anonymized, card, fidelity, gallery, lineage, privacy, progress, usefulness, verdict

SECTIONS = (
    progress.SECTION,
    verdict.SECTION,
    gallery.SECTION,
    privacy.SECTION,
    usefulness.SECTION,
    fidelity.SECTION,
    anonymized.SECTION,
    card.SECTION,
    lineage.SECTION,
)
"""Sections of the report page, in order."""
