"""Batches for training and testing, read from Stores.

``datamodule.StoreData`` is the LightningDataModule of all models. A view (``views.View``) defines one training sample:
a frame, a clip, a pair, a triplet. ``augmentation.Augment`` augments samples. Labels are columns of FileList.csv.

To add a view, write a class in ``views.py`` and a yaml in ``conf/view/``. To add an augmentation of pixels, write a
function and a field of ``Augment`` in ``augmentation.py``, and add its key to ``conf/datamodule/default.yaml``. To add
a task of a classifier, write a class in ``tasks.py`` and a yaml in ``conf/task/``.
"""
