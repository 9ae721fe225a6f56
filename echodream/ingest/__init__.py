"""Reads raw studies: a ``source.Source`` lists the recordings of a study and decodes them one by one.

To add a study that is a folder of videos or images with a csv: one yaml in ``conf/data/`` (as ``lung.yaml`` or
``chest_xray.yaml``). To add another layout: one file here with a frozen dataclass that has ``recordings`` and ``read``
(as ``camus.py``), and its yaml in ``conf/data/``.
"""
