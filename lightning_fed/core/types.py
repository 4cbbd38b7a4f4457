"""The plain data that crosses between workers and the server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias, final

import torch
from torch import Tensor

from lightning_fed.core.layout import Layout

Tensors: TypeAlias = dict[str, Tensor]
"""Tensors by name, as in ``named_parameters()``."""


@final
@dataclass(frozen=True)
class LocalTraining:
    """How long one worker trains in one round.

    Args:
        epochs: Passes over the worker's train loader.
        steps: If given, exactly this many batches instead, cycling over the loader.

    Raises:
        ValueError: If either is not positive.
    """

    epochs: int = 1
    steps: int | None = None

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"local_epochs={self.epochs}: a worker must train for at least one epoch")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"local_steps={self.steps}: a worker must train for at least one step, or give None")


@final
@dataclass(frozen=True)
class Penalty:
    """What a worker minimises besides its loss: ``⟨linear, w⟩ + proximal/2 · ‖w − w_global‖²``.

    Plain data, and enough for algorithms that correct local gradients: FedProx is the second term, SCAFFOLD the first
    with the difference of two control variates, FedDyn both.

    Args:
        proximal: The weight of the distance from the global parameters.
        linear: A vector for each worker that has one, ``[size]``, laid out as ``job.layout`` says.
    """

    proximal: float = 0.0
    linear: Mapping[str, Tensor] = field(default_factory=dict)


@final
@dataclass(frozen=True)
class Job:
    """What the server sends to the workers of a cohort. Plain data, so that it can cross to another machine.

    Args:
        round: The number of server steps so far; for messages.
        cohort: The cohort's running number. It equals the round unless gradients are accumulated over several cohorts.
        seed: The seed of the run; with ``cohort`` and the worker's name it decides all of a worker's randomness.
        parameters: The global parameters that are trained, by name. Read only.
        buffers: The global buffers (BatchNorm statistics), by name. Read only.
        local: How long each worker trains.
        penalty: What workers minimise besides their loss, if anything.
    """

    round: int
    cohort: int
    seed: int
    parameters: Tensors
    buffers: Tensors
    local: LocalTraining
    penalty: Penalty | None = None

    @cached_property
    def layout(self) -> Layout:
        """Where each parameter lies in a vector."""
        return Layout(self.parameters)

    @cached_property
    def vector(self) -> Tensor:
        """The parameters as one vector, ``[size]``."""
        return self.layout.flatten(self.parameters)

    @cached_property
    def wide_parameters(self) -> Tensors:
        """The parameters in the vector's dtype; views of it."""
        return self.layout.unflatten(self.vector)

    @cached_property
    def finite_buffers(self) -> tuple[str, ...]:
        """The names of the buffers without NaN or Inf; others hold them on purpose, such as an attention mask."""
        return tuple(name for name, buffer in self.buffers.items() if bool(torch.isfinite(buffer).all()))

    @cached_property
    def num_bytes(self) -> int:
        """What travels down to one worker, in bytes."""
        return sum(t.nbytes for t in (*self.parameters.values(), *self.buffers.values()))


@final
@dataclass(frozen=True)
class Updates:
    """What comes back from n workers, stacked along dim 0.

    Args:
        workers: The n names.
        delta: Global minus local, a pseudo-gradient; ``[n, size]``, one row per worker. ``job.layout`` knows the names.
        buffers: The buffers after local training; ``{name: [n, ...]}``.
        weight: The number of training examples; float64 ``[n]``.
        loss: The mean loss over the local steps; float64 ``[n]``.
        steps: The number of local steps; float64 ``[n]``.
        metrics: What the workers logged, each worker's own reduction; ``{name: float64 [n]}``.
    """

    workers: tuple[str, ...]
    delta: Tensor
    buffers: Tensors
    weight: Tensor
    loss: Tensor
    steps: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)

    @cached_property
    def num_bytes(self) -> int:
        """What travels up from all n workers, in bytes."""
        return self.delta.nbytes + sum(buffer.nbytes for buffer in self.buffers.values())

    def rows(self, keep: Tensor) -> Updates:
        """Give the updates of some of the workers.

        Args:
            keep: bool ``[n]``.
        """
        index = keep.nonzero().flatten()

        def pick(tensors: Mapping[str, Tensor]) -> Tensors:
            return {name: t.index_select(0, index.to(t.device)) for name, t in tensors.items()}

        return Updates(
            workers=tuple(self.workers[i] for i in index.tolist()),
            delta=self.delta[index.to(self.delta.device)],
            buffers=pick(self.buffers),
            weight=self.weight[keep],
            loss=self.loss[keep],
            steps=self.steps[keep],
            metrics=pick(self.metrics),
        )


@final
@dataclass(frozen=True)
class Aggregate:
    """What an aggregator makes of a cohort's updates.

    Args:
        delta: The pseudo-gradient for the server optimizer; ``[size]``. ``job.layout`` knows the names.
        buffers: The new global buffers; ``{name: [...]}``.
    """

    delta: Tensor
    buffers: Tensors

    @property
    def norm(self) -> float:
        """The L2 norm of the pseudo-gradient over all parameters."""
        return float(torch.linalg.vector_norm(self.delta))
