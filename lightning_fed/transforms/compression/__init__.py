"""Compression of updates: what leaves a worker is made of codes in place of numbers.

A :class:`~lightning_fed.transforms.compression.compressor.Compressor` says how one tensor becomes bytes and back;
:class:`~lightning_fed.transforms.compression.compressed.Compressed` is the step of the outbox that has all tensors of
an update compressed, and remembers what was lost where that is asked for.
"""
