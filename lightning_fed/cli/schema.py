"""The command ``lightning-fed schema``: a schema of configs, for editors that check and complete YAML files."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_fed.cli.commands import PROGRAM
from lightning_fed.cli.one_line_parser import OneLineParser
from lightning_fed.cli.shipped import SCHEMA


def main(arguments: Sequence[str]) -> None:
    """Run the command.

    Args:
        arguments: The words after ``lightning-fed schema``.
    """
    parser = OneLineParser(
        prog=f"{PROGRAM} schema",
        description="Print a JSON Schema of configs. An editor with a YAML language server checks and completes a "
        "config that begins with the line `# yaml-language-server: $schema=FILE`.",
        allow_abbrev=False,
    )
    parser.add_argument("--path", action="store_true", help="print where the schema lies, for that line")
    args = parser.parse_args(list(arguments))
    print(SCHEMA if args.path else SCHEMA.read_text(encoding="utf-8"), end="\n" if args.path else "")
