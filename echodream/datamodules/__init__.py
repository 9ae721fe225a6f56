"""Batches for training and testing, from Stores.

``StoreData`` is the one LightningDataModule; a view says what one sample is, ``Augment`` how it is varied.
"""
