"""Training: single runs, cross-validation, the hash of training settings, lineage for Weights & Biases."""
