"""The step of the outbox that replaces a worker's update by codes."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from typing import NamedTuple, final

import torch
from torch import Tensor

from lightning_fed.core.arguments import flag, instance, settle, whole
from lightning_fed.core.rng import derive
from lightning_fed.state import OwnTables
from lightning_fed.transforms.base import UpdateTransform
from lightning_fed.transforms.compression.compressor import Compressor, Form
from lightning_fed.transforms.compression.packing import as_bytes, from_bytes
from lightning_fed.wire import Aggregate, Coder, Codes, Job, Updates

_RESIDUAL = "residual"


@final
@dataclass(frozen=True)
class Compressed(UpdateTransform, Coder):
    """Compresses each tensor that leaves a worker, and decodes it at the server.

    It is the last of the transforms and the last step of the outbox, after the clipping and the noise of a promise, so
    the guarantee is unchanged. Aggregators see decoded updates, in a simulation too, and ``comm/bytes_up`` counts the
    codes. Each tensor is compressed separately, with independent randomness for each worker and round, so errors
    average out over a cohort. Buffers and personal layers are not compressed.

    Args:
        compressor: The compressor of each tensor.
        error_feedback: Whether a worker adds the errors of earlier codes to its next update. The errors are own state,
            as large as the model. None: only if the compressor is biased.
        least: The number of elements below which a tensor is sent as it is; so is one that codes would not shorten.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If ``least`` is below 1, or if the errors of error feedback could grow without a bound.

    Example::

        FederatedModule(model, transforms=[Compressed(EDEN(bits=2))])
    """

    compressor: Compressor
    error_feedback: bool | None = None
    least: int = 256

    def __post_init__(self) -> None:
        compressor = instance("compressor", self.compressor, Compressor, "EDEN(bits=2)")
        feedback = self.error_feedback
        if feedback is not None:
            feedback = flag("error_feedback", feedback, owner=self)
        if feedback and not compressor.contracts:
            raise ValueError(
                f"Compressed(error_feedback=True): the error of {compressor} may be larger than what it is made of, so "
                "that what is fed back would grow without a bound; leave it out, or take a compressor that contracts, "
                "such as TopK(0.01) or EDEN(bits=1)"
            )
        settle(self, error_feedback=feedback, least=whole("least", self.least, least=1, owner=self))

    @property
    def feeds_back(self) -> bool:
        """Whether workers store the errors of their codes as own state."""
        if self.error_feedback is None:
            return self.compressor.contracts and not self.compressor.unbiased
        return self.error_feedback

    @property
    def tables(self) -> tuple[str, ...]:
        return (_RESIDUAL,) if self.feeds_back else ()

    def worker(self, updates: Updates, job: Job, own: OwnTables) -> Updates:
        vectors = {"delta": updates.delta, **{f"extra/{name}": updates.extra[name] for name in job.extra}}
        if self.feeds_back:
            left_out = self._left_out(updates, job, own)
            vectors = {what: rows + left_out[what] for what, rows in vectors.items()}
        pieces = self._pieces(job, updates.stays)
        codes = {what: _encode(self.compressor, rows, what, updates, job, pieces) for what, rows in vectors.items()}
        decoded = {what: self.decode(rows, what, updates.workers, job, updates.stays) for what, rows in codes.items()}
        if self.feeds_back:
            rest = torch.cat([vectors[what] - decoded[what] for what in vectors], dim=1)
            own.stage(_RESIDUAL, updates.workers, rest)
        return replace(
            updates,
            delta=decoded["delta"],
            extra={name: decoded[f"extra/{name}"] for name in job.extra},
            codes=Codes(codes, {piece.name: piece.bytes for piece in pieces}),
        )

    def server(self, aggregate: Aggregate) -> Aggregate:
        return aggregate

    def code_bytes(self, job: Job, stays: Set[str]) -> int:
        return sum(piece.bytes for piece in self._pieces(job, stays))

    def decode(self, codes: Tensor, what: str, workers: Sequence[str], job: Job, stays: Set[str]) -> Tensor:
        layout = job.model.layout
        rows = torch.zeros(len(workers), layout.size, dtype=layout.dtype, device=codes.device)
        begin = 0
        for piece in self._pieces(job, stays):
            part = codes[:, begin : begin + piece.bytes]
            begin += piece.bytes
            if piece.is_coded:
                tensor = self.compressor.decode(part, piece.form, _seeds(job, workers, what, piece.name))
                rows[:, piece.place] = tensor.flatten(1)
            else:
                rows[:, piece.place] = from_bytes(part, layout.dtype)
        return rows

    def _left_out(self, updates: Updates, job: Job, own: OwnTables) -> dict[str, Tensor]:
        names = ("delta", *(f"extra/{name}" for name in job.extra))
        zeros = torch.zeros_like(job.model.vector).repeat(len(names))
        rows = own.rows(_RESIDUAL, updates.workers, zeros)
        return dict(zip(names, torch.split(rows, job.model.layout.size, dim=1), strict=True))

    def _pieces(self, job: Job, stays: Set[str]) -> list[_Piece]:
        """Return the tensors that are sent, in order, each with its form on the wire."""
        layout, pieces = job.model.layout, []
        for name, place in layout.places.items():
            if name in stays:
                continue
            parameter = job.model.parameters[name]
            form = Form((*parameter.shape, 2) if parameter.is_complex() else tuple(parameter.shape), layout.dtype)
            length = self.compressor.num_bytes(form) if form.size >= self.least else form.num_bytes
            is_coded = length < form.num_bytes
            pieces.append(_Piece(name, place, form, length if is_coded else form.num_bytes, is_coded))
        return pieces


class _Piece(NamedTuple):
    """A tensor on the wire.

    Args:
        name: The tensor's name.
        place: The tensor's columns in a vector.
        form: The tensor's form.
        bytes: The tensor's length on the wire.
        is_coded: Whether the tensor is sent as codes.
    """

    name: str
    place: slice
    form: Form
    bytes: int
    is_coded: bool


def _encode(
    compressor: Compressor, rows: Tensor, what: str, updates: Updates, job: Job, pieces: Sequence[_Piece]
) -> Tensor:
    n, codes = len(rows), [rows.new_empty(len(rows), 0, dtype=torch.uint8)]
    for piece in pieces:
        part = rows[:, piece.place]
        if piece.is_coded:
            seeds = _seeds(job, updates.workers, what, piece.name)
            codes.append(compressor.encode(part.reshape(n, *piece.form.shape), seeds))
        else:
            codes.append(as_bytes(part))
    return torch.cat(codes, dim=1)


def _seeds(job: Job, workers: Sequence[str], what: str, name: str) -> list[int]:
    return [derive(job.seed, job.cohort, worker, "compression", what, name) for worker in workers]
