"""Computations of ``stage=plan``: content of a study, time and memory of each model, and an experiment file."""
