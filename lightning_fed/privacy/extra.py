"""Packages of the extra ``privacy``, imported at their first use."""

from __future__ import annotations

from typing import Any

from lightning_fed.core import extras

NEEDED_BY, EXTRA = "lightning_fed.privacy", "privacy"


def import_extra(module: str) -> Any:
    """Import a module of the extra; see :func:`lightning_fed.core.extras.import_extra`."""
    return extras.import_extra(module, NEEDED_BY, EXTRA)
