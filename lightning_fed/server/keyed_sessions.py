"""The sessions of secure aggregation in which keys and masks are exchanged; they need the extra ``secure``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np
import torch
from torch import Tensor

from lightning_fed.core.processes import Processes
from lightning_fed.engines import EngineOfNodes
from lightning_fed.secure import AbortError
from lightning_fed.secure.lengths import Lengths
from lightning_fed.secure.masks import digest
from lightning_fed.secure.messages import Form
from lightning_fed.secure.server import SecureServer, Sum
from lightning_fed.secure.session import MachinesHere, Numbers, summed
from lightning_fed.server.sealed_sessions import Said, SealedSession, Total, order_of, session_of
from lightning_fed.wire import Job, Updates
from lightning_fed.wire.codec import encode_job
from lightning_fed.worker.sealing import Sealing


@final
class Here(SealedSession):
    """Exchanges all keys and masks of the protocol, between machines in this process or in those that share the round.

    The session holds the numbers of all workers of this process until the last one is trained, as workers would.

    Args:
        sealing: How numbers were sealed.
        job: The workers' job.
        lost: The workers that take part, but are lost before they send their numbers.
    """

    def __init__(self, sealing: Sealing, job: Job, lost: Sequence[str] = ()) -> None:
        self._sealing = sealing
        self._job = job
        self._lost = lost
        self._said = Said()
        self._numbers: dict[str, tuple[Tensor, dict[str, int]]] = {}

    def take(self, updates: Updates) -> None:
        sealed = updates.sealed
        assert sealed is not None, "the outbox has sealed it"
        self._said.note(updates)
        scalars = {name: numbers.tolist() for name, numbers in sealed.scalars.items()}
        for i, worker in enumerate(updates.workers):
            self._numbers[worker] = sealed.words[i].cpu(), {name: numbers[i] for name, numbers in scalars.items()}

    def close(self, processes: Processes) -> Total:
        job, said = self._job, Said.together(processes.gather(self._said))
        names = order_of(said.workers, self._lost)
        parameters = self._sealing.parameters
        about_job = digest(encode_job(job))
        server = SecureServer(parameters, session_of(job), about_job)
        here = [name for name in names if name in self._numbers or (name in self._lost and processes.rank == 0)]
        machines = MachinesHere(parameters, here, self._of, about_job, names, processes)
        form = Form(self._sealing.size(job, said.stays), tuple(sorted(said.scalars)))
        return _total(summed(server, machines, form), form, said, job, server.lengths)

    def _of(self, worker: str, form: Form) -> Numbers | None:
        if worker not in self._numbers:
            return None
        words, scalars = self._numbers.pop(worker)
        in_order = np.array([scalars.get(name, 0) for name in form.scalars], np.int64)
        return words.numpy().view(np.uint32), in_order.view(np.uint64)


@final
class Elsewhere(SealedSession):
    """Runs the protocol with the nodes of the workers, which hold the workers' numbers and keys.

    Args:
        sealing: How numbers were sealed.
        engine: The engine, which has begun the session together with the training.
        job: The workers' job.
        lost: Empty: on real machines no loss of workers is simulated.
    """

    def __init__(self, sealing: Sealing, engine: EngineOfNodes, job: Job, lost: Sequence[str] = ()) -> None:
        self._sealing = sealing
        self._engine = engine
        self._job = job
        self._said = Said()

    def take(self, updates: Updates) -> None:
        self._said.note(updates)

    def close(self, processes: Processes) -> Total:
        said, (server, machines) = self._said, self._engine.session()
        form = Form(self._sealing.size(self._job, said.stays), tuple(sorted(said.scalars)))
        try:
            found = summed(server, machines, form)
        except AbortError as error:
            known = {**machines.failed, **server.left_out}
            raise AbortError(str(error), {name: known[name] for name in said.workers if name in known}) from error
        known = {**machines.failed, **server.left_out}
        lost = {name: known.get(name, _ALONE) for name in said.workers if name not in found.survivors}
        return _total(found, form, said, self._job, server.lengths)._replace(lost=lost)


def _total(found: Sum, form: Form, said: Said, job: Job, told: Lengths) -> Total:
    words = torch.from_numpy(found.words.view(np.int32)).to(job.model.device)
    scalars = dict(zip(form.scalars, found.scalars.view(np.int64).tolist(), strict=True))
    return Total(words, scalars, said.stays, said.shown, told)


_ALONE = "too few of those who hold shares of its secrets are left"
