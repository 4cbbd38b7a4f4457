"""What ends a round of secure aggregation without a sum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final


@final
class AbortError(RuntimeError):
    """A party of the protocol refuses to go on: the round shows nothing and changes nothing. It says why.

    Args:
        reason: Why.
        lost: The workers that were lost on the way, with the reason of each, by name.
    """

    def __init__(self, reason: str, lost: Mapping[str, str] | None = None) -> None:
        super().__init__(reason)
        self.lost = dict(lost or {})
