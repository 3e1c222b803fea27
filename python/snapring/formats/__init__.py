"""Snapshots as the texts and documents that others read. Values in, values out: no I/O and no clock.

Import what is needed from the submodules: :mod:`~snapring.formats.metrics` and :mod:`~snapring.formats.profiles` are
the tables of names, the others write them down.
"""
