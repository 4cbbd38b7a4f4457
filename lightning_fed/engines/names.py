"""The engines by name, for a YAML file or a quick trial."""

from __future__ import annotations

from typing import Literal, TypeAlias, cast, get_args

from lightning_fed.core.arguments import instance, one_of
from lightning_fed.engines.auto import Auto
from lightning_fed.engines.base import Engine
from lightning_fed.engines.isolated import Isolated
from lightning_fed.engines.sequential import Sequential
from lightning_fed.engines.vectorized.engine import Vectorized

EngineName: TypeAlias = Literal["auto", "sequential", "vectorized", "isolated"]


def engine_of(engine: object) -> Engine:
    """Return an engine that was given as one, or by its name.

    Args:
        engine: The engine, or one of ``EngineName``.

    Raises:
        TypeError: If it is neither an engine nor a string.
        ValueError: If there is no engine of this name.
    """
    if not isinstance(engine, str):
        return cast(Engine, instance("engine", engine, Engine, "Sequential(), or a name, such as 'sequential'"))
    engines: dict[str, type[Engine]] = {
        "auto": Auto,
        "sequential": Sequential,
        "vectorized": Vectorized,
        "isolated": Isolated,
    }
    return engines[one_of("engine", engine, get_args(EngineName))]()
