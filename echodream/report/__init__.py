"""The report of a study (``stage=report``): build.py lists the sections."""
