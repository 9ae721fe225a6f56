"""Reads raw studies: a ``source.Source`` lists the recordings of a study and decodes them one by one.

A study of videos or images with a csv needs one yaml: a copy of ``conf/data/new_study.yaml.template``.
Another folder layout also needs a file in this package: a frozen dataclass like ``Camus`` in ``camus.py``.
"""
