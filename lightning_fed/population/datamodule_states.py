"""States of the workers' datamodules in checkpoints: their ``state_dict()``, as with a Trainer."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import cache
from typing import Any, final

from lightning_fed._lightning import is_overridden, pl
from lightning_fed.core.watch import Watch
from lightning_fed.wire import WorkerError, describe


@final
class DatamoduleStates:
    """The states of datamodules that are currently not built, which are loaded when they are built again."""

    def __init__(self) -> None:
        self._states: dict[str, dict[str, Any]] = {}
        self._lost_because: str | None = None
        self._said = False

    def clear(self) -> None:
        """Drop all states: the datamodules start from the beginning."""
        self._states.clear()

    def lose(self, because: str | None) -> None:
        """Store no states from now on, and warn for each lost one.

        Args:
            because: The reason, as text; None: store states again.
        """
        self._lost_because, self._said = because, False

    def of(self, name: str, datamodule: pl.LightningDataModule, round: int) -> dict[str, Any]:
        """Return the state of a built datamodule; empty if it has none, or if its stored one is not loaded yet.

        Args:
            name: The worker's name.
            datamodule: Its datamodule.
            round: The round, for errors.

        Raises:
            WorkerError: If the datamodule fails.
        """
        kind: Any = type(datamodule)  # mypy does not treat a class as hashable
        if not _has_state(kind) or name in self._states:
            return {}
        if self._lost_because is not None:
            self._say(name, datamodule)
            return {}
        try:
            with Watch().over(name, round):
                return dict(datamodule.state_dict())
        except Exception as error:
            raise WorkerError(name, round, f"state_dict() of its datamodule raised {describe(error)}") from error

    def hold(self, name: str, state: dict[str, Any]) -> None:
        """Store the state of a datamodule that is about to be released."""
        if state:
            self._states[name] = state

    def give(self, name: str, datamodule: pl.LightningDataModule) -> None:
        """Load the stored state, if any, into a datamodule that has been set up.

        Args:
            name: The worker's name.
            datamodule: Its datamodule.

        Raises:
            ValueError: If the datamodule does not accept the state.
        """
        state = self._states.pop(name, None)
        if not state:
            return
        try:
            datamodule.load_state_dict(state)
        except Exception as error:
            raise ValueError(
                f"load_state_dict() of worker {name!r}'s datamodule raised {describe(error)} about its state in the "
                "checkpoint; let it take what its state_dict() gives"
            ) from error

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """Return the stored states, by worker."""
        return dict(self._states)

    def load_state_dict(self, states: Mapping[str, dict[str, Any]]) -> None:
        """Take the states from a checkpoint."""
        self._states = dict(states)

    def _say(self, name: str, datamodule: pl.LightningDataModule) -> None:
        if not self._said:
            self._said = True
            warnings.warn(
                f"worker {name!r}: {type(datamodule).__name__}.state_dict() is not kept in checkpoints: "
                f"{self._lost_because}",
                stacklevel=2,
            )


@cache
def _has_state(kind: Any) -> bool:
    return is_overridden("state_dict", kind, pl.LightningDataModule)
