"""FedRep: Collins et al., *Exploiting Shared Representations for Personalized Federated Learning*, 2021, algorithm 1.

The head stays with the worker, as in FedPer. Head and representation are trained in turn: first the head, for several
epochs, with the representation that the server sent; then the representation, with the head fixed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, final

from lightning_fed.algorithms.base import Result, Train
from lightning_fed.algorithms.personal import PersonalLayers, require_patterns
from lightning_fed.core.arguments import settle, whole
from lightning_fed.core.rng import derive
from lightning_fed.wire import GlobalModel, Job, LocalTraining, Model, Updates


@final
@dataclass(frozen=True)
class FedRep(PersonalLayers):
    """FedPer with head and representation trained in turn.

    Args:
        personal: Patterns of the names of parameters and buffers that make up the head, such as ``["head.*"]``.
        head_epochs: Passes over the worker's data for the head. ``local_epochs`` or ``local_steps`` sets the length
            of the representation's training.

    Raises:
        TypeError: If the patterns are not a list of strings, or ``head_epochs`` is not a number.
        ValueError: If there is no pattern or no epoch; at the start of a fit, if a pattern matches nothing, or all
            patterns together match everything.
    """

    personal: Sequence[str]
    head_epochs: int = 1

    trainings: ClassVar[int] = 2
    trains_again: ClassVar[str | None] = "trains the head before the rest; use FedPer, which trains them together"

    def __post_init__(self) -> None:
        personal = require_patterns(self.personal)
        settle(self, personal=personal, head_epochs=whole("head_epochs", self.head_epochs, least=1))

    def patterns(self, model: GlobalModel) -> Sequence[str]:
        return self.personal

    def local(self, train: Train, job: Job, workers: Sequence[str], personal: Sequence[str]) -> Iterator[Result]:
        head, body = frozenset(personal), frozenset(job.model.parameters) - frozenset(personal)
        with_head: dict[str, Model] = {}
        first = replace(
            job, frozen=body, local=LocalTraining(epochs=self.head_epochs), seed=derive(job.seed, "head"), work={}
        )
        for result in train(first, workers):
            if isinstance(result, Updates):
                _require_shapes(job.model, result)
                for row, worker in enumerate(result.workers):
                    buffers = {name: buffer[row] for name, buffer in result.buffers.items()}
                    with_head[worker] = Model(job.model.vector - result.delta[row], buffers)
            else:
                yield result
        yield from train(
            replace(job, frozen=head, start=with_head), [worker for worker in workers if worker in with_head]
        )


def _require_shapes(model: GlobalModel, updates: Updates) -> None:
    for name, rows in updates.buffers.items():
        before = model.buffers.get(name)
        if before is not None and rows.shape[1:] != before.shape:
            raise ValueError(
                f"FedRep trains twice, the head and then the rest, and the head's training gave the buffer {name} the "
                f"shape {tuple(rows.shape[1:])} in place of {tuple(before.shape)}; give it one shape, or take FedPer"
            )
