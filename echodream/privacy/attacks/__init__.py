"""What remains after filtering: measures of leakage, with intervals, each a pure function of embeddings or scores."""
