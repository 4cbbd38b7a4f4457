"""Fingerprint of a module, which must be equal on server and nodes before the first round.

The fingerprint covers names, shapes and dtypes of all parameters and buffers, and which parameters are trained. It
covers values where they do not travel: those of frozen parameters.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from lightning_fed.wire.errors import WireError


@final
class TensorRow(NamedTuple):
    """A tensor of a module.

    Args:
        name: Its name.
        kind: ``"trained"``, ``"frozen"`` or ``"buffer"``.
        dtype: Its dtype, such as ``"float32"``.
        shape: Its shape.
        values: A checksum of its values, if it is frozen; else empty, as the values travel.
    """

    name: str
    kind: str
    dtype: str
    shape: tuple[int, ...]
    values: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.kind}, {self.dtype}, {list(self.shape)})"


def rows_of(module: nn.Module, frozen: Collection[str] | None = None) -> list[TensorRow]:
    """Return the rows of a module's tensors, in the module's order.

    Args:
        module: The user's module.
        frozen: The names of the parameters that are not trained; None: those that require no gradient.

    >>> rows_of(torch.nn.Linear(2, 1))[1]
    TensorRow(name='bias', kind='trained', dtype='float32', shape=(1,), values='')
    """
    rows = []
    for name, parameter in module.named_parameters():
        is_trained = parameter.requires_grad if frozen is None else name not in frozen
        kind = "trained" if is_trained else "frozen"
        rows.append(_row(name, kind, parameter, "" if kind == "trained" else _digest(parameter)))
    return rows + [_row(name, "buffer", buffer) for name, buffer in module.named_buffers()]


def as_at_first(rows: Sequence[TensorRow], first: Sequence[TensorRow]) -> list[TensorRow]:
    """Return the rows of a module as they were at the beginning of its run.

    Frozen parameters may move, buffers may grow and appear, and layers may be frozen and unfrozen. All these changes
    travel to the nodes, so only the module at the beginning must be equal.

    Args:
        rows: The rows now.
        first: The rows at the beginning; empty: the run begins now.

    >>> now = rows_of(torch.nn.BatchNorm1d(1), frozen=["weight"])
    >>> as_at_first(now, rows_of(torch.nn.Linear(2, 1), frozen=()))[0].shape
    (1, 2)
    """
    known = {row.name: row for row in first}
    return [
        known[row.name] if row.name in known and known[row.name].dtype == row.dtype else row
        for row in rows
        if not first or row.name in known or row.kind != "buffer"
    ]


def fingerprint_of(rows: Sequence[TensorRow]) -> str:
    """Return the hash of rows.

    >>> fingerprint_of(rows_of(torch.nn.Linear(2, 1)))[:14]
    'sha256:d671ce2'
    """
    text = json.dumps([list(row) for row in rows], separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def rows_from(given: object) -> list[TensorRow]:
    """Read rows that came as JSON.

    Args:
        given: The rows, not trusted.

    Raises:
        WireError: If they are no rows.
    """
    try:
        return [
            TensorRow(str(name), str(kind), str(dtype), tuple(int(size) for size in shape), str(values))
            for name, kind, dtype, shape, values in given  # type: ignore[attr-defined]
        ]
    except (TypeError, ValueError) as error:
        raise WireError(f"a node's answer says nothing of its module that can be read ({error})") from error


def difference(ours: Sequence[TensorRow], theirs: Sequence[TensorRow]) -> str | None:
    """Return the first difference between two modules in words; None: there is none.

    Args:
        ours: The rows of the server's module.
        theirs: Those of a node's.

    >>> one, two = rows_of(torch.nn.Linear(2, 1)), rows_of(torch.nn.Linear(3, 1))
    >>> difference(one, two)
    'weight is trained, float32, [1, 2] here and trained, float32, [1, 3] there'
    """
    left, right = {row.name: row for row in ours}, {row.name: row for row in theirs}
    for name in (*left, *(name for name in right if name not in left)):
        if name not in right:
            return f"{left[name]} is not there"
        if name not in left:
            return f"{right[name]} is there only"
        if left[name] == right[name]:
            continue
        if left[name]._replace(values="") == right[name]._replace(values=""):
            return (
                f"{name} is frozen and has other values there: what is not trained does not travel, so give both the "
                "same weights"
            )
        here, there = (f"{row.kind}, {row.dtype}, {list(row.shape)}" for row in (left[name], right[name]))
        return f"{name} is {here} here and {there} there"
    if [row.name for row in ours] != [row.name for row in theirs]:
        return "the tensors have another order"
    return None


def _row(name: str, kind: str, tensor: Tensor, values: str = "") -> TensorRow:
    return TensorRow(name, kind, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), values)


def _digest(tensor: Tensor) -> str:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return hashlib.sha256(flat.view(torch.uint8).numpy().data).hexdigest()[:16]
