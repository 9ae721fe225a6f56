"""Measures, embedding sets and figures of ``stage=audit``."""
