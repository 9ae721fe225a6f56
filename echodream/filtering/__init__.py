"""The privacy filter: copies, embeddings, scores, record."""
