"""A session from its first to its last message, wherever the workers' machines are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias, final

import numpy as np
import numpy.typing as npt

from lightning_fed.core.processes import Processes
from lightning_fed.secure.errors import AbortError
from lightning_fed.secure.masks import Agreements
from lightning_fed.secure.messages import Form
from lightning_fed.secure.parameters import Parameters
from lightning_fed.secure.server import SecureServer, Sum
from lightning_fed.secure.worker import SecureWorker

Numbers: TypeAlias = tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint64]]
"""What one worker adds: its words ``[d]`` and its scalars ``[m]``."""


class Machines(ABC):
    """The machines of the workers of one session: whoever can ask them."""

    def __init__(self) -> None:
        self.failed: dict[str, str] = {}
        """Why a worker has given no answer, by name, as far as it is known."""

    @abstractmethod
    def advertised(self, invitation: bytes) -> Mapping[str, bytes]:
        """Return what has come in answer to the invitation, by name; the same on every process.

        Args:
            invitation: The server's.
        """

    @abstractmethod
    def ask(self, step: str, messages: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """Send each worker a message, and return the answers; the same on every process. Who gives none is left out.

        Args:
            step: One of ``STEPS``, but for ``"mask"``.
            messages: What each is sent, by name.
        """

    @abstractmethod
    def add(self, messages: Mapping[str, bytes], server: SecureServer) -> None:
        """Ask for the masked numbers, and let the server add them up as they come: it has all sums in the end.

        Args:
            messages: What each worker is sent, by name.
            server: The server, on every process.
        """


def summed(server: SecureServer, machines: Machines, form: Form) -> Sum:
    """Run a session.

    Args:
        server: The server, before its first step.
        machines: The workers'.
        form: What each worker adds.

    Raises:
        AbortError: If it comes to no sum.
    """
    roster = server.roster(machines.advertised(server.invite()), form)
    shares = machines.ask("share", dict.fromkeys(server.names, roster))
    machines.add(server.forward(shares), server)
    survivors = server.survivors()
    told = dict.fromkeys(server.sent, survivors)
    if server.signed:
        told = server.confirmations(machines.ask("confirm", told))
    return server.unmask(machines.ask("unmask", told))


@final
class MachinesHere(Machines):
    """Machines in this process, each of a worker that is simulated here.

    Args:
        parameters: The rules.
        workers: The workers of this process that have numbers, and those that are lost before they send theirs.
        numbers: Gives a worker's numbers in a form; None: it is lost.
        job: The digest of the job.
        order: All workers of the session, over all processes, in the order of the roster.
        processes: The processes that share them.
    """

    def __init__(
        self,
        parameters: Parameters,
        workers: Sequence[str],
        numbers: Callable[[str, Form], Numbers | None],
        job: bytes,
        order: Sequence[str],
        processes: Processes = Processes(),
    ) -> None:
        super().__init__()
        agree = Agreements()
        self._machines = {name: SecureWorker(name, parameters, agree=agree) for name in workers}
        self._numbers = numbers
        self._job = job
        self._order = order
        self._processes = processes

    def advertised(self, invitation: bytes) -> Mapping[str, bytes]:
        return self.ask("advertise", dict.fromkeys(self._machines, invitation))

    def ask(self, step: str, messages: Mapping[str, bytes]) -> Mapping[str, bytes]:
        own = dict(self._answers(step, messages))
        found = {name: answer for part in self._processes.gather(own) for name, answer in part.items()}
        return {name: found[name] for name in self._order if name in found}

    def _answers(self, step: str, messages: Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
        """Yield the answers of this process's machines; one that refuses has failed, and the others go on."""
        for name, message in messages.items():
            if name not in self._machines:
                continue
            machine = self._machines[name]
            try:
                if step != "mask":
                    yield name, getattr(machine, step)(message)
                elif (numbers := self._numbers(name, machine.form)) is not None:
                    yield name, machine.mask(message, self._job, *numbers)
            except AbortError as error:
                self.failed[name] = str(error)

    def add(self, messages: Mapping[str, bytes], server: SecureServer) -> None:
        for name, masked in self._answers("mask", messages):
            server.take(name, masked)
        server.together(self._processes)
