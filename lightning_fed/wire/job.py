"""Job that the server sends to a worker. Plain data: :mod:`lightning_fed.wire.codec` turns it into bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, final

from torch import Tensor

from lightning_fed.core.arguments import settle, whole
from lightning_fed.core.tree import Tensors
from lightning_fed.wire.global_model import GlobalModel

T = TypeVar("T")


@final
@dataclass(frozen=True)
class LocalTraining:
    """Length of one worker's training in one round.

    Args:
        epochs: Passes over the worker's train loader.
        steps: If given, exactly this many batches instead, cycling over the loader.

    Raises:
        TypeError: If either is no number.
        ValueError: If either is not positive and whole.
    """

    epochs: int = 1
    steps: int | None = None

    def __post_init__(self) -> None:
        says = ": a worker must train for at least one epoch, and a whole number of them"
        epochs = whole("local_epochs", self.epochs, least=1, says=says)
        says = ": a worker must train for at least one step, and a whole number of them, or give None"
        steps = self.steps if self.steps is None else whole("local_steps", self.steps, least=1, says=says)
        settle(self, epochs=epochs, steps=steps)


@final
@dataclass(frozen=True)
class Penalty:
    """Penalty that a worker minimises besides its loss: ``⟨linear, w⟩ + proximal/2 · ‖w − w_global‖²``.

    Plain data, and enough for algorithms that correct local gradients: FedProx is the second term, SCAFFOLD the first
    with the difference of two control variates, FedDyn both.

    Args:
        proximal: The weight of the distance from the global parameters.
        linear: A vector for each worker that has one, ``[size]``, laid out as ``job.model.layout`` says.
    """

    proximal: float = 0.0
    linear: Mapping[str, Tensor] = field(default_factory=dict)


@final
@dataclass(frozen=True)
class Model:
    """A worker's own model, or its part of one.

    Args:
        parameters: All parameters as one vector, ``[size]``, laid out as ``job.model.layout`` says.
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

    @property
    def steps_per_pass(self) -> int:
        """The number of batches in which every example is expected once: ``1 / sampling_rate``, rounded down.

        >>> RecordPrivacy(clip=1.0, noise_multiplier=1.0, sampling_rate=1 / 93).steps_per_pass
        93
        """
        return math.floor(1 / self.sampling_rate + 1e-9)  # 1 / (1 / 93) is a little less than 93


@final
@dataclass(frozen=True)
class Job:
    """Job that the server sends to the workers of a cohort. Plain data, so that it can cross to another machine.

    Args:
        round: The number of server steps so far; for messages.
        cohort: The cohort's running number. It equals the round unless gradients are accumulated over several cohorts.
        seed: The seed of the run; with ``cohort`` and the worker's name it decides all of a worker's randomness.
        model: The global model.
        local: How long each worker trains.
        last: The number of the last cohort whose round succeeded, None at first. Workers keep the own state staged in
            it and in earlier ones.
        failed: The numbers of earlier cohorts whose rounds did not succeed. Workers drop the own state staged in them.
        epoch: The server's epoch, ``trainer.current_epoch``.
        validated: The values that the last validation of this fit has logged at the server, by name.
        population: The number of all workers.
        work: The fraction of the local steps, for workers that do only a part of them (stragglers).
        lr_factor: The factor for the learning rates of the workers' own optimizers.
        penalty: The penalty that workers minimise besides their loss, if any.
        start: The models of the workers that do not start from the global one. ``Updates.delta`` is relative to the
            global parameters even for these workers.
        frozen: The names of parameters that are not trained; if all are frozen, a worker only measures its loss.
        wants_gradient: Whether ``Updates.gradient`` is required.
        sent: The vectors that the algorithm sends besides the model; ``{name: [size]}``.
        extra: The names of the vectors in ``Updates.extra``, which workers send besides ``delta``.
        record_privacy: Whether and how single examples are hidden.
        promise: The numbers that workers need to keep a promise of privacy, such as the clipping bound.
        attributes: The attributes of the user's module that the server has changed since the fit began, by path, such
            as ``"net.dropout.p"``: plain values, tensors, and lists and dicts of them.
    """

    round: int
    cohort: int
    seed: int
    model: GlobalModel
    local: LocalTraining
    last: int | None = None
    failed: tuple[int, ...] = ()
    epoch: int = 0
    validated: Mapping[str, float] = field(default_factory=dict)
    population: int = 1
    work: Mapping[str, float] = field(default_factory=dict)
    lr_factor: float = 1.0
    penalty: Penalty | None = None
    start: Mapping[str, Model] = field(default_factory=dict)
    frozen: frozenset[str] = frozenset()
    wants_gradient: bool = False
    sent: Tensors = field(default_factory=dict)
    extra: tuple[str, ...] = ()
    record_privacy: RecordPrivacy | None = None
    promise: Mapping[str, float] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def of(self, worker: str) -> Job:
        """Return the job of one worker, without the parts of other workers.

        Args:
            worker: Its name.
        """
        linear = {} if self.penalty is None else self.penalty.linear
        if not (self.work or self.start or linear):
            return self
        return replace(
            self,
            work=_only(worker, self.work),
            start=_only(worker, self.start),
            penalty=None if self.penalty is None else replace(self.penalty, linear=_only(worker, linear)),
        )

    def local_of(self, worker: str, num_batches: int | None) -> LocalTraining:
        """Return the length of one worker's training: the full length, or a straggler's part of it.

        Args:
            worker: Its name.
            num_batches: The number of batches in a pass over its data; None: unknown before the pass; a part of the
                training then consists of whole passes.
        """
        part = self.work.get(worker, 1.0)
        if part == 1.0:
            return self.local
        if self.local.steps is not None:
            return LocalTraining(steps=max(1, round(part * self.local.steps)))
        if num_batches is not None:
            return LocalTraining(steps=max(1, round(part * self.local.epochs * num_batches)))
        return LocalTraining(epochs=max(1, round(part * self.local.epochs)))


def _only(worker: str, parts: Mapping[str, T]) -> Mapping[str, T]:
    return {worker: parts[worker]} if worker in parts else {}
