"""LightningModules, one file per model of train.py, and the augmentation of re-identification training."""
