"""Own state of workers, which is kept from round to round."""

from lightning_fed.state.files import DamagedFileError, free_space, refuse_unwritable, write_whole
from lightning_fed.state.folder import StateFolder
from lightning_fed.state.own_state import OwnState, OwnTables

__all__ = [
    "DamagedFileError",
    "OwnState",
    "OwnTables",
    "StateFolder",
    "free_space",
    "refuse_unwritable",
    "write_whole",
]
