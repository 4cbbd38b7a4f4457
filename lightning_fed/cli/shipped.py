"""The shipped files about the command line, which are regenerated when it changes: ``make command-line``.

They are read without torch, so completion and the schema are fast.
"""

from __future__ import annotations

import json
import re
import sys
from argparse import ArgumentParser
from contextlib import redirect_stdout, suppress
from importlib import metadata
from io import StringIO
from pathlib import Path
from typing import Any, cast

from lightning_fed.cli.commands import COMMANDS, TRAINER, Command

SCHEMA = Path(__file__).parent / "config.schema.json"
OPTIONS = Path(__file__).parent / "options.json"
_MADE_WITH = ("torch", "pytorch-lightning", "jsonargparse")


def versions() -> dict[str, str]:
    """Return the versions on which the content of the files depends."""
    python = ".".join(map(str, sys.version_info[:2]))
    return {"python": python, **{name: metadata.version(name).partition("+")[0] for name in _MADE_WITH}}


def made() -> dict[Path, str]:
    """Return the content of each file, as it would be made now."""
    from lightning_fed.cli.classes import import_rooms
    from lightning_fed.cli.schema_of import schema_of

    import_rooms()
    schema = schema_of(_parsers())
    others = {command.name: _in_help(command) for command in COMMANDS if command.module != TRAINER}
    options = {"versions": versions(), "commands": others}
    return {
        SCHEMA: json.dumps(schema, indent=1, ensure_ascii=False) + "\n",
        OPTIONS: json.dumps(options, indent=1) + "\n",
    }


def _parsers() -> dict[str, ArgumentParser]:
    """The parsers of the Trainer's commands, by name; a command line is made for them, and runs nothing."""
    from lightning_fed.cli.command import FederatedCLI

    class Parsers(Exception):  # noqa: N818  # what it carries is no error
        pass

    class OfParsers(FederatedCLI):
        def parse_arguments(self, parser: Any, args: Any) -> None:
            raise Parsers(self._subcommand_parsers)

    try:
        OfParsers([])
    except Parsers as found:
        return dict(found.args[0])
    raise AssertionError("a LightningCLI parses its arguments as it is made")


def help_of(command: Command) -> str:
    """Return the output of ``lightning-fed COMMAND --help``."""
    printed = StringIO()
    with redirect_stdout(printed), suppress(SystemExit):
        command.run(["--help"])
    return printed.getvalue()


def _in_help(command: Command) -> list[str]:
    """The options of a command that are named in its help."""
    return sorted(set(re.findall(r"(?<![\w-])--[a-z][\w-]*", help_of(command))))


def read(path: Path) -> dict[str, Any]:
    """Return the content of one of the files."""
    return cast(dict[str, Any], json.loads(path.read_text(encoding="utf-8")))


if __name__ == "__main__":
    for path, content in made().items():
        path.write_text(content, encoding="utf-8")
        print(f"wrote {path}")
