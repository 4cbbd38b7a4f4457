"""A node: a machine that hosts workers and answers the messages of a server."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

import torch

from lightning_fed import __version__
from lightning_fed._lightning import pl, refuse_foreign
from lightning_fed.core.arguments import flag, whole
from lightning_fed.core.channel import Message
from lightning_fed.core.extras import import_extra
from lightning_fed.core.rng import restored
from lightning_fed.core.shown import Shown
from lightning_fed.node.account import NodeAccount
from lightning_fed.node.errors import PolicyError, RefusalError, words_of
from lightning_fed.node.hosted_run import HostedRun, NodeSettings
from lightning_fed.node.named_parts import known_classes, outbox_of
from lightning_fed.node.policy import Policy
from lightning_fed.population import BATCH_SIZE, WorkerData, WorkerPool, datamodule_of
from lightning_fed.secure import STEPS, AbortError
from lightning_fed.server.readiness import refuse_lazy
from lightning_fed.wire import Job, Updates, WireError, WorkerError
from lightning_fed.wire.codec import decode_job, encode_updates
from lightning_fed.wire.fingerprint import fingerprint_of, rows_of
from lightning_fed.wire.terms import PROTOCOL, Terms
from lightning_fed.worker.outbox import tables_of
from lightning_fed.worker.sealing import Sealing

if TYPE_CHECKING:  # they need an extra
    from lightning_fed.node.identities import Identities
    from lightning_fed.node.secure_rounds import Invited, SecureRounds

_log = logging.getLogger(__name__)

HOME, POLICY = "LIGHTNING_FED_HOME", "LIGHTNING_FED_POLICY"
"""The environment variables that name a node's folder and the file of its policy."""

IDENTITY, IDENTITIES = "LIGHTNING_FED_IDENTITY", "LIGHTNING_FED_IDENTITIES"
"""Those that name the files of its private key, and of all workers' public keys."""


_MOST_SESSIONS = 8
"""How many runs may be within a round of secure aggregation at once; the oldest one's sessions are then over."""

_LONGEST_RUN = 64
"""How long the name of a run may be: it stands in each line of the account."""


