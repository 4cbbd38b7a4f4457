"""Process-wide settings, which a worker's code could change for all other code in the process."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, final

import numpy as np
import torch

T = TypeVar("T")


@final
class ProcessSettings:
    """The settings as they are at one moment."""

    def __init__(self) -> None:
        self._before = [read() for read in _READS]

    def set_back(self) -> Sequence[str]:
        """Restore every setting.

        Returns:
            The settings that had changed, each by the name of the function or attribute that sets it.
        """
        now = [read() for read in _READS]
        if now == self._before:
            return ()
        changed = []
        for (name, (_, write)), before, after in zip(_SETTINGS.items(), self._before, now, strict=True):
            if before != after:
                write(before)
                changed.append(name)
        return changed


def with_settings_kept(items: Iterable[T], note: Callable[[Sequence[str]], None]) -> Iterator[T]:
    """Iterate over an iterable whose code may change settings, and restore them after each item.

    Args:
        items: The iterable.
        note: Takes the settings that an item has changed, if there are any.
    """
    iterator = iter(items)
    while True:
        settings = ProcessSettings()
        try:
            item = next(iterator)
        except StopIteration:
            return
        finally:
            changed = settings.set_back()
            if changed:
                note(changed)
        yield item


def _folder() -> str | None:
    try:
        return os.getcwd()
    except FileNotFoundError:  # it has been removed
        return None


def _set_folder(folder: str | None) -> None:
    if folder is not None:
        os.chdir(folder)


class _Filters:
    """Filters of warnings. Special filters are ignored in comparisons, since libraries add them when imported."""

    def __init__(self) -> None:
        self.all = list(warnings.filters)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Filters) and (self.all == other.all or self._besides(other) == other._besides(self))

    __hash__ = None  # type: ignore[assignment]

    def _besides(self, other: _Filters) -> list[Any]:
        """Return all filters in order, without special ones that the other lacks."""
        return [own for own in self.all if own in other.all or _is_general(own)]


def _is_general(one: Any) -> bool:
    """Whether a filter is for a category of Python's own, whatever the text and wherever the warning comes from."""
    _, message, category, module, _ = one
    return message is None and module is None and category.__module__ == "builtins"


def _set_filters(filters: _Filters) -> None:
    warnings.resetwarnings()  # clears Python's registry of decisions by the old filters
    warnings.filters[:] = filters.all  # type: ignore[index]


def _deterministic() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


_SETTINGS: Mapping[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "torch.set_grad_enabled": (torch.is_grad_enabled, torch.set_grad_enabled),
    "torch.set_default_dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "torch.set_num_threads": (torch.get_num_threads, torch.set_num_threads),
    "torch.set_float32_matmul_precision": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    "torch.use_deterministic_algorithms": (
        _deterministic,
        lambda both: torch.use_deterministic_algorithms(both[0], warn_only=both[1]),
    ),
    "numpy.seterr": (np.geterr, lambda errors: np.seterr(**errors)),
    "os.chdir": (_folder, _set_folder),
    "warnings.filters": (_Filters, _set_filters),
}
_READS = tuple(read for read, _ in _SETTINGS.values())
