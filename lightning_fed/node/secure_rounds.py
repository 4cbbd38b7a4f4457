"""The machines of secure aggregation of a node's workers, from their training to the end of the round."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, final

import numpy as np
import numpy.typing as npt

from lightning_fed.node.errors import RefusalError
from lightning_fed.node.identities import Identities
from lightning_fed.secure import STEPS, AbortError
from lightning_fed.secure.masks import digest
from lightning_fed.secure.messages import Form
from lightning_fed.secure.worker import SecureWorker
from lightning_fed.wire import Updates
from lightning_fed.wire.sealed import Sealed
from lightning_fed.wire.terms import Terms
from lightning_fed.worker.sealing import Sealing


class _Held(NamedTuple):
    """Secrets and numbers of one worker in a round."""

    machine: SecureWorker
    sealed: Sealed
    job: bytes


class Invited(NamedTuple):
    """An invitation of workers to a session.

    Args:
        rounds: The sessions of the run.
        invitation: The server's message.
        job: The digest of the job that came with it.
    """

    rounds: SecureRounds
    invitation: bytes
    job: bytes


@final
class SecureRounds:
    """Numbers and secrets of the workers in the current round, in memory only.

    They are never written. The next round, the last step or a refusal deletes them.

    Args:
        sealing: The sealing of the run's numbers. It sets the rules for the workers, whatever a server sends.
        identities: The identity of the node, and the public keys of all workers.
    """

    def __init__(self, sealing: Sealing, identities: Identities = Identities()) -> None:
        self._sealing = sealing
        self._identities = identities
        self._held: dict[str, _Held] = {}

    def invited(self, invitation: object, terms: Terms, job: bytes | memoryview) -> Invited:
        """Read the invitation that came with a job.

        Args:
            invitation: Hexadecimal digits, from anyone.
            terms: The terms of the run.
            job: The job, as it came.

        Raises:
            RefusalError: If there is no invitation, without which nothing may leave.
        """
        try:
            return Invited(self, bytes.fromhex(str(invitation)), digest(terms.to_bytes(), job))
        except ValueError:
            raise RefusalError("the job came without an invitation to secure aggregation") from None

    def begin(self, updates: Updates, invitation: bytes, job: bytes) -> bytes:
        """Keep the numbers of a worker that has been trained, and return the keys that it advertises.

        Args:
            updates: Its updates, after the outbox.
            invitation: The server's message.
            job: The digest of the job that it was trained by, and of the terms.

        Raises:
            AbortError: If the worker does not take part in such a session.
        """
        (worker,) = updates.workers
        assert updates.sealed is not None, "the outbox has sealed it"
        self.forget(worker)
        identity = self._identities.own
        machine = SecureWorker(worker, self._sealing.parameters, identity, self._identities.known)
        keys: bytes = machine.advertise(invitation)
        self._held[worker] = _Held(machine, updates.sealed, job)
        return keys

    def answer(self, worker: str, step: str, message: bytes) -> bytes:
        """Answer the server for a worker.

        Args:
            worker: Its name.
            step: One of :data:`~lightning_fed.secure.STEPS`.
            message: The server's message.

        Raises:
            AbortError: If the worker refuses, or is in no session.
        """
        if worker not in self._held:
            raise AbortError("it is in no session: its node has begun anew, or the round is over")
        machine, sealed, job = self._held[worker]
        try:
            if step == "mask":
                answer: bytes = machine.mask(message, job, *_numbers(sealed, machine.form))
            else:
                answer = getattr(machine, step)(message)
        except AbortError:
            self.forget(worker)
            raise
        if step == STEPS[-1]:
            self.forget(worker)
        return answer

    def forget(self, worker: str) -> None:
        """Delete a worker's numbers and secrets."""
        self._held.pop(worker, None)


def _numbers(sealed: Sealed, form: Form) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint64]]:
    """Return one worker's numbers; 0 for a scalar that it does not have."""
    own: Mapping[str, int] = {name: int(numbers) for name, numbers in sealed.scalars.items()}
    scalars = np.array([own.get(name, 0) for name in form.scalars], np.int64)
    return sealed.words[0].cpu().numpy().view(np.uint32), scalars.view(np.uint64)
