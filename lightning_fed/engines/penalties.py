"""The gradient of what workers minimise besides their loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch

from lightning_fed.core.types import Job, Tensors


@final
class PenaltyGradient:
    """Adds the gradient of a job's :class:`Penalty` to those of the loss, for one worker or for a stack of workers.

    Args:
        job: The job, with its penalty.
        workers: One name, or those of a stack, in order.
        stacked: Whether parameters have a dimension for workers, dim 0.
    """

    def __init__(self, job: Job, workers: Sequence[str], stacked: bool) -> None:
        assert job.penalty is not None
        self._proximal = job.penalty.proximal
        self._anchor = job.parameters
        self._linear: Tensors = {}
        if job.penalty.linear:
            zero = torch.zeros_like(job.vector)
            rows = torch.stack([job.penalty.linear.get(worker, zero) for worker in workers])
            linear = job.layout.unflatten(rows if stacked else rows[0])
            self._linear = {name: linear[name].to(p.dtype) for name, p in job.parameters.items()}

    def add_(self, parameters: Tensors) -> None:
        """Add to the gradients, in place. A parameter without one takes no part in the step and gets none.

        Args:
            parameters: By name; ``[...]``, or ``[k, ...]`` for the first k workers of a stack.
        """
        with torch.no_grad():
            for name, parameter in parameters.items():
                if parameter.grad is None:
                    continue
                if self._proximal:
                    parameter.grad.add_(parameter - self._anchor[name], alpha=self._proximal)
                if self._linear:
                    linear = self._linear[name]
                    parameter.grad.add_(linear if linear.shape == parameter.shape else linear[: len(parameter)])
