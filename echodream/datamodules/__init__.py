"""Batches for training and testing, read from Stores.

``datamodule.StoreData`` is the LightningDataModule of all models. A view (``views.View``) defines one training sample:
a frame, a clip, a pair, a triplet. ``augmentation.Augment`` augments samples. Labels are columns of FileList.csv.

To add a view: a class in ``views.py`` and a yaml in ``conf/view/``.
To add an augmentation: a function and a field of ``Augment`` in ``augmentation.py``, and its key in
``conf/datamodule/default.yaml``. Augmentations of latents for the
re-identification model are in ``modules/reid_augmentation.py``.
To add a task of a classifier: a class in ``tasks.py`` and a yaml in ``conf/task/``.
"""
