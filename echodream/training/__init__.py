"""Training runs: fit, cross-validation, the hash of training settings, lineage for Weights & Biases."""
