"""Conditions of a denoiser, each with its own null embedding and dropout.

To add a number or a text in a column of FileList.csv as a condition, copy ``new_condition.yaml.template`` or
``view.yaml`` in ``conf/conditioning/``. For another type of value, also add a subclass of ``TokenCondition`` with a
new ``kind`` in a new file of this package. ``conditioning=[<name>]``, ``labels=`` and ``guidance.<name>=`` then work.
"""
