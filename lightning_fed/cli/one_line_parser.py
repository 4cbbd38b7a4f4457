"""A parser of arguments that says what is wrong as the rest of the command line does."""

from __future__ import annotations

import argparse
from typing import NoReturn, final

from typing_extensions import override

from lightning_fed.cli.commands import refuse


@final
class OneLineParser(argparse.ArgumentParser):
    """Answers a wrong argument with one sentence and the exit status 2."""

    @override
    def error(self, message: str) -> NoReturn:
        refuse(" ".join(message.split()), self.prog)
