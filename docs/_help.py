"""The help texts of ``lightning-fed``, as its commands print them."""

from __future__ import annotations

import contextlib
import io
import os

from lightning_fed.cli.commands import COMMANDS

COLUMNS = "96"
"""Width of a help text, as wide as a page of the site."""


def help_of(command: str) -> str:
    """Return the output of ``lightning-fed COMMAND --help``.

    Args:
        command: A word that may follow ``lightning-fed``.

    Raises:
        StopIteration: If there is no such command.
    """
    found = next(one for one in COMMANDS if one.name == command)
    printed, before = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = COLUMNS
    try:
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            found.run(["--help"])
    finally:
        os.environ.pop("COLUMNS") if before is None else os.environ.update(COLUMNS=before)
    return printed.getvalue().rstrip()
