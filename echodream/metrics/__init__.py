"""Metrics as pure functions. A new fidelity metric is an entry of ``fidelity.METRICS``."""
