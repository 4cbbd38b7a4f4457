"""The ``self.log`` of callbacks, in a form that takes nothing of the server into a checkpoint."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, final

from lightning_fed._lightning import pl


@final
class CallbackLog:
    """A callback's ``self.log`` that takes nothing of the server into a checkpoint.

    Lightning sets ``callback.log`` to a method of the module that a Trainer runs: the FederatedModule. A callback may
    itself be a part of the user's module and of its hyperparameters, as in anomalib; a checkpoint would then hold the
    FederatedModule through that method, and could not be opened without it.

    Args:
        log: The method of the FederatedModule.
    """

    def __init__(self, log: Callable[..., Any]) -> None:
        self._log = log

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._log(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> CallbackLog:
        return CallbackLog(copy.deepcopy(self._log, memo))

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()  # Lightning sets another one when the next run begins


def lend_logs(callbacks: list[pl.Callback]) -> None:
    """Put a :class:`CallbackLog` in place of ``log`` and ``log_dict`` of every callback.

    Args:
        callbacks: Those of the Trainer, which has set their ``log`` to methods of the module that it runs.
    """
    for callback in callbacks:
        for name in ("log", "log_dict"):
            setattr(callback, name, CallbackLog(getattr(callback, name)))
