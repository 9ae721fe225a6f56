"""Sections of the report, one file each, with a template of the same name in ``templates/sections/``.

To add a figure (plot or table), compute it in the function ``build`` of the section, and show it in the template. Only
a new type of chart also needs a function in ``svg_primitives.py``. To add a section, add a file to this folder, its
template, and its name in ``build.SECTIONS``.
"""
