"""The privacy filter: copies, embeddings, scores, record. A new positive control is a class in positive_controls.py."""
