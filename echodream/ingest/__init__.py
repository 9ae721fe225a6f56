"""Reads raw studies: a ``source.Source`` lists the recordings of a study and decodes them one by one."""