@final
class Node(Shown):
    """Host of workers on a machine: their data, the module that they train, and their own state.

    A server sends names, numbers and tensors, and no code: a node runs only the module, the data and the classes that
    are installed on it.

    Args:
        module: The server's module; parameters that are not trained must have the same values.
        workers: Every worker's data by name, as for ``FederatedDataModule``.
        policy: Limits on the runs that the node accepts: a :class:`Policy` or its YAML file; None: the file in the
            environment variable ``LIGHTNING_FED_POLICY``, or no limits.
        identity: The file of the node's private key, with which its workers sign what they send in secure aggregation;
            None: the environment variable ``LIGHTNING_FED_IDENTITY``, or none.
        identities: The file of all workers' public keys; None: the environment variable ``LIGHTNING_FED_IDENTITIES``,
            or none. See ``docs/secure_aggregation.md``.
        home: The folder of the workers' own state; None: the environment variable
            ``LIGHTNING_FED_HOME``, or ``lightning_fed_node`` in the working directory.
        accelerator: The kind of device, as for a Trainer; a server cannot change it.
        devices: The device, as for a Trainer.
        threads: The number of threads of torch; None: torch's default.
        compile: Whether to compile ``training_step`` by ``torch.compile``.
        channels_last: Whether images and convolutions lie in memory with their channels last.
        batch_size: The number of examples in a batch of data that come without batches.
        cached_workers: The number of workers that are kept set up.
        parts: Classes of algorithms, transforms and promises that a server may name besides those of lightning_fed.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If there is no worker, a number is out of range, the module has parameters without a shape, or the
            files of identities cannot be used.

    Example::

        def build():
            return Node(LinearRegression(2, 1), {"bob": BobsData()})
    """

    def __init__(
        self,
        module: pl.LightningModule,
        workers: Mapping[str, WorkerData],
        *,
        policy: Policy | str | Path | None = None,
        identity: str | Path | None = None,
        identities: str | Path | None = None,
        home: str | Path | None = None,
        accelerator: str = "auto",
        devices: Any = 1,
        threads: int | None = None,
        compile: bool = False,
        channels_last: bool = False,
        batch_size: int = BATCH_SIZE,
        cached_workers: int = 1000,
        parts: Sequence[type] = (),
    ) -> None:
        refuse_foreign(module, "LightningModule", "module")
        refuse_lazy(module)
        if not isinstance(workers, Mapping):
            raise TypeError(f"workers must be a mapping from names to data, such as {{'bob': data}}, not {workers!r}")
        if not workers:
            raise ValueError("workers is empty: a node hosts at least one worker")
        if threads is not None:
            torch.set_num_threads(whole("threads", threads, least=1))
        self.module = module
        batch_size = whole("batch_size", batch_size, least=1)
        self.workers = {name: datamodule_of(data, f"workers[{name!r}]", batch_size) for name, data in workers.items()}
        self.home = Path(home or os.environ.get(HOME) or "lightning_fed_node")
        policy = os.environ.get(POLICY) or None if policy is None else policy
        if policy is not None and not isinstance(policy, (Policy, str, Path)):
            raise TypeError(f"policy={policy!r} must be a Policy, or the path of its YAML file")
        self.policy = policy if isinstance(policy, Policy) else Policy.read(policy) if policy else Policy()
        self.account = NodeAccount(self.home / "account")
        """Releases of the workers so far, in all runs."""
        self._settings = NodeSettings(
            accelerator,
            devices,
            flag("compile", compile),
            flag("channels_last", channels_last),
            batch_size,
            whole("cached_workers", cached_workers, least=1),
        )
        self._known = known_classes(parts)
        self._identities = _identities(identity, identities)
        self._run: HostedRun | None = None
        self._sessions: dict[bytes, SecureRounds] = {}  # by the terms of their runs
        self._rows = rows_of(module)

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the module, in the form that a policy has."""
        return fingerprint_of(self._rows)

    def answer(self, fields: Mapping[str, Any], parts: Sequence[bytes | memoryview]) -> Message:
        """Answer a message of a server.

        Args:
            fields: Its fields, not trusted.
            parts: Its parts.

        Returns:
            The fields and the parts of the answer. Nothing is raised: a request that fails is answered with a refusal,
            whose text contains nothing of a worker's data.
        """
        try:
            if fields.get("protocol") != PROTOCOL:
                raise RefusalError(
                    f"the server speaks version {fields.get('protocol')!r} of the protocol, and this node version "
                    f"{PROTOCOL}: install the same lightning_fed on both"
                )
            answers: dict[str, Callable[..., Message]] = {
                "greet": self._greet,
                "agree": self._agree,
                "train": self._train,
                "evaluate": self._evaluate,
                "secure": self._secure,
            }
            ask = fields.get("ask")
            if ask not in answers:
                raise RefusalError(f"there is no answer to {str(ask)[:50]!r}: ask one of {', '.join(answers)}")
            with restored():
                return answers[ask](fields, parts)
        except RefusalError as error:
            _log.warning("refused: %s", error)
            return {"refused": str(error), **error.more}, []
        except WireError as error:
            _log.warning("refused: %s", error)
            return {"refused": str(error)}, []
        except Exception as error:
            _log.exception("the message could not be answered")
            return {"refused": f"{type(error).__name__} at the node, whose log says more"}, []

    # ---- before a run ------------------------------------------------------------------------------------------------

    def _greet(self, fields: Mapping[str, Any], parts: Sequence[bytes | memoryview]) -> Message:
        """Announce the workers."""
        pool = WorkerPool(self.workers, capacity=1, batch_size=self._settings.batch_size)
        announced = []
        for name in self.workers:
            examples, loaders = self._offered(pool, name)
            announced.append({"name": name, "examples": examples, "loaders": loaders})
        versions = {"protocol": PROTOCOL, "lightning_fed": __version__, "torch": torch.__version__}
        versions["pytorch_lightning"] = vars(pl)["__version__"]
        said = {"fingerprint": self.fingerprint, "policy": str(self.policy), "signs": self._identities is not None}
        return {"workers": announced, "versions": versions, **said}, []

    def _offered(self, pool: WorkerPool, name: str) -> tuple[int | None, dict[str, int]]:
        """Return a worker's number of training examples, and how many loaders it has of each kind.

        The number is None if it is unknown before a pass over the data, or the policy hides it.
        """
        try:
            worker = pool[name]
            examples = worker.batches.num_examples
            loaders: dict[str, int] = {
                kind: len(worker.evaluation_loaders(kind)) for kind in _KINDS if self.policy.allows_evaluation(kind)
            }
        except Exception as error:
            raise RefusalError(
                f"the data of worker {name!r} cannot be loaded: {type(error).__name__}; the node's log says more"
            ) from error
        finally:
            pool.clear()
        return None if examples is None else self.policy.told_size(int(examples)), loaders

    def _agree(self, fields: Mapping[str, Any], parts: Sequence[bytes | memoryview]) -> Message:
        """Check the terms, and build the objects of the first round."""
        self._hosted(Terms.from_fields(fields.get("terms")))
        return {}, []

    def _hosted(self, terms: Terms) -> HostedRun:
        """Return the run of some terms; the run of other terms is released."""
        if self._run is not None and self._run.terms == terms:
            return self._run
        if self._run is not None:
            self._run.close()
            self._run = None
        outbox = outbox_of(terms, self._known)
        self.policy.check_terms(terms, outbox)
        tables = tables_of(outbox.algorithm, outbox.transforms, outbox.kept)
        if not (terms.run.isascii() and terms.run.isalnum() and len(terms.run) <= _LONGEST_RUN):  # it names a folder
            raise RefusalError(
                f"the name of the run, {terms.run[:50]!r}, is none of at most {_LONGEST_RUN} letters and digits"
            )
        folder = self.home / "runs" / terms.run
        try:
            self._run = HostedRun(terms, self.module, self.workers, outbox, tables, self._settings, folder)
        except RefusalError:
            raise
        except Exception as error:
            raise RefusalError(f"the run cannot begin at this node: {words_of(error, outbox.may_tell)}") from error
        _log.info("run %s: %s", terms.run, outbox.algorithm)
        return self._run

    def _secure_rounds(self, terms: Terms, sealing: Sealing) -> SecureRounds:
        """Return the sessions of a run. They survive a message of another run between two steps of a round."""
        import_extra("cryptography", "secure aggregation", "secure")
        from lightning_fed.node.identities import Identities
        from lightning_fed.node.secure_rounds import SecureRounds

        key = terms.to_bytes()
        if key not in self._sessions:
            while len(self._sessions) >= _MOST_SESSIONS:
                del self._sessions[next(iter(self._sessions))]
            self._sessions[key] = SecureRounds(sealing, self._identities or Identities())
        return self._sessions[key]

    # ---- a round -----------------------------------------------------------------------------------------------------

    def _train(self, fields: Mapping[str, Any], parts: Sequence[bytes | memoryview]) -> Message:
        run = self._hosted(Terms.from_fields(fields.get("terms")))
        workers, refused = self._asked(fields.get("workers")), fields.get("refused", {})
        job = self._job(run, parts, run.device)
        results: list[dict[str, Any]] = []
        updates: list[memoryview] = []
        self.policy.check_job(job, run.terms, run.outbox.promise)
        invited = None
        if run.outbox.sealing is not None:
            rounds = self._secure_rounds(run.terms, run.outbox.sealing)
            invited = rounds.invited(fields.get("invitation"), run.terms, parts[0])
        for worker in workers:
            result = self._trained(run, worker, job, _numbers(refused, worker), invited)
            if not isinstance(result, WorkerError):
                left, keys = result
                updates.append(left)
                results.append({"worker": worker, **keys})
                del left
            else:
                results.append({"worker": worker, "error": self._reason(result, run)})
            del result
        return {"results": results, "noted": run.noted()}, updates

    def _secure(self, fields: Mapping[str, Any], parts: Sequence[bytes | memoryview]) -> Message:
        """Answer one step of secure aggregation for the workers."""
        workers, step = self._asked(fields.get("workers")), fields.get("step")
        rounds = self._sessions.get(Terms.from_fields(fields.get("terms")).to_bytes())
        if rounds is None:
            raise RefusalError("no session of secure aggregation is on at this node: it has begun anew")
        if step not in STEPS or len(parts) != len(workers):
            raise RefusalError(
                f"a step of secure aggregation is one of {', '.join(STEPS)}, with a part for each worker"
            )
        results, answers = list[dict[str, Any]](), list[memoryview]()
        for worker, message in zip(workers, parts, strict=True):
            try:
                answers.append(memoryview(rounds.answer(worker, step, bytes(message))))
                results.append({"worker": worker})
            except AbortError as error:
                _log.warning("worker %r: %s", worker, error)
                results.append({"worker": worker, "error": str(error)})
        return {"results": results}, answers

    def _evaluate(self, fields: Mapping[str, Any], parts: Sequence[bytes | memoryview]) -> Message:
        """Evaluate workers with the user's own steps; predictions are written on the node."""
        run = self._hosted(Terms.from_fields(fields.get("terms")))
        workers, refused = self._asked(fields.get("workers")), fields.get("refused", {})
        kind, limit = fields.get("kind"), fields.get("limit")
        if kind not in _KINDS:
            raise RefusalError(f"there is no evaluation of the kind {str(kind)[:20]!r}: ask one of {', '.join(_KINDS)}")
        if limit is not None and (type(limit) not in (int, float) or not 0 <= limit < math.inf):
            raise RefusalError(f"limit={str(limit)[:20]} is no number of batches and no part of them")
        if kind != "predict" and not run.outbox.may_tell:
            what = "secure aggregation" if run.outbox.promise is None else type(run.outbox.promise).__name__
            raise RefusalError(f"{what} covers nothing that an evaluation would say")
        if not self.policy.allows_evaluation(kind):
            raise RefusalError(f"the node's policy allows no evaluation of the kind {kind!r} ({self.policy})")
        job = self._job(run, parts, torch.device("cpu"))
        self.policy.check_attributes(job)
        hides = self.policy.hides_failures
        shares = [run.evaluate(name, job, kind, limit, _numbers(refused, name), hides) for name in workers]
        return {"results": [{"worker": name} for name in workers]}, [memoryview(share) for share in shares]

    def _trained(
        self, run: HostedRun, worker: str, job: Job, refused: Sequence[int], invited: Invited | None
    ) -> tuple[memoryview, dict[str, str]] | WorkerError:
        """Charge the worker's account, then train the worker and return its updates."""
        try:
            self.policy.admit(self.account, worker, job, run.terms, run.outbox.promise)
        except PolicyError as error:
            return WorkerError(worker, job.round, f"its node refuses: {error}")
        left = self._encoded(run.train(worker, job, refused), run, worker, job, invited)
        if isinstance(left, WorkerError):
            _log.warning("%s", left, exc_info=left.__cause__)
            noise = self.policy.in_place_of(left, job, run.outbox)
            return left if noise is None else self._encoded(noise, run, worker, job, invited)
        return left

    def _encoded(
        self, result: Updates | WorkerError, run: HostedRun, worker: str, job: Job, invited: Invited | None
    ) -> tuple[memoryview, dict[str, str]] | WorkerError:
        """Return the encoded updates; under secure aggregation only names of numbers, and keys for the session."""
        if isinstance(result, WorkerError):
            return result
        algorithm = run.outbox.algorithm
        try:
            if invited is None:
                return memoryview(encode_updates(self.policy.leaving(result, algorithm), job)), {}
            assert result.sealed is not None, "the outbox has sealed it"
            keys = invited.rounds.begin(result, invited.invitation, invited.job).hex()
            withheld = replace(result, sealed=result.sealed.withheld())
            return memoryview(encode_updates(self.policy.leaving(withheld, algorithm), job)), {"keys": keys}
        except AbortError as error:
            return WorkerError(worker, job.round, f"it does not take part in the session: {error}")
        except WireError as error:  # what one worker's data make of a buffer is no other one's failure
            failure = WorkerError(worker, job.round, f"its update cannot leave: {error}")
            failure.__cause__ = error
            return failure

    def _asked(self, given: object) -> list[str]:
        if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
            raise RefusalError("the message says not which workers it is for")
        if len(set(given)) != len(given):
            raise RefusalError("the message names a worker twice, and it would be trained and charged twice")
        for name in given:
            if name not in self.workers:
                raise RefusalError(f"there is no worker {name[:100]!r} at this node")
        return given

    @staticmethod
    def _job(run: HostedRun, parts: Sequence[bytes | memoryview], device: torch.device) -> Job:
        if len(parts) != 1:
            raise RefusalError(f"the message has {len(parts)} parts, and a job is one")
        copy = memoryview(parts[0]).readonly
        job = decode_job(parts[0], copy=copy, device=device, coder=run.outbox.broadcast)
        if min(job.cohort, job.round) < 0:
            raise RefusalError(f"the job is of cohort {job.cohort} in round {job.round}, and both are counted from 0")
        return job

    @staticmethod
    def _reason(failure: WorkerError, run: HostedRun) -> str:
        """Return the reason of a failure: under a promise without the text of the exception, which may hold data."""
        if run.outbox.may_tell or failure.__cause__ is None:
            return failure.reason
        return words_of(failure.__cause__, may_tell=False)


def _numbers(refused: object, worker: str) -> list[int]:
    given = refused.get(worker, []) if isinstance(refused, dict) else None
    if not isinstance(given, list) or not all(type(number) is int for number in given):
        raise RefusalError("the message says not in which rounds an update did not count")
    return given


_KINDS: tuple[Literal["val", "test", "predict"], ...] = ("val", "test", "predict")


def _identities(identity: str | Path | None, identities: str | Path | None) -> Identities | None:
    if not (identity or identities or os.environ.get(IDENTITY) or os.environ.get(IDENTITIES)):
        return None
    import_extra("cryptography", "an identity", "secure")
    from lightning_fed.node.identities import Identities

    return Identities.read(identity or os.environ.get(IDENTITY), identities or os.environ.get(IDENTITIES))
