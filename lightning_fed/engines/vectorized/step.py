"""The gradients of one step of n workers: ``torch.vmap`` over the user's unchanged ``training_step``."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple, TypeAlias, final

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from lightning_fed._lightning import rank_zero_warn
from lightning_fed.core.tree import Tensors
from lightning_fed.core.watch import text_of
from lightning_fed.engines.errors import UnvectorizableError
from lightning_fed.engines.vectorized.batches import DrawnBatches, StackedBatch
from lightning_fed.engines.vectorized.blame import failing_rows
from lightning_fed.engines.vectorized.branches import Branches, WaysPartError
from lightning_fed.engines.vectorized.compiled import CompiledStep, shapes_of
from lightning_fed.engines.vectorized.random_streams import Draw, Draws, OtherDrawsError, RandomStreams, generator_of
from lightning_fed.engines.vectorized.recorder import Events, StackedRecorder
from lightning_fed.engines.vectorized.vmap import NotStacked, Outputs, differentiated
from lightning_fed.wire import describe
from lightning_fed.worker.module_copy import ModuleCopy, loss_of
from lightning_fed.worker.snapshot import metrics_in

_Results: TypeAlias = tuple[Tensor, list[Tensor], Tensors, list[Tensor | None]]
"""Losses, what was logged, buffers after the step, and gradients."""

_MOST_WAYS = 4  # through one step: each takes it once, so that one worker after another would be faster than many


class _Taken(NamedTuple):
    """Result of a step of some workers, and what the step did besides."""

    stacked: StackedBatch
    results: _Results
    events: Events


@final
class StackedStep:
    """Computes the gradients of n workers, and passes their losses and what they log to the recorder.

    Args:
        local: The workers' copy of the module.
        recorder: The recorder of logged values.
        compile: Whether to compile the step.
    """

    def __init__(self, local: ModuleCopy, recorder: StackedRecorder, compile: bool) -> None:
        self._recorder = recorder
        self._local = local
        self._metrics = metrics_in(local.module)
        self._generator = generator_of(local.device)
        self._compiled = CompiledStep(self._traced) if compile else None
        self._is_watched = False  # whether the first step is over
        self._draws = False  # whether a step has been seen to draw random numbers
        self._reads = False  # whether a step has been seen to need what vmap does not give, such as a tensor's value
        self._drawn_alone: dict[object, list[Draw]] = {}
        self._attention: list[SDPBackend] = []
        self._hidden: list[Tensor] = []
        self._plans: Sequence[DrawnBatches] = ()
        self._frozen: Tensors = {}
        self._streams: RandomStreams | None = None

    @contextmanager
    def training(self, plans: Sequence[DrawnBatches], frozen: Tensors) -> Iterator[None]:
        """Make ready for the steps of a chunk.

        Args:
            plans: Those of its workers.
            frozen: The parameters that are not trained but stacked, by name.
        """
        self._plans, self._streams = plans, None
        self._frozen = frozen
        self._attention = _attention()
        # Of the kernels for attention on a CPU only the plain one has a rule of vmap; another runs worker by worker.
        attention = sdpa_kernel(SDPBackend.MATH) if self._local.device.type == "cpu" else nullcontext()
        with self._recorder.listening(self._metrics), attention:
            yield

    def __call__(
        self, leaves: Tensors, buffers: Tensors, stacked: StackedBatch, n: int, suspects: Collection[str] = ()
    ) -> dict[int, Exception]:
        """Run a step of some of the n workers that are training, and let what they log go to the recorder.

        Args:
            leaves: The stacked parameters, whose ``grad`` is written at these workers' rows.
            buffers: The stacked buffers, written to at these workers' rows.
            stacked: Their batches.
            n: The number of workers that are training.
            suspects: Workers for which earlier steps failed.

        Returns:
            What the step raised for workers that cannot take it, by their position; the others have taken it.

        Raises:
            Exception: If it fails for all of them together, and for none by itself.
        """
        self._hidden = [*self._local.parameters.values(), *self._frozen.values(), *leaves.values()]
        everyone = stacked.rows == slice(0, n) if isinstance(stacked.rows, slice) else False
        own = {name: leaf.detach() if everyone else leaf[stacked.rows] for name, leaf in leaves.items()}
        drawn = None if self._streams is None else self._streams.states
        try:
            try:
                taken = [_Taken(stacked, self._compiled_or_not(own, buffers, stacked), self._recorder.events)]
            except WaysPartError as ways:
                taken = self._each_way(leaves, buffers, [stacked.part(rows) for rows in ways.rows])
        except Exception as error:
            return self._without_failing(leaves, buffers, stacked, suspects, drawn, error)
        self._take(leaves, buffers, taken, everyone and len(taken) == 1)
        return {}

    def _each_way(self, leaves: Tensors, buffers: Tensors, parts: list[StackedBatch]) -> list[_Taken]:
        """Run a step of parts of the workers; of smaller parts, where workers go different ways through it."""
        parts, taken = list(parts), list[_Taken]()
        while parts:
            part = parts.pop()
            try:  # uncompiled: it takes seconds to compile a step of another number of workers
                results = self._differentiated({k: leaf[part.rows] for k, leaf in leaves.items()}, buffers, part)
            except WaysPartError as ways:
                parts += [part.part(rows) for rows in ways.rows]
                if len(parts) + len(taken) > _MOST_WAYS:
                    raise UnvectorizableError(
                        f"numbers in batches lead workers more than {_MOST_WAYS} ways through training_step",
                        only_together=True,
                    ) from ways
            else:
                taken.append(_Taken(part, results, self._recorder.events))
        return taken

    def _without_failing(
        self,
        leaves: Tensors,
        buffers: Tensors,
        stacked: StackedBatch,
        suspects: Collection[str],
        drawn: list[Tensor] | None,
        error: Exception,
    ) -> dict[int, Exception]:
        """Run a step that has failed with those workers that do not make it fail; returns the errors of the others.

        Args:
            drawn: The states of the workers' generators before the step, if they have some.
        """
        positions = stacked.positions
        if len(positions) == 1 or isinstance(error, UnvectorizableError):  # that is not about the numbers in a batch
            return dict.fromkeys(positions, error)
        taken: list[_Taken] = []

        def attempt(rows: Sequence[int]) -> Exception | None:
            nonlocal taken
            if drawn is None or self._streams is None:
                self._streams = None
            else:
                self._streams.rewind(list(drawn))  # one that was tried before has drawn
            try:
                taken = self._each_way(leaves, buffers, [stacked.part(rows)])
            except Exception as error:
                return error
            return None

        guessed = [row for row, position in enumerate(positions) if self._plans[position].worker in suspects]
        failing = failing_rows(attempt, range(len(positions)), guessed)
        if not failing:
            raise error
        if len(failing) < len(positions):
            self._take(leaves, buffers, taken, everyone=False)
        return {positions[row]: error for row, error in failing.items()}

    def _take(self, leaves: Tensors, buffers: Tensors, taken: Sequence[_Taken], everyone: bool) -> None:
        """Write the results of a step to the stacks and the recorder."""
        for stacked, (loss, outputs, after, gradients), events in taken:
            rows = stacked.rows
            if not everyone:
                had = [leaf.grad is not None for leaf in leaves.values()]
                if any(had) and had != [gradient is not None for gradient in gradients]:  # an optimizer steps on 0
                    raise UnvectorizableError(
                        "a parameter takes part in a step of some workers only", only_together=True
                    )
            for leaf, gradient in zip(leaves.values(), gradients, strict=True):
                if everyone:
                    leaf.grad = gradient
                elif gradient is not None:
                    if leaf.grad is None:
                        leaf.grad = torch.zeros_like(leaf)
                    leaf.grad[rows] = gradient
            for name, buffer in after.items():
                before = buffers[name]
                if buffer.shape[1:] != before.shape[1:] or buffer.dtype != before.dtype:  # to write it would broadcast
                    raise UnvectorizableError(f"training_step changes the shape or the dtype of the buffer {name!r}")
                before[rows] = buffer
            self._recorder.take(rows, stacked.size, loss, outputs, events, stacked.is_guess)

    def _compiled_or_not(self, own: Tensors, buffers: Tensors, stacked: StackedBatch) -> _Results:
        if self._compiled is None:
            return self._differentiated(own, buffers, stacked)
        key = shapes_of(own, stacked.batch)
        own_buffers = {name: buffer[stacked.rows] for name, buffer in buffers.items()}
        self._recorder.begin_step()
        results = self._compiled.run(key, own, own_buffers, stacked.batch, stacked.index)
        if results is None:
            results = self._differentiated(own, buffers, stacked)  # what is the user's fault is raised again
            if self._compiled is not None:
                self._compiled.learn(key, results[3])
        return results

    def _differentiated(self, own: Tensors, buffers: Tensors, stacked: StackedBatch) -> _Results:
        """Run the step; from the first one on that draws random numbers, with each worker's own."""
        try:
            return self._run(own, buffers, stacked)
        except RuntimeError as error:
            if not text_of(error).startswith(_OF_VMAP):
                raise
            if not self._reads:
                self._reads = True
                return self._differentiated(own, buffers, stacked)
            raise UnvectorizableError(describe(error).partition(". ")[0]) from error  # a page of advice follows

    def _run(self, own: Tensors, buffers: Tensors, stacked: StackedBatch) -> _Results:
        if not self._draws:
            before = self._generator.get_state()
            noted: list[Draw] = []
            try:
                if self._is_watched:
                    results = self._stacked(own, buffers, stacked)
                else:  # the first step: one that is forked, or the user's own, leaves no trace in the default one
                    with Draws() as draws:
                        results = self._stacked(own, buffers, stacked)
                    noted, self._is_watched = draws.noted, True
            except Exception:  # it may be repeated without a worker for which it fails
                self._generator.set_state(before)
                raise
            if not noted and torch.equal(before, self._generator.get_state()):
                return results
            self._draws = True
            if self._compiled is not None:
                self._compiled = None
                rank_zero_warn(
                    "compile=True is given up, and the steps run uncompiled: training_step draws random numbers, and a "
                    "compiled program would draw them for all workers at once"
                )
        key = stacked.index, _layouts(stacked.batch)
        if key in self._drawn_alone:
            try:
                return self._drawing(own, buffers, stacked, self._drawn_alone[key])
            except OtherDrawsError:  # than one worker drew when that was noted
                pass
        self._drawn_alone[key] = self._alone(own, buffers, stacked)
        try:
            return self._drawing(own, buffers, stacked, self._drawn_alone[key])
        except OtherDrawsError as error:
            raise UnvectorizableError(str(error)) from error

    def _drawing(self, own: Tensors, buffers: Tensors, stacked: StackedBatch, expected: Sequence[Draw]) -> _Results:
        """Run the step, with random numbers from each worker's own stream."""
        streams = self._own_streams()
        workers = range(len(streams))
        rows = workers[stacked.rows] if isinstance(stacked.rows, slice) else stacked.rows.tolist()
        before = streams.begin_step(rows, expected)
        try:
            with streams:
                results = self._stacked(own, buffers, stacked)
            streams.end_step()
        except Exception:  # it may be repeated, with other draws expected or without a worker for which it fails
            streams.rewind(before)
            raise
        return results

    def _alone(self, own: Tensors, buffers: Tensors, stacked: StackedBatch) -> list[Draw]:
        """The random operations of the first of some workers, found by running its step alone."""
        draws = Draws()
        state: Tensors = {
            name: nn.Parameter(torch.empty_like(parameter).copy_(own[name][0]))
            for name, parameter in self._local.parameters.items()
        }
        for name, buffer in {**self._local.buffers, **self._frozen}.items():
            state[name] = torch.empty_like(buffer).copy_(buffers[name][stacked.rows][0])
        batch = pytree.tree_map(lambda t: t[0] if isinstance(t, Tensor) else t, stacked.batch)
        before = self._generator.get_state()
        self._recorder.begin_step()
        try:
            with torch.enable_grad(), sdpa_kernel(self._attention), draws:
                loss, _, _ = self._one(state, batch, stacked.index)
                torch.autograd.grad(loss, [state[name] for name in own], allow_unused=True)
        finally:
            self._generator.set_state(before)
        return draws.noted

    def _own_streams(self) -> RandomStreams:
        if self._streams is None:
            if self._local.device.type == "cuda":
                generator = torch.Generator(self._local.device)
                states = [generator.manual_seed(plan.seed).get_state() for plan in self._plans]
            else:
                states = [plan.random_state() for plan in self._plans]
            self._streams = RandomStreams(states, self._local.device)
        return self._streams

    def _stacked(self, own: Tensors, buffers: Tensors, stacked: StackedBatch) -> _Results:
        # Clones, because the step may write to them and may yet be repeated.
        others = {name: buffer[stacked.rows].clone() for name, buffer in buffers.items()}
        n, versions = len(next(iter(own.values()))), [tensor._version for tensor in own.values()]
        self._recorder.begin_step()

        def step(state: Tensors, batch: Any) -> Outputs:
            # Neither the copy's own parameters nor all workers' may be used in place of one worker's.
            kinds = [type(tensor) for tensor in self._hidden]
            for tensor in self._hidden:
                tensor.__class__ = NotStacked
            try:
                return self._one(state, batch, stacked.index)
            finally:
                for tensor, kind in zip(self._hidden, kinds, strict=True):
                    tensor.__class__ = kind

        with Branches() if self._reads else nullcontext():
            results = differentiated(step, n, own, others, stacked.batch)
        if versions != [tensor._version for tensor in own.values()]:
            raise UnvectorizableError("training_step writes to parameters, which have to stay as they are in a step")
        return results

    def _one(self, state: Tensors, batch: Any, index: int) -> Outputs:
        """One worker's step: gives the loss, what was logged, and the buffers after the step."""
        with self._local.in_place(state):
            with self._local.forward_context():
                loss = loss_of(self._local.training_step(batch, index))
            after = self._local.buffers
        if after.keys() | self._frozen.keys() != state.keys() - self._local.parameters.keys():
            raise UnvectorizableError("training_step registers a buffer, or takes one away")
        after |= {name: state[name] for name in self._frozen}
        if loss is None:
            raise UnvectorizableError("training_step returned None to skip a step, which only one worker alone can do")
        return loss, list(self._recorder.outputs), after

    def _traced(self, parameters: Tensors, buffers: Tensors, batch: Any, index: int) -> tuple[Tensor, Any]:
        """One worker's step in the form that ``torch.func.grad`` and ``torch.compile`` take."""
        own = {name: buffer.clone() for name, buffer in buffers.items()}
        loss, outputs, after = self._one(parameters | own, batch, index)
        self._recorder.outputs.clear()  # torch.compile lets no tensor out but by the return value
        return loss, (outputs, after)


_OF_VMAP = ("vmap: ", "Batching rule not implemented")


def _attention() -> list[SDPBackend]:
    """The kernels that attention may use."""
    cuda: Any = torch.backends.cuda
    allowed = {
        SDPBackend.FLASH_ATTENTION: cuda.flash_sdp_enabled(),
        SDPBackend.EFFICIENT_ATTENTION: cuda.mem_efficient_sdp_enabled(),
        SDPBackend.MATH: cuda.math_sdp_enabled(),
        SDPBackend.CUDNN_ATTENTION: cuda.cudnn_sdp_enabled(),
    }
    return [backend for backend, is_allowed in allowed.items() if is_allowed]


def _layouts(batch: Any) -> object:
    """Return what one worker's batch has in common with others that its step treats alike."""
    leaves, structure = pytree.tree_flatten(batch)
    return str(structure), tuple((t.shape[1:], t.stride()[1:], t.dtype) for t in leaves if isinstance(t, Tensor))
