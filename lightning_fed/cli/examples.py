"""The command ``lightning-fed examples``: the programs that come with the package, and copies of them."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_fed.cli.bundled import EXAMPLES
from lightning_fed.cli.bundles import answer


def main(arguments: Sequence[str]) -> None:
    """Run the command.

    Args:
        arguments: The words after ``lightning-fed examples``.
    """
    answer(
        EXAMPLES,
        "run one: lightning-fed examples copy NAME, then python NAME.py; a notebook (.ipynb) opens in Jupyter, a "
        "folder begins with its README.md",
        arguments,
    )
