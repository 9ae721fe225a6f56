"""Timings as ratios within one run, and planted mistakes. A package, so that no installed package of the same name hides it."""
