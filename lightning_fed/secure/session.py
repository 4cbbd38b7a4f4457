"""A session from its first to its last message, for workers' machines at any place."""

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
"""One worker's contribution: its words ``[d]`` and its scalars ``[m]``."""


class Machines(ABC):
    """Interface to the machines of the workers of one session."""

    def __init__(self) -> None:
        self.failed: dict[str, str] = {}
        """The known reasons for missing answers, by the worker's name."""

    @abstractmethod
    def advertised(self, invitation: bytes) -> Mapping[str, bytes]:
        """Return the answers to the invitation, by name; the same on every process.

        Args:
            invitation: The server's.
        """

    @abstractmethod
    def ask(self, step: str, messages: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """Send each worker a message, and return the received answers; the same on every process.

        Args:
            step: One of ``STEPS``, but for ``"mask"``.
            messages: The messages, by the worker's name.
        """

    @abstractmethod
    def add(self, messages: Mapping[str, bytes], server: SecureServer) -> None:
        """Request the masked numbers; the server adds them up as they arrive.

        Args:
            messages: The messages, by the worker's name.
            server: The server, on every process.
        """


def summed(server: SecureServer, machines: Machines, form: Form) -> Sum:
    """Run a session.

    Args:
        server: The server, before its first step.
        machines: The workers'.
        form: The form of each worker's contribution.

    Raises:
        AbortError: If the session ends without a sum.
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
    """The machines of simulated workers in this process.

    Args:
        parameters: The rules.
        workers: The workers of this process, including those that are lost before they send their numbers.
        numbers: Returns a worker's numbers in a form; None: the worker is lost.
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
