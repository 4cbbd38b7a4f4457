"""Workers on nodes: jobs go to where the data are, and what comes back is checked like anyone's message.

A cohort's jobs go out together, one message to each node, and answers are taken as they come; updates are yielded in
the cohort's order, since the order in which they are added shows in the last bit. A node that is away, late, refuses or
answers something else is an error of its workers, in words of ours.
"""

from __future__ import annotations

import json
import secrets
from abc import abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import torch

from lightning_fed._lightning import pl
from lightning_fed.core.arguments import number
from lightning_fed.core.channel import Message
from lightning_fed.engines.base import EngineOfNodes, RunFacts
from lightning_fed.engines.remarks import Remarks
from lightning_fed.engines.remote.credible import fault_in
from lightning_fed.engines.remote.link import Link, LinkError, answers
from lightning_fed.engines.remote.population import RemotePopulation
from lightning_fed.engines.together import in_blocks
from lightning_fed.population import EvaluationKind, WorkerPool
from lightning_fed.secure import AbortError
from lightning_fed.wire import Job, Updates, WireError, WorkerError
from lightning_fed.wire.codec import decode_updates, encode_job
from lightning_fed.wire.container import Buffer
from lightning_fed.wire.fingerprint import TensorRow, as_at_first, difference, fingerprint_of, rows_from, rows_of
from lightning_fed.wire.parts import description_of
from lightning_fed.wire.terms import PROTOCOL, Terms
from lightning_fed.worker.local_fit import LocalFit
from lightning_fed.worker.outbox import Outbox, tables_of

if TYPE_CHECKING:  # they need an extra
    from lightning_fed.engines.remote.secure_round import SecureRound
    from lightning_fed.secure.server import SecureServer
    from lightning_fed.secure.session import Machines

_TOLD = 1000
"""The largest number of characters of a node's message that is passed on."""


