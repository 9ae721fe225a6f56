"""Anonymized versions of images, and comparing them with their originals. A new method is a class in ``methods.py``."""
