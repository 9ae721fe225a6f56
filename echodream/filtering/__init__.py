"""The privacy filter: copies, embeddings, scores, record.

A new positive control is a line in conf/controls/declared.yaml; only another kind of copy needs a new class in
``positive_controls.py``.
"""
