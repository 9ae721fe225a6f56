"""The stages of sample.py, one file per ``stage=``.

A new stage needs ``conf/stage/<stage>.yaml``, a copy of ``new_stage.yaml.template``, and ``<stage>.py`` in this folder.
The shortest stage is ``verify.py``.

The yaml begins with ``# @package _global_`` and names the function of the stage in ``stage._target_``. The function
has the name of its file, with an underscore at the end if this name is a Python builtin (``filter_``), and returns a
``runs.summary.Summary``. Its parameters are ``command``, ``code_version`` and the settings with the same names. The
type hints ``InputPath`` and ``OutputPath`` (``config/stage_signature.py``) mark paths that the stage reads and
writes, so that a rerun detects unchanged inputs.
"""