class Remote(EngineOfNodes):
    """Trains each worker on the node that hosts it. Derive from it for a link of another kind.

    The results are those of ``Sequential`` bit for bit, where nodes compute as this machine would.

    Args:
        timeout: How many seconds a node may take for one message: for the training of all its workers of a round, and
            for the way there and back. What comes later is dropped. ``FederatedModule(worker_timeout=...)`` makes it
            shorter.

    Raises:
        TypeError: If it is no number.
        ValueError: If it is not positive and finite.
    """

    no_settings: ClassVar[Collection[str]] = ("link",)
    """Arguments that the record of a run leaves out: a connection is no setting, and may hold a secret."""

    def __init__(self, timeout: float = 600.0) -> None:
        says = " must be a positive and finite number of seconds"
        self._timeout = float(number("timeout", timeout, above=0, says=says))
        self._seconds = self._timeout
        self._facts = RunFacts()
        self._run: str | None = None
        self._terms: Terms | None = None
        self._asks_about: tuple[pl.LightningModule, pl.Trainer] | None = None
        self._rows: list[TensorRow] = []
        self._first: list[TensorRow] = []  # those of the run's beginning; nodes have their module as it was then
        self._population: RemotePopulation | None = None
        self._outbox = Outbox()
        self._remarks = Remarks()
        self._refused: dict[str, list[int]] = {}
        self._secure: SecureRound | None = None

    @property
    @abstractmethod
    def link(self) -> Link:
        """The link to the nodes."""

    def limit(self, seconds: float | None) -> None:
        self._seconds = self._timeout if seconds is None else min(seconds, self._timeout)

    def expect(self, facts: RunFacts) -> None:
        if facts.simulates is not None:
            raise ValueError(
                f"{facts.simulates} is simulated, and real nodes are away by themselves: leave it out, and say "
                'on_worker_error="drop" to go on without those that are away'
            )
        self._facts = facts

    def setup(
        self, module: pl.LightningModule, workers: WorkerPool, trainer: pl.Trainer, outbox: Outbox = Outbox()
    ) -> None:
        LocalFit(module, trainer, kept=outbox.kept).check()
        if trainer.global_step == 0:  # a sanity check evaluates before the hooks have changed the module
            self._first = []
        self._begin(module, workers, trainer, outbox)
        if outbox.sealing is not None and self._population is not None:
            self._population.check_identities()
        self._agree()

    def introduce(
        self, module: pl.LightningModule, workers: WorkerPool, trainer: pl.Trainer, outbox: Outbox = Outbox()
    ) -> None:
        name = type(self).__name__
        if not isinstance(workers.population, RemotePopulation):
            raise ValueError(
                f"engine={name}: it trains workers on their nodes, and FederatedDataModule has workers here; give it "
                "those that the nodes announce, or take another engine"
            )
        if trainer.world_size > 1:
            raise ValueError(
                f"engine={name}: the server is one process, and the Trainer has {trainer.world_size}; give it "
                "devices=1 and no strategy"
            )
        if trainer.state.fn == "fit" and trainer.global_step == 0:  # a checkpoint, if there is one, is read later
            self._run, self._refused, self._first = None, {}, []
        self._begin(module, workers, trainer, outbox)

    def _begin(self, module: pl.LightningModule, workers: WorkerPool, trainer: pl.Trainer, outbox: Outbox) -> None:
        assert isinstance(workers.population, RemotePopulation)
        self._population, self._outbox = workers.population, outbox
        self._remarks.silent = not outbox.may_tell
        self._asks_about = module, trainer
        self._terms = None

    def _terms_now(self) -> Terms:
        """Return the terms, made when they are first needed: by then the module is in the run's precision."""
        if self._terms is None:
            assert self._population is not None, "introduce() comes before all questions"
            assert self._asks_about is not None
            (module, trainer), outbox = self._asks_about, self._outbox
            self._rows = as_at_first(rows_of(module), self._first)
            self._first = self._first or self._rows
            self._run = self._run or secrets.token_hex(8)
            self._terms = Terms(
                run=self._run,
                seed=self._facts.seed,
                fingerprint=fingerprint_of(self._rows),
                algorithm=description_of(outbox.algorithm),
                transforms=tuple(description_of(transform) for transform in outbox.transforms),
                promise=None if outbox.promise is None else description_of(outbox.promise),
                kept=description_of(outbox.kept),
                precision=str(trainer.precision),
                default_dtype=str(torch.get_default_dtype()).removeprefix("torch."),
                matmul_precision=torch.get_float32_matmul_precision(),
                deterministic=torch.are_deterministic_algorithms_enabled(),
                trainer=_told(trainer),
                rounds=_rounds(trainer),
                population=len(self._population),
                cohort_size=self._facts.cohort_size,
                frozen=tuple(row.name for row in self._rows if row.kind == "frozen"),
                least_workers=self._facts.least_workers,
                sampling=self._facts.sampling,
                broadcast=None if outbox.broadcast is None else description_of(outbox.broadcast.compressor),
                secure=None if outbox.sealing is None else description_of(replace(outbox.sealing, promise=None)),
                insecure=outbox.promise is not None and outbox.promise.insecure_deterministic_noise,
            )
        return self._terms

    def _agree(self) -> None:
        """Let all nodes look at the terms before the first round.

        Raises:
            ValueError: Naming every node that refuses, with its workers and its reason. One that is away now may come
                back; in the rounds until then its workers fail.
        """
        assert self._population is not None
        by_node = self._by_node(self._population.hosted)
        nodes, refusals = list(by_node), []
        message: Message = self._asking("agree"), []
        for position, answer in answers(self.link, [(node, message) for node in nodes], self._seconds):
            whose = f"the node of {_few(by_node[nodes[position]])}"
            if isinstance(answer, LinkError):
                self._remarks.say(f"{whose} is not there as the run begins: {answer}")
            elif "refused" in answer[0]:
                refusals.append(f"{whose}: {self._reason(answer[0])}")
        if refusals:
            refusals.sort()
            raise ValueError("the run cannot begin, since nodes refuse:\n  " + "\n  ".join(refusals))

    def _asking(self, ask: str, **more: Any) -> dict[str, Any]:
        return {"ask": ask, "protocol": PROTOCOL, "terms": self._terms_now().to_fields(), **more}

    def _reason(self, fields: Mapping[str, Any]) -> str:
        """Return why a node refuses; where it has another module, by the first tensor that differs."""
        if "module" in fields:
            try:
                different = difference(self._rows, rows_from(fields["module"]))
            except WireError as error:
                different = str(error)
            return f"its module is another one: {different}" if different else str(fields["refused"])[:_TOLD]
        return str(fields["refused"])[:_TOLD]

    # ---- a round -----------------------------------------------------------------------------------------------------

    def run(self, job: Job, cohort: Sequence[str]) -> Iterator[Updates | WorkerError]:
        self._secure = None  # the session of the round before is over, even if no worker trains in this one
        yield from in_blocks(self._in_order(job, cohort), job, len(cohort))

    def _in_order(self, job: Job, cohort: Sequence[str]) -> Iterator[Updates | WorkerError]:
        """Yield a result for each worker, in the cohort's order; those that came early wait as bytes."""
        early: dict[str, _Result] = {}
        arriving = self._asked("train", job, cohort)
        for name in cohort:
            while name not in early:
                worker, result = next(arriving)
                early[worker] = result
                del result
            read = self._read(job, name, early.pop(name))
            self.has_trained(self._outbox.algorithm.trainings)
            if isinstance(read, Updates):
                self._refused.pop(name, None)  # the worker has received them
            elif self._secure is not None:
                self._secure.leave_out(name)
            yield read
            del read

    def refuse(self, worker: str, cohort: int) -> None:
        if tables_of(self._outbox.algorithm, self._outbox.transforms, self._outbox.kept):
            self._refused.setdefault(worker, []).append(cohort)

    def _asked(self, ask: str, job: Job, workers: Sequence[str], **more: Any) -> Iterator[tuple[str, _Result]]:
        """Send each node a message about its workers, and yield what comes back for each, in the order of arrival."""
        by_node = self._by_node(workers)
        nodes = list(by_node)
        for position, answer in answers(self.link, self._messages(ask, job, by_node, more), self._seconds):
            results = self._results_of(job.round, by_node[nodes[position]], answer)
            del answer
            while results:
                yield results.pop(0)

    def _by_node(self, workers: Iterable[str]) -> dict[int, list[str]]:
        assert self._population is not None, "introduce() comes before all questions"
        by_node: dict[int, list[str]] = {}
        for name in workers:
            by_node.setdefault(self._population.hosted[name].node, []).append(name)
        return by_node

    def _messages(
        self, ask: str, job: Job, by_node: Mapping[int, list[str]], more: Mapping[str, Any]
    ) -> list[tuple[int, Message]]:
        """Return the messages about a job. Nobody else holds them: the job's bytes weigh as much as a model."""
        parts = [memoryview(encode_job(job))] if by_node else []
        if ask == "train" and parts:
            more = {**more, **self._inviting(parts[0])}
        messages: list[tuple[int, Message]] = []
        for node, names in by_node.items():
            refused = {name: list(self._refused[name]) for name in names if name in self._refused}
            messages.append((node, (self._asking(ask, workers=names, refused=refused, **more), parts)))
        return messages

    def _inviting(self, job: Buffer) -> dict[str, str]:
        """Begin a session of secure aggregation together with the training, if there is to be one."""
        sealing = self._outbox.sealing
        if sealing is None:
            return {}
        from lightning_fed.engines.remote.secure_round import SecureRound

        assert self._population is not None
        signed = self._population.signs
        self._secure = SecureRound(sealing.parameters, job, self._terms_now(), signed, self._ask_machines)
        return {"invitation": self._secure.server.invite().hex()}

    def session(self) -> tuple[SecureServer, Machines]:
        if self._secure is None:
            raise AbortError("nobody was asked to train")
        return self._secure.server, self._secure

    def _ask_machines(self, step: str, messages: Mapping[str, bytes]) -> Iterator[tuple[str, _Result]]:
        """Send each worker's machine a message, and yield what comes back, in the order of arrival."""
        by_node = self._by_node(messages)
        nodes, sent = list(by_node), list[tuple[int, Message]]()
        for node, names in by_node.items():
            fields = self._asking("secure", step=step, workers=names)
            sent.append((node, (fields, [memoryview(messages[name]) for name in names])))
        for position, answer in answers(self.link, sent, self._seconds):
            yield from self._results_of(-1, by_node[nodes[position]], answer)

    def _results_of(self, round: int, workers: Sequence[str], answer: Message | LinkError) -> list[tuple[str, _Result]]:
        """Divide a node's answer by its workers."""

        def all_fail(reason: str) -> list[tuple[str, _Result]]:
            return [(name, WorkerError(name, round, reason)) for name in workers]

        if isinstance(answer, LinkError):
            return all_fail(str(answer))
        fields, parts = answer
        if "refused" in fields:
            return all_fail(f"its node refuses: {self._reason(fields)}")
        told = fields.get("results")
        good = isinstance(told, list) and [_of(each, "worker") for each in told] == list(workers)
        count = sum(_of(each, "error") is None for each in told) if good and isinstance(told, list) else -1
        if count != len(parts):
            return all_fail("its node's answer is about other workers than were asked for")
        self._hear(fields.get("noted"))
        rest, results = iter(parts), []
        for name, each in zip(workers, told or (), strict=True):
            error = _of(each, "error")
            failure = None if error is None else WorkerError(name, round, str(error)[:_TOLD])
            results.append((name, failure or next(rest)))
            if self._secure is not None and failure is None and isinstance(keys := _of(each, "keys"), str):
                self._secure.hear(name, keys)
        return results

    def _hear(self, noted: object) -> None:
        try:
            if isinstance(noted, dict):
                self._remarks.hear(noted)
        except (KeyError, TypeError, ValueError, AttributeError):  # a node may send anything; its updates are checked
            self._remarks.say("a node's remarks on its training cannot be read, and are left out", about="unreadable")

    def _read(self, job: Job, worker: str, result: _Result) -> Updates | WorkerError:
        if isinstance(result, WorkerError):
            return result
        try:
            coder, copy = self._outbox.compression, memoryview(result).readonly
            sealer = None if self._outbox.sealing is None else self._outbox.sealing.withholding()
            updates = decode_updates(result, job, workers=[worker], copy=copy, coder=coder, sealer=sealer)
        except WireError as error:
            return WorkerError(worker, job.round, f"its update cannot be used: {error}")
        assert self._population is not None, "introduce() comes before all questions"
        assert self._asks_about is not None
        module, _ = self._asks_about
        announced = self._population.hosted[worker].examples
        most = self._population.most_examples if announced is None else max(announced, 1)
        fault = fault_in(updates, job, module, self._outbox, most)
        return updates if fault is None else WorkerError(worker, job.round, fault)

    # ---- evaluation --------------------------------------------------------------------------------------------------

    def evaluate(
        self, kind: EvaluationKind, workers: Sequence[str], job: Job, limit: int | float | None
    ) -> Iterator[tuple[str, Buffer | WorkerError]]:
        return self._asked("evaluate", job, workers, kind=kind, limit=limit)

    # ---- the end, and checkpoints ------------------------------------------------------------------------------------

    def teardown(self) -> None:
        self._outbox, self._remarks, self._asks_about, self._secure = Outbox(), Remarks(), None, None

    @property
    def choice(self) -> str | None:
        if self._run is None:
            return None
        return json.dumps({"run": self._run, "refused": self._refused, "first": [list(row) for row in self._first]})

    def resume(self, choice: str) -> None:
        read = json.loads(choice)
        self._run = str(read["run"])
        self._refused = {name: list(cohorts) for name, cohorts in read["refused"].items()}
        self._first = rows_from(read.get("first", []))


_Result: TypeAlias = memoryview | WorkerError


def _of(each: object, key: str) -> Any:
    return each.get(key) if isinstance(each, dict) else None


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(repr, names[:3])) + more


def _rounds(trainer: pl.Trainer) -> int | None:
    steps = trainer.estimated_stepping_batches if trainer.state.fn == "fit" else float("inf")
    return None if steps == float("inf") else int(steps) * trainer.accumulate_grad_batches


def _told(trainer: pl.Trainer) -> dict[str, Any]:
    """Return the values of its Trainer that user code at the workers may read."""
    return {
        "max_epochs": -1 if trainer.max_epochs is None else trainer.max_epochs,
        "max_steps": trainer.max_steps,
        "overfit_batches": trainer.overfit_batches,  # type: ignore[attr-defined]
        "reload_dataloaders_every_n_epochs": trainer.reload_dataloaders_every_n_epochs,  # type: ignore[attr-defined]
    }
