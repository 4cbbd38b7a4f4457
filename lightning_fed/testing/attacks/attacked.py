"""Attacks on updates: a wrapper of the aggregator, which replaces some workers' updates by lies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Any, ClassVar, NamedTuple, final

import torch
from torch import Tensor

from lightning_fed.aggregation import Aggregator
from lightning_fed.core.arguments import instance, settle
from lightning_fed.core.processes import Processes
from lightning_fed.core.rng import derive
from lightning_fed.core.tree import Tensors, finite_rows
from lightning_fed.testing.attacks.base import Attack, Seen
from lightning_fed.testing.attacks.label_flip import LabelFlip
from lightning_fed.testing.attacks.names import check_names, refuse_unknown
from lightning_fed.wire import Aggregate, Job, Updates, WorkerError


class Came(NamedTuple):
    """Updates that have arrived on one process, in stacks, and the job that they answer."""

    stacks: list[Updates]
    job: Job


@final
@dataclass(frozen=True)
class Attacked(Aggregator[Came]):
    """Replaces the updates of some workers by lies, and passes all updates to an aggregator.

    The attackers train like the others, and the attack sees their honest updates and those of the whole cohort; it
    therefore acts at the aggregator and not at the workers. It replaces deltas and an algorithm's extra vectors only:
    buffers, such as BatchNorm's statistics, numbers of examples and losses stay honest, and personal parameters stay
    with the workers. Lies do not pass through the outbox: no transform clips or compresses them.

    Without an attacker in the cohort the round equals the inner aggregator's, bit for bit. If all workers are
    attackers, they see their own updates in place of honest ones. All updates of a cohort are kept, n model sizes on
    every process. Nest one ``Attacked`` in another for two groups with different attacks; put it outside of all other
    wrappers.

    Args:
        aggregator: The aggregator of the server.
        attack: The attack.
        attackers: The names of the attackers.

    Raises:
        TypeError: If one of them is of a wrong type.
        ValueError: If there is no attacker; at the start of a fit, if there is no worker of such a name.

    Example::

        >>> from lightning_fed.aggregation import Median
        >>> from lightning_fed.testing.attacks import IPM
        >>> Attacked(Median(), IPM(epsilon=0.1), attackers=["w3", "w1"])
        Attacked(aggregator=Median(), attack=IPM(epsilon=0.1), attackers=('w1', 'w3'))
    """

    aggregator: Aggregator  # type: ignore[type-arg]  # jsonargparse: no arguments if generic
    attack: Attack
    attackers: Iterable[str]
    _memory: Tensors = field(default_factory=dict, init=False, repr=False, compare=False)

    goes_by_names: ClassVar[bool] = True

    def __post_init__(self) -> None:
        instance("aggregator", self.aggregator, Aggregator, "Median()")
        if isinstance(self.attack, LabelFlip):
            raise TypeError(
                f"attack={self.attack!r} changes data, not updates: give what its poison(workers, attackers) "
                "returns to the FederatedDataModule"
            )
        instance("attack", self.attack, Attack, "SignFlip()")
        settle(
            self,
            attackers=check_names("attackers", self.attackers),
            always=self.aggregator.always,
            counts_equally=self.aggregator.counts_equally,
            counts_steps=self.aggregator.counts_steps,
        )

    @property
    def rule(self) -> Aggregator[Any]:
        return self.aggregator.rule

    def count(self, replies: int) -> float:
        return self.aggregator.count(replies)

    def check(self, cohort_size: int) -> None:
        self.aggregator.check(cohort_size)

    def beyond_proof(self, cohort_size: int) -> str | None:
        return self.aggregator.beyond_proof(cohort_size)

    def check_population(self, workers: Iterable[str]) -> None:
        refuse_unknown("attackers", self.attackers, workers)
        self.aggregator.check_population(workers)

    def expect_to_lose(self, workers: Sequence[str]) -> None:
        self.aggregator.expect_to_lose(workers)

    def of_round(self, job: Job, server: Tensors) -> Attacked:
        of_round = replace(self, aggregator=self.aggregator.of_round(job, _under("inner.", server)))
        of_round._memory.update(_under("attack.", server))
        return of_round

    def remember(self, aggregate: Aggregate, server: Tensors) -> None:
        inner = _under("inner.", server)
        self.aggregator.remember(aggregate, inner)
        server.clear()
        server.update({f"inner.{name}": tensor for name, tensor in inner.items()})
        server.update({f"attack.{name}": tensor for name, tensor in self._memory.items()})

    def fold(self, updates: Iterable[Updates], job: Job) -> Came:
        return Came(list(updates), job)

    def finish(self, partial: Came, processes: Processes) -> Aggregate:
        stacks, job = partial
        mine = [name for updates in stacks for name in updates.workers]
        names = [name for theirs in processes.gather(mine) for name in theirs]
        attackers = sorted(set(self.attackers).intersection(names))
        rows = processes.gather_rows(_rows(stacks, job)) if attackers else None
        with processes.together():
            if rows is not None:
                # Ordered by name: the result is then independent of the division of the cohort.
                lies = self._lies(dict(sorted(zip(names, rows, strict=True), key=itemgetter(0))), attackers, job)
                stacks = [_with(lies, updates, job) for updates in stacks]
            folded = self.aggregator.fold(iter(stacks), job)
        return self.aggregator.finish(folded, processes)

    def _lies(self, rows: dict[str, Tensor], attackers: list[str], job: Job) -> Tensors:
        """Return what each attacker sends, by name, from what each worker would send, by name and in their order."""
        honest = [name for name in rows if name not in attackers]
        own = torch.stack([rows[name] for name in attackers])
        seen = Seen(
            honest=torch.stack([rows[name] for name in honest]) if honest else own,
            own=own,
            honest_workers=tuple(honest or attackers),
            attackers=tuple(attackers),
            workers=len(rows),
            round=job.round,
            generator=torch.Generator().manual_seed(derive(job.seed, job.cohort, "attack")),
            memory=self._memory,
        )
        lies = self.attack.lies(seen)
        if lies.shape not in (own.shape, own.shape[1:]):
            raise ValueError(
                f"{self.attack!r}.lies() gave the shape {tuple(lies.shape)} for {tuple(own.shape)}: give one row for "
                "each attacker, or one for all"
            )
        lies = lies.to(own).expand_as(own)
        for name, finite in zip(attackers, finite_rows(lies).tolist(), strict=True):
            if not finite:
                raise WorkerError(
                    name,
                    job.round,
                    f"{self.attack!r} made numbers that are not finite, which a server drops: weaken it",
                )
        return dict(zip(attackers, lies, strict=True))


def _rows(stacks: Sequence[Updates], job: Job) -> Tensor:
    """Return all that workers send as rows, ``[n, size]``: updates, and what an algorithm has them send besides."""
    sent = [torch.cat([updates.delta, *(updates.extra[name] for name in job.extra)], dim=1) for updates in stacks]
    empty = job.model.zeros().expand(0, -1).repeat(1, 1 + len(job.extra))
    return torch.cat([empty, *sent])


def _with(lies: Tensors, updates: Updates, job: Job) -> Updates:
    """Return updates with the lies of those workers that have one."""
    own = [(i, lies[name]) for i, name in enumerate(updates.workers) if name in lies]
    if not own:
        return updates
    places, rows = torch.tensor([i for i, _ in own]), torch.stack([row for _, row in own])
    moves = torch.zeros(job.model.layout.size, dtype=torch.bool, device=rows.device)
    for name, place in job.model.layout.places.items():
        moves[place] = name not in updates.stays

    def put(there: Tensor, rows: Tensor) -> Tensor:
        index = places.to(there.device)
        return there.index_copy(0, index, torch.where(moves, rows, there[index]))

    delta, *extra = torch.split(rows, job.model.layout.size, dim=1)
    sent = {name: put(updates.extra[name], part) for name, part in zip(job.extra, extra, strict=True)}
    return replace(updates, delta=put(updates.delta, delta), extra={**updates.extra, **sent})


def _under(prefix: str, tensors: Tensors) -> Tensors:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
