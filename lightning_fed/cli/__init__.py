"""The command line: ``lightning-fed fit -c configs/toy.yaml``, or ``python -m lightning_fed fit ...``."""

from lightning_fed.cli.command import FederatedCLI, main
from lightning_fed.cli.lightning_cli import attach

__all__ = ["FederatedCLI", "attach", "main"]
