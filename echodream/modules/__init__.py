"""LightningModules, one file for each model of train.py, and the augmentation of re-identification models."""
