"""Conditions of a denoiser: one file per condition, each with its own null embedding and dropout.

A condition that is a number or a category in a column of FileList.csv needs only a file in ``conf/conditioning/``,
such as ``EF.yaml`` (``Scalar``) or ``view.yaml`` (``Category``). For another kind add a file here with a subclass of
``TokenCondition`` that has a new ``kind``. ``conditioning=``, ``labels=`` and ``guidance.<name>=`` then work at once.
"""
