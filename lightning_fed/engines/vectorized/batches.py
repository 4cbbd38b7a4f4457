"""The batches of a chunk of workers that train in lockstep: step by step, stacked along dim 0.

Workers have different numbers of examples, so some end early and some have a last batch of another size. At each step
the workers that are still training are grouped by the size of their batch, and no batch is padded: the results are
those of one worker after another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple, final

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lightning_fed.core.rng import seed_generators
from lightning_fed.engines.errors import UnvectorizableError
from lightning_fed.engines.vectorized.example_cache import ExampleCache
from lightning_fed.engines.vectorized.recorder import Rows
from lightning_fed.population import Worker, examples_per_pass
from lightning_fed.population.batches import Batches, IndexedBatches
from lightning_fed.wire import Job, LocalTraining
from lightning_fed.worker.batch_sizes import examples_in, is_doubtful
from lightning_fed.worker.streams import training_seed

_WINDOW_BYTES = 64 * 2**20  # of rows gathered beforehand


@final
@dataclass(frozen=True)
class BatchSpan:
    """A batch's number in its pass, its number of examples, and the first of its rows in the order of the round.

    The number of examples may be a guess, and then user code may log another while the batch is trained on.
    """

    index: int
    size: int
    start: int
    is_guess: bool = False


@final
class DrawnBatches(NamedTuple):
    """The batches of one worker in one round, drawn beforehand.

    Args:
        worker: Its name. Not the worker: by the time of the training, its data may have been let go.
        num_batches: The number of batches in a pass.
        examples: Its weight in means.
        seed: The seed of its randomness in this round.
        shapes: Those of its batches, one per local step.
        source: Its examples, if batches are rows of tensors.
        order: The rows of all batches, one after another; int64.
        batches: The batches themselves, if they are not.
        is_whole: Whether the last pass comes to its end.
        is_counted: Whether only its batches tell how many examples there are; ``examples`` is 0 then.
        is_doubtful: Whether a guess of a batch's size may well be wrong.
    """

    worker: str
    num_batches: int
    examples: float
    seed: int
    shapes: tuple[BatchSpan, ...]
    source: IndexedBatches | None = None
    order: Tensor | None = None
    batches: Sequence[Any] = ()
    is_whole: bool = True
    is_counted: bool = False
    is_doubtful: bool = False

    def counted(self, said: Sequence[int | None]) -> float:
        """The number of examples, if batches whose size is a guess have the sizes that user code has logged.

        Args:
            said: One for each batch; None: user code has logged none.
        """
        sizes = [
            (shape.index, shape.size if size is None else size) for shape, size in zip(self.shapes, said, strict=True)
        ]
        return examples_per_pass(sizes, self.num_batches, self.is_whole)

    def random_state(self) -> Tensor:
        """The state of its generator at the beginning of its training."""
        return torch.Generator().manual_seed(training_seed(self.seed)).get_state()


def draw_batches(
    worker: Worker,
    batches: Batches,
    seed: int,
    local: LocalTraining,
    transfer: Callable[[Any], Any] | None,
    job: Job,
) -> DrawnBatches:
    """Draw a worker's batches, as it would draw them alone.

    Args:
        worker: The worker.
        batches: Its batches.
        seed: The seed of its randomness in this round.
        local: How long it trains.
        transfer: How its batches come to the device; None: they only have to be moved there.
        job: The server's job; it numbers the passes, for samplers that require it.

    Raises:
        UnvectorizableError: If only a pass over the data can count the batches.
        Exception: Whatever the data raises.
    """
    per_pass = batches.num_batches
    if per_pass is None:
        raise UnvectorizableError(
            f"the number of batches of worker {worker.name!r} is not known beforehand", only_this_worker=True
        )
    if transfer is None and isinstance(batches, IndexedBatches) and batches.batch_size is not None:
        steps = per_pass * local.epochs if local.steps is None else local.steps
        passes = -(-steps // per_pass)
        _seed(batches, seed)
        order = batches.draw()
        shapes = _shapes(steps, per_pass, batches.batch_size, order.numel())
        if passes > 1:
            order = torch.cat([order, *(batches.draw() for _ in range(passes - 1))])
        return DrawnBatches(worker.name, per_pass, float(batches.num_examples or 0), seed, shapes, batches, order)
    seed_generators(seed)
    batches.reseed(seed, batches.first_epoch(job.cohort, job.local))
    try:
        drawn, found, is_whole = _drawn(batches, local, transfer)
    finally:
        batches.rest()
    is_counted = batches.num_examples is None
    if not is_counted:
        found = [replace(shape, is_guess=False) for shape in found]
    return DrawnBatches(
        worker.name,
        per_pass,
        float(batches.num_examples or 0),
        seed,
        tuple(found),
        batches=drawn,
        is_whole=is_whole,
        is_counted=is_counted,
        is_doubtful=is_counted and any(is_doubtful(batch, batches.gives_items) for batch in drawn),
    )


def _drawn(
    batches: Batches, local: LocalTraining, transfer: Callable[[Any], Any] | None
) -> tuple[list[Any], list[BatchSpan], bool]:
    """Draw the batches of a round one by one, as local training would, and whether the last pass comes to its end."""
    drawn: list[Any] = []
    shapes: list[BatchSpan] = []
    passes = 0
    while local.steps is not None or passes < local.epochs:
        passes += 1
        before = len(drawn)
        for index, (batch, size) in enumerate(batches):
            batch = batch if transfer is None else transfer(batch)
            drawn.append(batch)
            shapes.append(BatchSpan(index, examples_in(batch) if size is None else size, 0, is_guess=size is None))
            if len(drawn) == local.steps:
                return drawn, shapes, False  # unless the number of batches shows otherwise
        if len(drawn) == before:
            raise ValueError(f"its train_dataloader gave no batch in pass {passes}")
    return drawn, shapes, True


def _seed(batches: IndexedBatches, seed: int) -> None:
    """Seed all that an order drawn at once depends on, and no other generator."""
    torch.default_generator.manual_seed(seed)
    if batches.carries_generators:
        batches.reseed(seed)


@lru_cache(maxsize=4096)
def _shapes(steps: int, per_pass: int, batch_size: int, length: int) -> tuple[BatchSpan, ...]:
    return tuple(
        BatchSpan(index, min(batch_size, length - index * batch_size), turn * length + index * batch_size)
        for turn, index in (divmod(step, per_pass) for step in range(steps))
    )


@final
@dataclass(frozen=True)
class StackedBatch:
    """One batch each of some workers.

    Args:
        rows: Which workers of the chunk.
        index: The number of the batch in its pass.
        size: The number of examples in each worker's batch.
        is_guess: Whether user code may log another size.
        batch: As the loader gives it, every tensor stacked; ``[rows, ...]``.
    """

    rows: Rows
    index: int
    size: int
    is_guess: bool
    batch: Any

    @property
    def positions(self) -> list[int]:
        """The positions of the workers in the chunk, as a list."""
        return list(range(self.rows.stop)[self.rows]) if isinstance(self.rows, slice) else self.rows.tolist()

    def part(self, rows: Sequence[int]) -> StackedBatch:
        """The batches of some of the workers.

        Args:
            rows: Where their batches lie.
        """
        positions = self.positions

        def some(leaf: Any) -> Any:
            return _stack([leaf[row] for row in rows]) if isinstance(leaf, Tensor) else leaf

        return replace(
            self, rows=torch.tensor([positions[row] for row in rows]), batch=pytree.tree_map(some, self.batch)
        )


@final
class StackedBatches:
    """The batches of n workers, step by step.

    Args:
        plans: One per worker; those with more steps first.
        device: Where the batches go.
        store: Rows that are kept at hand.
    """

    def __init__(self, plans: Sequence[DrawnBatches], device: torch.device, store: ExampleCache) -> None:
        self._plans = plans
        self._device = device
        self._store = store
        first = plans[0]
        self._alike = first.source is not None and all(
            plan.shapes is first.shapes and plan.source is not None and plan.source.kind == first.source.kind
            for plan in plans
        )
        self._left_out: set[int] = set()
        self._window: tuple[int, int, list[Tensor]] = (0, 0, [])

    def active(self, step: int) -> int:
        """The number of workers that take a step: the first ones."""
        return len(self._plans) if self._alike else sum(len(plan.shapes) > step for plan in self._plans)

    def leave_out(self, positions: Iterable[int]) -> None:
        """Leave out batches of some workers from here on."""
        self._left_out.update(positions)
        self._alike = False

    def at(self, step: int) -> list[StackedBatch]:
        """The batches of a step, one group for every size."""
        if self._alike:
            shape = self._plans[0].shapes[step]
            return [StackedBatch(slice(0, len(self._plans)), shape.index, shape.size, False, self._from_window(shape))]
        groups: dict[object, list[int]] = {}
        for position, plan in enumerate(self._plans[: self.active(step)]):
            if position in self._left_out:
                continue
            shape = plan.shapes[step]
            kind = _kind(plan.batches[step]) if plan.source is None else plan.source.kind
            groups.setdefault((shape.index, shape.size, shape.is_guess, kind), []).append(position)
        return [self._group(positions, step) for positions in groups.values()]

    def _from_window(self, shape: BatchSpan) -> list[Tensor]:
        """Cut a batch out of rows that were gathered for several steps, one call per worker and tensor."""
        start, stop, tensors = self._window
        end = shape.start + shape.size
        if not start <= shape.start < end <= stop:
            row_bytes = sum(t[:1].nbytes for t in self._tensors(0)) * len(self._plans)
            length = max(_WINDOW_BYTES // max(row_bytes, 1) // shape.size, 1) * shape.size
            start, stop = shape.start, max(min(shape.start + length, self._order(0).numel()), end)
            tensors = self._gathered(self._plans, [(start, stop)] * len(self._plans))
            self._window = start, stop, tensors
        return [tensor[:, shape.start - start : end - start] for tensor in tensors]

    def _group(self, positions: list[int], step: int) -> StackedBatch:
        plans = [self._plans[position] for position in positions]
        shape = plans[0].shapes[step]
        batch: Any
        if plans[0].order is not None:
            batch = self._gathered(plans, [(p.shapes[step].start, p.shapes[step].start + shape.size) for p in plans])
        else:
            batches = [pytree.tree_flatten(p.batches[step]) for p in plans]
            leaves = zip(*(leaves for leaves, _ in batches), strict=True)
            stacked = [_stack(same).to(self._device) for same in leaves]
            batch = pytree.tree_unflatten(stacked, batches[0][1])
        return StackedBatch(_range_if_possible(positions), shape.index, shape.size, shape.is_guess, batch)

    def _order(self, position: int) -> Tensor:
        order = self._plans[position].order
        assert order is not None
        return order

    def _gathered(self, plans: Sequence[DrawnBatches], spans: Sequence[tuple[int, int]]) -> list[Tensor]:
        """Rows of several workers, equally many of each; ``[workers, rows, ...]`` each."""
        sources = [plan.source for plan in plans if plan.source is not None]
        orders = [
            order if start == 0 and stop == order.numel() else order[start:stop]
            for order, (start, stop) in zip([p.order for p in plans if p.order is not None], spans, strict=True)
        ]
        offsets = self._store.offsets(sources)
        if offsets is not None:
            index = torch.stack(orders).add_(torch.tensor(offsets).unsqueeze(1)).to(self._device)
            return [t.index_select(0, index.view(-1)).view(*index.shape, *t.shape[1:]) for t in self._store.tensors]
        return [
            torch.stack([t.index_select(0, o.to(t.device)) for t, o in zip(same, orders, strict=True)]).to(self._device)
            for same in zip(*(source.tensors for source in sources), strict=True)
        ]

    def _tensors(self, position: int) -> tuple[Tensor, ...]:
        source = self._plans[position].source
        assert source is not None
        return source.tensors


def _kind(batch: Any) -> object:
    """Return all that batches must have in common to be stacked: structure, shapes, layouts and dtypes.

    Raises:
        UnvectorizableError: If something in the batch is no tensor.
    """
    leaves, structure = pytree.tree_flatten(batch)
    for leaf in leaves:
        if not isinstance(leaf, Tensor):
            raise UnvectorizableError(f"a batch holds a {type(leaf).__name__}, and only tensors can be stacked")
    return str(structure), tuple((leaf.shape, leaf.stride(), leaf.dtype) for leaf in leaves)


def _stack(tensors: Sequence[Tensor]) -> Tensor:
    """Stack tensors of one layout; each row lies in memory as its tensor does, since random operations go by that."""
    first = tensors[0]
    if first.is_contiguous():
        return torch.stack(list(tensors))
    once = [min(size, 1) if stride == 0 else size for size, stride in zip(first.shape, first.stride(), strict=True)]
    span = 1 + sum((size - 1) * stride for size, stride in zip(once, first.stride(), strict=True))
    stack = first.new_empty(len(tensors) * span).as_strided((len(tensors), *once), (span, *first.stride()))
    for row, tensor in zip(stack, tensors, strict=True):
        row.copy_(tensor[tuple(slice(size) for size in once)])
    return stack.expand(len(tensors), *first.shape)


def _range_if_possible(positions: list[int]) -> Rows:
    """Positions in increasing order as a slice if they are consecutive: a view, where an index would copy."""
    if positions[-1] - positions[0] + 1 == len(positions):
        return slice(positions[0], positions[-1] + 1)
    return torch.tensor(positions)
