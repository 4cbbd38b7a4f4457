"""Local training of n workers in lockstep: one ``training_step`` for all, on stacked parameters.

``torch.vmap`` runs the user's unchanged ``training_step``, and its backward pass, over dim 0 of parameters, buffers and
batches, and torch's elementwise optimizers step on the stacked parameters as they would on each worker's.
"""

from __future__ import annotations

import ctypes
import random
from collections.abc import Sequence
from typing import final

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_fed._lightning import pl
from lightning_fed.core.tree import Tensors, copy_
from lightning_fed.engines.errors import UnvectorizableError
from lightning_fed.engines.vectorized.batches import DrawnBatches, StackedBatches, draw_batches
from lightning_fed.engines.vectorized.example_cache import ExampleCache
from lightning_fed.engines.vectorized.recorder import StackedRecorder
from lightning_fed.engines.vectorized.step import StackedStep
from lightning_fed.population import Worker
from lightning_fed.wire import Job, LocalTraining, Updates
from lightning_fed.worker.batch_sizes import BatchSizes
from lightning_fed.worker.gradient_corrections import GradientCorrections
from lightning_fed.worker.learning_rates import learning_rates
from lightning_fed.worker.local_optimizers import LocalOptimizers
from lightning_fed.worker.module_copy import ModuleCopy
from lightning_fed.worker.module_tensors import UnfrozenError
from lightning_fed.worker.trainer_view import NoSingleWorkerError


