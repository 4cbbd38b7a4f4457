"""Facts of a report: each is read from a file, or the report is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class MissingFactError(ValueError):
    """A report cannot be made, since a file lacks a required fact."""


def need(content: Mapping[str, Any], name: str, what: str, where: object) -> Any:
    """Return a fact.

    Args:
        content: What a file says.
        name: The fact's name there.
        what: The fact in words, after "does not say".
        where: The file.

    Raises:
        MissingFactError: If the file lacks the fact.
    """
    if name not in content:
        raise MissingFactError(
            f"{where} does not say {what} (it has no {name!r}), and a report does not guess; it was changed, or "
            "written by another version of lightning_fed"
        )
    return content[name]


def need_value(content: Mapping[str, Any], name: str, what: str, where: object) -> Any:
    """Return a fact that cannot be None; see :func:`need`."""
    value = need(content, name, what, where)
    if value is None:
        raise MissingFactError(
            f"{where} does not say {what} ({name!r} is null there), and a report does not guess; make it of a run "
            "whose files are whole"
        )
    return value
