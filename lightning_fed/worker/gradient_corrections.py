"""Corrections of local gradients by an algorithm, between the backward pass and the optimizer's step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from lightning_fed.core.tree import Tensors
from lightning_fed.wire import Job


@final
class GradientCorrections:
    """Corrects the gradients of one worker or of a stack of workers, as a job requires.

    In this order: parameters that are frozen lose their gradients, so that the optimizer passes them over; gradients
    are added up, if their mean is wanted; the gradient of the job's :class:`Penalty` is added to them.

    Args:
        job: The job.
        workers: One name, or those of a stack, in order.
        stacked: Whether parameters have a dimension for workers, dim 0.
    """

    def __init__(self, job: Job, workers: Sequence[str], stacked: bool) -> None:
        self._job = job
        self._anchor = job.model.parameters
        self._stacked = stacked
        self._proximal = job.penalty.proximal if job.penalty is not None else 0.0
        self._linear: Tensors = {}
        if job.penalty is not None and job.penalty.linear:
            zero = torch.zeros_like(job.model.vector)
            rows = torch.stack([job.penalty.linear.get(worker, zero) for worker in workers])
            linear = job.model.layout.unflatten(rows if stacked else rows[0])
            self._linear = {name: linear[name].to(p.dtype) for name, p in job.model.parameters.items()}
        self._sum: Tensor | None = None
        self._sums: Tensors = {}
        self._counts = [0] * len(workers)
        self._more_counts: Counter[str] = Counter()  # of steps by an optimizer that owns a part of the parameters
        if job.wants_gradient:
            self._sum = job.model.vector.new_zeros(len(workers), job.model.layout.size)
            self._sums = job.model.layout.unflatten(self._sum if stacked else self._sum[0])

    @staticmethod
    def of(job: Job, workers: Sequence[str], stacked: bool) -> GradientCorrections | None:
        """Return the corrections of a job, or None if the job has none."""
        nothing = job.penalty is None and not job.frozen and not job.wants_gradient
        return None if nothing else GradientCorrections(job, workers, stacked)

    @property
    def add_something(self) -> bool:
        """Whether the corrections add something to gradients, and do not only record or remove them."""
        return bool(self._proximal or self._linear)

    def apply_(self, parameters: Tensors) -> None:
        """Correct the gradients in place. A parameter without one takes no part in the step and gets none.

        Args:
            parameters: By name; ``[...]``, or ``[k, ...]`` for the first k workers of a stack. Those that the optimizer
                owns that is about to step: of one worker, if they are a part only.
        """
        with torch.no_grad():
            for name in self._job.frozen & parameters.keys():
                parameters[name].grad = None
            taking_part = {name: p for name, p in parameters.items() if p.grad is not None}
            if self._sum is not None:
                self._add_up(taking_part)
                if len(parameters) < len(self._anchor):
                    self._more_counts.update(parameters.keys())
                else:
                    k = len(next(iter(parameters.values()))) if self._stacked else 1
                    self._counts[:k] = [count + 1 for count in self._counts[:k]]
            for name, parameter in taking_part.items():
                gradient = parameter.grad
                assert gradient is not None
                rows = gradient.sparse_dim() if gradient.is_sparse and (self._proximal or self._linear) else None
                if rows is not None:
                    gradient = gradient.to_dense()  # as what is added to it
                if self._proximal:
                    gradient.add_(parameter - self._anchor[name], alpha=self._proximal)
                if self._linear:
                    gradient.add_(self._first(self._linear[name], parameter))
                if rows is not None:
                    parameter.grad = gradient.to_sparse(rows)  # as SparseAdam requires

    def mean_gradient(self) -> Tensor | None:
        """The mean over the steps so far, ``[n, size]``; None if the job does not require it."""
        if self._sum is None:
            return None
        counts = self._sum.new_tensor(self._counts).unsqueeze(1)
        if self._more_counts:
            more = torch.zeros_like(self._sum)
            for name, part in self._job.model.layout.unflatten(more[0]).items():
                part.fill_(self._more_counts[name])
            counts = counts + more
        return self._sum / counts.clamp(min=1)

    def _add_up(self, parameters: Tensors) -> None:
        for name, parameter in parameters.items():
            self._first(self._sums[name], parameter).add_(parameter.grad)  # type: ignore[arg-type]

    def _first(self, rows: Tensor, parameter: Tensor) -> Tensor:
        """The rows of the workers that are still training."""
        return rows[: len(parameter)] if self._stacked else rows
