"""Conditions of a denoiser, each with its own null embedding and dropout.

To add a condition that is a number or a text in a column of FileList.csv, add only a yaml in ``conf/conditioning/``: a
copy of ``EF.yaml`` (``Scalar``) or ``view.yaml`` (``Category``). For another type of value, also add a file here with
a subclass of ``TokenCondition`` that has a new ``kind``. ``conditioning=[<name>]``, ``labels=`` and
``guidance.<name>=`` then work.
"""
