"""Evaluation of synthetic recordings: features, fidelity metrics, class agreement, cardiac cycle, utility."""
