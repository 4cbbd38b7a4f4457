"""Compression of updates: codes leave a worker in place of numbers.

A :class:`~lightning_fed.transforms.compression.compressor.Compressor` encodes one tensor as bytes and decodes it;
:class:`~lightning_fed.transforms.compression.compressed.Compressed` is the step of the outbox that compresses all
tensors of an update, and stores the errors for error feedback.
"""
