"""The content of a ``.ckpt``: the user's module as if it had been trained alone, and one key of lightning_fed.

A checkpoint written at any moment holds one round: that of the last finished server step.
"""

from lightning_fed.server.checkpoint.format import KEY, VERSION
from lightning_fed.server.checkpoint.keeper import Keeper
from lightning_fed.server.checkpoint.settings import Settings

__all__ = ["KEY", "VERSION", "Keeper", "Settings"]
