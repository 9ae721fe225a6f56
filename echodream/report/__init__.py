"""The report of a study (``stage=report``): the files in ``sections/`` compute its numbers."""
