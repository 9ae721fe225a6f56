"""Sections of the report, one file each, with a template of the same name in ``templates/sections/``.

To add a figure (plot or table), compute it in the function ``build`` of the section, and show it in the template. Only
a new type of chart also needs a function in ``svg_primitives.py``. To add a section, add a file to this folder, its
template, and its entry in ``SECTIONS``.
"""

from echodream.report.sections import (
    anonymized,
    card,
    fidelity,
    gallery,
    lineage,
    privacy,
    progress,
    usefulness,
    verdict,
)

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
