"""The error that ends a round of secure aggregation without a sum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final


@final
class AbortError(RuntimeError):
    """A party of the protocol aborts: the round reveals nothing and changes nothing.

    Args:
        reason: The reason.
        lost: The workers that were lost, by name, each with its reason.
    """

    def __init__(self, reason: str, lost: Mapping[str, str] | None = None) -> None:
        super().__init__(reason)
        self.lost = dict(lost or {})
