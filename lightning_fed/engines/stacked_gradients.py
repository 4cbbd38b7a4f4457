"""The gradients of one step of n workers: ``torch.vmap`` over the user's unchanged ``training_step``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeAlias, final

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from lightning_fed._lightning import rank_zero_warn
from lightning_fed.core.types import Tensors
from lightning_fed.engines.chunk import StackedBatch
from lightning_fed.engines.compiled_step import CompiledStep, shapes_of
from lightning_fed.engines.errors import UnvectorizableError
from lightning_fed.engines.local_module import LocalModule, loss_of
from lightning_fed.engines.randomness import OwnStreams, generator_of
from lightning_fed.engines.stacked_recorder import StackedRecorder

_Results: TypeAlias = tuple[Tensor, list[Tensor], Tensors, list[Tensor | None]]
"""Losses, what was logged, buffers after the step, and gradients."""


@final
class StackedGradients:
    """Gives n workers' losses and gradients, and lets what they log go to the recorder.

    Args:
        local: The workers' copy of the module.
        recorder: What it logs into.
        compile: Whether to compile the step.
    """

    def __init__(self, local: LocalModule, recorder: StackedRecorder, compile: bool) -> None:
        self._step = _Step(local)
        self._recorder = recorder
        self._local = local
        self._run: Callable[..., Any] = torch.vmap(self._one, in_dims=(0, 0, 0, None), randomness="different")
        self._generator = generator_of(local.device)
        self._compiled = CompiledStep(self._one) if compile else None
        self._draws = False  # whether the step has been seen to draw random numbers
        self._streams: OwnStreams | None = None

    def begin(self, states: Sequence[Tensor], seeds: Sequence[int]) -> None:
        """Begin with a new chunk.

        Args:
            states: The state of each worker's generator on the CPU.
            seeds: The seed of each worker, for an accelerator's generator.
        """
        if self._local.device.type == "cuda":
            generator = torch.Generator(self._local.device)
            states = [generator.manual_seed(seed).get_state() for seed in seeds]
        self._streams = OwnStreams(states, self._local.device)

    def __call__(self, leaves: Tensors, buffers: Tensors, stacked: StackedBatch, n: int) -> Tensor:
        """Run a step of some of the n workers that are training.

        Args:
            leaves: The stacked parameters, whose ``grad`` is written at these workers' rows.
            buffers: The stacked buffers, written to at these workers' rows.
            stacked: Their batches.
            n: The number of workers that are training.

        Returns:
            Their losses; ``[rows]``.
        """
        rows = stacked.rows
        everyone = rows == slice(0, n) if isinstance(rows, slice) else False
        own = leaves if everyone else {k: leaf.detach()[rows].requires_grad_() for k, leaf in leaves.items()}
        loss, outputs, after, gradients = self._compiled_or_not(own, buffers, stacked)
        for leaf, gradient in zip(leaves.values(), gradients, strict=True):
            if everyone:
                leaf.grad = gradient
            elif gradient is not None:
                if leaf.grad is None:
                    leaf.grad = torch.zeros_like(leaf)
                leaf.grad[rows] = gradient
        for name, buffer in after.items():
            buffers[name][rows] = buffer
        self._recorder.take(rows, stacked.size, [output.detach() for output in outputs], self._recorder.events)
        return loss.detach()

    def _compiled_or_not(self, own: Tensors, buffers: Tensors, stacked: StackedBatch) -> _Results:
        if self._compiled is None:
            return self._differentiated(own, buffers, stacked)
        key = shapes_of(own, stacked.batch)
        own_buffers = {name: buffer[stacked.rows] for name, buffer in buffers.items()}
        with self._contexts():
            results = self._compiled.run(key, own, own_buffers, stacked.batch, stacked.index)
        if results is None:
            results = self._differentiated(own, buffers, stacked)
            if self._compiled is not None:
                self._compiled.learn(key, results[3])
        return results

    def _differentiated(self, own: Tensors, buffers: Tensors, stacked: StackedBatch) -> _Results:
        loss, outputs, after = self._forward(own, buffers, stacked)
        # Not backward(): AccumulateGrad copies a gradient whose strides are not the parameter's, as those of a stack
        # often are not. For an MLP in a chunk of 50 that took two thirds of the step (52 ms against 17).
        gradients = torch.autograd.grad(loss, list(own.values()), torch.ones_like(loss), allow_unused=True)
        return loss, outputs, after, list(gradients)

    def _forward(self, own: Tensors, buffers: Tensors, stacked: StackedBatch) -> tuple[Tensor, list[Tensor], Tensors]:
        """Run the step; from the first one on that draws random numbers, with each worker's own."""
        assert self._streams is not None
        if not self._draws:
            before = self._generator.get_state()
            results = self._vmapped(own, buffers, stacked, nullcontext())
            if torch.equal(before, self._generator.get_state()):
                return results
            self._draws = True
            if self._compiled is not None:
                self._compiled = None
                rank_zero_warn(
                    "compile=True is given up, and the steps run uncompiled: training_step draws random numbers, and a "
                    "compiled program would draw them for all workers at once"
                )
        workers = range(len(self._streams))
        self._streams.workers = workers[stacked.rows] if isinstance(stacked.rows, slice) else stacked.rows.tolist()
        return self._vmapped(own, buffers, stacked, self._streams)

    def _vmapped(
        self, own: Tensors, buffers: Tensors, stacked: StackedBatch, randomness: AbstractContextManager[Any]
    ) -> tuple[Tensor, list[Tensor], Tensors]:
        own_buffers = {name: buffer[stacked.rows].clone() for name, buffer in buffers.items()}
        with self._contexts(), randomness:
            loss, (outputs, after) = self._run(own, own_buffers, stacked.batch, stacked.index)
        return loss, outputs, after

    @contextmanager
    def _contexts(self) -> Iterator[None]:
        # Of the kernels for attention on a CPU only the plain one has a rule of vmap; another runs worker by worker.
        attention = sdpa_kernel(SDPBackend.MATH) if self._local.device.type == "cpu" else nullcontext()
        with torch.enable_grad(), self._recorder.listening(self._step), self._local.forward_context(), attention:
            yield

    def _one(self, parameters: Tensors, buffers: Tensors, batch: Any, index: int) -> Any:
        """One worker's step, as ``vmap`` sees it."""
        own = {name: buffer.clone() for name, buffer in buffers.items()} if self._compiled is not None else buffers
        state = {f"module.{name}": value for name, value in (*parameters.items(), *own.items())}
        loss, after = functional_call(self._step, state, (batch, index))
        outputs = list(self._recorder.outputs)
        self._recorder.outputs.clear()  # torch.compile lets no tensor out but by the return value
        return loss, (outputs, after)


@final
class _Step(nn.Module):
    """``training_step`` as a ``forward``, which is what ``functional_call`` can call."""

    def __init__(self, local: LocalModule) -> None:
        super().__init__()
        self.module = local.module
        self._local = local

    def forward(self, batch: Any, index: int) -> tuple[Tensor, Tensors]:
        """Give the loss, and the buffers as they are after the step."""
        loss = loss_of(self._local.training_step(batch, index))
        if loss is None:
            raise UnvectorizableError("training_step returned None to skip a step, which only one worker alone can do")
        return loss, self._local.buffers
