"""Errors of a node."""

from __future__ import annotations

from typing import final


@final
class PolicyError(ValueError):
    """The node's policy refuses what a server asks for; the message says what, and which setting it is."""
