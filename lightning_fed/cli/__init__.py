"""The command line: ``lightning-fed fit -c configs/toy.yaml``, or ``python -m lightning_fed fit ...``."""

from typing import TYPE_CHECKING, Any

from lightning_fed.cli.commands import main

if TYPE_CHECKING:
    from lightning_fed.cli.command import FederatedCLI

__all__ = ["FederatedCLI", "main"]


def __getattr__(name: str) -> Any:
    """Import Lightning at first use, as ``lightning_fed`` itself does."""
    if name == "FederatedCLI":
        from lightning_fed.cli.command import FederatedCLI

        return FederatedCLI
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
