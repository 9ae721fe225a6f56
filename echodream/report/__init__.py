"""The report of a study (``stage=report``): ``sections/`` computes the figures, build.py lists the sections."""
