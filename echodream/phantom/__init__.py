"""The phantom: a simulated beating heart in an apical four-chamber view, with its ground truth.

In order of use: ``anatomy`` (sizes of one patient), ``shape`` (outlines of the chambers), ``scene`` (one recording),
``motion`` (the cardiac cycle), ``tissue`` and ``valves`` (echo amplitude), ``render`` (pixels and label maps).
"""
