"""The stages of sample.py, one file per ``stage=``. To add a stage, add name.py here and name.yaml in conf/stage/.

The function has the name of the file (``filter_`` for a Python builtin) and returns a ``runs.summary.Summary``. It is
called with the settings that its parameters name, ``command`` and ``code_version`` among them. Type hints ``InputPath``
and ``OutputPath`` (config/stage_signature.py) mark the paths that it reads and writes, so that a rerun knows when
nothing changed. The yaml begins with ``# @package _global_`` and names the function in ``stage._target_``; verify.py
and verify.yaml are the shortest example.
"""
