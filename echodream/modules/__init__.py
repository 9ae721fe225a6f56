"""LightningModules, one file for each model of train.py, and the augmentations of ``model=reid``."""
