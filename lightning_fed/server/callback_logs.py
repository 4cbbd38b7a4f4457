"""What callbacks log by."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, final

from lightning_fed._lightning import pl


@final
class CallbackLog:
    """A callback's ``self.log``, which does not bring the server with it into a checkpoint.

    Lightning sets it to the method of the module that a Trainer runs. A callback may be a part of the user's module and
    of its hyperparameters, as in anomalib; a checkpoint would then hold the FederatedModule, and not open without it.

    Args:
        log: The method.
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
    """Have callbacks log by something that can be saved.

    Args:
        callbacks: The Trainer's, on which it has set the methods of the module that it runs.
    """
    for callback in callbacks:
        for name in ("log", "log_dict"):
            setattr(callback, name, CallbackLog(getattr(callback, name)))
