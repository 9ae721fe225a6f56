"""Measures, embedding sets and plots of ``stage=audit``."""
