"""The stages of sample.py, one file per ``stage=``.

To add a stage: ``conf/stage/<stage>.yaml`` and ``<stage>.py`` here. conf/stage/verify.yaml and ``verify.py`` are the
shortest example.

The yaml begins with ``# @package _global_`` and names the function in ``stage._target_``. The function has the name of
the file (``filter_`` for a Python builtin) and returns a ``runs.summary.Summary``. Each parameter is the setting of its
name; ``command`` and ``code_version`` are passed, too. Type hints ``InputPath`` and ``OutputPath``
(``config/stage_signature.py``) mark the paths that it reads and writes, so that a rerun knows when nothing changed.
"""