@final
class StackedFit:
    """Trains the workers of a chunk at once.

    Args:
        module: The user's module, placed on its device and in its precision.
        trainer: The server's Trainer.
        compile: Whether to compile the step.
        capacity: How many workers are kept set up.
        training: How long a worker trains in a round.
        quiet: Whether nothing is shown of what the module's code logs by the Trainer.

    Raises:
        UnvectorizableError: If the module, its optimizer or the precision needs one worker at a time.
        ValueError: If the module cannot be trained locally at all.
    """

    def __init__(
        self,
        module: pl.LightningModule,
        trainer: pl.Trainer,
        compile: bool,
        capacity: int,
        training: LocalTraining,
        quiet: bool = False,
    ) -> None:
        self._recorder = StackedRecorder()
        self._local = ModuleCopy(module, trainer, self._recorder, quiet=quiet)
        self._recorder.states = self._local.metric_states
        self._optimizers = LocalOptimizers(self._local)
        self._local.trainer.expect_someone(training)
        try:
            self._optimizers.fresh(cohort=-1)
        except NoSingleWorkerError as error:
            raise UnvectorizableError(str(error)) from error
        refuse_one_by_one(self._local, self._optimizers)
        self.needs_equal_lengths = bool(self._local.trainer.lr_scheduler_configs)
        """Whether all workers of a chunk must have as many batches in a pass: a scheduler steps for all of them."""
        self._store = ExampleCache(self._local.device, most=2 * capacity)
        self._sizes = BatchSizes()
        self._compile = compile
        self._gradients = StackedStep(self._local, self._recorder, compile)
        self._moves_frozen = False
        self._rates: dict[str, float] = {}
        self._suspects: set[str] = set()  # workers that could not take a step, in any round so far

    @property
    def restarted(self) -> tuple[str, bool] | None:
        """The scheduler that begins anew in each round, and whether a step was taken at another rate than the first."""
        return self._optimizers.restarted

    def transfers_plainly(self, worker: Worker) -> bool:
        """Whether a worker's batches need no more than to be moved to the device."""
        return self._local.transfers.are_plain(worker)

    def draw(self, worker: Worker, job: Job, seed: int) -> DrawnBatches:
        """Draw a worker's batches, as it would draw them alone.

        Raises:
            Exception: Whatever the worker's data raises.
        """
        if job.record_privacy is not None:
            raise UnvectorizableError("record-level privacy takes the gradients of one worker's examples at a time")
        plainly = self.transfers_plainly(worker)
        batches = worker.batches
        local = job.local_of(worker.name, batches.num_batches) if job.work else job.local
        transfer = None if plainly else self._local.transfers.of(worker, batches)
        return draw_batches(worker, batches, seed, local, transfer, job)

    def train(self, job: Job, plans: Sequence[DrawnBatches]) -> tuple[list[Updates], dict[str, Exception]]:
        """Train some workers, each starting from the global model.

        Args:
            job: The server's job.
            plans: The workers' batches.

        Returns:
            Their updates, in one stack, or in several if workers logged under different names; and what was raised for
            those that could not take a step, while the others went on.

        Raises:
            Exception: Whatever the user's code raises for all of them; then no worker is trained.
        """
        if self._local.begin(job):
            self._optimizers.forget()
            self._gradients = StackedStep(self._local, self._recorder, self._compile)
        plans = sorted(plans, key=lambda p: -len(p.shapes))
        try:
            return self._train(job, plans, self._moves_frozen)
        except UnfrozenError:
            raise
        except Exception:
            # To write to a parameter that is not stacked is an error. Stacked, frozen ones cost copies in every step,
            # so they are only if it is tried, and if they are no more than the trained ones: a teacher, not a backbone.
            if self._moves_frozen or not self._has_few_frozen():
                raise
            trained = self._train(job, plans, stacks_frozen=True)
            self._moves_frozen = True
            return trained

    @property
    def unread(self) -> Sequence[str]:
        """The torchmetrics objects that a worker has filled so far, and of which nobody has read a value."""
        return self._local.metrics.unread

    def _has_few_frozen(self) -> bool:
        trained, frozen = (
            sum(p.numel() for p in own.values()) for own in (self._local.parameters, self._local.tensors.frozen)
        )
        return 0 < frozen <= 2 * trained

    def _train(
        self, job: Job, plans: Sequence[DrawnBatches], stacks_frozen: bool
    ) -> tuple[list[Updates], dict[str, Exception]]:
        n, names = len(plans), [p.worker for p in plans]
        lengths = {p.num_batches for p in plans}
        self._local.trainer.set_length(job.local, lengths.pop() if len(lengths) == 1 else None, job.round, job.epoch)
        self._local.metrics.reset()
        own = {name for worker in names if worker in job.start for name in job.start[worker].buffers}
        frozen = {
            name: parameter
            for name, parameter in self._local.tensors.frozen.items()
            if stacks_frozen or name in job.model.buffers or name in own
        }
        fixed = {name: self._local.tensors.fixed(name) for name in frozen}
        stacks, buffers = _start(job, names, fixed)
        self._recorder.clear()
        np.random.seed(0)  # discards a normal number that is left over, which is drawn without a trace
        others = _other_generators()
        chunk = StackedBatches(plans, self._local.device, self._store)
        corrections = GradientCorrections.of(job, names, stacked=True)
        try:
            with self._gradients.training(plans, frozen):
                failed = self._fit(job, chunk, corrections, stacks, buffers, len(plans[0].shapes))
                self._local.tensors.refuse_unfrozen()
        finally:
            changed = self._local.set_back()
        if changed:
            raise UnvectorizableError(f"local training changes the module's attribute {changed[0]!r}")
        if others != _other_generators():
            raise UnvectorizableError("training_step draws from Python's or NumPy's generator, which all workers share")
        for name, value in fixed.items():
            if name not in job.model.buffers and torch.equal(buffers[name], value.expand_as(buffers[name])):
                del buffers[name]
        gradient = None if corrections is None else corrections.mean_gradient()
        delta = job.model.layout.flatten(stacks, stacked=True)
        torch.sub(job.model.vector, delta, out=delta)
        keep = [position for position in range(n) if position not in failed]
        examples = torch.tensor(self._examples(plans, keep), dtype=torch.float64)
        logged = self._recorder.finish(n)
        self._local.metrics.note()
        failures = {names[position]: error for position, error in failed.items()}
        self._suspects.update(failures)
        if failed:
            plans, names = [plans[row] for row in keep], [names[row] for row in keep]
            logged, delta, gradient = logged.rows(keep), delta[keep], None if gradient is None else gradient[keep]
            buffers = {name: buffer[keep] for name, buffer in buffers.items()}
        steps = torch.tensor([len(p.shapes) for p in plans], dtype=torch.float64)
        updates = [
            Updates(
                cohort=job.cohort,
                workers=tuple(names[start:stop]),
                delta=delta[start:stop],
                buffers={name: b[start:stop] for name, b in buffers.items()},
                examples=examples[start:stop],
                weight=examples[start:stop],
                steps=steps[start:stop],
                loss=torch.from_numpy(logged.loss[start:stop]),
                metrics={name: torch.from_numpy(logged.values[name][start:stop]) for name in logged_names},
                shown={name: logged.shown[name] for name in logged_names if name in logged.shown},
                rates={
                    name: torch.full((stop - start,), rate, dtype=torch.float64) for name, rate in self._rates.items()
                },
                metric_states={
                    kind: {name: rows[start:stop] for name, rows in own.items()} for kind, own in logged.states.items()
                },
                gradient=None if gradient is None else gradient[start:stop],
            )
            for start, stop, logged_names in logged.groups()
        ]
        return updates, failures

    def _examples(self, plans: Sequence[DrawnBatches], keep: Sequence[int]) -> list[float]:
        """Each trained worker's number of examples: user code may have logged the size of a batch."""
        if not any(p.is_counted for p in plans):
            return [plans[position].examples for position in keep]
        said = self._recorder.said(len(plans))
        examples = []
        for plan, own in ((plans[position], said[position]) for position in keep):
            if None in own:
                self._sizes.warn(plan.worker, plan.is_doubtful, plan.shapes[own.index(None)].size)
            examples.append(plan.counted(own) if plan.is_counted else plan.examples)
        return examples

    def _fit(
        self,
        job: Job,
        chunk: StackedBatches,
        corrections: GradientCorrections | None,
        stacks: Tensors,
        buffers: Tensors,
        steps: int,
    ) -> dict[int, Exception]:
        """Train in place; returns what was raised for workers that could not take a step, by their position."""
        failed: dict[int, Exception] = {}
        leaves = {name: stack.detach() for name, stack in stacks.items()}
        optimizer = self._optimizers.stacked(
            job.cohort, job.lr_factor, {self._local.parameters[name]: leaf for name, leaf in leaves.items()}
        )
        if self._local.configured():
            self._optimizers.forget()
        self._rates = learning_rates([optimizer], job.lr_factor)
        n = chunk.active(0)
        per_pass = self._local.trainer.num_training_batches
        for step in range(steps):
            active = chunk.active(step)
            if active < n:
                n = active
                _narrow(leaves, optimizer, n)
            for stacked in chunk.at(step):
                failing = self._gradients(leaves, buffers, stacked, n, self._suspects)
                if failing:
                    failed.update(failing)
                    chunk.leave_out(failing)
            if failed and all(position in failed for position in range(n)):
                if len(failed) == chunk.active(0):
                    raise next(iter(failed.values()))
                break  # the others have ended before
            if self._local.trainer.should_stop:
                raise UnvectorizableError("training_step sets self.trainer.should_stop, which is about one worker")
            if corrections is not None:
                corrections.apply_(leaves)
            self._optimizers.step()
            for leaf in leaves.values():
                leaf.grad = None
            in_pass = step if per_pass == float("inf") else int(step % per_pass)
            self._optimizers.step_schedulers("step", in_pass + 1)
            if (step + 1) % per_pass == 0 or (step + 1 == steps and per_pass != float("inf")):
                self._optimizers.step_schedulers("epoch", -int(-(step + 1) // per_pass))
        return failed


def _start(job: Job, workers: Sequence[str], fixed: Tensors) -> tuple[Tensors, Tensors]:
    """The parameters, and the buffers and frozen parameters, that some workers start from, stacked."""
    n = len(workers)
    stacks = {name: p.expand(n, *p.shape).clone() for name, p in job.model.parameters.items()}
    buffers = {name: b.expand(n, *b.shape).clone() for name, b in {**fixed, **job.model.buffers}.items()}
    for row, worker in enumerate(workers):
        own = job.start.get(worker)
        if own is not None:
            copy_({name: stack[row] for name, stack in stacks.items()}, job.model.layout.unflatten(own.parameters))
            copy_({name: buffers[name][row] for name in own.buffers}, own.buffers)
    return stacks, buffers


def _narrow(leaves: Tensors, optimizer: Optimizer, n: int) -> None:
    """Leave the last workers out: of the leaves and their optimizer's state only the first n rows stay."""
    for leaf in leaves.values():
        state = optimizer.state.get(leaf, {})
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == leaf.shape:
                state[name] = value[:n]
        leaf.data = leaf.data[:n]


_MT19937_BYTES = 625 * 4
"""Its 624 words, and the place among them."""

# No rule of vmap for their fused kernels (torch 2.13).
_NO_RULE = (nn.RNN, nn.LSTM, nn.GRU)


def refuse_one_by_one(local: ModuleCopy, optimizers: LocalOptimizers) -> None:
    """Refuse what is known beforehand to need one worker at a time.

    Raises:
        UnvectorizableError: Saying what.
    """
    name = type(local.module).__name__
    if not local.module.automatic_optimization:
        raise UnvectorizableError(f"{name} optimizes manually, one worker at a time")
    if local.hooks:
        raise UnvectorizableError(f"{name}.{min(local.hooks)}() is called for one worker at a time")
    if local.precision.precision == "16-mixed":
        raise UnvectorizableError("16-mixed scales the loss by what one worker's gradients can bear")
    if optimizers.plateaus:
        raise UnvectorizableError("a ReduceLROnPlateau follows what one worker logs")
    if not optimizers.is_elementwise:
        kind = type(local.trainer.optimizers[0]).__name__
        raise UnvectorizableError(f"{name}.configure_optimizers() gives a {kind}, which does not go element by element")
    for path, part in local.module.named_modules():
        if isinstance(part, _NO_RULE):
            raise UnvectorizableError(f"{name}.{path} is a {type(part).__name__}, which torch.vmap cannot run")
        if isinstance(part, (nn.Embedding, nn.EmbeddingBag)) and part.sparse:
            raise UnvectorizableError(f"{name}.{path} has sparse gradients, which torch.vmap cannot stack")


def _other_generators() -> tuple[object, ...]:
    """Marks of Python's and NumPy's global generators, which change with every draw once NumPy's has been seeded."""
    numbers = np.random.mtrand.get_bit_generator()
    # Faster than np.random.get_state().
    return random.getstate(), ctypes.string_at(numbers.ctypes.state_address, _MT19937_BYTES)
