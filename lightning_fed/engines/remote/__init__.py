"""Workers on other machines: an engine that sends jobs to the nodes that host them, whatever carries the messages."""

from lightning_fed.engines.remote.engine import Remote
from lightning_fed.engines.remote.link import Link
from lightning_fed.engines.remote.population import RemotePopulation

__all__ = ["Link", "Remote", "RemotePopulation"]
