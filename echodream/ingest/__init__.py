"""Reads raw studies: a ``source.Source`` lists the recordings of a study and decodes them one by one.

A study of videos or images with a csv needs one yaml in ``conf/data/``, like ``lung.yaml`` or ``chest_xray.yaml``.
Another folder layout also needs a file in this package: a frozen dataclass like ``Camus`` in ``camus.py``.
"""
