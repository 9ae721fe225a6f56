"""Timings as ratios within one run, planted mistakes, and figures of the documentation.

A package, so that no installed package of the same name hides it.
"""
