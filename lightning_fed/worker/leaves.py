"""Account of what leaves a worker in a round, and what it is sent: as on the wire, tensor by tensor, with reasons."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch

from lightning_fed.core.rng import isolated
from lightning_fed.privacy import AUDIENCES
from lightning_fed.state import OwnState
from lightning_fed.wire.contents import Leaves, Part, Row, job_contents, updates_contents
from lightning_fed.wire.job import Job
from lightning_fed.wire.updates import Updates
from lightning_fed.worker.kept import OPTIMIZER, SCHEDULE
from lightning_fed.worker.outbox import Outbox, prefixes, tables_of


def leaves_of(updates: Updates | None, job: Job, outbox: Outbox, names: Sequence[str]) -> Leaves | None:
    """List what leaves a worker, and what it is sent.

    Where a promise hides who took part, it also hides what there is to see in a message that came: whether one did, the
    length of its sender's name, and which rounds nobody answered. The messages are then those that the job plans.

    Args:
        updates: Updates that have left some workers by the outbox; the first worker's is used. None: none so far.
        job: The cohort's job.
        outbox: The steps by which the updates left.
        names: The names of the population.

    Returns:
        The account; None if there is no message to look at.
    """
    if outbox.hides_who:
        stand_in = max(names, key=len)
        job = replace(job.of(stand_in), last=None, failed=())
        updates = _planned(job, outbox, stand_in)
    if updates is None:
        return None
    first = updates.workers[0]
    keep = updates.examples.new_zeros(len(updates.workers)).bool()
    keep[0] = True
    updates, job = updates.rows(keep), job.of(first)
    up, down = _reasons_up(job, outbox), _reasons_down(job, outbox)
    return Leaves(
        round=None if outbox.hides_who else job.round,
        worker=None if outbox.hides_who else first,
        up=tuple(Row(*part, up(part)) for part in updates_contents(updates, job)),
        down=tuple(Row(*part, down(part)) for part in job_contents(job)),
        stays=tuple(_staying(updates, job, outbox)),
    )


def _planned(job: Job, outbox: Outbox, worker: str) -> Updates | None:
    """Return what would leave a worker whose training changes nothing; None: a step of the outbox refuses it."""
    assert outbox.promise is not None
    tables = tables_of(outbox.algorithm, outbox.transforms, outbox.kept)
    rehearsed = replace(outbox, promise=None, own=OwnState(tables))  # its noise is no part of what there is to see
    with isolated(), torch.no_grad():
        for result in rehearsed(_changes_nothing, job, [worker]):
            if isinstance(result, Updates):
                return outbox.promise.hidden(result, job)
    return None


def _changes_nothing(job: Job, workers: Sequence[str]) -> Iterator[Updates]:
    n, vector = len(workers), job.model.vector
    if not n:
        return
    zeros, ones = vector.new_zeros(n, len(vector)), torch.ones(n, dtype=torch.float64)
    buffers = {name: buffer.expand(n, *buffer.shape) for name, buffer in job.model.buffers.items()}
    gradient = zeros if job.wants_gradient else None
    yield Updates(job.cohort, tuple(workers), zeros, buffers, ones, ones, ones, ones, gradient=gradient)


def _reasons_up(job: Job, outbox: Outbox) -> Callable[[Part], str]:
    promise, algorithm = outbox.promise, type(outbox.algorithm).__name__
    covered = ""
    if promise is not None:
        name = type(promise).__name__
        trusted = promise.audience == AUDIENCES[0]
        covered = f"; without noise, which the server adds for {name}" if trusted else f"; noised for {name}"
    if outbox.compression is not None:
        covered += f"; as codes of {outbox.compression.compressor}"
    needs_examples = promise is not None and promise.needs_examples
    numbers = {
        "examples": "number of training examples: the weight in means",
        "weight": "what the update counts for in the mean",
        "loss": "mean loss of the local steps",
        "steps": "number of local steps",
    }
    if not outbox.may_tell:
        numbers = {
            "examples": "number of training examples: limits the weight" if needs_examples else "hidden: the number 1",
            "weight": "hidden: the number 1, as all count equally",
            "loss": "hidden: NaN",
            "steps": "hidden: the number 1",
        }

    def why(part: Part) -> str:
        if part.kind == "header":
            return "names, dtypes and shapes of what follows; the name of the worker and the number of the cohort"
        if part.kind == "delta":
            return f"change of a trained parameter: aggregated{covered}"
        if part.kind == "extra":
            return f"what {algorithm} sends besides: aggregated as the change is{covered}"
        if part.kind == "buffer":
            frozen = part.name in job.model.moved or part.name in job.model.frozen
            what = "frozen parameter that training moves" if frozen else "buffer of the module"
            return f"{what}: aggregated"
        if part.kind == "metric_state":
            return f"state of a torchmetrics object that was logged: merged by {part.name.partition('/')[0]}"
        if part.kind == "metric":
            return "value that training has logged by self.log"
        if part.kind == "sealed":
            return "sealed: means something in the sum over the cohort only"
        if part.kind == "rate":
            return "learning rate with which the local training began"
        return numbers[part.name]

    return why


def _reasons_down(job: Job, outbox: Outbox) -> Callable[[Part], str]:
    algorithm, broadcast = type(outbox.algorithm).__name__, outbox.broadcast
    reasons = {
        "header": "names, dtypes and shapes of what follows; round, cohort, seed, epoch, and how long to train",
        "parameter": "trained parameter of the global model",
        "sent": f"what {algorithm} sends to every worker",
        "linear": f"correction of the gradients of this worker, by {algorithm}",
        "start": "part of this worker's own model",
        "attribute": "attribute of the module that the server has changed",
        "number": "settings of the local training",
    }

    def why(part: Part) -> str:
        if part.kind == "buffer":
            moved = part.name in job.model.moved
            return "frozen parameter that training moves" if moved else "buffer of the global model"
        if broadcast is not None and part.name in job.model.codes:
            return f"{reasons['parameter']}; as codes of {broadcast.compressor}"
        return reasons[part.kind]

    return why


def _staying(updates: Updates, job: Job, outbox: Outbox) -> Iterator[Row]:
    """Rows for what never leaves: first what has a name of its own, then what no worker sends."""
    algorithm, promise = outbox.algorithm, outbox.promise
    left = {*algorithm.stays_local(job.model), *job.model.parameters}
    for name in sorted(updates.stays):
        tensor = job.model.parameters.get(name, job.model.buffers.get(name))
        assert tensor is not None, "updates_contents has refused others"
        by_algorithm = f"{type(algorithm).__name__} leaves it with the worker"
        why = by_algorithm if name in left else f"no noise of {type(promise).__name__} covers it"
        dtype = str(tensor.dtype).removeprefix("torch.")
        yield Row("stays", name, dtype, tuple(tensor.shape), 0, why)
    tables = {
        OPTIMIZER: "what the worker's optimizers remember",
        SCHEDULE: "what the worker's schedulers have counted",
    }
    for transform, prefix in zip(outbox.transforms, prefixes(outbox.transforms), strict=True):
        tables |= {prefix + name: f"what {type(transform).__name__} remembers" for name in transform.tables}
    for table in tables_of(algorithm, outbox.transforms, outbox.kept):
        yield _never(f"own state: {table}", tables.get(table, f"what {type(algorithm).__name__} remembers") + _KEPT)
    yield _never("rows, labels and batches", "the worker's data")
    yield _never("gradients of single steps", "used where they are computed")
    if not outbox.kept.keeps_optimizers:
        yield _never("state of the worker's optimizers", "dropped after the local training")
    if not outbox.may_tell:
        name = "SecureAggregation" if promise is None else type(promise).__name__
        counts = "" if promise is not None and promise.needs_examples else ", numbers of examples"
        yield _never(f"losses, metrics, learning rates{counts} and steps", f"hidden by {name}")


_KEPT = " from round to round; in a simulation it lies in checkpoints and in state_dir"


def _never(name: str, why: str) -> Row:
    return Row("stays", name, "", (), 0, why)
