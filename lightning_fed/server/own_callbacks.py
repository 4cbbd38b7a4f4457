"""Callbacks of our own among a Trainer's."""

from __future__ import annotations

from typing import cast

from lightning_fed._lightning import pl


def callbacks_of(trainer: pl.Trainer) -> list[pl.Callback]:
    """Return a Trainer's callbacks: the list itself, so that changes of it count."""
    return cast(list[pl.Callback], trainer.callbacks)  # type: ignore[attr-defined]


def put_first(trainer: pl.Trainer, callback: pl.Callback) -> None:
    """Put a callback before all others, which can then read what it shows; it replaces another of its class.

    Args:
        trainer: The Trainer.
        callback: The callback.
    """
    take_out(trainer, type(callback))
    callbacks_of(trainer).insert(0, callback)


def take_out(trainer: pl.Trainer, kind: type[pl.Callback]) -> None:
    """Take callbacks of a class out of a Trainer.

    Args:
        trainer: The Trainer.
        kind: Their class.
    """
    callbacks = callbacks_of(trainer)
    callbacks[:] = [callback for callback in callbacks if not isinstance(callback, kind)]
