"""Conditions of a denoiser: one file per condition, each with its own null embedding and dropout.

To add a condition, add a file here with a subclass of ``TokenCondition`` that has a new ``kind``, and a file in
``conf/conditioning/``. Nothing else names it: ``conditioning=``, ``labels=`` and ``guidance.<name>=`` work at once.
"""
