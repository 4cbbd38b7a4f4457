"""``python -m lightning_fed`` is the ``lightning-fed`` command."""

from lightning_fed.cli import main

if __name__ == "__main__":
    main()
