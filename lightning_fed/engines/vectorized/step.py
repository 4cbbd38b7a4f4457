"""The gradients of one step of n workers: ``torch.vmap`` over the user's unchanged ``training_step``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, TypeAlias, final

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torchmetrics import Metric, MetricCollection

from lightning_fed._lightning import rank_zero_warn
from lightning_fed.core.tree import Tensors
from lightning_fed.engines.errors import UnvectorizableError
from lightning_fed.engines.vectorized.batches import Plan, StackedBatch
from lightning_fed.engines.vectorized.compiled import CompiledStep, shapes_of
from lightning_fed.engines.vectorized.random_streams import RandomStreams, generator_of
from lightning_fed.engines.vectorized.recorder import StackedRecorder
from lightning_fed.engines.vectorized.vmap import Outputs, batched
from lightning_fed.worker.module_copy import ModuleCopy, loss_of

_Results: TypeAlias = tuple[Tensor, list[Tensor], Tensors, list[Tensor | None]]
"""Losses, what was logged, buffers after the step, and gradients."""


@final
class StackedStep:
    """Gives n workers' gradients, and lets their losses and what they log go to the recorder.

    Args:
        local: The workers' copy of the module.
        recorder: What it logs into.
        compile: Whether to compile the step.
    """

    def __init__(self, local: ModuleCopy, recorder: StackedRecorder, compile: bool) -> None:
        self._recorder = recorder
        self._local = local
        self._metrics = [m for m in local.module.modules() if isinstance(m, (Metric, MetricCollection))]
        self._generator = generator_of(local.device)
        self._compiled = CompiledStep(self._traced) if compile else None
        self._draws = False  # whether the step has been seen to draw random numbers
        self._plans: Sequence[Plan] = ()
        self._streams: RandomStreams | None = None

    @contextmanager
    def training(self, plans: Sequence[Plan]) -> Iterator[None]:
        """Make ready for the steps of a chunk.

        Args:
            plans: Those of its workers.
        """
        self._plans, self._streams = plans, None
        # Of the kernels for attention on a CPU only the plain one has a rule of vmap; another runs worker by worker.
        attention = sdpa_kernel(SDPBackend.MATH) if self._local.device.type == "cpu" else nullcontext()
        with self._recorder.listening(self._metrics), attention:
            yield

    def __call__(self, leaves: Tensors, buffers: Tensors, stacked: StackedBatch, n: int) -> None:
        """Run a step of some of the n workers that are training, and let what they log go to the recorder.

        Args:
            leaves: The stacked parameters, whose ``grad`` is written at these workers' rows.
            buffers: The stacked buffers, written to at these workers' rows.
            stacked: Their batches.
            n: The number of workers that are training.
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
        logged = [output.detach() for output in outputs]
        self._recorder.take(rows, stacked.size, loss.detach(), logged, self._recorder.events, stacked.is_guess)

    def _compiled_or_not(self, own: Tensors, buffers: Tensors, stacked: StackedBatch) -> _Results:
        if self._compiled is None:
            return self._differentiated(own, buffers, stacked)
        key = shapes_of(own, stacked.batch)
        own_buffers = {name: buffer[stacked.rows] for name, buffer in buffers.items()}
        with self._step_context():
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

    def _forward(self, own: Tensors, buffers: Tensors, stacked: StackedBatch) -> Outputs:
        """Run the step; from the first one on that draws random numbers, with each worker's own."""
        if not self._draws:
            before = self._generator.get_state()
            results = self._batched(own, buffers, stacked)
            if torch.equal(before, self._generator.get_state()):
                return results
            self._draws = True
            if self._compiled is not None:
                self._compiled = None
                rank_zero_warn(
                    "compile=True is given up, and the steps run uncompiled: training_step draws random numbers, and a "
                    "compiled program would draw them for all workers at once"
                )
        streams = self._own_streams()
        workers = range(len(streams))
        streams.workers = workers[stacked.rows] if isinstance(stacked.rows, slice) else stacked.rows.tolist()
        with streams:
            return self._batched(own, buffers, stacked)

    def _own_streams(self) -> RandomStreams:
        if self._streams is None:
            if self._local.device.type == "cuda":
                generator = torch.Generator(self._local.device)
                states = [generator.manual_seed(plan.seed).get_state() for plan in self._plans]
            else:
                states = [plan.random_state() for plan in self._plans]
            self._streams = RandomStreams(states, self._local.device)
        return self._streams

    def _batched(self, own: Tensors, buffers: Tensors, stacked: StackedBatch) -> Outputs:
        # Clones, because the step may write to them and may yet be repeated.
        state = own | {name: buffer[stacked.rows].clone() for name, buffer in buffers.items()}
        n = len(next(iter(own.values())))
        with self._step_context():
            return batched(lambda state, batch: self._one(state, batch, stacked.index), n, state, stacked.batch)

    @contextmanager
    def _step_context(self) -> Iterator[None]:
        self._recorder.begin_step()
        with torch.enable_grad(), self._local.forward_context():
            yield

    def _one(self, state: Tensors, batch: Any, index: int) -> Outputs:
        """One worker's step, as ``vmap`` sees it: gives the loss, what was logged, and the buffers after the step."""
        with self._local.in_place(state):
            loss = loss_of(self._local.training_step(batch, index))
            after = self._local.buffers
        if loss is None:
            raise UnvectorizableError("training_step returned None to skip a step, which only one worker alone can do")
        return loss, list(self._recorder.outputs), after

    def _traced(self, parameters: Tensors, buffers: Tensors, batch: Any, index: int) -> tuple[Tensor, Any]:
        """The same in the form that ``torch.func.grad`` and ``torch.compile`` want."""
        own = {name: buffer.clone() for name, buffer in buffers.items()}
        loss, outputs, after = self._one(parameters | own, batch, index)
        self._recorder.outputs.clear()  # torch.compile lets no tensor out but by the return value
        return loss, (outputs, after)
