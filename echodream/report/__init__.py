"""The report of a study (``stage=report``): ``sections/`` computes the figures, and lists the sections."""
