"""A view of the Trainer for code whose data must stay hidden."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

from lightning_fed._lightning import pl, rank_zero_info


@final
class QuietTrainer:
    """A view of the Trainer that publishes nothing, for code that processes a worker's hidden data.

    Its loggers discard everything, its dictionaries of metrics are copies, and it has no callbacks. A warning reports
    once that something was withheld.

    Args:
        trainer: The server's Trainer, to which all other attributes are delegated.
    """

    def __init__(self, trainer: pl.Trainer) -> None:
        self.__dict__.update(_trainer=trainer, _said=False)

    def __getattr__(self, name: str) -> Any:
        if name == "_trainer" or name.startswith("__"):  # it is being copied
            raise AttributeError(name)
        value = getattr(self._trainer, name)
        if name not in _QUIET:
            return value
        if not self._said and (value if name in _LOGGERS else False):
            self.__dict__["_said"] = True
            rank_zero_info(
                f"a worker's code asks for self.trainer.{name}: under secure aggregation, or a promise of privacy "
                "without release_metrics=True, what it logs there is not shown; use self.log"
            )
        return _QUIET[name](value)


def _no_loggers(loggers: Any) -> Any:
    return [_no_logger(logger) for logger in loggers]


def _no_logger(logger: Any) -> Any:
    return None if logger is None else pl.loggers.logger.DummyLogger()


def _nothing(_: Any) -> None:
    return None


def _none(_: Any) -> list[Any]:
    return []


def _no_print(_: Any) -> Callable[..., None]:
    return lambda *_, **__: None


_LOGGERS = ("logger", "loggers", "print")
_QUIET: dict[str, Callable[[Any], Any]] = {
    "logger": _no_logger,
    "loggers": _no_loggers,
    "print": _no_print,
    "callback_metrics": dict,
    "logged_metrics": dict,
    "progress_bar_metrics": dict,
    "callbacks": _none,
    "checkpoint_callbacks": _none,
    "early_stopping_callbacks": _none,
    "checkpoint_callback": _nothing,
    "early_stopping_callback": _nothing,
    "progress_bar_callback": _nothing,
}
