"""Mechanisms as they lie in a checkpoint: the name of the class, and its settings as plain numbers.

Nothing is imported or unpickled to read them: a class is looked up among the mechanisms that the program has already
defined, so a checkpoint can only ever make one of those.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lightning_fed.privacy.mechanisms import Mechanism

_OURS = "lightning_fed."


class UndefinedMechanismError(ValueError):
    """A checkpoint counts releases of a class that this program does not define."""


def stored(mechanism: Mechanism) -> dict[str, Any]:
    """Return the strings and numbers that a checkpoint keeps of a mechanism.

    Args:
        mechanism: What was released.

    Raises:
        ValueError: If its settings are no plain numbers.
    """
    return {"mechanism": _name(type(mechanism)), "parameters": mechanism.settings()}


def restored(entry: Mapping[str, Any]) -> Mechanism:
    """Return the mechanism that was stored.

    Args:
        entry: What :func:`stored` returned.

    Raises:
        UndefinedMechanismError: If the class is not defined in this program.
        KeyError, TypeError, ValueError: If that is not what it is.
    """
    name, settings = entry["mechanism"], entry["parameters"]
    found = [kind for kind in _mechanisms() if _name(kind) == name]
    if not found and isinstance(name, str) and "." in name:
        raise UndefinedMechanismError(
            f"the checkpoint's account counts releases of {name}, which this program does not define: import "
            f"{name.partition('.<locals>')[0].rpartition('.')[0]} before going on"
        )
    if not found:
        raise KeyError(f"no mechanism is called {name!r}")
    for setting in settings.values():
        for each in setting if isinstance(setting, list) else [setting]:
            if not isinstance(each, bool | int | float | str):
                raise TypeError(f"{name} has {each!r} among its settings, which is no number and no string")
    return found[-1].of(settings)  # the latest, if a notebook has defined it again


def _name(kind: type[Mechanism]) -> str:
    """Ours by their name alone, so that they may move to another file; others by the path that imports them."""
    return kind.__qualname__ if kind.__module__.startswith(_OURS) else f"{kind.__module__}.{kind.__qualname__}"


def _mechanisms() -> Iterator[type[Mechanism]]:
    """All classes of mechanisms in the program, each after those that it is derived from."""
    waiting = Mechanism.__subclasses__()
    while waiting:
        yield (kind := waiting.pop(0))
        waiting += kind.__subclasses__()
