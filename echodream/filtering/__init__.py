"""The privacy filter: copies, embeddings, scores, record.

A new positive control is a line in conf/controls/declared.yaml; only a new kind needs a class in positive_controls.py.
"""
