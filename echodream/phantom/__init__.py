"""The phantom: a simulated beating heart in an apical four-chamber view, with its ground truth.

Modules in order of use: ``anatomy`` (heart of one patient), ``shape`` (outlines of the chambers), ``scene`` (one
recording), ``motion`` (cardiac cycle), ``tissue`` and ``valves`` (echo amplitude), ``render`` (pixels and label maps).
"""
