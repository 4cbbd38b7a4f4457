"""The header of a message: fields and numbers, each checked when it is read, since a sender is not trusted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, final

import torch
from torch import Tensor

from lightning_fed.wire.errors import WireError
from lightning_fed.wire.logged import REDUCTIONS, Shown

VERSION = 1
"""The version of the format: another for every change of it."""

T = TypeVar("T")


@final
class Fields:
    """The fields of a header, each checked and taken once.

    Args:
        fields: By name.
        kind: The kind that the message must have.
    """

    def __init__(self, fields: Mapping[str, object], kind: str) -> None:
        self._fields = dict(fields)
        version = self._take("version", int)
        if version != VERSION:
            raise WireError(
                f"the message has version {version} of the format, and this lightning_fed reads version {VERSION}: "
                "install the same lightning_fed on the server and on all workers"
            )
        is_kind = self._take("kind", str)
        if is_kind != kind:
            raise WireError(
                f"the message is of the kind {str(is_kind)[:20]!r}, not {kind!r}: call decode_{kind} on such"
            )

    def any(self, name: str) -> object:
        if name not in self._fields:
            raise WireError(f"the header's field {name!r} is missing: the message was altered, send it again")
        return self._fields.pop(name)

    def _take(self, name: str, kind: type[T]) -> T:
        return self._typed(name, self.any(name), kind)

    @staticmethod
    def _typed(name: str, value: object, kind: type[T]) -> T:
        # Not isinstance: True is an int.
        if type(value) is not kind:
            wrong = type(value).__name__
            raise WireError(
                f"the header's field {name!r} holds a {wrong}, not a {kind.__name__}: send the message again"
            )
        return value

    def integer(self, name: str) -> int:
        return self._take(name, int)

    def optional(self, name: str) -> int | None:
        value = self.any(name)
        return None if value is None else self._typed(name, value, int)

    def integers(self, name: str) -> tuple[int, ...]:
        return tuple(self._typed(name, each, int) for each in self._take(name, list))

    def flag(self, name: str) -> bool:
        return self._take(name, bool)

    def names(self, name: str) -> tuple[str, ...]:
        return self._unique(name, self.any(name))

    def optional_names(self, name: str) -> tuple[str, ...] | None:
        value = self.any(name)
        return None if value is None else self._unique(name, value)

    def names_by_name(self, name: str) -> dict[str, tuple[str, ...]]:
        return {key: self._unique(name, value) for key, value in self._take(name, dict).items()}

    def by_name(self, name: str) -> dict[str, object]:
        return self._take(name, dict)

    def texts(self, name: str) -> dict[str, str]:
        return {key: self._typed(name, value, str) for key, value in self._take(name, dict).items()}

    def counts(self, name: str) -> dict[str, int]:
        numbers = {key: self._typed(name, value, int) for key, value in self._take(name, dict).items()}
        if min(numbers.values(), default=0) < 0:
            raise WireError(f"the header's field {name!r} holds a number below 0: it counts something, send it again")
        return numbers

    def entries(self, name: str) -> list[list[Any]]:
        return [self._typed(name, each, list) for each in self._take(name, list)]

    def shown(self, name: str) -> dict[str, Shown]:
        return {key: self._shown(name, value) for key, value in self._take(name, dict).items()}

    def _shown(self, name: str, value: object) -> Shown:
        parts = self._typed(name, value, list)
        kinds = (str, str, bool, bool, bool, bool, type(None) if parts[-1:] == [None] else str)
        if len(parts) != len(kinds):
            raise WireError(f"the header's field {name!r} holds {len(parts)} values, not {len(kinds)}: send it again")
        checked: list[Any] = [self._typed(name, part, kind) for part, kind in zip(parts, kinds, strict=True)]
        shown = Shown(*checked)
        if shown.reduction not in REDUCTIONS:
            raise WireError(
                f"the header's field {name!r} reduces by {shown.reduction[:20]!r}: it can be {', '.join(REDUCTIONS)}"
            )
        return shown

    def _unique(self, name: str, value: object) -> tuple[str, ...]:
        names = tuple(self._typed(name, each, str) for each in self._typed(name, value, list))
        if len(set(names)) != len(names):
            raise WireError(f"the header's field {name!r} holds a name twice: send the message again")
        return names

    def close(self) -> None:
        """Refuse fields that were not taken."""
        if self._fields:
            raise WireError(f"the header's fields {sorted(self._fields)} are not of version {VERSION} of the format")


@final
class Numbers:
    """Numbers that are taken one after another.

    Args:
        values: float64 ``[k]``.
    """

    def __init__(self, values: Tensor) -> None:
        if values.dtype != torch.float64 or values.dim() != 1:
            raise WireError(f"the numbers have the shape {list(values.shape)} in {values.dtype}, not [k] in float64")
        self._values = values.tolist()
        self._next = 0

    def next(self) -> float:
        self._next += 1
        if self._next > len(self._values):
            raise WireError(f"there are only {len(self._values)} numbers, fewer than the header names: send it again")
        return float(self._values[self._next - 1])

    def close(self) -> None:
        """Refuse numbers that were not taken."""
        if self._next != len(self._values):
            raise WireError(f"there are {len(self._values)} numbers, and the header names {self._next}: send it again")
