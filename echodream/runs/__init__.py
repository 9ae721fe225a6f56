"""Execution of stages and trainings: trainer, atomic folders, cache of finished stages, prediction over a Store."""
