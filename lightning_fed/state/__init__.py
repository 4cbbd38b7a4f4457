"""What is remembered from round to round: a worker's own state."""

from lightning_fed.state.own_state import OwnState, OwnTables

__all__ = ["OwnState", "OwnTables"]
