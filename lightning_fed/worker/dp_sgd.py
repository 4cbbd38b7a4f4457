"""DP-SGD in a worker's local training: gradients of single examples, clipped, summed and noised.

Abadi et al., *Deep Learning with Differential Privacy*, 2016, algorithm 1. The gradient of an example is computed on
that example alone, by a backward pass of its own, and not recovered from the gradient of a batch. So nothing that a
module does within a batch can let one example into the gradient of another, whatever dimension the batch is in and
whatever layers do with it, and no layer needs a rule for its gradients of single examples.
"""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor

from lightning_fed.privacy import Noise
from lightning_fed.privacy.clipping import clip_scales
from lightning_fed.privacy.grid import grid_step, rounding, to_grid_
from lightning_fed.wire import Job
from lightning_fed.worker.module_copy import ModuleCopy
from lightning_fed.worker.module_tensors import Mark, mark


@final
class PrivateGradients:
    """Hides single examples in the steps of one worker's training.

    The gradients of a step are added up in float64 as one vector of length d, on a grid (see
    ``privacy.grid``): each is clipped so that its norm is at most C after it is rounded.

    Args:
        local: The workers' copy of the module.
        job: The server's job, with ``job.record_privacy``.
        noise: Draws the noise.
        keys: The keys of the random stream of the noise.
        examples: The number of the worker's examples. It is public.
    """

    def __init__(self, local: ModuleCopy, job: Job, noise: Noise, keys: tuple[int | str, ...], examples: int) -> None:
        assert job.record_privacy is not None
        settings = job.record_privacy
        self._local = local
        self._parameters = list(local.parameters.values())
        self._noise = noise
        self._keys = keys
        self._expected = max(1.0, settings.sampling_rate * examples)
        self._sizes = [p.numel() * (2 if p.is_complex() else 1) for p in self._parameters]
        self._size = sum(self._sizes)
        self._std = settings.noise_multiplier * settings.clip
        self._grid = grid_step(self._std, settings.clip, self._size)
        self._bound = settings.clip - rounding(self._grid, self._size)
        self._charged = job.promise.get("releases", math.inf)
        # Apple's accelerator has no float64.
        self._device = torch.device("cpu") if local.device.type == "mps" else local.device
        self._sum = torch.zeros(self._size, dtype=torch.float64, device=self._device)
        self.releases = 0
        """Number of releases of noised gradients."""
        self._marks = self._marked()

    def begin(self) -> None:
        """Begin a step: no example has been added up."""
        self._sum.zero_()
        self.zero_grad()

    def zero_grad(self) -> None:
        """Forget the parameters' gradients."""
        for parameter in self._parameters:
            parameter.grad = None

    def add(self) -> None:
        """Add the gradient that one example's backward pass has left on the parameters, clipped, and clear it there.

        One with NaN or Inf in it counts as zeros: no factor can clip it, and that an example has such a gradient is as
        private as all else about it.
        """
        gradient = torch.cat([_vector(parameter).to(self._device, torch.float64) for parameter in self._parameters])
        norm: Tensor = torch.linalg.vector_norm(gradient)
        if norm.isfinite():
            self._sum.add_(to_grid_(gradient.mul_(clip_scales(norm, self._bound)), self._grid))
        self.zero_grad()

    def release_(self) -> None:
        """Put the noised sum, over the expected number of examples, in place of the parameters' gradients.

        Raises:
            ValueError: If more steps are taken than the server has charged for, or if anything but the optimizer has
                moved a parameter or a buffer since the step before.
        """
        if self.releases >= self._charged:
            raise ValueError(
                f"RecordDP: local training takes a step more than the {self._charged:g} of a round that are charged; "
                "let the algorithm leave job.local as it is, and set local_epochs or local_steps in FederatedModule"
            )
        self.check_unmoved()
        noise = self._noise.gaussian(self._size, self._std, *self._keys, "noise", self.releases)
        noised = self._sum.add_(to_grid_(noise, self._grid).to(self._device)).div_(self._expected)
        for parameter, part in zip(self._parameters, torch.split(noised, self._sizes), strict=True):
            values = torch.view_as_complex(part.view(*parameter.shape, 2)) if parameter.is_complex() else part
            parameter.grad = torch.empty_like(parameter).copy_(values.view(parameter.shape))
        self.releases += 1

    def end(self) -> None:
        """End a step: the optimizer has moved the parameters."""
        self._marks = self._marked()

    def check_unmoved(self) -> None:
        """Refuse a training in which something besides the optimizer's steps moves what gradients depend on.

        Raises:
            ValueError: If a parameter or a buffer was written to since the step before.
        """
        marks = self._marked()
        if marks != self._marks:
            names = [*self._marks, *marks]
            moved = next(name for name in names if self._marks.get(name) != marks.get(name))
            raise ValueError(
                f"RecordDP: training changed {moved} besides the optimizer's steps, and no noise covers what that "
                "tells of examples; leave parameters and buffers alone in training_step and in hooks, or change "
                "parameters in optimizer_step() after the optimizer's step"
            )

    def _marked(self) -> dict[str, Mark]:
        module = self._local.module
        return {name: mark(tensor) for name, tensor in (*module.named_parameters(), *module.named_buffers())}


def _vector(parameter: Tensor) -> Tensor:
    """Return a parameter's gradient as real numbers, ``[size]``; zeros if there is none."""
    gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    if gradient.is_sparse:
        gradient = gradient.to_dense()
    return (torch.view_as_real(gradient.resolve_conj()) if gradient.is_complex() else gradient).reshape(-1)
