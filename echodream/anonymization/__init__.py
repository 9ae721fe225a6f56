"""Anonymization of images, and the comparison of anonymized images with their originals."""
