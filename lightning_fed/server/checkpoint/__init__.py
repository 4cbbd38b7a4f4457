"""The content of a ``.ckpt``: the user's module as if it had been trained alone, and one key of ours.

Whenever it is written, it holds one round: that of the last server step that is over.
"""

from lightning_fed.server.checkpoint.format import KEY, VERSION
from lightning_fed.server.checkpoint.keeper import Keeper
from lightning_fed.server.checkpoint.settings import Settings

__all__ = ["KEY", "VERSION", "Keeper", "Settings"]
