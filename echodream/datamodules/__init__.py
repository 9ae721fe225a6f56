"""Batches for training and testing, read from Stores.

``datamodule.StoreData`` is the LightningDataModule of all models. A view (``views.View``) defines one training sample:
frame, clip, pair or triplet of frames. ``augmentation.Augment`` augments samples. Labels are columns of FileList.csv.
"""
