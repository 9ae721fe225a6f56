"""Anonymization of images, and comparison with the originals. A new method is a class in ``methods.py``."""
