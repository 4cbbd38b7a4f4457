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
class Model:
    """A worker's own model, or its part of one.

    Args:
        parameters: All parameters as one vector, ``[size]``, laid out as ``job.layout`` says.
        buffers: Those buffers that differ from the global ones, by name.
    """

    parameters: Tensor
    buffers: Tensors = field(default_factory=dict)


@final
@dataclass(frozen=True)
class RecordPrivacy:
    """DP-SGD in local training: single examples are hidden, not only workers (Abadi et al. 2016, algorithm 1).

    Args:
        clip: The bound on the L2 norm of each example's gradient.
        noise_multiplier: The noise's standard deviation in units of the bound.
        sampling_rate: The probability with which each example is in a batch, independently of all others.
        seed: If given, batches and noise follow from it, for tests; else they come from the system's entropy.
    """

    clip: float
    noise_multiplier: float
    sampling_rate: float
    seed: int | None = None


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
        population: The number of all workers.
        work: For workers that do only a part of their local training, which fraction of its steps.
        lr_factor: By what to multiply the learning rate of the workers' own optimizers.
        penalty: What workers minimise besides their loss, if anything.
        start: The models of the workers that do not start from the global one. Updates are global minus local even so.
        frozen: The names of parameters that are not trained; if all are, a worker only measures its loss.
        wants_gradient: Whether ``Updates.gradient`` is asked for.
        extra: The names of what workers send besides their updates: those of ``Updates.extra``.
        record_privacy: Whether and how single examples are hidden.
    """

    round: int
    cohort: int
    seed: int
    parameters: Tensors
    buffers: Tensors
    local: LocalTraining
    population: int = 1
    work: Mapping[str, float] = field(default_factory=dict)
    lr_factor: float = 1.0
    penalty: Penalty | None = None
    start: Mapping[str, Model] = field(default_factory=dict)
    frozen: frozenset[str] = frozenset()
    wants_gradient: bool = False
    extra: tuple[str, ...] = ()
    record_privacy: RecordPrivacy | None = None

    def local_of(self, worker: str, num_batches: int | None) -> LocalTraining:
        """How long one worker trains: as long as all, or a part of it.

        Args:
            worker: Its name.
            num_batches: The number of batches in a pass over its data; None: only the pass can tell, and then a part of
                the training is made of whole passes.
        """
        part = self.work.get(worker, 1.0)
        if part == 1.0:
            return self.local
        if self.local.steps is not None:
            return LocalTraining(steps=max(1, round(part * self.local.steps)))
        if num_batches is not None:
            return LocalTraining(steps=max(1, round(part * self.local.epochs * num_batches)))
        return LocalTraining(epochs=max(1, round(part * self.local.epochs)))

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
        """What travels down to one worker, in bytes: the model, and the server's part of each ``extra``."""
        model = sum(t.nbytes for t in (*self.parameters.values(), *self.buffers.values()))
        return model + len(self.extra) * self.vector.nbytes


@final
@dataclass(frozen=True)
class Updates:
    """What comes back from n workers, stacked along dim 0.

    Args:
        workers: The n names.
        delta: Global minus local, a pseudo-gradient; ``[n, size]``, one row per worker. ``job.layout`` knows the names.
        buffers: The buffers after local training; ``{name: [n, ...]}``.
        examples: The number of training examples; float64 ``[n]``.
        weight: What each worker counts for in a mean of updates: that number, unless an algorithm says otherwise.
        loss: The mean loss over the local steps; float64 ``[n]``.
        steps: The number of local steps; float64 ``[n]``.
        metrics: What the workers logged, each worker's own reduction; ``{name: float64 [n]}``.
        gradient: The mean of the gradients of the worker's loss over its local steps, before anything was added to
            them; ``[n, size]``, or None if the job did not ask for it. It stays with the worker.
        extra: What an algorithm has its workers send besides; aggregated by the same rule as ``delta``.
            ``{name: [n, size]}``.
        own_bytes: How many bytes of the model are each worker's own, and travel neither down nor up.
    """

    workers: tuple[str, ...]
    delta: Tensor
    buffers: Tensors
    examples: Tensor
    weight: Tensor
    loss: Tensor
    steps: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
    gradient: Tensor | None = None
    extra: Tensors = field(default_factory=dict)
    own_bytes: int = 0

    @cached_property
    def num_bytes(self) -> int:
        """What travels up from all n workers, in bytes."""
        sent = sum(t.nbytes for t in (self.delta, *self.buffers.values(), *self.extra.values()))
        return sent - self.own_bytes * len(self.workers)

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
            examples=self.examples[keep],
            weight=self.weight[keep],
            loss=self.loss[keep],
            steps=self.steps[keep],
            metrics=pick(self.metrics),
            gradient=None if self.gradient is None else self.gradient[index.to(self.gradient.device)],
            extra=pick(self.extra),
            own_bytes=self.own_bytes,
        )


@final
@dataclass(frozen=True)
class Aggregate:
    """What an aggregator makes of a cohort's updates.

    Args:
        delta: The pseudo-gradient for the server optimizer; ``[size]``. ``job.layout`` knows the names.
        buffers: The new global buffers; ``{name: [...]}``.
        extra: The aggregates of ``Updates.extra``; ``{name: [size]}``.
        changes: Whether the server is to step. Not if nobody answered: even without a gradient its momentum would move.
    """

    delta: Tensor
    buffers: Tensors
    extra: Tensors = field(default_factory=dict)
    changes: bool = True

    @staticmethod
    def nothing(job: Job) -> Aggregate:
        """What changes nothing: a round without updates."""
        buffers = {name: buffer.clone() for name, buffer in job.buffers.items()}
        return Aggregate(torch.zeros_like(job.vector), buffers, changes=False)

    @property
    def norm(self) -> float:
        """The L2 norm of the pseudo-gradient over all parameters."""
        return float(torch.linalg.vector_norm(self.delta))
