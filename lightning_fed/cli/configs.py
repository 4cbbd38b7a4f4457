"""The command ``lightning-fed configs``: the configs that come with the package, and copies of them."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_fed.cli.bundled import CONFIGS
from lightning_fed.cli.bundles import answer


def main(arguments: Sequence[str]) -> None:
    """Run the command.

    Args:
        arguments: The words after ``lightning-fed configs``.
    """
    answer(CONFIGS, "run one: lightning-fed fit -c NAME", arguments)
