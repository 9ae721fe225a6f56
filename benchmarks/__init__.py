"""Scripts that measure time, memory and quality, run mutation tests, and draw figures of the documentation.

This folder is a package, so that no installed package with the name benchmarks hides it.
"""
