"""The kind of session by which a run adds sealed numbers up."""

from __future__ import annotations

from functools import partial

from lightning_fed.core.extras import import_extra
from lightning_fed.engines import Engine, EngineOfNodes
from lightning_fed.server.sealed_sessions import Begin, Keyless
from lightning_fed.worker.sealing import Sealing


def sessions(sealing: Sealing, engine: Engine) -> Begin:
    """Return what begins the session of each round.

    Args:
        sealing: How numbers are sealed.
        engine: How workers are trained.

    Raises:
        ImportError: If keys are to be exchanged, and cryptography is not installed.
    """
    if not isinstance(engine, EngineOfNodes) and not sealing.settings.protocol:
        return partial(Keyless, sealing)
    import_extra("cryptography", "secure aggregation", "secure")
    from lightning_fed.server.keyed_sessions import Elsewhere, Here

    return partial(Elsewhere, sealing, engine) if isinstance(engine, EngineOfNodes) else partial(Here, sealing)
