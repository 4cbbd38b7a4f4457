"""Contents of one worker's messages, tensor by tensor; their bytes add up to the length of the message."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from lightning_fed.core.table import aligned, in_html
from lightning_fed.core.tree import Tensors
from lightning_fed.wire import container
from lightning_fed.wire.attributes import Attributes
from lightning_fed.wire.codec.jobs import job_parts
from lightning_fed.wire.codec.updates import parts_as_they_are
from lightning_fed.wire.container import specs_of
from lightning_fed.wire.job import Job
from lightning_fed.wire.updates import Updates

_NUMBERS = ("examples", "weight", "loss", "steps")


@final
class Part(NamedTuple):
    """A part of a message.

    Args:
        kind: Its kind: ``"header"``, ``"delta"``, ``"extra"``, ``"buffer"``, ``"metric_state"``, ``"number"``,
            ``"metric"`` or ``"rate"`` of updates; ``"header"``, ``"parameter"``, ``"buffer"``, ``"sent"``,
            ``"linear"``, ``"start"``, ``"attribute"`` or ``"number"`` of a job.
        name: Its name in the user's module, in the algorithm, or among the logged values.
        dtype: As on the wire, such as ``"float32"``; ``"json"`` for the header.
        shape: Of one worker's.
        bytes: Its length in the message.
    """

    kind: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int


@final
class Row(NamedTuple):
    """A part of a message, with the reason why it crosses or stays.

    Args:
        kind: See :class:`Part`; or ``"stays"`` for a part that never leaves.
        name: Its name.
        dtype: As on the wire; empty for a part without one.
        shape: Of one worker's.
        bytes: Its length in the message; 0 for a part that never leaves.
        why: The reason.
    """

    kind: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    why: str


@final
@dataclass(frozen=True)
class Leaves:
    """Contents of one worker's messages in one round.

    Args:
        round: The round; None where a promise hides who took part, and so whether the first round had workers.
        worker: The worker's name; None where a promise hides it: the header is then one for the longest name of the
            population.
        up: The parts that left the worker; the bytes add up to the length of the message.
        down: The parts that were sent to the worker.
        stays: The parts that never leave the worker.
    """

    round: int | None
    worker: str | None
    up: tuple[Row, ...]
    down: tuple[Row, ...]
    stays: tuple[Row, ...]

    @property
    def bytes_up(self) -> int:
        """The length of the message that left the worker."""
        return sum(row.bytes for row in self.up)

    @property
    def bytes_down(self) -> int:
        """The length of the message that it was sent."""
        return sum(row.bytes for row in self.down)

    def __repr__(self) -> str:
        return "\n".join([self._head(), *aligned(self._table())])

    def _repr_html_(self) -> str:
        return f"<p>{escape(self._head())}</p>{in_html(self._table())}"

    def _head(self) -> str:
        who = "a worker" if self.worker is None else self.worker
        when = "a round" if self.round is None else f"round {self.round}"
        return f"Leaves: {who}, {when}: {self.bytes_up:,} bytes have left it, it was sent {self.bytes_down:,}"

    def _table(self) -> list[list[str]]:
        ways = (("leaves", self.up), ("is sent", self.down), ("stays", self.stays))
        rows = [
            [row.name or row.kind, way, row.dtype, "×".join(map(str, row.shape)), f"{row.bytes:,}"]
            for way, part in ways
            for row in part
        ]
        return [["name", "way", "dtype", "shape", "bytes"], *rows]

    def as_json(self) -> dict[str, Any]:
        """Return all parts as plain JSON values."""

        def plain(rows: Sequence[Row]) -> list[dict[str, Any]]:
            return [{**row._asdict(), "shape": list(row.shape)} for row in rows]

        parts = {"up": plain(self.up), "down": plain(self.down), "stays": plain(self.stays)}
        return {**asdict(self), "bytes_up": self.bytes_up, "bytes_down": self.bytes_down, **parts}


def updates_contents(updates: Updates, job: Job) -> list[Part]:
    """Return the parts of one worker's updates, as :func:`~lightning_fed.wire.encode_updates` writes them.

    Args:
        updates: Of one worker.
        job: Its job.

    >>> from lightning_fed.wire import GlobalModel, LocalTraining, encode_updates
    >>> job = Job(0, 0, 0, GlobalModel({"weight": torch.zeros(2), "bias": torch.zeros(1)}), LocalTraining())
    >>> one = torch.ones(1, dtype=torch.float64)
    >>> updates = Updates(0, ("anna",), torch.zeros(1, 3), {}, one, one, one, one, stays=frozenset({"bias"}))
    >>> parts = updates_contents(updates, job)
    >>> [tuple(part) for part in parts if part.kind == "delta"]
    [('delta', 'weight', 'float32', (2,), 8)]
    >>> sum(part.bytes for part in parts) == len(encode_updates(updates, job))
    True
    """
    header, tensors = parts_as_they_are(updates, job)
    parts = [_header(header, tensors)]
    parts += _of_layout(updates, job)
    for name, tensor in tensors.items():
        kind, _, rest = name.removeprefix("codes/").partition("/")
        if kind == "sealed":
            parts.append(_part("sealed", rest, tensor[0]))
        elif kind == "extra":
            parts.append(_part("extra", rest, tensor[0]))
        elif kind == "buffers":
            parts.append(_part("buffer", rest, tensor[0]))
        elif kind == "metric_states":
            parts.append(_part("metric_state", rest, tensor[0]))
        elif kind == "gradient":
            parts.append(_part("gradient", "gradient", tensor[0]))
    parts += [_number("number", name) for name in _NUMBERS]
    parts += [_number("metric", name) for name in updates.metrics]
    parts += [_number("rate", name) for name in updates.rates]
    return parts


def job_contents(job: Job) -> list[Part]:
    """Return the parts of a job, as :func:`~lightning_fed.wire.encode_job` writes it.

    Args:
        job: The job of one worker.
    """
    header, tensors = job_parts(job, Attributes(job.attributes))
    return [_header(header, tensors), *(_part(*_named_in_job(name, job), tensor) for name, tensor in tensors.items())]


def _of_layout(updates: Updates, job: Job) -> Iterator[Part]:
    """The change of each parameter that travels, in the dtype in which it travels; codes are bytes."""
    if updates.sealed is not None:
        return
    if updates.codes is not None:
        for name, length in updates.codes.lengths.items():
            yield Part("delta", name, "uint8", tuple(job.model.parameters[name].shape), length)
        return
    dtype, parameters, end = updates.delta.dtype, job.model.parameters, 0
    for name, place in job.model.layout.places.items():
        end = max(end, place.stop)
        if name not in updates.stays:
            length = (place.stop - place.start) * dtype.itemsize
            yield Part("delta", name, _name(dtype), tuple(parameters[name].shape), length)
    padding = job.model.layout.size - end
    if padding:
        yield Part("delta", "(padding)", _name(dtype), (padding,), padding * dtype.itemsize)


def _named_in_job(name: str, job: Job) -> tuple[str, str]:
    kind, _, rest = name.partition("/")
    if kind in ("parameters", "codes"):
        return "parameter", rest
    if kind == "buffers":
        return "buffer", rest
    if kind == "attributes":
        return "attribute", ", ".join(job.attributes)
    if kind == "numbers":
        return "number", "numbers"
    if kind == "start":
        return "start", rest.partition("/buffers/")[2] or "parameters"
    return kind, rest if kind == "sent" else kind


def _header(header: Mapping[str, object], tensors: Tensors) -> Part:
    length = container.padded(container.length(header, specs_of(tensors))[0])
    return Part("header", "header", "json", (), length)


def _part(kind: str, name: str, tensor: Tensor) -> Part:
    size = math.prod(tensor.shape) * tensor.dtype.itemsize
    return Part(kind, name, _name(tensor.dtype), tuple(tensor.shape), size)


def _number(kind: str, name: str) -> Part:
    return Part(kind, name, "float64", (), torch.float64.itemsize)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
