"""Sections of the report. A section is a file here and its template in templates/sections/, listed in
``build.SECTIONS``.

To add a figure to a section, compute it in the section's ``build`` and show it in its template. A new kind of chart is
a function of ``charts_svg``.
"""
