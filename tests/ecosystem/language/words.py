"""Sentences of the standard library's documentation, as bytes: a tokenizer that needs no training."""

from __future__ import annotations

from pydoc_data.topics import topics


def sentences(topic: str, n: int, longest: int = 40) -> list[list[int]]:
    """The first sentences of a topic, cut to different lengths; a byte is a token, and 0 is padding."""
    found = [part for part in topics[topic].split(".") if len(part) > 20][:n]
    return [list(part.strip().encode()[: longest - 3 * (i % 5)]) for i, part in enumerate(found)]
