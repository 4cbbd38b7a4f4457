"""Hyperparameters for loggers: the user's, and those of the federated training beside them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch import Tensor

from lightning_fed._lightning import pl


def agreeing(datamodules: Iterable[pl.LightningDataModule]) -> dict[str, Any]:
    """Return the hyperparameters on which all datamodules agree that log them.

    Args:
        datamodules: The central one, and those of workers.
    """
    found: dict[str, Any] = {}
    differ: set[str] = set()
    for datamodule in datamodules:
        if datamodule._log_hyperparams:
            for name, value in datamodule.hparams_initial.items():
                if not _same(found.setdefault(name, value), value):
                    differ.add(name)
    return with_lists({name: value for name, value in found.items() if name not in differ})


def with_lists(hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """Turn tuples into lists, as YAML has no tuples, and a reader of Lightning's ``hparams.yaml`` may refuse ours.

    Args:
        hyperparameters: Values by name.

    >>> with_lists({"hidden": (32, 16), "lr": 0.1})
    {'hidden': [32, 16], 'lr': 0.1}
    """
    return {name: _with_lists(value) for name, value in hyperparameters.items()}


def _with_lists(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [_with_lists(part) for part in value]
    return with_lists(value) if type(value) is dict else value


def with_ours(theirs: Mapping[str, Any], ours: Mapping[str, Any], others: Collection[str]) -> dict[str, Any]:
    """Put our hyperparameters beside the user's module's; one whose name is taken becomes ``federated/<name>``.

    Args:
        theirs: The user's module's.
        ours: Ours.
        others: The names of what else is logged, such as a datamodule's.

    >>> with_ours({"seed": 1}, {"seed": 2, "local_epochs": 1}, others=())
    {'seed': 1, 'federated/seed': 2, 'local_epochs': 1}
    """
    taken = {*theirs, *others}
    return {**theirs, **{f"federated/{name}" if name in taken else name: value for name, value in ours.items()}}


def _same(one: Any, other: Any) -> bool:
    """Whether Lightning would take two values for the same."""
    if one is other:
        return True
    if type(one) is not type(other) or isinstance(one, Tensor):
        return False
    try:
        return bool(one == other)
    except Exception:  # arrays, for one, have no single truth
        return False
