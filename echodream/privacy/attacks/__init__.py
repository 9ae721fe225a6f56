"""Attacks and measures of leakage after filtering: pure functions of embeddings or scores, with intervals."""
