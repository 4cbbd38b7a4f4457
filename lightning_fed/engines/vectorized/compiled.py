"""Compiled steps of n workers as one program, ``torch.compile(vmap(grad))``.

The program for n workers is the user's ``training_step`` as torch traces it, without the Python in between; what the
step logs, torch replays. A step of every shape is first run uncompiled, to learn which parameters take no part: to a
program their gradient is 0, but an optimizer treats one without a gradient in another way.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from types import FunctionType
from typing import Any, final

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lightning_fed._lightning import rank_zero_info
from lightning_fed.core.tree import Tensors
from lightning_fed.worker.compiled import silence, warn_of_giving_up

_MOST_SHAPES = 8  # each is slow to compile; the steps of others run uncompiled
# On a CPU. With torch's own 512, threads of small steps wait for each other, which is slower.
_LEAST_PER_THREAD = 2**15  # numbers


@final
class CompiledStep:
    """Compiled programs by the shapes that they are for.

    Args:
        step: One worker's step: from parameters, buffers, batch and index to the loss and anything else.
    """

    def __init__(self, step: Callable[..., Any]) -> None:
        self._gradients = torch.vmap(
            torch.func.grad_and_value(step, has_aux=True), in_dims=(0, 0, 0, None), randomness="different"
        )
        self._known: dict[object, list[bool]] = {}
        self._programs: dict[object, Callable[..., Any]] = {}
        self._given_up = False
        self._failure: Exception | None = None

    def learn(self, key: object, gradients: list[Tensor | None]) -> None:
        """Note which parameters took no part in an uncompiled step; if it failed compiled, give up to compile."""
        if self._failure is not None:
            warn_of_giving_up(self._failure)
            self._given_up = True
        if len(self._known) < _MOST_SHAPES:
            self._known.setdefault(key, [gradient is None for gradient in gradients])

    def run(
        self, key: object, parameters: Tensors, buffers: Tensors, batch: Any, index: int
    ) -> tuple[Tensor, list[Tensor], Tensors, list[Tensor | None]] | None:
        """Run a step.

        Args:
            key: Stands for the shapes; see :func:`shapes_of`.
            parameters: ``[n, ...]`` each.
            buffers: ``[n, ...]`` each.
            batch: The batches, stacked.
            index: The number of the batch in its pass.

        Returns:
            Losses, what was logged, buffers and gradients; or None if the step has to be run uncompiled.
        """
        self._failure = None
        if self._given_up or key not in self._known:
            return None
        started, is_new = time.perf_counter(), key not in self._programs
        if is_new:
            self._programs[key] = _program(self._gradients)
        try:
            # torch remarks on what it compiles; later steps are faster without silence().
            with torch.no_grad(), silence() if is_new else nullcontext():
                gradients, (loss, (outputs, after)) = self._programs[key](parameters, buffers, batch, index)
        except Exception as error:  # if it is the step's own, it is raised uncompiled too
            self._failure = error
            return None
        if is_new:
            seconds = time.perf_counter() - started
            rank_zero_info(f"compile=True: compiling a step of {len(loss)} workers took {seconds:.1f} s")
        own = [None if unused else gradients[name] for name, unused in zip(parameters, self._known[key], strict=True)]
        return loss, outputs, after, own


def _program(gradients: Callable[..., Any]) -> Callable[..., Any]:
    # torch counts its compilations by code object and gives up at eight, but all functions that vmap makes share one:
    # so every program gets a copy of its own.
    def run(parameters: Tensors, buffers: Tensors, batch: Any, index: int) -> Any:
        return gradients(parameters, buffers, batch, index)

    own = FunctionType(run.__code__.replace(co_name="step"), run.__globals__, "step", closure=run.__closure__)
    # A program is for one shape. By itself torch takes a size for variable that another program has had otherwise, and
    # then cannot trace all of vmap (BatchNorm).
    return torch.compile(own, fullgraph=True, dynamic=False, options={"cpp.min_chunk_size": _LEAST_PER_THREAD})


def shapes_of(parameters: Tensors, batch: Any) -> object:
    """Return the number of workers and the shapes and dtypes of a batch, for which a program is compiled."""
    leaves = pytree.tree_leaves(batch)
    return len(next(iter(parameters.values()))), tuple((leaf.shape, leaf.dtype) for leaf in leaves)
