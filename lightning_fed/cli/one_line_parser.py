"""A parser of arguments with the error messages of the rest of the command line."""

from __future__ import annotations

import argparse
import re
from typing import NoReturn, final

from typing_extensions import override

from lightning_fed.cli.commands import refuse
from lightning_fed.core.arguments import nearest


@final
class OneLineParser(argparse.ArgumentParser):
    """Answers a wrong argument with one sentence and the exit status 2."""

    @override
    def error(self, message: str) -> NoReturn:
        """Leave with the status 2, after a sentence, and the nearest word where one is not known."""
        near = ""
        if found := re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message):
            near = nearest(found.group(1), [word.strip("' ") for word in found.group(2).split(",")])
        elif found := re.search(r"unrecognized arguments: (\S+)", message):
            near = nearest(found.group(1).partition("=")[0], [f"--{option}" for option in options_of(self)])
        refuse(f"{' '.join(message.split())}{near}", self.prog)


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    """Return the names of the options of a parser and its subcommands, without dashes."""
    parsers = [parser]
    options: set[str] = set()
    for each in parsers:
        for action in each._actions:
            if isinstance(action.choices, dict):
                parsers.extend(action.choices.values())
            options.update(option.lstrip("-") for option in action.option_strings if option.startswith("--"))
    return options
