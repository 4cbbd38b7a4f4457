"""What ends a round of secure aggregation without a sum."""

from __future__ import annotations

from typing import final


@final
class AbortError(RuntimeError):
    """A party of the protocol refuses to go on: the round shows nothing and changes nothing. It says why."""
