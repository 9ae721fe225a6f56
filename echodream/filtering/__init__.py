"""The privacy filter: copies, embeddings, scores, record.

A new positive control is a line in conf/controls/declared.yaml; a new transform of pixels also needs a parameter of
``datamodules.random_transforms``, another kind of copy a new class in ``positive_controls.py``.
"""
